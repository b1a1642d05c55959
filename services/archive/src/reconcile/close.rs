//! Close: the head into blobs, then everything out of the store in one transaction.

use std::sync::Arc;

use isocenter_blobs::{Blobs, path};
use isocenter_domain::{
    Time,
    document::{Event, Head, Manifest, Segment},
    key::{RecordKey as _, StudyKey, text},
    record::{
        RecordKind,
        case::CaseEvent,
        delivery::DeliveryState,
        study::{Study, StudyEvent},
    },
    stage::{Records, Stage, stage},
};
use isocenter_reconcile::{Failed, Outcome, Reconciler};
use isocenter_runtime::telemetry::trace::joined;
use isocenter_store::table::{Cause, Change, Mirrors, Stored, Tables, gather};
use isocenter_wire::{
    document::Stored as _,
    record::{self as wire, Stored as Storable},
};
use tracing::Instrument as _;

use super::{
    ACTOR,
    load::{self, Loaded},
};
use crate::{
    Error,
    item::{About, kind},
    metrics::Metrics,
    plan::{Grace, Member, Unit, Verdict, verdict},
};

/// How soon a unit is looked at again that waits for nothing but the journal.
const JOURNAL_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

/// How soon a unit is looked at again whose segments are not merged: ingestion owes it.
const MERGE_WAIT: std::time::Duration = std::time::Duration::from_secs(60);

/// Records that one transaction removes one by one: each is a delete and an event, and a transaction has room for 128.
pub(super) const WHOLE: usize = 60;

/// Why a unit is closed.
const REASON: &str = "read, delivered and journaled";

/// Introduces the head in the reason of a unit that is removed by ranges: `{study}/{number of the head}`.
const HEAD: &str = "; all that is in head ";

/// The last event of every record that is closed.
pub(crate) const CLOSED: &str = "closed";

pub(crate) struct Closer {
    pub tables: Tables,
    pub mirrors: Mirrors,
    pub blobs: Blobs,
    pub metrics: Metrics,
    pub grace: Grace,
}

#[async_trait::async_trait]
impl Reconciler for Closer {
    type Key = StudyKey;

    async fn reconcile(&self, key: &StudyKey) -> Result<Outcome, Failed> {
        // The mirrors answer for most studies that nothing is to be done; a terminal one is loaded and looked at closely.
        let records = gather(&self.mirrors, key);
        let wait = match stage(&records) {
            Some(Stage::Delivered) => self.grace.delivered,
            Some(Stage::NothingToRead) => self.grace.unread,
            _ => return Ok(Outcome::Done),
        };
        // The study itself is as old as that at least. To load the whole unit costs ten reads, and each change of one that is
        // delivered wakes it.
        let quiet_since = self.mirrors.of::<Study>().get(key).map_or(Time::ZERO, |s| s.head.updated_at);
        let due = quiet_since.max(last_accepted(&records)).plus(wait);
        if self.tables.clock().now() < due {
            return Ok(Outcome::At(due));
        }
        Ok(self.consider(key).await?)
    }
}

impl Closer {
    /// Closes the unit of `key` if it may be.
    pub async fn consider(&self, key: &StudyKey) -> Result<Outcome, Error> {
        let Some(loaded) = load::unit(&self.tables, key).await? else { return Ok(Outcome::Done) };
        let now = self.tables.clock().now();
        match verdict(&loaded.unit, self.grace, now) {
            Verdict::Wait(why) => {
                tracing::debug!(why, "not closed");
                return Ok(Outcome::Done);
            }
            Verdict::NotBefore(at) => return Ok(Outcome::At(at)),
            Verdict::Close => {}
        }
        if load::outbox_holds(&self.tables, &loaded.unit).await? {
            return Ok(Outcome::At(now.plus(JOURNAL_WAIT)));
        }
        for member in &loaded.unit.studies {
            if !self.merged(member).await? {
                tracing::warn!("a study's segment has instances that its manifest lacks; it is not closed");
                return Ok(Outcome::At(now.plus(MERGE_WAIT)));
            }
        }
        let trace = loaded.unit.studies.first().map(|member| member.study.head.trace.as_str());
        let span = joined(tracing::info_span!("close case"), trace.unwrap_or_default());
        async {
            self.put_heads(&loaded.unit).await?;
            self.commit(&loaded).await?;
            Ok(Outcome::Done)
        }
        .instrument(span)
        .await
    }

