//! The worklist as it changes, for one workstation: everything once, then each change, until it falls behind.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::StreamExt as _;
use isocenter_assign::ReaderProfile;
use isocenter_domain::{id::TenantId, key::CaseKey};
use isocenter_wire::v1::{self, watch_worklist_response::Change};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::Status;

use crate::{desk::Desk, error::Error, list::Filter, view::reader_key};

/// Answers that wait for a slow workstation: a screenful and what changes meanwhile. What is behind them is not kept for it.
const BUFFER: usize = 256;

/// How long a workstation may leave its answers untaken before it is told to call again.
const SLOW: Duration = Duration::from_secs(10);

/// Streams at one process: a large center's workstations on one replica. Each remembers which reads it has named.
pub(crate) const WATCHERS: usize = 1024;

/// An answer of the stream.
pub(crate) type Answer = Result<v1::WatchWorklistResponse, Status>;

/// One workstation's stream.
struct Watcher {
    desk: Arc<Desk>,
    tenant: TenantId,
    filter: Filter,
    answers: mpsc::Sender<Answer>,
    /// What the workstation has been told of.
    known: BTreeSet<String>,
}

/// The workstation is gone, or too slow.
struct Behind;

impl Desk {
    /// Starts a stream of the worklist. `place` is kept for as long as it lasts.
    pub fn watch(
        self: &Arc<Self>,
        tenant: TenantId,
        filter: Filter,
        place: OwnedSemaphorePermit,
    ) -> Result<mpsc::Receiver<Answer>, Error> {
        // A reader whom nobody knows is told so at once.
        self.viewer(&tenant, &filter)?;
        let (answers, answered) = mpsc::channel(BUFFER);
        let watcher = Watcher { desk: Arc::clone(self), tenant, filter, answers, known: BTreeSet::new() };
        self.tasks.background("worklist", async move {
            watcher.run().await;
            drop(place);
        });
        Ok(answered)
    }
}

impl Watcher {
    async fn run(mut self) {
        let stopping = self.desk.tasks.token();
        let gone = self.answers.clone();
        let last = tokio::select! {
            () = stopping.cancelled() => Status::unavailable("this process stops; call again"),
            () = gone.closed() => return,
            Behind = self.follow() => Status::out_of_range("the worklist has moved on; call again"),
        };
        // There may be no room for it; then the end of the stream says the same.
        drop(self.answers.try_send(Err(last)));
    }

    /// Tells everything, and then what changes, for as long as nothing is missed.
    async fn follow(&mut self) -> Behind {
        self.desk.view.synced().await;
        // The changes first, then everything: what changes between the two is in the changes.
        let mut changes = self.desk.view.changes();
        let mut registry = self.desk.view.registry.changes();
        let Ok(profile) = self.desk.viewer(&self.tenant, &self.filter) else { return Behind };
        let own = self.filter.reader.as_ref().map(|reader| reader_key(&self.tenant, reader));
        for case in self.desk.view.cases.all() {
            if case.key.tenant == self.tenant
                && let Err(behind) = self.tell(&case.key, profile.as_ref()).await
            {
                return behind;
            }
        }
        if let Err(behind) = self.send(Change::Listed(true)).await {
            return behind;
        }
        loop {
            tokio::select! {
                changed = changes.next() => {
                    let Some(case) = changed else { return Behind };
                    if case.tenant == self.tenant
                        && let Err(behind) = self.tell(&case, profile.as_ref()).await
                    {
                        return behind;
                    }
                }
                // What the reader may see has changed, wherever that is: everything is to be looked at again.
                entry = registry.next() => if entry.is_none() || entry == own {
                    return Behind;
                },
            }
        }
    }

    /// Tells how the reads of a case are.
    async fn tell(&mut self, case: &CaseKey, profile: Option<&ReaderProfile>) -> Result<(), Behind> {
        let reads = self.desk.visible_of(case, &self.filter, profile);
        let prefix = format!("{}.", case.case);
        let known = self.known.range(prefix.clone()..).take_while(|id| id.starts_with(&prefix));
        let gone: Vec<String> =
            known.filter(|id| reads.iter().all(|read| read.read_id != **id)).cloned().collect();
        for id in gone {
            self.known.remove(&id);
            self.send(Change::GoneReadId(id)).await?;
        }
        for read in reads {
            self.known.insert(read.read_id.clone());
            self.send(Change::Read(read)).await?;
        }
        Ok(())
    }

    async fn send(&self, change: Change) -> Result<(), Behind> {
        let answer = v1::WatchWorklistResponse { change: Some(change) };
        match tokio::time::timeout(SLOW, self.answers.send(Ok(answer))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Behind),
        }
    }
}
