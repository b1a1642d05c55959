//! Who makes offers: one leader, whose every offer carries its token.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream, stream::BoxStream};
use isocenter_runtime::{clock::Clock, task::Tasks};
use isocenter_store::{
    Key, Kv,
    election::{Candidate, Election, Fence, View},
    session::{Keeper, Session, SessionOptions},
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a leader that vanished is still taken for one.
const TTL: Duration = Duration::from_secs(10);

/// The leader's key.
const KEY: &str = "leader/reader-assignment";

/// What this replica knows of the leadership.
pub(crate) struct Leadership {
    election: Election,
    kv: Arc<dyn Kv>,
    clock: Arc<dyn Clock>,
    /// Under which token this replica was seen to lead, and since when.
    since: Mutex<Option<(Fence, std::time::Instant)>>,
    /// For how long a new leader takes every reader for present.
    grace: Duration,
}

impl std::fmt::Debug for Leadership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leadership").field("election", &self.election).finish_non_exhaustive()
    }
}

/// The tasks that take part in the election.
#[derive(Debug)]
pub(crate) struct Campaign {
    candidate: Candidate,
    keeper: Keeper,
}

impl Leadership {
    /// A candidate that is reached at `address`. `grace` is how long a new leader takes every reader for present: presence
    /// may have expired while nobody could prolong it.
    pub fn new(kv: Arc<dyn Kv>, clock: Arc<dyn Clock>, address: &str, grace: Duration) -> (Self, Campaign) {
        let options = SessionOptions { ttl: TTL, guard: Vec::new(), clock: Arc::clone(&clock) };
        let (session, keeper) = Session::new(Arc::clone(&kv), options);
        let (candidate, election) = Candidate::new(Arc::clone(&kv), session, leader_key(), address);
        (Self { election, kv, clock, since: Mutex::default(), grace }, Campaign { candidate, keeper })
    }

    /// The fence, where this replica believes to lead; only the compare in the transaction decides.
    pub fn fence(&self) -> Option<Fence> {
        self.election.fence()
    }

    /// An item whenever this replica begins or ceases to lead, from now on; now and then one too many.
    pub fn changes(&self) -> BoxStream<'static, ()> {
        let mut view = self.election.watch();
        view.mark_unchanged();
        let next = |mut view: watch::Receiver<View>| async {
            view.changed().await.ok()?;
            Some(((), view))
        };
        stream::unfold(view, next).boxed()
    }

    /// Where the leader is reached.
    pub fn address(&self) -> Option<String> {
        self.election.leader().map(|leader| leader.address)
    }

    /// Whether the store still says that `fence` is the leader's.
    pub async fn holds(&self, fence: &Fence) -> Result<bool, isocenter_store::Error> {
        let found = self.kv.get(&leader_key()).await?;
        Ok(found.is_some_and(|kv| kv.create_revision == fence.token()))
    }

    /// Whether this replica leads, and has for long enough that a missing sign of life says something.
    pub fn may_miss(&self) -> bool {
        let Some(fence) = self.fence() else { return false };
        !self.is_new(fence)
    }

    /// Whether this replica leads and every reader counts as present.
    pub fn grants_grace(&self) -> bool {
        self.fence().is_some_and(|fence| self.is_new(fence))
    }

    /// How long a new leader takes every reader for present.
    pub const fn grace(&self) -> Duration {
        self.grace
    }

    fn is_new(&self, fence: Fence) -> bool {
        let now = self.clock.monotonic();
        let mut since = self.since.lock();
        let began = match &*since {
            Some((known, began)) if *known == fence => *began,
            Some(_) | None => {
                *since = Some((fence, now));
                now
            }
        };
        now.saturating_duration_since(began) < self.grace
    }
}

impl Campaign {
    /// Takes part until `tasks` are cancelled; then resigns first and gives the lease back after, so that the next leader
    /// need not wait. Who leads is known at once, to pass calls on; leads itself no sooner than `fit`.
    pub fn spawn(self, tasks: &Tasks, fit: impl Future<Output = ()> + Send + 'static) {
        let (ended, resigned) = (tasks.token(), CancellationToken::new());
        let kept = resigned.clone();
        let Self { candidate, keeper } = self;
        tasks.background("leader candidate", async move {
            candidate.run(ended).await;
            resigned.cancel();
        });
        tasks.essential("leader session", async move {
            tokio::select! {
                () = kept.cancelled() => return Ok(()),
                () = fit => {}
            }
            keeper.run(kept).await
        });
    }
}

fn leader_key() -> Key {
    Key::new(KEY).expect("a literal is a valid key")
}
