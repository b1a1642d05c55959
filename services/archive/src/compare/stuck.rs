//! What waits longer than it may, from the mirrors alone: everything that waits has a bound and an owner.

use std::{collections::BTreeSet, time::Duration};

use isocenter_domain::{
    Time,
    key::{CaseKey, DeliveryKey, PlanKey, text},
    record::{
        ai_task::AiTaskState,
        case::{Case, CaseState},
        delivery::DeliveryState,
        intake::Intake,
        read::ReadState,
        study::StudyState,
    },
};
use isocenter_store::table::Stored;

use super::{Compared, Live, Remedy, Subject};
use crate::Config;

/// How long a role may take to make what follows from a record: it does it within a second, and looks again now and then.
const FOLLOWS: Duration = Duration::from_secs(60);

/// Whose it is where a role has to go on.
const INGESTION: &str = "ingestion";
const ROUTING: &str = "routing";
const AI: &str = "ai-dispatch";
const READING: &str = "reader-assignment";
const DELIVERY: &str = "report-delivery";
/// And where people or others' systems have to.
const READER: &str = "reader";
const DESTINATION: &str = "destination";
const OPERATOR: &str = "operator";

const HELP: Remedy = Remedy::Person("see `isocenter stuck`: it says whose it is and why");

/// Something that waits longer than it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stuck {
    pub kind: &'static str,
    pub key: String,
    pub state: &'static str,
    pub since: Time,
    pub bound: Time,
    pub owner: &'static str,
    pub cause: String,
    /// What there should be instead, for the comparison.
    expected: &'static str,
}

impl Stuck {
    /// Something that belongs to no record.
    pub fn of_process(kind: &'static str, since: Time, bound: Time, cause: String) -> Self {
        let (state, owner, expected) = ("waiting", "archive", "nothing waiting");
        Self { kind, key: kind.to_owned(), state, since, bound, owner, cause, expected }
    }
}

impl Live {
    /// Everything past its bound, in no order.
    pub fn stuck(&self, config: &Config, now: Time) -> Vec<Stuck> {
        let mut stuck = Vec::new();
        self.owed(now, &mut stuck);
        self.waiting(config, now, &mut stuck);
        stuck
    }

    /// The records that are past a bound of their own, as differences.
    pub(super) fn overdue(&self, config: &Config, now: Time, compared: &mut Compared) {
        let looked_at = [self.studies.len(), self.ai.len(), self.reads.len(), self.deliveries.len()];
        compared.saw_many(Subject::Overdue, looked_at.into_iter().sum());
        let mut stuck = Vec::new();
        self.waiting(config, now, &mut stuck);
        for s in stuck {
            let found = format!("{} for {} s", s.state, now.since(s.since).as_secs());
            compared.differs(Subject::Overdue, s.key, s.expected, found, HELP);
        }
    }

    fn waiting(&self, config: &Config, now: Time, stuck: &mut Vec<Stuck>) {
        self.assembling(config, now, stuck);
        self.analysing(config, now, stuck);
        self.reading(now, stuck);
        self.delivering(config, now, stuck);
    }

    fn assembling(&self, config: &Config, now: Time, stuck: &mut Vec<Stuck>) {
        for study in self.studies.values().filter(|s| s.record.state == StudyState::Receiving) {
            let bound = self.assembly.get(&study.record.site).copied().unwrap_or(config.max_assembly.0);
            let since = study.record.first_received_at;
            let bound = since.plus(bound);
            if now > bound.plus(config.settle.0) {
                let of_study = self.intakes.iter().filter(|intake| intake.key.study == study.key.study);
                let causes: Vec<String> = of_study.filter_map(|intake| held_by(intake)).collect();
                let none = || "no node holds it back".to_owned();
                stuck.push(Stuck {
                    kind: "study",
                    key: text(&study.key),
                    state: "receiving",
                    since,
                    bound,
                    owner: INGESTION,
                    cause: if causes.is_empty() { none() } else { causes.join("; ") },
                    expected: "complete",
                });
            }
        }
    }

    fn analysing(&self, config: &Config, now: Time, stuck: &mut Vec<Stuck>) {
        for task in self.ai.iter().filter(|task| !task.record.settled()) {
            let bound = task.record.deadline_at;
            if now > bound.plus(config.settle.0) {
                let tried = format!("{} calls, {} failed", task.record.attempts, task.record.failures);
                let cause = match &task.record.state {
                    AiTaskState::Pending { not_before } => {
                        format!("{tried}; next {}", next(*not_before, now))
                    }
                    AiTaskState::Dispatched { until } => {
                        format!("{tried}; claim lapses {}", next(*until, now))
                    }
                    _ => tried,
                };
                stuck.push(Stuck {
                    kind: "ai",
                    key: text(&task.key),
                    state: task.record.state.name(),
                    since: task.record.requested_at,
                    bound,
                    owner: AI,
                    cause,
                    expected: "settled",
                });
            }
        }
    }

