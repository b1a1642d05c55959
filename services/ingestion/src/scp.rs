//! What the DICOM edge hands in: associations, and instances on their way into the spool.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use isocenter_blobs::path;
use isocenter_dimse::{
    Closed, Peer, Rejection, StorageAssociation, StorageService, StoreRequest, StoreSink, StoreStatus,
};
use isocenter_domain::{
    id::{AeTitle, TenantId},
    key::StudyKey,
};
use isocenter_reconcile::Queue;
use isocenter_runtime::{clock::Clock, task::chain};
use isocenter_store::space::{Pressure, Space};
use parking_lot::Mutex;

use crate::{
    config::Ack,
    intake::Intakes,
    ledger::Carried,
    metrics::Meters,
    mover::{GATHER, LINGER, blocking},
    sites::{NoSite, Sites},
    spool::{Incoming, Origin, Ready, Spool, SpoolError},
};

/// How long a first answer waits for its intake record. Where the store does not answer by then the instance is
/// acknowledged all the same: it is durable here, and the record is written when the store is back.
const RECORD_WAIT: Duration = Duration::from_secs(2);

/// What receiving needs. One for each node.
#[derive(Debug)]
pub(crate) struct Shared {
    pub spool: Spool,
    pub intakes: Intakes,
    pub sites: Sites,
    /// The mover's queue.
    pub queue: Queue<StudyKey>,
    pub meters: Meters,
    /// The AE title to be called by; `None`: any.
    pub called: Option<AeTitle>,
    /// How much room the store has.
    pub space: Space,
    /// What a success stands for.
    pub ack: Ack,
    /// Pending instances beyond which further ones are refused.
    pub max_pending: usize,
}

/// The storage service of the DICOM listener.
#[derive(Clone, Debug)]
pub(crate) struct Receiver(pub Arc<Shared>);

#[async_trait]
impl StorageService for Receiver {
    async fn admit(&self, peer: &Peer) -> Result<Box<dyn StorageAssociation>, Rejection> {
        let rejected = |reason: &'static str, rejection| {
            self.0.meters.rejected(reason);
            tracing::info!(calling = %peer.calling, called = %peer.called, reason, "association not admitted");
            Err(rejection)
        };
        if self.0.called.as_ref().is_some_and(|called| *called != peer.called) {
            return rejected("unknown-called-ae", Rejection::UnknownCalledAe);
        }
        match self.0.sites.find(&peer.calling, peer.principal.as_ref().map(|p| &p.tenant)).await {
            Ok((tenant, origin)) => {
                let shared = Arc::clone(&self.0);
                Ok(Box::new(Association { shared, tenant, origin, carried: Arc::default() }))
            }
            Err(NoSite::Unknown) => rejected("unknown-calling-ae", Rejection::UnknownCallingAe),
            Err(NoSite::Ambiguous) => rejected("ambiguous-calling-ae", Rejection::UnknownCallingAe),
            Err(NoSite::Unavailable) => rejected("registry-unavailable", Rejection::TemporaryCongestion),
        }
    }
}

struct Association {
    shared: Arc<Shared>,
    tenant: TenantId,
    origin: Origin,
    carried: Arc<Mutex<Carried>>,
}

#[async_trait]
impl StorageAssociation for Association {
    async fn store(&mut self, request: StoreRequest) -> Result<Box<dyn StoreSink>, StoreStatus> {
        let shared = Arc::clone(&self.shared);
        if shared.space.pressure() == Pressure::Full {
            return Err(shared.refuse(&Refusal::Store));
        }
        if shared.intakes.ledger.pending() >= shared.max_pending {
            return Err(shared.refuse(&Refusal::Pending));
        }
        let (spool, tenant, origin) = (shared.spool.clone(), self.tenant.clone(), self.origin.clone());
        match settled(blocking(move || spool.begin(tenant, origin, request)).await) {
            Ok(incoming) => {
                let carried = Arc::clone(&self.carried);
                Ok(Box::new(Sink { shared, carried, incoming: Some(incoming) }))
            }
            Err(error) => Err(shared.refuse(&error)),
        }
    }

    async fn closed(self: Box<Self>, _how: Closed) {
        let soon = self.shared.clock().now().plus(LINGER);
        for study in self.shared.intakes.ledger.closed(&self.carried) {
            self.shared.queue.wake_at(study, soon);
        }
    }
}

struct Sink {
    shared: Arc<Shared>,
    carried: Arc<Mutex<Carried>>,
    /// `None` only while a call works on it off the async threads; a cancelled call leaves it to be dropped there.
    incoming: Option<Incoming>,
}

#[async_trait]
impl StoreSink for Sink {
    async fn write(&mut self, data: Bytes) -> Result<(), StoreStatus> {
        let Some(mut incoming) = self.incoming.take() else {
            return Err(StoreStatus::out_of_resources("the process ends"));
        };
        if !incoming.gather(&data) {
            self.incoming = Some(incoming);
            return Ok(());
        }
        let flushed = blocking(move || incoming.flush().map(|()| incoming)).await;
        match settled(flushed) {
            Ok(incoming) => {
                self.incoming = Some(incoming);
                Ok(())
            }
            Err(error) => Err(self.shared.refuse(&error)),
        }
    }

