//! One workstation's presence stream: signs of life in, a leased key in the store, how long presence lasts out.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use isocenter_domain::{
    Time,
    id::{ReaderId, TenantId},
};
use isocenter_runtime::{random, task::chain};
use isocenter_store::{Compare, Error, LeaseId, Op, Revision, Txn};
use isocenter_wire::{timestamp, v1::SetPresenceResponse};
use tokio::sync::mpsc;
use tonic::Status;

use crate::{
    desk::Desk,
    presence::{Sign, key},
};

/// The pause between attempts while the store is away; the stream is kept meanwhile.
const RETRY: Duration = Duration::from_secs(1);

/// What a workstation said.
pub(crate) type Said = Result<bool, Status>;

/// One stream.
pub(crate) struct Workstation {
    desk: Arc<Desk>,
    tenant: TenantId,
    reader: ReaderId,
    session: String,
    /// Whether offers are wanted, as last said.
    accepting: bool,
    /// What this stream has in the store.
    held: Option<Held>,
}

/// A key on a lease.
struct Held {
    lease: LeaseId,
    accepting: bool,
    /// The revision that put the key: a key changed by another one is another stream's.
    revision: Revision,
}

/// Why a stream ends.
enum End {
    /// The workstation said that it goes.
    Gone,
    /// It broke off, and may be back before its lease expires.
    Broken,
    /// It was silent for too long.
    Silent,
    /// A newer stream of the same reader took over.
    TakenOver,
    /// This process stops.
    Stopping,
}

/// What a store call for the key came to.
enum Kept {
    Yes,
    TakenOver,
}

impl Workstation {
    pub fn new(desk: Arc<Desk>, tenant: TenantId, reader: ReaderId, accepting: bool) -> Self {
        let session = random::uuid_v7().to_string();
        Self { desk, tenant, reader, session, accepting, held: None }
    }

    /// Keeps the reader present for as long as signs of life come.
    pub async fn run(
        mut self,
        signs: impl Stream<Item = Said> + Send,
        answers: mpsc::Sender<Result<SetPresenceResponse, Status>>,
    ) {
        let end = self.keep(signs, &answers).await;
        let last = match end {
            End::Gone => None,
            // The lease is left to expire: a workstation that lost its connection comes back, to this replica or another.
            End::Broken => return,
            End::Silent => Some(Status::deadline_exceeded("no sign of life came in time")),
            End::TakenOver => Some(Status::aborted("a newer stream of the same reader has taken over")),
            End::Stopping => {
                let status = Status::unavailable("this process stops; open the stream again");
                return drop(answers.try_send(Err(status)));
            }
        };
        if let Some(status) = last {
            // A workstation that does not take its answers learns it from the stream's end.
            drop(answers.try_send(Err(status)));
        }
        let Some(held) = self.held else { return };
        // The key goes with its lease, unless a newer stream has put it on its own.
        match self.desk.tables.kv().revoke(held.lease).await {
            Ok(()) | Err(Error::LeaseExpired) => {}
            Err(e) => tracing::info!(error = %chain(&e), "presence was not revoked; it expires by itself"),
        }
    }

