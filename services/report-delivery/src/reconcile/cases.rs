//! Makes the deliveries that a case's signed reports owe.
//!
//! The key is the case and not the report: all reports of a case are looked at together and their deliveries made in
//! their order, so that a correction is never on a lane before the report it corrects.

use std::collections::BTreeSet;

use futures::{StreamExt as _, stream, stream::BoxStream};
use isocenter_domain::{
    key::{self, CaseKey, DeliveryKey, ReportKey},
    record::{
        case::{Case, CaseState},
        delivery::Delivery,
        report::Report,
    },
};
use isocenter_reconcile::{Failed, KeySource, Outcome, Reconciler};
use isocenter_store::{
    kv::MAX_TXN_OPS,
    table::{Cause, Mirror, Mirrors, Stored, Tables, owner_range},
};

use super::ACTOR;
use crate::{Error, metrics::Metrics, plan};

/// Deliveries made in one transaction: each is a record and its event.
const BATCH: usize = MAX_TXN_OPS / 2 - 1;

pub(crate) struct Cases {
    pub tables: Tables,
    pub mirrors: CaseMirrors,
    pub metrics: Metrics,
}

#[derive(Clone)]
pub(crate) struct CaseMirrors {
    cases: Mirror<Case>,
    reports: Mirror<Report>,
    deliveries: Mirror<Delivery>,
}

impl CaseMirrors {
    pub fn new(mirrors: &Mirrors) -> Self {
        Self { cases: mirrors.of(), reports: mirrors.of(), deliveries: mirrors.of() }
    }

    /// Whether nothing is owed as far as the mirrors know. Each change of what this rests on wakes the case again.
    fn settled(&self, key: &CaseKey) -> bool {
        let Some(case) = self.cases.get(key).filter(|c| c.record.state == CaseState::Ready) else {
            return true;
        };
        let id = key.case.as_str();
        let reports = self.reports.of(&owner_range::<ReportKey>(&key.tenant, id, &[id]));
        if reports.is_empty() {
            return true;
        }
        let deliveries = self.deliveries.of(&owner_range::<DeliveryKey>(&key.tenant, id, &[id]));
        let existing = deliveries.iter().map(|d| d.key.clone()).collect();
        plan::missing(
            &case.record,
            reports.iter().filter(|r| r.record.kind.is_released()).map(|r| &r.key),
            &existing,
        )
        .is_empty()
    }
}

#[async_trait::async_trait]
impl Reconciler for Cases {
    type Key = CaseKey;

    async fn reconcile(&self, key: &CaseKey) -> Result<Outcome, Failed> {
        if !self.mirrors.settled(key) {
            self.make_missing(key).await?;
        }
        Ok(Outcome::Done)
    }
}

impl Cases {
    async fn make_missing(&self, key: &CaseKey) -> Result<(), Error> {
        let Some(case) = self.tables.load::<Case>(key).await? else { return Ok(()) };
        if case.record.state != CaseState::Ready {
            return Ok(());
        }
        let id = key.case.as_str();
        let (reports, _) =
            self.tables.list::<Report>(&owner_range::<ReportKey>(&key.tenant, id, &[id])).await?;
        let (existing, _) =
            self.tables.list::<Delivery>(&owner_range::<DeliveryKey>(&key.tenant, id, &[id])).await?;
        let existing: BTreeSet<DeliveryKey> = existing.into_iter().map(|d| d.key).collect();
        let released = reports.iter().filter(|r| r.record.kind.is_released());
        let missing = plan::missing(&case.record, released.map(|r| &r.key), &existing);
        for batch in missing.chunks(BATCH) {
            self.make(&case, &reports, batch).await?;
        }
        Ok(())
    }

    async fn make(
        &self,
        case: &Stored<Case>,
        reports: &[Stored<Report>],
        missing: &[DeliveryKey],
    ) -> Result<(), Error> {
        let mut change = self.tables.change(Cause::role(ACTOR));
        // A case that the archive closes meanwhile is not given new deliveries.
        change.unchanged(case);
        let now = change.now();
        for key in missing {
            let Some(report) = reports.iter().find(|r| r.key == key.report) else { continue };
            let delivery = plan::pending(key, &report.record, &case.record, now);
            change.create(key, &delivery, "created", &report.head.trace);
        }
        change.commit().await?;
        self.metrics.made.inc_by(u64::try_from(missing.len()).unwrap_or(u64::MAX));
        Ok(())
    }
}

/// The cases that have reports; woken by reports and by cases, whose destinations may change.
pub(crate) struct CaseSource(pub CaseMirrors);

#[async_trait::async_trait]
impl KeySource for CaseSource {
    type Key = CaseKey;

    async fn list(&self) -> Result<Vec<CaseKey>, Failed> {
        let reports = &self.0.reports;
        let with_reports: BTreeSet<CaseKey> = reports.all().iter().map(|r| case_of(&r.key)).collect();
        Ok(with_reports.into_iter().collect())
    }

    async fn changes(&self) -> Result<BoxStream<'static, CaseKey>, Failed> {
        let CaseMirrors { cases, reports, deliveries } = &self.0;
        tokio::join!(cases.synced(), reports.synced(), deliveries.synced());
        let end = || stream::once(async { None });
        let cases = cases.changes().map(Some).chain(end());
        let reports = reports.changes().map(|report| Some(case_of(&report))).chain(end());
        // The end of either is the end of both: what one has missed has to be listed.
        let both = stream::select(cases, reports).take_while(|key| std::future::ready(key.is_some()));
        Ok(both.filter_map(std::future::ready).boxed())
    }

    fn shard(&self, key: &CaseKey) -> u8 {
        key::shard_of(key)
    }
}

fn case_of(report: &ReportKey) -> CaseKey {
    CaseKey { tenant: report.tenant.clone(), case: report.read.case.clone() }
}
