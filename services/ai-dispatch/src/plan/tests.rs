//! Decisions, without any service.

use isocenter_domain::{
    document::AiResult,
    id::{AiServiceId, CaseId},
    record::{
        plan::{AiRequest, Reading},
        read::ReadKind,
        study::Evidence,
    },
    refs::Digest,
};
use proptest::prelude::*;

use super::*;

const TIMEOUT: Duration = Duration::from_micros(100);

fn key() -> StudyKey {
    StudyKey { tenant: "t".parse().unwrap(), study: "1.2.3".parse().unwrap() }
}

fn task_key(service: &str, revision: u32) -> AiTaskKey {
    let StudyKey { tenant, study } = key();
    AiTaskKey { tenant, study, service: service.parse().unwrap(), revision }
}

fn study(revision: u32) -> Study {
    let mut study = Study::receiving("north".parse().unwrap(), "CR1".parse().unwrap(), Time(1));
    study.state = StudyState::Complete { evidence: Evidence::QuietPeriod, doubt: None };
    (study.revision, study.manifest) = (revision, Some(Digest::of(b"manifest")));
    study
}

fn asks(revision: u32, services: &[&str]) -> Plan {
    let request = |s: &&str| AiRequest { service: s.parse::<AiServiceId>().unwrap(), timeout: TIMEOUT };
    Plan {
        revision,
        policy: Digest::of(b"policy"),
        reading: Reading::Case(CaseId::of(&key().tenant, &key().study)),
        ai: services.iter().map(request).collect(),
        destinations: vec![],
        rules: vec![],
    }
}

fn task() -> AiTask {
    AiTask::requested(Digest::of(b"manifest"), Time(0), Time(100))
}

fn in_state(state: AiTaskState) -> AiTask {
    AiTask { state, attempts: 1, ..task() }
}

fn service() -> AiService {
    AiService { address: "http://a:1".into(), receives_original: true, max_concurrency: 4 }
}

fn result() -> AiResult {
    AiResult {
        abnormal_probability: 0.5,
        summary: String::new(),
        findings: vec![],
        model: "m".into(),
        model_version: "1".into(),
    }
}

#[test]
fn a_plan_makes_each_task_once() {
    let plan = asks(2, &["a", "b", "a"]);
    let made = due(&key(), &study(2), Some(&plan), std::iter::empty(), Time(7));
    let keys: Vec<_> = made.create.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(keys, [task_key("a", 2), task_key("b", 2)]);
    assert_eq!(made.create[0].1, AiTask::requested(Digest::of(b"manifest"), Time(7), Time(107)));
    let again = due(&key(), &study(2), Some(&plan), made.create.iter().map(|(k, t)| (k, t)), Time(8));
    assert!(again.is_empty());
}

#[test]
fn only_the_plan_of_a_complete_revision_counts() {
    let none = |study: &Study, plan: Option<&Plan>| {
        assert!(due(&key(), study, plan, std::iter::empty(), Time(1)).is_empty());
    };
    none(&study(2), None);
    none(&study(2), Some(&asks(1, &["a"])));
    for state in [StudyState::Receiving, StudyState::Closed] {
        none(&Study { state, ..study(2) }, Some(&asks(2, &["a"])));
    }
}

#[test]
fn a_newer_revision_ends_what_is_not_settled_of_older_ones() {
    let (old, over) = (task_key("a", 1), task_key("b", 1));
    let (open, settled) = (task(), in_state(AiTaskState::TimedOut));
    let tasks = || [(&old, &open), (&over, &settled)].into_iter();
    let found = due(&key(), &study(2), None, tasks(), Time(1));
    assert_eq!((found.create.len(), found.supersede), (0, vec![old.clone()]));
    let receiving = Study { state: StudyState::Receiving, ..study(1) };
    assert!(due(&key(), &receiving, Some(&asks(1, &["a"])), tasks(), Time(1)).is_empty());
}

