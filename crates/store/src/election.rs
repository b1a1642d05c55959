//! One leader per key, whose every write carries a token.
//!
//! A lease does not exclude: a paused leader wakes and believes in itself. What excludes is the [`Fence`]: the leader key's
//! `create_revision`, compared in every transaction a leader makes. The same process elected again has another token.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    kv::{
        Compare, Event, Key, KeyValue, Kv, LeaseId, Op, Page, Range, Revision, Txn, WatchItem, WatchStream,
    },
    session::Session,
};

/// The pause after an error of the store, before the leader's key is read again.
const RETRY: Duration = Duration::from_millis(500);

/// The right to write as leader. Put [`Fence::compare`] into every transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    key: Key,
    token: Revision,
}

impl Fence {
    /// Holds as long as nobody else was elected since.
    #[must_use]
    pub fn compare(&self) -> Compare {
        Compare::created(&self.key, self.token)
    }

    /// The token: greater for every later leader.
    #[must_use]
    pub fn token(&self) -> Revision {
        self.token
    }
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Where the leader is reached, as it said when it campaigned.
    pub address: String,
    /// Its token.
    pub token: Revision,
}

/// What a candidate knows about the election.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The leader; `None` where there is none or it is not known.
    pub leader: Option<Leader>,
    /// The fence, where this candidate leads and its session holds.
    pub fence: Option<Fence>,
}

/// A handle to an election. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Election {
    view: watch::Receiver<View>,
}

impl Election {
    /// What is known now.
    #[must_use]
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// The leader, wherever it is.
    #[must_use]
    pub fn leader(&self) -> Option<Leader> {
        self.view.borrow().leader.clone()
    }

    /// The fence, where this candidate leads. It may be stale: only the compare decides.
    #[must_use]
    pub fn fence(&self) -> Option<Fence> {
        self.view.borrow().fence.clone()
    }

    /// Every change of the view.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Waits until this candidate leads; `None` where the candidate ended.
    pub async fn elected(&mut self) -> Option<Fence> {
        let view = self.view.wait_for(|view| view.fence.is_some()).await.ok()?;
        view.fence.clone()
    }
}

/// The task that campaigns and observes.
pub struct Candidate {
    kv: Arc<dyn Kv>,
    session: Session,
    key: Key,
    address: String,
    view: watch::Sender<View>,
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("key", &self.key)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Candidate {
    /// A candidate for the leadership under `key`, reached at `address`, and its handle. The session must be kept by its
    /// own task.
    #[must_use]
    pub fn new(kv: Arc<dyn Kv>, session: Session, key: Key, address: impl Into<String>) -> (Self, Election) {
        let view = watch::Sender::new(View::default());
        let election = Election { view: view.subscribe() };
        (Self { kv, session, key, address: address.into(), view }, election)
    }

    /// Campaigns whenever there is no leader, until cancelled; then resigns if it leads. End the session afterwards.
    pub async fn run(self, cancel: CancellationToken) {
        let mut lease = self.session.lease();
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.take_part(&mut lease) => {}
        }
        let fence = self.view.send_replace(View::default()).fence;
        if let Some(fence) = fence {
            // Whether it worked or not, the next leader is elected, at the latest when the lease expires.
            let resign = Txn::when(vec![fence.compare()], vec![Op::delete(&self.key)]);
            if let Err(error) = self.kv.txn(resign).await {
                tracing::info!(%error, "could not resign; the lease ends the leadership");
            }
        }
    }

    async fn take_part(&self, lease: &mut watch::Receiver<Option<LeaseId>>) {
        loop {
            let mine = *lease.borrow_and_update();
            if let Err(error) = self.round(mine, lease).await {
                tracing::debug!(%error, key = %self.key, "looks for the leader again");
                tokio::select! {
                    () = tokio::time::sleep(RETRY) => {}
                    lost = self.lost(lease) => if lost { return },
                }
            }
        }
    }

    /// Waits for the session's lease to change, and forgets a fence that hung on the old one. `true`: the session ended.
    async fn lost(&self, lease: &mut watch::Receiver<Option<LeaseId>>) -> bool {
        let ended = lease.changed().await.is_err();
        self.view.send_modify(|view| view.fence = None);
        ended
    }

    /// Reads the leader's key, campaigns where it is free, and waits until it changes or the lease does.
    async fn round(
        &self,
        mine: Option<LeaseId>,
        lease: &mut watch::Receiver<Option<LeaseId>>,
    ) -> Result<(), Error> {
        let range = Range::key(&self.key);
        let listing = self.kv.list(&range, Page::default()).await?;
        let mut revision = listing.revision;
        let mut found = listing.items.into_iter().next();
        if let (None, Some(mine)) = (&found, mine) {
            (found, revision) = self.campaign(mine).await?;
        }
        self.show(found.as_ref(), mine);
        let mut watch = self.kv.watch(&range, revision.next()).await?;
        tokio::select! {
            changed = next_change(&mut watch) => {
                // A leader that is deleted leads no more, even before the next round knows who does.
                if let Event::Delete { .. } = changed? {
                    self.view.send_replace(View::default());
                }
            }
            _ = self.lost(lease) => {}
        }
        Ok(())
    }

    async fn campaign(&self, mine: LeaseId) -> Result<(Option<KeyValue>, Revision), Error> {
        let put = Op::put_leased(&self.key, Bytes::from(self.address.clone()), mine);
        let campaign = Txn::when(vec![Compare::absent(&self.key)], vec![put, Op::get(&self.key)])
            .otherwise(vec![Op::get(&self.key)]);
        // An ambiguous answer is resolved by the next round, which reads the key: its lease says whose it is.
        let answer = self.kv.txn(campaign).await?;
        let found = answer.reads.into_iter().flatten().next();
        Ok((found, answer.revision))
    }

    fn show(&self, found: Option<&KeyValue>, mine: Option<LeaseId>) {
        let view = found.map_or_else(View::default, |kv| {
            let address = String::from_utf8_lossy(&kv.value).into_owned();
            let leads = mine.is_some() && kv.lease == mine && address == self.address;
            let token = kv.create_revision;
            let fence = leads.then(|| Fence { key: self.key.clone(), token });
            View { leader: Some(Leader { address, token }), fence }
        });
        self.view.send_if_modified(|was| {
            let differs = *was != view;
            *was = view;
            differs
        });
    }
}

async fn next_change(watch: &mut WatchStream) -> Result<Event, Error> {
    loop {
        match watch.next().await {
            Some(Ok(WatchItem::Events { events, .. })) => {
                if let Some(event) = events.into_iter().next() {
                    return Ok(event);
                }
            }
            Some(Ok(WatchItem::Progress(_))) => {}
            Some(Err(e)) => return Err(e),
            None => return Err(Error::Lost { why: "its stream ended".to_owned() }),
        }
    }
}