    async fn finish(self: Box<Self>) -> StoreStatus {
        let Self { shared, carried, incoming } = *self;
        let Some(incoming) = incoming else { return StoreStatus::out_of_resources("the process ends") };
        let at_work = Arc::clone(&shared);
        let finished = blocking(move || {
            let (mut ready, _) = incoming.finish()?;
            let put = at_work.put(&mut ready);
            ready.received = Some(at_work.clock().monotonic());
            at_work.meters.bytes.inc_by(ready.size);
            let study = ready.study.clone();
            let first = at_work.intakes.ledger.received(ready, at_work.clock().now(), &carried);
            Ok((study, first, put))
        });
        let (study, first, put) = match settled(finished.await) {
            Ok(finished) => finished,
            Err(refusal) => return shared.refuse(&refusal),
        };
        if first {
            shared.record(&study).await;
        }
        shared.queue.wake_at(study, shared.clock().now().plus(GATHER));
        match put {
            Ok(()) => {
                shared.meters.answered("stored");
                StoreStatus::SUCCESS
            }
            // It is in the spool, and reaches blobs by itself; sent again, it is a repeat.
            Err(error) => shared.refuse(&Refusal::Blobs(error)),
        }
    }

    async fn abandon(self: Box<Self>) {
        self.shared.meters.answered("abandoned");
        // Dropping it removes its file.
        if let Err(error) = blocking(move || drop(self.incoming)).await {
            tracing::debug!(%error, "an instance is abandoned as the process ends");
        }
    }
}

impl Shared {
    fn clock(&self) -> &Arc<dyn Clock> {
        self.intakes.tables.clock()
    }

    /// Writes the intake record before a study's first answer on an association.
    async fn record(&self, study: &StudyKey) {
        let why = match tokio::time::timeout(RECORD_WAIT, self.intakes.write(study, None)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => chain(&error),
            Err(_) => "the store did not answer in time".to_owned(),
        };
        tracing::warn!(
            error = why,
            "an intake record is written later; the instance is durable in the spool"
        );
        self.queue.wake(study.clone());
    }

    /// Puts an instance of the spool into blobs, where its success stands for that. Blocks.
    fn put(&self, ready: &mut Ready) -> Result<(), isocenter_blobs::Error> {
        if self.ack == Ack::Blobs {
            let StudyKey { tenant, study } = &ready.study;
            let path = path::instance(tenant, study, &ready.instance, &ready.sha256);
            self.intakes.blobs.adopt_blocking(&ready.path, &path)?;
            ready.adopted = true;
        }
        Ok(())
    }

    /// Logs and counts a refusal, and says it in DICOM (PS3.4 Table B.2-1).
    fn refuse(&self, error: &Refusal) -> StoreStatus {
        let (outcome, status) = error.answer();
        self.meters.answered(outcome);
        tracing::warn!(outcome, status = %status, error = chain(error), "instance refused");
        status
    }
}

/// Why an instance is not answered with success.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the spool did not take the instance")]
    Spool(#[from] SpoolError),
    #[error("the instance could not be put into blobs")]
    Blobs(#[source] isocenter_blobs::Error),
    #[error("the store is nearly full: what is under way needs the rest of its room")]
    Store,
    #[error("too many instances wait for blobs or the store")]
    Pending,
}

impl Refusal {
    /// The outcome as it is counted, and the answer.
    fn answer(&self) -> (&'static str, StoreStatus) {
        match self {
            Self::Spool(SpoolError::Full(_)) => {
                ("spool-full", StoreStatus::out_of_resources("the spool is full"))
            }
            Self::Spool(SpoolError::Io { .. } | SpoolError::Node(_)) => {
                ("spool-failed", StoreStatus::out_of_resources("the spool failed"))
            }
            Self::Spool(SpoolError::Undecodable(_)) => {
                ("undecodable", StoreStatus::cannot_understand("the data set is cut short or cannot be read"))
            }
            Self::Spool(SpoolError::DottedUid) => {
                ("undecodable", StoreStatus::cannot_understand("a UID begins with a dot"))
            }
            Self::Spool(SpoolError::Mismatch(_)) => {
                ("mismatch", StoreStatus::does_not_match_sop_class("the data set differs from the command"))
            }
            Self::Blobs(_) => ("blobs-failed", StoreStatus::out_of_resources("blobs cannot be written")),
            Self::Store => ("store-full", StoreStatus::out_of_resources("the store is nearly full")),
            Self::Pending => ("too-many-pending", StoreStatus::out_of_resources("too many instances wait")),
        }
    }
}

/// An answer from off the async threads, where the process's end is a failure of the spool.
fn settled<T>(worked: Result<Result<T, SpoolError>, crate::Error>) -> Result<T, Refusal> {
    let worked = worked.unwrap_or_else(|_| {
        Err(SpoolError::Io {
            doing: "used: the process ends",
            source: std::io::ErrorKind::Interrupted.into(),
        })
    });
    Ok(worked?)
}