#[test]
fn a_pending_task_is_called_when_it_may_be() {
    let decide = |service: Option<&AiService>, now| super::decide(&task(), service, false, Time(now));
    assert_eq!(decide(Some(&service()), 0), Decision::Call);
    assert_eq!(decide(None, 0), Decision::Skip(SkipReason::NotRegistered));
    let closed = AiService { receives_original: false, ..service() };
    assert_eq!(decide(Some(&closed), 0), Decision::Skip(SkipReason::MayNotReceive));
    assert_eq!(decide(Some(&service()), 100), Decision::Expire);
    let later = in_state(AiTaskState::Pending { not_before: Time(50) });
    assert_eq!(super::decide(&later, Some(&service()), false, Time(49)), Decision::Wait(Time(50)));
    assert_eq!(super::decide(&later, Some(&service()), false, Time(50)), Decision::Call);
    assert_eq!(super::decide(&later, Some(&service()), true, Time(50)), Decision::Wait(Time(100)));
}

#[test]
fn a_claim_lapses_only_where_nobody_here_is_calling() {
    let task = in_state(AiTaskState::Dispatched { until: Time(50) });
    let decide = |ours, now| decide(&task, Some(&service()), ours, Time(now));
    assert_eq!(decide(false, 49), Decision::Wait(Time(50)));
    assert_eq!(decide(false, 50), Decision::Lapse);
    assert_eq!(decide(true, 50), Decision::Wait(Time(100)));
    assert_eq!((decide(true, 100), decide(false, 100)), (Decision::Expire, Decision::Expire));
    assert_eq!(until(&task, Duration::from_micros(30), Time(20)), Time(50));
    assert_eq!(until(&task, Duration::from_micros(30), Time(90)), Time(100));
}

#[test]
fn the_smaller_limit_holds_and_none_is_below_one() {
    let described = |max_concurrency| Description { modalities: vec![], max_concurrency };
    assert_eq!(limit(&service(), None), 4);
    assert_eq!(limit(&service(), Some(&described(2))), 2);
    assert_eq!(limit(&service(), Some(&described(9))), 4);
    assert_eq!(limit(&AiService { max_concurrency: 0, ..service() }, None), 1);
}

#[test]
fn one_series_of_a_modality_it_takes_is_enough() {
    let series = |modality: &str| Series { modality: modality.into(), ..Series::default() };
    let images = Images {
        series: [("1.1".parse().unwrap(), series("SR")), ("1.2".parse().unwrap(), series("CR"))].into(),
        ..Images::default()
    };
    let takes = |modalities: &[&str]| {
        let modalities = modalities.iter().map(|m| (*m).to_owned()).collect();
        super::takes(Some(&Description { modalities, max_concurrency: 1 }), &images)
    };
    assert!(takes(&[]) && takes(&["DX", "CR"]) && super::takes(None, &images));
    assert!(!takes(&["CT"]));
}

#[test]
fn failures_are_tried_again_up_to_the_last_attempt() {
    let schedule = Schedule::new(Duration::from_micros(8), Duration::from_micros(8));
    let failed = |attempts, again| {
        let heard = Heard::Failed { failure: AiFailure::Error, again };
        let task = AiTask { attempts, ..task() };
        match event(&task, &heard, &schedule, 3, Time(10)) {
            Some(AiTaskEvent::CallFailed { retry_at, .. }) => retry_at,
            other => panic!("{other:?}"),
        }
    };
    assert!(failed(1, true).is_some_and(|at| at > Time(10) && at <= Time(18)));
    assert!(failed(2, true).is_some());
    assert_eq!(failed(3, true), None);
    assert_eq!(failed(1, false), None);
}