    async fn keep(
        &mut self,
        signs: impl Stream<Item = Said> + Send,
        answers: &mpsc::Sender<Result<SetPresenceResponse, Status>>,
    ) -> End {
        let mut signs = pin!(signs.fuse());
        let mut others = self.desk.view.presence.watch();
        let stopping = self.desk.tasks.token();
        let lasting = self.desk.config.presence.0;
        let mut silence = pin!(tokio::time::sleep(lasting));
        let mut owed = true;
        loop {
            if owed {
                match self.put().await {
                    Ok(Kept::Yes) => {
                        owed = false;
                        let until = self.desk.now().plus(lasting);
                        let answer = SetPresenceResponse { present_until: Some(timestamp(until)) };
                        // Answers that are not taken are not queued: only the newest would matter.
                        drop(answers.try_send(Ok(answer)));
                    }
                    Ok(Kept::TakenOver) => return End::TakenOver,
                    Err(e) => tracing::info!(error = %chain(&e), "presence is not in the store; tries again"),
                }
            }
            tokio::select! {
                said = signs.next() => match said {
                    Some(Ok(accepting)) => {
                        self.accepting = accepting;
                        owed = true;
                        silence.set(tokio::time::sleep(lasting));
                    }
                    Some(Err(_)) => return End::Broken,
                    None => return End::Gone,
                },
                // Whatever it is, the mirror says how things are; a mirror that has ended tells nothing more.
                Some(_) = others.next() => if self.is_taken_over() {
                    return End::TakenOver;
                },
                () = &mut silence => return End::Silent,
                () = answers.closed() => return End::Broken,
                () = stopping.cancelled() => return End::Stopping,
                () = tokio::time::sleep(RETRY), if owed => {}
            }
        }
    }

    fn is_taken_over(&self) -> bool {
        let since = self.held.as_ref().map_or(Revision(u64::MAX), |held| held.revision);
        self.desk.view.presence.taken_over(&self.tenant, &self.reader, &self.session, since)
    }

    fn is_ours(&self, value: &[u8]) -> bool {
        Sign::parse(value).is_some_and(|sign| sign.session == self.session)
    }

    /// Prolongs presence: the lease, and the key where it has to change.
    async fn put(&mut self) -> Result<Kept, Error> {
        if let Some(held) = &self.held {
            match self.desk.tables.kv().keep_alive(held.lease).await {
                Ok(_) if held.accepting == self.accepting => {
                    return Ok(if self.is_taken_over() { Kept::TakenOver } else { Kept::Yes });
                }
                Ok(_) => return self.write(held.lease).await,
                Err(Error::LeaseExpired) => {}
                Err(e) => return Err(e),
            }
        }
        let lease = self.desk.tables.kv().grant(self.desk.config.presence.0).await?;
        let written = self.write(lease).await;
        let lost = !matches!(written, Ok(Kept::Yes));
        if lost {
            // Nothing hangs on it that anybody should see; if this fails too it expires by itself.
            drop(self.desk.tables.kv().revoke(lease).await);
        }
        written
    }

    async fn write(&mut self, lease: LeaseId) -> Result<Kept, Error> {
        let key = key(&self.tenant, &self.reader);
        let sign = Sign { session: self.session.clone(), accepting: self.accepting };
        let put = Op::put_leased(&key, sign.value(), lease);
        let kv = self.desk.tables.kv();
        let answer = match &self.held {
            // A stream's first sign takes over from whoever was there.
            None => kv.txn(Txn::always(vec![put])).await?,
            Some(held) => {
                let unchanged = |since| Txn::when(vec![Compare::unchanged(&key, since)], vec![put.clone()]);
                let answer = kv.txn(unchanged(held.revision).otherwise(vec![Op::get(&key)])).await?;
                let found = answer.reads.iter().flatten().next();
                match (answer.succeeded, found) {
                    (true, _) => answer,
                    // Gone with an expired lease.
                    (false, None) => kv.txn(Txn::when(vec![Compare::absent(&key)], vec![put])).await?,
                    // An earlier put of this stream, whose answer was lost.
                    (false, Some(found)) if self.is_ours(&found.value) => {
                        kv.txn(unchanged(found.mod_revision)).await?
                    }
                    (false, Some(_)) => answer,
                }
            }
        };
        if !answer.succeeded {
            return Ok(Kept::TakenOver);
        }
        self.held = Some(Held { lease, accepting: self.accepting, revision: answer.revision });
        Ok(Kept::Yes)
    }
}

impl Desk {
    /// The time that records bear.
    pub(crate) fn now(&self) -> Time {
        self.tables.clock().now()
    }
}
