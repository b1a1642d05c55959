//! Each case's reads, brought to what they should be. Runs on every replica; where two do the same, one of them is told.

use std::{collections::BTreeMap, sync::Arc};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream, stream::BoxStream};
use isocenter_domain::{
    Time,
    key::{self, CaseKey},
    record::{
        case::Case,
        read::{Read, ReadEvent, ReadState},
    },
};
use isocenter_reconcile::{Failed, KeySource, Outcome, Reconciler, Share};
use isocenter_runtime::telemetry;
use isocenter_store::{
    members::Shares,
    table::{Cause, Stored},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::{
    desk::Desk,
    error::Error,
    plan::{Action, Plan, Presence, Situation, plan},
};

/// How a role is named in events.
pub(crate) const ACTOR: &str = "reader-assignment";

/// The cases, from the mirrors.
#[derive(Clone, Debug)]
pub(crate) struct Cases(pub Arc<Desk>);

#[async_trait::async_trait]
impl KeySource for Cases {
    type Key = CaseKey;

    async fn list(&self) -> Result<Vec<CaseKey>, Failed> {
        Ok(self.0.view.cases.all().iter().map(|case| case.key.clone()).collect())
    }

    async fn changes(&self) -> Result<BoxStream<'static, CaseKey>, Failed> {
        self.0.view.synced().await;
        Ok(self.0.view.changes())
    }

    fn shard(&self, key: &CaseKey) -> u8 {
        key::shard_of(key)
    }
}

/// A replica's own share, and every case besides while it leads: only the leader may take a missing sign of life for
/// absence.
#[derive(Debug)]
pub(crate) struct Lead {
    pub shares: Shares,
    pub desk: Arc<Desk>,
}

impl Share for Lead {
    fn owns(&self, shard: u8) -> bool {
        self.shares.owns(shard) || self.desk.leadership.fence().is_some()
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        stream::select(self.shares.changes(), self.desk.leadership.changes()).boxed()
    }

    fn first_look(&self) -> BoxFuture<'static, ()> {
        self.shares.first_look().boxed()
    }
}

#[async_trait::async_trait]
impl Reconciler for Cases {
    type Key = CaseKey;

    async fn reconcile(&self, key: &CaseKey) -> Result<Outcome, Failed> {
        Ok(self.0.reconcile(key).await?)
    }
}

impl Desk {
    /// Brings the reads of a case to what they should be.
    pub(crate) async fn reconcile(&self, key: &CaseKey) -> Result<Outcome, Error> {
        // The mirrors say whether there is anything to do; where they are behind, their next change wakes the key.
        let cached = self.planned_by_mirrors(key);
        if cached.actions.is_empty() {
            return Ok(cached.look_again.map_or(Outcome::Done, Outcome::At));
        }
        let Some(case) = self.tables.load::<Case>(key).await? else { return Ok(Outcome::Done) };
        let reads = self.reads(key).await?;
        let studies = self.studies(&key.tenant, &case.record).await?;
        let situation = Situation {
            id: &key.case,
            case: &case.record,
            reads: reads.iter().map(|(n, read)| (*n, &read.record)).collect(),
            studies: studies.iter().map(|s| (s.key.study.clone(), &s.record)).collect(),
        };
        let decided = plan(&situation, self.now(), |reader| self.presence(key, reader));
        let span = telemetry::trace::joined(tracing::info_span!("assign reads"), &case.head.trace);
        for action in &decided.actions {
            self.act(&case, &reads, action).instrument(span.clone()).await?;
        }
        Ok(decided.look_again.map_or(Outcome::Done, Outcome::At))
    }

    fn planned_by_mirrors(&self, key: &CaseKey) -> Plan {
        let Some(case) = self.view.cases.get(key) else { return Plan::default() };
        let reads = self.view.reads_of(key);
        let studies = self.view.studies_of(&key.tenant, &case.record);
        let situation = Situation {
            id: &key.case,
            case: &case.record,
            reads: reads.iter().map(|(n, read)| (*n, &read.record)).collect(),
            studies: studies.iter().map(|(uid, study)| (uid.clone(), &study.record)).collect(),
        };
        plan(&situation, self.now(), |reader| self.presence(key, reader))
    }