    fn reading(&self, now: Time, stuck: &mut Vec<Stuck>) {
        for read in &self.reads {
            let Some(case) = self.cases.get(&read.key.read.case) else { continue };
            let due = read.record.due_at(case.record.deadline);
            let (since, bound, owner, cause, expected) = match &read.record.state {
                ReadState::Waiting | ReadState::AwaitingFinal => {
                    let pools: Vec<String> = case.record.pools.iter().map(ToString::to_string).collect();
                    let cause = format!("nobody of {} has taken it", pools.join(", "));
                    (read.record.waiting_since, due, READING, cause, "signed in time")
                }
                ReadState::Offered { .. } => {
                    let cause = format!("offered to {}", holder(&read.record));
                    (read.record.waiting_since, due, READER, cause, "signed in time")
                }
                ReadState::Open { since, .. } => {
                    let cause = format!("open by {}", holder(&read.record));
                    let bound = since.plus(case.record.orphan_after);
                    (*since, bound, READER, cause, "signed or returned")
                }
                ReadState::Suspended { reason, since, until, .. } => {
                    let cause = format!("set aside by {}: {}", holder(&read.record), reason.name());
                    (*since, *until, READER, cause, "taken up again or returned")
                }
                ReadState::Signed { .. } | ReadState::NonDiagnostic { .. } | ReadState::Cancelled { .. } => {
                    continue;
                }
            };
            if now > bound {
                let (key, state) = (text(&read.key), read.record.state.name());
                stuck.push(Stuck { kind: "read", key, state, since, bound, owner, cause, expected });
            }
        }
    }

    fn delivering(&self, config: &Config, now: Time, stuck: &mut Vec<Stuck>) {
        for delivery in self.deliveries.values().filter(|delivery| !delivery.record.settled()) {
            let record = &delivery.record;
            let bound = record.since.plus(config.page_after.0);
            let tried = format!("{} attempts", record.attempts);
            let (owner, cause) = match &record.state {
                DeliveryState::DeadLetter { reason, .. } => {
                    (OPERATOR, format!("{tried}; {reason}; replay it when that is mended"))
                }
                DeliveryState::Retrying { next: at, error } => {
                    (DESTINATION, format!("{tried}; {error}; next {}", next(*at, now)))
                }
                DeliveryState::Sent { until } => {
                    (DESTINATION, format!("{tried}; claim lapses {}", next(*until, now)))
                }
                _ => (DELIVERY, format!("{tried}; behind an earlier one of its lane, or not begun")),
            };
            if now > bound || owner == OPERATOR {
                stuck.push(Stuck {
                    kind: "delivery",
                    key: text(&delivery.key),
                    state: record.state.name(),
                    since: record.since,
                    bound,
                    owner,
                    cause,
                    expected: "accepted",
                });
            }
        }
    }

    /// What should have been made of a record by now, and was not.
    fn owed(&self, now: Time, stuck: &mut Vec<Stuck>) {
        let before = now.minus(FOLLOWS);
        let mut missing = |kind, key: String, since: Time, owner, cause: &str| {
            if since < before {
                let (state, bound, cause) = ("missing", since.plus(FOLLOWS), cause.to_owned());
                stuck.push(Stuck { kind, key, state, since, bound, owner, cause, expected: "made" });
            }
        };
        for study in self.studies.values() {
            let complete = matches!(study.record.state, StudyState::Complete { .. });
            let planned = self.plans.get(&study.key.study).map(|plan| plan.record.revision);
            if complete && planned != Some(study.record.revision) {
                let key = PlanKey { tenant: study.key.tenant.clone(), study: study.key.study.clone() };
                let since = study.head.updated_at;
                missing("plan", text(&key), since, ROUTING, "the study is complete and not planned");
            }
        }
        for plan in self.plans.values() {
            let Some(case) = plan.record.case() else { continue };
            if !self.cases.contains_key(case) {
                let key = CaseKey { tenant: plan.key.tenant.clone(), case: case.clone() };
                missing("case", text(&key), plan.head.updated_at, ROUTING, "its study is planned into it");
            }
        }
        let with_reads: BTreeSet<_> = self.reads.iter().map(|read| &read.key.read.case).collect();
        for case in self.cases.values().filter(|case| case.record.state == CaseState::Ready) {
            if !with_reads.contains(&case.key.case) {
                missing("read", text(&case.key), case.head.updated_at, READING, "the case has no read");
            }
        }
        for report in self.reports.values() {
            let Some(case) = self.cases.get(&report.key.read.case) else { continue };
            for destination in destinations(case) {
                let key = DeliveryKey { report: report.key.clone(), destination };
                if !self.deliveries.contains_key(&key) {
                    let cause = "the report is signed and not on its way";
                    missing("delivery", text(&key), report.head.updated_at, DELIVERY, cause);
                }
            }
        }
    }
}

fn destinations(case: &Stored<Case>) -> impl Iterator<Item = isocenter_domain::id::DestinationId> {
    case.record.destinations.iter().cloned()
}

fn holder(read: &isocenter_domain::record::read::Read) -> String {
    read.holder().map(ToString::to_string).unwrap_or_default()
}

/// What a node still owes of a study.
fn held_by(intake: &Stored<Intake>) -> Option<String> {
    let (node, record) = (&intake.key.node, &intake.record);
    if record.settled() {
        return None;
    }
    Some(format!("{node}: {} pending, {} associations open", record.pending, record.open_associations))
}

fn next(at: Time, now: Time) -> String {
    if at > now {
        format!("in {} s", at.since(now).as_secs())
    } else {
        format!("{} s ago", now.since(at).as_secs())
    }
}
