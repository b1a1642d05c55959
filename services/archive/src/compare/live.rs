//! What the live records owe each other. Pure but for the gathering.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use isocenter_domain::{
    Time,
    id::{CaseId, SiteId, StudyUid, TenantId},
    key::{CaseKey, DeliveryKey, PlanKey, RecordKey, RegistryItem, ReportKey, text},
    record::{
        Record,
        ai_task::AiTask,
        case::{Case, CaseState},
        delivery::{Delivery, Lane},
        intake::Intake,
        plan::Plan,
        policy::ActivePolicy,
        read::{Holding, Read},
        registry::Entry,
        report::{Report, ReportKind},
        study::{Study, StudyState},
    },
};
use isocenter_store::table::{Mirrors, Stored};
use isocenter_wire::record::Stored as Storable;

use super::{Compared, Remedy, Subject};
use crate::Config;

const ROUTING: Remedy = Remedy::Person("routing does it when it looks next; if it stays, see its log");
const READING: Remedy =
    Remedy::Person("reader assignment does it when it looks next; if it stays, see its log");
const DELIVERY: Remedy =
    Remedy::Person("report delivery does it when it looks next; if it stays, see its log");

type All<R> = Vec<Arc<Stored<R>>>;

/// The live records of a tenant.
pub(crate) struct Live {
    pub studies: BTreeMap<StudyUid, Arc<Stored<Study>>>,
    pub intakes: All<Intake>,
    pub plans: BTreeMap<StudyUid, Arc<Stored<Plan>>>,
    pub cases: BTreeMap<CaseId, Arc<Stored<Case>>>,
    pub ai: All<AiTask>,
    pub reads: All<Read>,
    pub reports: BTreeMap<ReportKey, Arc<Stored<Report>>>,
    pub deliveries: BTreeMap<DeliveryKey, Arc<Stored<Delivery>>>,
    /// Bounds on assembly that sites have of their own.
    pub(super) assembly: BTreeMap<SiteId, Duration>,
}

impl Live {
    /// From the mirrors, once each has its first list.
    pub async fn gather(mirrors: &Mirrors, tenant: &TenantId) -> Self {
        // These are not compared, but what of them cannot be understood is listed.
        let unread = (mirrors.of::<Holding>(), mirrors.of::<Lane>(), mirrors.of::<ActivePolicy>());
        tokio::join!(unread.0.synced(), unread.1.synced(), unread.2.synced());
        let entries = of::<Entry>(mirrors, tenant).await;
        let assembly = entries.iter().filter_map(|entry| match (&entry.key.item, &entry.record) {
            (RegistryItem::Site(id), Entry::Site(site)) => Some((id.clone(), site.max_assembly?)),
            _ => None,
        });
        let (studies, plans) = (of::<Study>(mirrors, tenant).await, of::<Plan>(mirrors, tenant).await);
        let (cases, reports) = (of::<Case>(mirrors, tenant).await, of::<Report>(mirrors, tenant).await);
        let deliveries = of::<Delivery>(mirrors, tenant).await;
        Self {
            assembly: assembly.collect(),
            studies: studies.into_iter().map(|s| (s.key.study.clone(), s)).collect(),
            intakes: of(mirrors, tenant).await,
            plans: plans.into_iter().map(|p| (p.key.study.clone(), p)).collect(),
            cases: cases.into_iter().map(|c| (c.key.case.clone(), c)).collect(),
            ai: of(mirrors, tenant).await,
            reads: of(mirrors, tenant).await,
            reports: reports.into_iter().map(|r| (r.key.clone(), r)).collect(),
            deliveries: deliveries.into_iter().map(|d| (d.key.clone(), d)).collect(),
        }
    }

    /// Compares each with what must follow from it. What changed within `settle` is still under way.
    pub fn compare(&self, config: &Config, now: Time, compared: &mut Compared) {
        let since = now.minus(config.settle.0);
        self.plans_and_cases(since, compared);
        self.reads_and_reports(since, compared);
        self.overdue(config, now, compared);
    }

