//! A scripted reader: a workstation that is present, takes what it is offered, thinks for a while, and signs.
//!
//! It sees nothing but gRPC, as a real workstation would. It repeats a call whose answer was lost with the same request
//! id, looks again where new images came, takes up a read it still holds after a restart, and now and then gives one
//! back. Its reports are plainly synthetic.

mod text;
mod work;

use std::{ops::Range, sync::Arc, time::Duration};

use futures::StreamExt as _;
use isocenter_domain::{Kind, Kinded, id::ReaderId};
use isocenter_runtime::{
    random::Seeded,
    task::{Tasks, chain},
};
use isocenter_wire::v1::{SetPresenceRequest, reader_assignment_client::ReaderAssignmentClient};
use tokio::sync::watch;
use tokio_stream::wrappers::IntervalStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// Signs of life: half of the longest interval that the contract allows.
const PRESENCE_EVERY: Duration = Duration::from_secs(5);
/// The pause before a presence stream that ended is opened again.
const PRESENCE_PAUSE: Duration = Duration::from_millis(500);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an idle connection is probed, and how long the probe may take.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Who reads, and how.
#[derive(Clone, Debug)]
pub struct ReaderConfig {
    /// The reader, as registered.
    pub reader_id: ReaderId,
    /// `http://host:port` of a process that serves `ReaderAssignment`.
    pub server: String,
    /// What the reader draws follows from it: time to think, what to give back, what to write.
    pub seed: u64,
    /// The time between opening and signing is drawn from this range.
    pub think: Range<Duration>,
    /// The share of reads given back instead of signed, 0 to 1. A read is not offered to the same reader again, so at
    /// least one eligible reader has to have 0, or a read that all have given back waits for ever.
    pub return_share: f64,
}

impl ReaderConfig {
    /// A reader who thinks for 0.2 to 1 s and gives nothing back.
    #[must_use]
    pub const fn new(reader_id: ReaderId, server: String, seed: u64) -> Self {
        let think = Duration::from_millis(200)..Duration::from_secs(1);
        Self { reader_id, server, seed, think, return_share: 0.0 }
    }
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReaderCounts {
    /// Reads opened, those taken up again not counted.
    pub opened: u64,
    /// Reads taken up again: held from before a restart, or looked at again because of new images.
    pub resumed: u64,
    /// Reports signed.
    pub signed: u64,
    /// Reads given back.
    pub returned: u64,
    /// Reads that were no longer this reader's when it wanted to open, return or sign them.
    pub lost: u64,
    /// Times that there was nothing to read.
    pub idle: u64,
    /// Calls that failed beyond repetition.
    pub errors: u64,
    /// Presence streams opened.
    pub sessions: u64,
}

/// Why a reader cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// The server's address is not a URI.
    #[error("server is not a URI such as http://127.0.0.1:8080")]
    Server(#[source] tonic::transport::Error),
}

impl Kinded for ReaderError {
    fn kind(&self) -> Kind {
        match self {
            Self::Server(_) => Kind::Invalid,
        }
    }
}

/// A running reader. Dropping the handle stops nothing: the task group does.
#[derive(Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

struct Shared {
    config: ReaderConfig,
    client: ReaderAssignmentClient<Channel>,
    counts: watch::Sender<ReaderCounts>,
    /// Whether the server has answered the latest presence stream.
    present: watch::Sender<bool>,
    stop: CancellationToken,
}

impl Reader {
    /// Becomes present and reads until `tasks` are cancelled; a read in hand is then left open, as by a workstation
    /// that is switched off. The server need not be there yet.
    ///
    /// # Errors
    /// If the server's address is not a URI.
    pub fn start(config: ReaderConfig, tasks: &Tasks) -> Result<Self, ReaderError> {
        let endpoint = Endpoint::from_shared(config.server.clone()).map_err(ReaderError::Server)?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            // The presence stream may be silent for long; a server that vanished must not look alive.
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .connect_lazy();
        let rng = Seeded::new(config.seed).fork(config.reader_id.as_str());
        let shared = Arc::new(Shared {
            config,
            client: ReaderAssignmentClient::new(channel),
            counts: watch::Sender::default(),
            present: watch::Sender::new(false),
            stop: tasks.token(),
        });
        let at_work = Arc::clone(&shared);
        tasks.background("scripted reader", async move {
            tokio::select! {
                () = at_work.stop.cancelled() => {}
                () = presence(&at_work) => {}
                () = work::run(&at_work, rng) => {}
            }
        });
        Ok(Self { shared })
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> ReaderCounts {
        *self.shared.counts.borrow()
    }

    /// Waits until `enough` holds of the counts, now or later; returns the counts for which it held.
    pub async fn until(&self, enough: impl FnMut(&ReaderCounts) -> bool) -> ReaderCounts {
        let mut counts = self.shared.counts.subscribe();
        *counts.wait_for(enough).await.expect("the sender lives in the same handle")
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("reader_id", &self.shared.config.reader_id).finish_non_exhaustive()
    }
}

impl Shared {
    fn count(&self, change: impl FnOnce(&mut ReaderCounts)) {
        self.counts.send_modify(change);
    }
}

/// Keeps a presence stream open, for ever.
async fn presence(shared: &Shared) {
    loop {
        if let Err(status) = session(shared).await {
            tracing::debug!(code = ?status.code(), error = %chain(&status), "presence ended");
        }
        shared.present.send_replace(false);
        tokio::time::sleep(PRESENCE_PAUSE).await;
    }
}

/// One presence stream, to its end.
async fn session(shared: &Shared) -> Result<(), Status> {
    let reader_id = shared.config.reader_id.to_string();
    let sign = move |_| SetPresenceRequest { reader_id: reader_id.clone(), accepting: true };
    // The connection sends this stream by itself, whether or not anybody still reads the answers. The guard ends it
    // with this function, or the reader would look present for as long as the connection lasts.
    let over = CancellationToken::new();
    let signs = IntervalStream::new(tokio::time::interval(PRESENCE_EVERY))
        .map(sign)
        .take_until(over.clone().cancelled_owned());
    let _guard = over.drop_guard();
    let mut answers = shared.client.clone().set_presence(signs).await?.into_inner();
    shared.count(|c| c.sessions += 1);
    while answers.message().await?.is_some() {
        shared.present.send_if_modified(|present| !std::mem::replace(present, true));
    }
    Ok(())
}
