//! Reopen: a node has received something of a study that was closed.

use isocenter_blobs::{BlobPath, Blobs, path};
use isocenter_domain::{
    document::Head,
    id::StudyUid,
    key::{IntakeKey, StudyKey, text},
    record::{
        RecordKind,
        case::CaseEvent,
        intake::Intake,
        study::{Study, StudyEvent},
    },
};
use isocenter_reconcile::{Failed, Outcome, Reconciler};
use isocenter_runtime::telemetry::trace::link;
use isocenter_store::Key;
use isocenter_store::table::{Cause, Change, TableError, Tables, owner_range};
use isocenter_wire::{
    document::Stored as _,
    record::{self as wire, Stored as Storable},
};
use tracing::Instrument as _;

use super::{
    ACTOR,
    close::{WHOLE, undecodable},
};
use crate::{
    Error,
    item::{Item, Kept, kind},
    metrics::Metrics,
};

/// The first event of every restored record that has no life of its own.
const REOPENED: &str = "reopened";

#[derive(Clone, Debug)]
pub(crate) struct Reopener {
    pub tables: Tables,
    pub blobs: Blobs,
    pub metrics: Metrics,
}

#[async_trait::async_trait]
impl Reconciler for Reopener {
    type Key = StudyKey;

    async fn reconcile(&self, key: &StudyKey) -> Result<Outcome, Failed> {
        self.consider(key).await?;
        Ok(Outcome::Done)
    }
}

impl Reopener {
    /// Restores the study if it was closed and something of it has been received since.
    pub async fn consider(&self, key: &StudyKey) -> Result<(), Error> {
        self.consider_as(key, Cause::role(ACTOR).because("late image")).await
    }

    /// The same, in somebody's name.
    pub async fn consider_as(&self, key: &StudyKey, cause: Cause) -> Result<(), Error> {
        if self.tables.load::<Study>(key).await?.is_some() {
            return Ok(());
        }
        let id = key.study.as_str();
        let received = owner_range::<IntakeKey>(&key.tenant, id, &[id]);
        if self.tables.list::<Intake>(&received).await?.0.is_empty() {
            return Ok(());
        }
        // Without a head it is new, and ingestion's to create.
        let Some(head) = last_head(&self.blobs, key).await? else { return Ok(()) };
        let span = tracing::info_span!("reopen case");
        let study = head.records.iter().find(|(record, _)| *record == text(key));
        if let Some(before) = study.and_then(|(_, value)| wire::decode_head(value).ok()) {
            // Caused by a late image, about what the old trace tells.
            link(&span, &before.trace);
        }
        self.restore(key, &head, cause).instrument(span).await
    }

    /// Restores, in as many transactions as it takes, what one has no room for. Broken off, it goes on with what is not
    /// there yet.
    async fn restore_before(&self, records: &[&(String, Vec<u8>)], cause: &Cause) -> Result<(), Error> {
        for part in records.chunks(WHOLE) {
            let mut change = self.tables.change(cause.clone());
            let mut any = false;
            for (record, value) in part {
                let there = self.tables.kv().get(&Key::new(record.clone())?).await?.is_some();
                let item = Item::read(record, value).map_err(undecodable("a record of a head"))?;
                if !there && !matches!(item, Item::Other) {
                    restore(&mut change, item)?;
                    any = true;
                }
            }
            if any {
                change.commit().await?;
            }
        }
        Ok(())
    }

    async fn restore(&self, key: &StudyKey, head: &Head, cause: Cause) -> Result<(), Error> {
        let mut records: Vec<&(String, Vec<u8>)> = head.records.iter().collect();
        if records.len() > WHOLE {
            let (core, others): (Vec<_>, Vec<_>) =
                records.into_iter().partition(|(record, _)| is_core(record));
            self.restore_before(&others, &cause).await?;
            records = core;
        }
        let mut change = self.tables.change(cause);
        for (record, value) in records {
            let item = Item::read(record, value).map_err(undecodable("a record of a head"))?;
            restore(&mut change, item)?;
        }
        match change.commit().await {
            Ok(_) => {
                self.metrics.cycles.with_label_values(&["reopened"]).inc();
                tracing::info!("reopened");
                Ok(())
            }
            // Another archive was first: the study is there.
            Err(TableError::Conflict) if self.tables.load::<Study>(key).await?.is_some() => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// Studies, plans and cases come back in one transaction, the last: until then the unit is still closed to everybody.
fn is_core(record: &str) -> bool {
    matches!(kind(record), Some(RecordKind::Study | RecordKind::Plan | RecordKind::Case))
}

/// Restores one record under its own key, its counter going on after its last event, which closed it.
fn restore(change: &mut Change<'_>, item: Item) -> Result<(), Error> {
    let now = change.now();
    match item {
        Item::Study(Kept { key, value: Some((head, study)) }) => {
            let (study, _) = study.transition(StudyEvent::Closed, now)?;
            let (study, _) = study.transition(StudyEvent::Reopened, now)?;
            create(change, Kept { key, value: Some((head, study)) }, StudyEvent::Reopened.name());
        }
        Item::Case(Kept { key, value: Some((head, case)) }) => {
            let (case, _) = case.transition(CaseEvent::Closed, now)?;
            let (case, _) = case.transition(CaseEvent::Reopened, now)?;
            create(change, Kept { key, value: Some((head, case)) }, CaseEvent::Reopened.name());
        }
        Item::Study(Kept { value: None, .. }) | Item::Case(Kept { value: None, .. }) => {}
        Item::Plan(plan) => create(change, plan, REOPENED),
        Item::AiTask(task) => create(change, task, REOPENED),
        Item::Read(read) => create(change, read, REOPENED),
        Item::Report(report) => create(change, report, REOPENED),
        Item::Delivery(delivery) => create(change, delivery, REOPENED),
        // Intakes: a node writes its own, and the last manifest has all that the old ones stood for.
        Item::Other => {}
    }
    Ok(())
}

fn create<R: Storable>(change: &mut Change<'_>, kept: Kept<R>, event: &str) {
    if let Some((head, record)) = &kept.value {
        change.create_after(&kept.key, record, event, &head.trace, head.seq + 1);
    }
}

/// What was last written about a closed study.
pub(crate) async fn last_head(blobs: &Blobs, key: &StudyKey) -> Result<Option<Head>, Error> {
    let Some(entry) = blobs.last(&path::heads_of(&key.tenant, &key.study)).await? else { return Ok(None) };
    read_head(blobs, &entry.path, &key.study).await.map(Some)
}

async fn read_head(blobs: &Blobs, path: &BlobPath, study: &StudyUid) -> Result<Head, Error> {
    let head = Head::decode(&blobs.get(path).await?).map_err(undecodable("a head"))?;
    if head.study == *study {
        return Ok(head);
    }
    let source = isocenter_wire::error::Undecodable::Damaged("it is of another study".into());
    Err(Error::Undecodable { what: "a head", source })
}