#[test]
fn only_an_answer_says_something_about_another_dispatchers_claim() {
    let claimed = in_state(AiTaskState::Dispatched { until: Time(50) });
    let failed = Heard::Failed { failure: AiFailure::Unavailable, again: true };
    for (heard, theirs) in
        [(Heard::Result(result()), true), (failed, false), (Heard::Declined("other"), false)]
    {
        assert!(counts(&claimed, 1, &heard));
        assert_eq!(counts(&claimed, 2, &heard), theirs, "{heard:?}");
        assert!(!counts(&in_state(AiTaskState::Cancelled), 1, &heard));
    }
    assert!(counts(&in_state(AiTaskState::TimedOut), 1, &Heard::Result(result())));
    assert!(!counts(&in_state(AiTaskState::TimedOut), 1, &Heard::Nothing));
}

#[test]
fn signed_means_every_read_and_at_least_one() {
    let read = |state| Read {
        kind: ReadKind::Primary,
        state,
        waiting_since: Time(1),
        returns: vec![],
        drafts: vec![],
    };
    let done =
        read(ReadState::Signed { reader: "anna".parse().unwrap(), at: Time(1), version: 1, studies: vec![] });
    let waiting = read(ReadState::Waiting);
    assert!(!signed([].iter()));
    assert!(signed([done.clone()].iter()));
    assert!(!signed([done, waiting].iter()));
}

/// What a model of the outside does to a task in one step.
#[derive(Clone, Debug)]
enum Step {
    Pass(u16),
    Heard(u8, u8),
    Die,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..60_u16).prop_map(Step::Pass),
        (0..5_u8, 0..4_u8).prop_map(|(what, back)| Step::Heard(what, back)),
        Just(Step::Die),
    ]
}

proptest! {
    /// Whatever services and dispatchers do, every decision is one that the record allows, no call begins after the
    /// deadline, and at the deadline the task is over.
    #[test]
    fn every_task_ends_by_its_deadline(steps in prop::collection::vec(step(), 0..60)) {
        let schedule = Schedule::new(Duration::from_micros(2), Duration::from_micros(9));
        let (mut task, mut now, mut ours) = (task(), Time(0), false);
        let mut steps = steps.into_iter();
        loop {
            match decide(&task, Some(&service()), ours, now) {
                Decision::Over => break,
                Decision::Call => {
                    prop_assert!(now < task.deadline_at);
                    let until = until(&task, Duration::from_micros(20), now);
                    task = task.transition(AiTaskEvent::Claimed { until }, now).unwrap().0;
                    ours = true;
                }
                Decision::Expire => task = task.transition(AiTaskEvent::Expired, now).unwrap().0,
                Decision::Lapse => task = task.transition(AiTaskEvent::Lapsed, now).unwrap().0,
                Decision::Skip(why) => task = task.transition(AiTaskEvent::Skipped { why }, now).unwrap().0,
                Decision::Wait(at) => {
                    prop_assert!(at > now && at <= task.deadline_at);
                    match steps.next() {
                        None => now = at,
                        Some(Step::Pass(d)) => now = now.plus(Duration::from_micros(u64::from(d))),
                        Some(Step::Die) => ours = false,
                        Some(Step::Heard(what, back)) => {
                            let heard = match what {
                                0 => Heard::Result(result()),
                                1 => Heard::Declined("other"),
                                2 => Heard::Failed { failure: AiFailure::Error, again: true },
                                3 => Heard::Failed { failure: AiFailure::InvalidAnswer, again: false },
                                _ => Heard::Nothing,
                            };
                            let attempt = task.attempts.saturating_sub(u32::from(back));
                            if counts(&task, attempt, &heard) {
                                let answer = result().answer(Digest::of(b"r"), now);
                                let answered = AiTaskEvent::Answered { answer, after_signature: false };
                                let event = event(&task, &heard, &schedule, 3, now).unwrap_or(answered);
                                task = task.transition(event, now).unwrap().0;
                                ours = false;
                            }
                        }
                    }
                }
            }
        }
        prop_assert!(task.settled());
    }
}