    fn plans_and_cases(&self, since: Time, compared: &mut Compared) {
        for study in self.studies.values().filter(|s| s.head.updated_at <= since) {
            if !matches!(study.record.state, StudyState::Complete { .. }) {
                continue;
            }
            compared.saw(Subject::Plan);
            let plan = self.plans.get(&study.key.study);
            let key = PlanKey { tenant: study.key.tenant.clone(), study: study.key.study.clone() };
            let expected = format!("a plan for revision {}", study.record.revision);
            match plan {
                None => compared.differs(Subject::Plan, text(&key), expected, "none", ROUTING),
                Some(plan) if plan.record.revision != study.record.revision => {
                    let found = format!("one for revision {}", plan.record.revision);
                    compared.differs(Subject::Plan, text(&key), expected, found, ROUTING);
                }
                Some(_) => {}
            }
        }
        for plan in self.plans.values().filter(|p| p.head.updated_at <= since) {
            let Some(case) = plan.record.case() else { continue };
            compared.saw(Subject::Case);
            let key = text(&CaseKey { tenant: plan.key.tenant.clone(), case: case.clone() });
            match self.cases.get(case) {
                None => compared.differs(Subject::Case, key, "a case that has the study", "none", ROUTING),
                Some(case) if !case.record.members.contains(&plan.key.study) => {
                    compared.differs(
                        Subject::Case,
                        key,
                        "a case that has the study",
                        "one without it",
                        ROUTING,
                    );
                }
                Some(_) => {}
            }
        }
    }

    fn reads_and_reports(&self, since: Time, compared: &mut Compared) {
        let with_reads: BTreeSet<_> = self.reads.iter().map(|read| &read.key.read.case).collect();
        for case in self.cases.values().filter(|c| c.head.updated_at <= since) {
            if case.record.state != CaseState::Ready {
                continue;
            }
            compared.saw(Subject::Read);
            if !with_reads.contains(&case.key.case) {
                compared.differs(Subject::Read, text(&case.key), "a read", "none", READING);
            }
        }
        for read in &self.reads {
            let Some((_, _, version, _)) = read.record.concluded() else { continue };
            compared.saw(Subject::Report);
            let key = ReportKey { tenant: read.key.tenant.clone(), read: read.key.read.clone(), version };
            if !self.reports.contains_key(&key) {
                compared.differs(Subject::Report, text(&key), "the report that was signed", "none", READING);
            }
        }
        let released = |kind: ReportKind| kind.is_released();
        let settled = self.reports.values().filter(|r| r.head.updated_at <= since);
        for report in settled.filter(|r| released(r.record.kind)) {
            let Some(case) = self.cases.get(&report.key.read.case) else { continue };
            for destination in &case.record.destinations {
                compared.saw(Subject::Delivery);
                let key = DeliveryKey { report: report.key.clone(), destination: destination.clone() };
                if !self.deliveries.contains_key(&key) {
                    compared.differs(Subject::Delivery, text(&key), "a delivery", "none", DELIVERY);
                }
            }
        }
    }

    /// Key and counter of every live record that is projected.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let mut counters = BTreeMap::new();
        count(&mut counters, self.studies.values());
        count(&mut counters, self.plans.values());
        count(&mut counters, self.cases.values());
        count(&mut counters, self.ai.iter());
        count(&mut counters, self.reads.iter());
        count(&mut counters, self.reports.values());
        count(&mut counters, self.deliveries.values());
        counters
    }
}

fn count<'a, R: Record>(
    counters: &mut BTreeMap<String, u64>,
    records: impl Iterator<Item = &'a Arc<Stored<R>>>,
) {
    counters.extend(records.map(|stored| (text(&stored.key), stored.head.seq)));
}

async fn of<R: Storable>(mirrors: &Mirrors, tenant: &TenantId) -> All<R> {
    let mirror = mirrors.of::<R>();
    mirror.synced().await;
    let mut all = mirror.all();
    all.retain(|stored| stored.key.tenant() == tenant);
    all
}
