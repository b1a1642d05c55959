//! Writes this node's intake records, and with a study's first one the study's own record.

use isocenter_blobs::{Blobs, path};
use isocenter_domain::{
    Time,
    id::NodeId,
    key::{IntakeKey, StudyKey},
    record::{
        intake::Intake,
        study::{Study, StudyEvent},
    },
    refs::Digest,
};
use isocenter_runtime::telemetry::trace::new_trace;
use isocenter_store::table::{Cause, Stored, TableError, Tables};

use crate::{
    Error,
    ledger::{Account, Ledger},
    spool::Ready,
};

/// The role, as events name it.
pub(crate) const ROLE: &str = "ingestion";

/// How often a change that lost to another writer is decided again before the caller is told.
pub(crate) const ATTEMPTS: usize = 5;

/// The writer of this node's intake records.
#[derive(Clone, Debug)]
pub(crate) struct Intakes {
    pub tables: Tables,
    pub blobs: Blobs,
    pub ledger: Ledger,
    pub node: NodeId,
}

/// What the mover has done.
#[derive(Debug)]
pub(crate) struct Moved {
    /// The node's new segment; `None` where nothing had to be added to it.
    pub listed: Option<Listed>,
    /// The files of the spool that are superfluous now.
    pub files: Vec<Ready>,
}

/// A segment in blobs, and what it lists.
#[derive(Debug)]
pub(crate) struct Listed {
    pub segment: Digest,
    pub stored: u32,
    pub bytes: u64,
    pub quarantined: u32,
}

impl Intakes {
    pub(crate) fn key(&self, study: &StudyKey) -> IntakeKey {
        IntakeKey { tenant: study.tenant.clone(), study: study.study.clone(), node: self.node.clone() }
    }

    /// Writes the study's intake record as the ledger has it, with what was moved. Where nothing is known of the study it
    /// is created too; where it was closed it is not: the archive reopens it when it sees the intake.
    pub(crate) async fn write(&self, study: &StudyKey, moved: Option<&Moved>) -> Result<(), Error> {
        let gate = self.ledger.gate(study);
        let _held = gate.lock().await;
        let mut attempt = 1;
        loop {
            match self.try_write(study, moved).await {
                Err(Error::Table(TableError::Conflict)) if attempt < ATTEMPTS => attempt += 1,
                Err(e) => return Err(e),
                Ok(()) => break,
            }
        }
        if let Some(moved) = moved {
            self.ledger.moved(study, &moved.files);
        }
        Ok(())
    }

    async fn try_write(&self, study: &StudyKey, moved: Option<&Moved>) -> Result<(), Error> {
        let Some(account) = self.ledger.account(study) else { return Ok(()) };
        let key = self.key(study);
        let current = self.tables.load::<Intake>(&key).await?;
        let live = self.tables.load::<Study>(study).await?;
        let record = record(&account, current.as_ref(), moved);
        let unchanged = current.as_ref().is_some_and(|current| current.record == record);
        let creates = match (&live, &account.origin) {
            (None, Some(origin)) if !self.was_closed(study).await? => Some(origin),
            (Some(_) | None, _) => None,
        };
        if unchanged && creates.is_none() {
            return Ok(());
        }
        let mut change = self.tables.change(Cause::role(ROLE));
        let trace = match (&live, creates) {
            (Some(live), _) => live.head.trace.clone(),
            (None, Some(_)) => new_trace(),
            (None, None) => String::new(),
        };
        match &current {
            Some(current) => change.update(current, &record, "counted"),
            None => change.create(&key, &record, "opened", &trace),
        }
        if let Some(origin) = creates {
            let record = Study::receiving(origin.site.clone(), origin.calling.clone(), change.now());
            change.create(study, &record, StudyEvent::Received.name(), &trace);
        }
        change.commit().await?;
        Ok(())
    }

    /// Whether the study has a head in blobs, so that only the archive may bring it back.
    pub(crate) async fn was_closed(&self, study: &StudyKey) -> Result<bool, Error> {
        Ok(self.blobs.last(&path::heads_of(&study.tenant, &study.study)).await?.is_some())
    }
}

fn record(account: &Account, current: Option<&Stored<Intake>>, moved: Option<&Moved>) -> Intake {
    let before = current.map(|current| current.record.clone()).unwrap_or_default();
    let gone = moved.map_or(0, |moved| moved.files.len());
    let last_at =
        if account.last_at > Time::ZERO { account.last_at.max(before.last_at) } else { before.last_at };
    let counted = Intake {
        pending: u32::try_from(account.pending.saturating_sub(gone)).unwrap_or(u32::MAX),
        open_associations: account.open,
        last_at,
        ..before
    };
    match moved.and_then(|moved| moved.listed.as_ref()) {
        None => counted,
        Some(listed) => Intake {
            stored: listed.stored,
            bytes: listed.bytes,
            quarantined: listed.quarantined,
            segment: Some(listed.segment),
            ..counted
        },
    }
}
