//! What the live records owe each other. Pure but for the gathering.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use isocenter_domain::{
    Time,
    id::{CaseId, SiteId, StudyUid, TenantId},
    key::{CaseKey, DeliveryKey, PlanKey, RecordKey, RegistryItem, ReportKey, text},
    record::{
        Record,
        ai_task::AiTask,
        case::{Case, CaseState},
        delivery::{Delivery, DeliveryState, Lane},
        intake::Intake,
        plan::Plan,
        policy::ActivePolicy,
        read::{Holding, Read, ReadState},
        registry::Entry,
        report::Report,
        study::{Study, StudyState},
    },
};
use isocenter_store::table::{Mirrors, Stored};
use isocenter_wire::record::Stored as Storable;

use super::{Compared, Subject};
use crate::Config;

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
    assembly: BTreeMap<SiteId, Duration>,
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
        self.overdue_studies(config, now, compared);
        self.overdue_work(config, now, compared);
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
                None => compared.differs(Subject::Plan, text(&key), expected, "none"),
                Some(plan) if plan.record.revision != study.record.revision => {
                    let found = format!("one for revision {}", plan.record.revision);
                    compared.differs(Subject::Plan, text(&key), expected, found);
                }
                Some(_) => {}
            }
        }
        for plan in self.plans.values().filter(|p| p.head.updated_at <= since) {
            let Some(case) = plan.record.case() else { continue };
            compared.saw(Subject::Case);
            let key = text(&CaseKey { tenant: plan.key.tenant.clone(), case: case.clone() });
            match self.cases.get(case) {
                None => compared.differs(Subject::Case, key, "a case that has the study", "none"),
                Some(case) if !case.record.members.contains(&plan.key.study) => {
                    compared.differs(Subject::Case, key, "a case that has the study", "one without it");
                }
                Some(_) => {}
            }
        }
    }

    fn reads_and_reports(&self, since: Time, compared: &mut Compared) {
        for case in self.cases.values().filter(|c| c.head.updated_at <= since) {
            if case.record.state != CaseState::Ready {
                continue;
            }
            compared.saw(Subject::Read);
            if !self.reads.iter().any(|read| read.key.read.case == case.key.case) {
                compared.differs(Subject::Read, text(&case.key), "a read", "none");
            }
        }
        for read in &self.reads {
            let ReadState::Signed { version, .. } = read.record.state else { continue };
            compared.saw(Subject::Report);
            let key = ReportKey { tenant: read.key.tenant.clone(), read: read.key.read.clone(), version };
            if !self.reports.contains_key(&key) {
                compared.differs(Subject::Report, text(&key), "the report that was signed", "none");
            }
        }
        for report in self.reports.values().filter(|r| r.head.updated_at <= since) {
            let Some(case) = self.cases.get(&report.key.read.case) else { continue };
            for destination in &case.record.destinations {
                compared.saw(Subject::Delivery);
                let key = DeliveryKey { report: report.key.clone(), destination: destination.clone() };
                if !self.deliveries.contains_key(&key) {
                    compared.differs(Subject::Delivery, text(&key), "a delivery", "none");
                }
            }
        }
    }

    fn overdue_studies(&self, config: &Config, now: Time, compared: &mut Compared) {
        for study in self.studies.values() {
            compared.saw(Subject::Overdue);
            let bound = self.assembly.get(&study.record.site).copied().unwrap_or(config.max_assembly.0);
            let due = study.record.first_received_at.plus(bound).plus(config.settle.0);
            if study.record.state == StudyState::Receiving && now > due {
                let found = format!("receiving for {}", ago(study.record.first_received_at, now));
                compared.differs(Subject::Overdue, text(&study.key), "complete", found);
            }
        }
        for task in &self.ai {
            compared.saw(Subject::Overdue);
            if !task.record.settled() && now > task.record.deadline_at.plus(config.settle.0) {
                let found = format!(
                    "{}, {} past its deadline",
                    task.record.state.name(),
                    ago(task.record.deadline_at, now)
                );
                compared.differs(Subject::Overdue, text(&task.key), "settled", found);
            }
        }
    }

    fn overdue_work(&self, config: &Config, now: Time, compared: &mut Compared) {
        for read in &self.reads {
            compared.saw(Subject::Overdue);
            let Some(case) = self.cases.get(&read.key.read.case) else { continue };
            match &read.record.state {
                ReadState::Waiting | ReadState::Offered { .. } if now > case.record.due_at() => {
                    let found =
                        format!("{}, due {} ago", read.record.state.name(), ago(case.record.due_at(), now));
                    compared.differs(Subject::Overdue, text(&read.key), "signed in time", found);
                }
                ReadState::Open { since, .. } if now > since.plus(case.record.orphan_after) => {
                    let found = format!("open for {}", ago(*since, now));
                    compared.differs(Subject::Overdue, text(&read.key), "signed or returned", found);
                }
                ReadState::Waiting
                | ReadState::Offered { .. }
                | ReadState::Open { .. }
                | ReadState::Signed { .. } => {}
            }
        }
        for delivery in self.deliveries.values() {
            compared.saw(Subject::Overdue);
            let (state, since) = (&delivery.record.state, delivery.record.since);
            let dead = matches!(state, DeliveryState::DeadLetter { .. });
            if dead || (!delivery.record.settled() && now > since.plus(config.page_after.0)) {
                let found = format!("{} for {}", state.name(), ago(since, now));
                compared.differs(Subject::Overdue, text(&delivery.key), "accepted", found);
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

fn ago(then: Time, now: Time) -> String {
    format!("{} s", now.since(then).as_secs())
}
