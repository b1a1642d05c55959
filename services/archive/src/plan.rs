//! Decides when a case, or a study without one, may be closed. Pure.

use std::time::Duration;

use isocenter_domain::{
    Time,
    key::RecordKey,
    record::{
        Record, ai_task::AiTask, case::Case, delivery::Delivery, intake::Intake, plan::Plan, read::Read,
        report::Report, study::Study,
    },
    stage::{Records, Stage, stage},
};
use isocenter_store::table::Stored;

/// A case with its studies, or one study alone: what is closed and reopened together.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The studies, the case's first member first.
    pub studies: Vec<Member>,
    /// The case; `None` where nobody reads the study.
    pub case: Option<Stored<Case>>,
    /// Its reads.
    pub reads: Vec<Stored<Read>>,
    /// Their report versions.
    pub reports: Vec<Stored<Report>>,
    /// Their deliveries.
    pub deliveries: Vec<Stored<Delivery>>,
}

/// One study of a unit.
#[derive(Clone, Debug)]
pub struct Member {
    /// The study.
    pub study: Stored<Study>,
    /// What the policy decided.
    pub plan: Stored<Plan>,
    /// What each node received.
    pub intakes: Vec<Stored<Intake>>,
    /// What was asked of AI services.
    pub ai: Vec<Stored<AiTask>>,
}

/// What to do with a unit now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: this is still expected, and its change wakes the unit.
    Wait(&'static str),
    /// Nothing before this time.
    NotBefore(Time),
    /// Close it.
    Close,
}

/// How long nothing may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace {
    /// Of a case that was read and delivered.
    pub delivered: Duration,
    /// Of a study that nobody reads.
    pub unread: Duration,
}

/// Whether everything that is owed to a unit is done, and for how long.
#[must_use]
pub fn verdict(unit: &Unit, grace: Grace, now: Time) -> Verdict {
    let mut wait = grace.unread;
    for member in &unit.studies {
        match stage(&records(unit, member)) {
            Some(Stage::Delivered) => wait = grace.delivered,
            Some(Stage::NothingToRead) if unit.case.is_none() => {}
            _ => return Verdict::Wait("the study is not read and delivered"),
        }
        if !member.ai.iter().all(|task| task.record.settled()) {
            return Verdict::Wait("an analysis is not settled");
        }
        if !member.intakes.iter().all(|intake| intake.record.settled()) {
            return Verdict::Wait("a node still receives the study");
        }
        if unit.case.is_some() && !named_by_a_report(unit, &member.study) {
            return Verdict::Wait("no report names the study's last revision");
        }
    }
    if unit.reads.iter().any(|read| read.record.is_live()) {
        return Verdict::Wait("a review of the report is not done");
    }
    let reports: usize = unit.reads.iter().map(|read| versions(&read.record)).sum();
    if unit.reports.len() < reports {
        return Verdict::Wait("a signed read has no report");
    }
    let quiet_since = unit.last_update();
    let due = quiet_since.plus(wait);
    if now < due { Verdict::NotBefore(due) } else { Verdict::Close }
}

/// How many report versions a read has made.
fn versions(read: &Read) -> usize {
    usize::from(read.preliminary.is_some()) + usize::from(read.concluded().is_some())
}

fn records(unit: &Unit, member: &Member) -> Records {
    Records {
        study: Some(member.study.record.clone()),
        plan: Some(member.plan.record.clone()),
        case: unit.case.as_ref().map(|case| case.record.state),
        reads: unit.reads.iter().map(|read| read.record.clone()).collect(),
        destinations: unit.case.as_ref().map_or(0, |case| case.record.destinations.len()),
        deliveries: unit.deliveries.iter().map(|delivery| delivery.record.clone()).collect(),
    }
}

/// A revision that no signed report names gets a discrepancy read, which may not exist yet.
fn named_by_a_report(unit: &Unit, study: &Stored<Study>) -> bool {
    let names = |report: &Stored<Report>| {
        let mut seen = report.record.studies.iter();
        seen.any(|seen| seen.study == study.key.study && seen.revision >= study.record.revision)
    };
    unit.reports.iter().any(names)
}

impl Unit {
    /// When any of its records last changed.
    #[must_use]
    pub fn last_update(&self) -> Time {
        let members = self.studies.iter().flat_map(|member| {
            let own = [updated(&member.study), updated(&member.plan)];
            own.into_iter().chain(member.intakes.iter().map(updated)).chain(member.ai.iter().map(updated))
        });
        let case = self.case.iter().map(updated).chain(self.reads.iter().map(updated));
        let sent = self.reports.iter().map(updated).chain(self.deliveries.iter().map(updated));
        members.chain(case).chain(sent).max().unwrap_or(Time::ZERO)
    }

    /// How many records it has.
    #[must_use]
    pub fn size(&self) -> usize {
        let members = self.studies.iter().map(|member| 2 + member.intakes.len() + member.ai.len());
        let of_case = usize::from(self.case.is_some()) + self.reads.len() + self.reports.len();
        members.sum::<usize>() + of_case + self.deliveries.len()
    }

    /// The number of its heads: the sum of the change counters of all its records but the intakes, whose counters a node
    /// may begin again. Every change of the unit raises it, also over close and reopen, so that the head with the
    /// highest number is the newest whoever wrote it, and equal numbers mean equal records.
    #[must_use]
    pub fn head_number(&self) -> u64 {
        let members = self.studies.iter().flat_map(|member| {
            let own = [member.study.head.seq, member.plan.head.seq];
            own.into_iter().chain(member.ai.iter().map(seq))
        });
        let case = self.case.iter().map(seq).chain(self.reads.iter().map(seq));
        let sent = self.reports.iter().map(seq).chain(self.deliveries.iter().map(seq));
        members.chain(case).chain(sent).sum()
    }
}

fn updated<R: Record>(stored: &Stored<R>) -> Time
where
    R::Key: RecordKey,
{
    stored.head.updated_at
}

fn seq<R: Record>(stored: &Stored<R>) -> u64 {
    stored.head.seq
}