    /// Whether the manifest names every instance that the nodes have listed: nothing received is lost by closing.
    async fn merged(&self, member: &Member) -> Result<bool, Error> {
        let Member { study, intakes, .. } = member;
        let Some(digest) = &study.record.manifest else { return Ok(false) };
        let path = path::manifest(&study.key.tenant, &study.key.study, study.record.revision);
        let manifest = self.blobs.get_checked(&path, digest).await?;
        let manifest = Manifest::decode(&manifest).map_err(undecodable("a manifest"))?;
        for intake in intakes {
            let Some(digest) = &intake.record.segment else { continue };
            let path = path::segment(&study.key.tenant, &study.key.study, &intake.key.node, digest);
            let segment = self.blobs.get_checked(&path, digest).await?;
            let segment = Segment::decode(&segment).map_err(undecodable("a segment"))?;
            if segment.images.instances().any(|(_, _, i)| manifest.images.find(&i.instance).is_none()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Puts the head of each member, durably. A second try finds the first one's and takes it for its own.
    pub async fn put_heads(&self, unit: &Unit) -> Result<(), Error> {
        let records = records(unit);
        let number = unit.head_number();
        for member in &unit.studies {
            let StudyKey { tenant, study } = &member.study.key;
            let closed_at = self.tables.clock().now();
            let head = Head { study: study.clone(), closed_at, records: records.clone() };
            let path = path::head(tenant, study, number);
            match self.blobs.put_new(&path, head.encode().into()).await {
                Ok(_) => {}
                Err(isocenter_blobs::Error::AlreadyExists(_)) => {
                    let found = self.blobs.get(&path).await?;
                    let found = Head::decode(&found).map_err(undecodable("a head"))?;
                    if lasting(&found.records) != lasting(&records) {
                        self.metrics.forks.inc();
                        return Err(Error::Fork);
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Takes every record out of the store, if each is as it was loaded and none was added.
    ///
    /// A unit of more records than one transaction has room for loses them by ranges: then the event of its study, and of
    /// its case, names the head, and the drainer reads there whose last event it is as well.
    pub async fn commit(&self, loaded: &Loaded) -> Result<(), Error> {
        let Loaded { unit, ranges } = loaded;
        let whole = unit.size() <= WHOLE;
        let reason = if whole {
            REASON.to_owned()
        } else {
            let first = unit.studies.first().map(|member| member.study.key.study.to_string());
            format!("{REASON}{HEAD}{}/{}", first.unwrap_or_default(), unit.head_number())
        };
        let mut change = self.tables.change(Cause::role(ACTOR).because(reason));
        let now = change.now();
        for member in &unit.studies {
            member.study.record.clone().transition(StudyEvent::Closed, now)?;
            change.delete(&member.study, StudyEvent::Closed.name());
            change.delete(&member.plan, CLOSED);
            if whole {
                delete_all(&mut change, &member.intakes);
                delete_all(&mut change, &member.ai);
            }
        }
        if let Some(case) = &unit.case {
            case.record.clone().transition(CaseEvent::Closed, now)?;
            change.delete(case, CaseEvent::Closed.name());
        }
        if whole {
            delete_all(&mut change, &unit.reads);
            delete_all(&mut change, &unit.reports);
            delete_all(&mut change, &unit.deliveries);
        }
        for (range, revision) in ranges {
            change.none_newer(range.clone(), *revision);
            if !whole {
                change.delete_range(range.clone());
            }
        }
        change.commit().await?;
        let studies = u64::try_from(unit.studies.len()).unwrap_or(u64::MAX);
        self.metrics.cycles.with_label_values(&["closed"]).inc_by(studies);
        tracing::info!(studies, records = unit.size(), "closed");
        Ok(())
    }
}

/// When the last report was accepted, or a later one took its place.
fn last_accepted(records: &Records) -> Time {
    let accepted = records.deliveries.iter().filter_map(|delivery| match delivery.state {
        DeliveryState::ApplicationAccepted { at } | DeliveryState::Superseded { at } => Some(at),
        DeliveryState::Viewed { accepted, .. } => Some(accepted),
        DeliveryState::Pending
        | DeliveryState::Sent { .. }
        | DeliveryState::Retrying { .. }
        | DeliveryState::DeadLetter { .. } => None,
    });
    accepted.max().unwrap_or(Time::ZERO)
}

/// The records whose last event the event of a closed study or case stands for as well: key and value, as the head that it
/// names has them. None where each has an event of its own.
pub(crate) async fn closed_with(blobs: &Blobs, event: &Event) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let about = About::key(&event.key);
    let Some((study, number)) = event.reason.split_once(HEAD).and_then(|(_, head)| head.split_once('/'))
    else {
        return Ok(Vec::new());
    };
    let (Ok(tenant), Ok(study), Ok(number)) = (about.tenant.parse(), study.parse(), number.parse()) else {
        return Ok(Vec::new());
    };
    let head = blobs.get(&path::head(&tenant, &study, number)).await?;
    let head = Head::decode(&head).map_err(undecodable("a head"))?;
    let of_it = |key: &str| {
        let kind = kind(key);
        let own = matches!(kind, Some(RecordKind::Study | RecordKind::Plan | RecordKind::Case));
        let other = About::key(key);
        !own && (about.study.is_some() && other.study == about.study
            || about.case.is_some() && other.case == about.case)
    };
    Ok(head.records.into_iter().filter(|(key, _)| of_it(key)).collect())
}

fn delete_all<R: Storable>(change: &mut Change<'_>, records: &[Stored<R>]) {
    for record in records {
        change.delete(record, CLOSED);
    }
}

/// Key and stored bytes of every record of a unit.
fn records(unit: &Unit) -> Vec<(String, Vec<u8>)> {
    let mut records = Vec::new();
    for member in &unit.studies {
        keep(&mut records, std::slice::from_ref(&member.study));
        keep(&mut records, std::slice::from_ref(&member.plan));
        keep(&mut records, &member.intakes);
        keep(&mut records, &member.ai);
    }
    keep(&mut records, unit.case.as_slice());
    keep(&mut records, &unit.reads);
    keep(&mut records, &unit.reports);
    keep(&mut records, &unit.deliveries);
    records
}

fn keep<R: Storable>(kept: &mut Vec<(String, Vec<u8>)>, records: &[Stored<R>]) {
    kept.extend(records.iter().map(|r| (text(&r.key), wire::encode(&r.head, &r.record))));
}

/// The records whose counters the head's number counts.
fn lasting(records: &[(String, Vec<u8>)]) -> Vec<&(String, Vec<u8>)> {
    let intake = isocenter_domain::key::IntakeKey::KIND.as_str();
    records.iter().filter(|(key, _)| key.split('/').next() != Some(intake)).collect()
}

pub(crate) fn undecodable(what: &'static str) -> impl Fn(isocenter_wire::error::Undecodable) -> Error {
    move |source| Error::Undecodable { what, source }
}

impl Closer {
    /// The same, as a runner takes it.
    pub fn shared(self) -> Arc<dyn Reconciler<Key = StudyKey>> {
        Arc::new(self)
    }
}