    /// Only a leader that has led for a while takes a missing sign of life for absence; the others look again after a
    /// leader's grace, when this replica may be such a leader.
    fn presence(&self, key: &CaseKey, reader: &isocenter_domain::id::ReaderId) -> Presence {
        if self.view.presence.of(&key.tenant, reader).is_some() {
            Presence::Present
        } else if self.leadership.may_miss() {
            Presence::Absent
        } else {
            Presence::Unproven(self.now().plus(self.leadership.grace()))
        }
    }

    async fn act(
        &self,
        case: &Stored<Case>,
        reads: &BTreeMap<u32, Stored<Read>>,
        action: &Action,
    ) -> Result<(), Error> {
        match action {
            Action::Create(reads) => {
                let mut change = self.tables.change(Cause::role(ACTOR));
                for (n, read) in reads {
                    self.create(&mut change, case, *n, read);
                }
                change.unchanged(case);
                change.commit().await?;
            }
            Action::Lapse { n, why } => {
                if let Some(read) = reads.get(n) {
                    self.take_back(read, ReadEvent::Lapsed, Cause::role(ACTOR).because(*why)).await?;
                    self.meters.lapsed();
                }
            }
        }
        Ok(())
    }

    /// Keeps the queue in memory as the mirrors are, until `ended`.
    pub(crate) async fn follow(self: Arc<Self>, ended: CancellationToken) {
        use futures::StreamExt as _;
        loop {
            tokio::select! {
                () = ended.cancelled() => return,
                () = self.view.synced() => {}
            }
            // First the changes, then everything: what changes between the two is in the changes.
            let (mut changes, mut registry) = (self.view.changes(), self.view.registry.changes());
            self.view.people.learn(&self.view.registry);
            self.board.refresh_all(&self.view).await;
            // Set before, where this is not the first time.
            drop(self.board.filled.set(()));
            loop {
                tokio::select! {
                    () = ended.cancelled() => return,
                    changed = changes.next() => match changed {
                        Some(key) => self.board.refresh(&self.view, &key),
                        None => break,
                    },
                    entry = registry.next() => match entry {
                        // Conflicts of interest and overflow concern reads that wait already.
                        Some(_) if self.view.people.learn(&self.view.registry) => self.board.refresh_all(&self.view).await,
                        Some(_) => {}
                        None => break,
                    },
                }
            }
            // The mirrors of a process that stops end at once, again and again.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// Reads that have been open for longer than their class allows, or set aside for longer than was said.
    pub(crate) fn stuck(&self, now: Time) -> usize {
        let reads = self.view.reads.all();
        reads.iter().filter(|read| self.is_stuck(read, now)).count()
    }

    /// First reads that are not signed and past the deadline of their class.
    pub(crate) fn overdue(&self, now: Time) -> usize {
        let late = |read: &Stored<Read>| {
            let case = self.view.cases.get(&crate::view::case_key(&read.key));
            case.is_some_and(|case| case.record.due_at() < now)
        };
        let owed = |read: &Stored<Read>| read.record.kind.is_first() && read.record.is_live();
        self.view.reads.all().iter().filter(|read| owed(read) && late(read)).count()
    }

    fn is_stuck(&self, read: &Stored<Read>, now: Time) -> bool {
        match &read.record.state {
            ReadState::Open { since, .. } => {
                let case = self.view.cases.get(&crate::view::case_key(&read.key));
                case.is_some_and(|case| now.since(*since) > case.record.orphan_after)
            }
            ReadState::Suspended { until, .. } => now > *until,
            ReadState::Waiting
            | ReadState::AwaitingFinal
            | ReadState::Offered { .. }
            | ReadState::Signed { .. }
            | ReadState::NonDiagnostic { .. }
            | ReadState::Cancelled { .. } => false,
        }
    }
}
