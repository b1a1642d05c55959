//! Decisions, without any service.

use isocenter_domain::{
    document::AiResult,
    id::{AiServiceId, CaseId},
    record::{
        plan::{AiRequest, Reading},
        read::{ReadKind, ReadState},
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

fn description() -> Description {
    Description {
        modalities: vec![],
        body_parts: vec![],
        transfer_syntaxes: vec![],
        max_concurrency: 1,
        model: Model::default(),
    }
}

#[test]
fn the_smaller_limit_holds_and_none_is_below_one() {
    let described = |max_concurrency| Description { max_concurrency, ..description() };
    assert_eq!(limit(&service(), None, 1), 4);
    assert_eq!(limit(&service(), Some(&described(2)), 1), 2);
    assert_eq!(limit(&service(), Some(&described(9)), 1), 4);
    assert_eq!(limit(&AiService { max_concurrency: 0, ..service() }, None, 1), 1);
    // Divided among those who dispatch, so that all together keep it, unless they are more than it takes calls.
    let shared: Vec<usize> = [0, 1, 2, 3, 4, 9].map(|replicas| limit(&service(), None, replicas)).into();
    assert_eq!(shared, [4, 4, 2, 1, 1, 1]);
}

/// A series of one instance.
fn series(modality: &str, body_part: &str, syntax: &str) -> Series {
    let bytes = Digest::of(b"x");
    let instance = Instance {
        sop_class: "1.2.840.10008.5.1.4.1.1.1".parse().unwrap(),
        instance: "1.2.3.1.1".parse().unwrap(),
        transfer_syntax: syntax.parse().unwrap(),
        size: 1,
        sha256: bytes,
        data_set: bytes,
        number: 1,
        frames: 1,
        image: true,
    };
    Series {
        modality: modality.into(),
        body_part: body_part.into(),
        instances: [(instance.instance.clone(), instance)].into(),
        ..Series::default()
    }
}

#[test]
fn one_series_that_it_takes_is_enough() {
    const EXPLICIT: &str = "1.2.840.10008.1.2.1";
    let images = Images {
        series: [
            ("1.1".parse().unwrap(), series("SR", "CHEST", EXPLICIT)),
            ("1.2".parse().unwrap(), series("CR", "HAND", "1.2.840.10008.1.2.4.90")),
            ("1.3".parse().unwrap(), series("DX", "", EXPLICIT)),
        ]
        .into(),
        ..Images::default()
    };
    let of = |values: &[&str]| -> Vec<String> { values.iter().map(|v| (*v).to_owned()).collect() };
    let refuses = |modalities: &[&str], parts: &[&str], syntaxes: &[&str]| {
        let description = Description {
            modalities: of(modalities),
            body_parts: of(parts),
            transfer_syntaxes: of(syntaxes),
            ..description()
        };
        super::refuses(Some(&description), &images)
    };
    assert_eq!(super::refuses(None, &images), None);
    assert_eq!(refuses(&[], &[], &[]), None);
    assert_eq!(
        refuses(&["DX", "CR"], &["HAND"], &[EXPLICIT]),
        None,
        "an absent body part is not held against it"
    );
    assert_eq!(refuses(&["CT"], &[], &[]), Some(SkipReason::NotForModality));
    assert_eq!(refuses(&["CR"], &["CHEST"], &[]), Some(SkipReason::NotForBodyPart));
    assert_eq!(refuses(&["CR"], &["HAND"], &[EXPLICIT]), Some(SkipReason::NotForTransferSyntax));
}

#[test]
fn only_the_model_that_is_described_is_announced() {
    let model = |id: &str, version: &str| Model { id: id.into(), version: version.into() };
    let says = |model| Description { model, ..description() };
    assert!(
        says(model("", "")).announces(&model("m", "1")),
        "what is left open is not held against an answer"
    );
    assert!(says(model("m", "1")).announces(&model("m", "1")));
    assert!(!says(model("m", "1")).announces(&model("m", "2")));
    assert!(!says(model("m", "")).announces(&model("n", "1")));
}

#[test]
fn a_deadline_says_what_it_was_that_did_not_come() {
    let (ready, open) = (Standing::Ready, Standing::Open { until: Time(200) });
    let unavailable = AiTaskEvent::Skipped { why: SkipReason::Unavailable };
    let called = in_state(AiTaskState::Pending { not_before: Time(0) });
    let reasons: BTreeSet<&str> = [
        (task(), ready, true, AiTaskEvent::Expired),
        (task(), open, true, unavailable.clone()),
        (task(), Standing::Probing, true, unavailable.clone()),
        (task(), ready, false, unavailable),
        (called, open, true, AiTaskEvent::Expired),
        (in_state(AiTaskState::Dispatched { until: Time(50) }), open, false, AiTaskEvent::Expired),
    ]
    .into_iter()
    .map(|(task, standing, serving, event)| {
        let (found, why) = expired(&task, standing, serving);
        assert_eq!(found, event, "{task:?} {standing:?}");
        why
    })
    .collect();
    assert_eq!(reasons.len(), 5);
}

#[test]
fn what_a_call_says_of_its_service() {
    let after = |heard: Heard, took| heard.verdict(Duration::from_micros(took), Duration::from_micros(100));
    let failed = |failure| after(Heard::Failed { failure, again: true }, 1);
    assert_eq!(after(Heard::Result(result()), 1), Verdict::Well);
    assert_eq!(after(Heard::Declined("modality"), 1), Verdict::Well);
    assert_eq!(after(Heard::Declined("other"), 1), Verdict::Ill);
    assert_eq!(failed(AiFailure::Busy), Verdict::Nothing);
    for failure in [AiFailure::Unavailable, AiFailure::InvalidAnswer, AiFailure::Error] {
        assert_eq!(failed(failure), Verdict::Ill);
    }
    // Called when little time was left, it had no chance.
    assert_eq!((after(Heard::Nothing, 49), after(Heard::Nothing, 50)), (Verdict::Nothing, Verdict::Ill));
}

#[test]
fn failures_are_tried_again_up_to_the_last_attempt() {
    let schedule = Schedule::new(Duration::from_micros(8), Duration::from_micros(8));
    let failed = |failure, failures, again| {
        let heard = Heard::Failed { failure, again };
        let task = AiTask { attempts: 7, failures, ..task() };
        match event(&task, &heard, &schedule, 3, Time(10)) {
            Some(AiTaskEvent::CallFailed { retry_at, .. }) => retry_at,
            other => panic!("{other:?}"),
        }
    };
    assert!(failed(AiFailure::Error, 0, true).is_some_and(|at| at > Time(10) && at <= Time(18)));
    assert!(failed(AiFailure::Error, 1, true).is_some());
    assert_eq!(failed(AiFailure::Error, 2, true), None);
    assert_eq!(failed(AiFailure::Error, 0, false), None);
    assert!(failed(AiFailure::Busy, 2, true).is_some(), "being turned away is no failure");
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
    let read = |state| Read { state, ..Read::waiting(ReadKind::Primary, Time(1)) };
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
        (0..6_u8, 0..4_u8).prop_map(|(what, back)| Step::Heard(what, back)),
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
                Decision::Expire => {
                    let event = expired(&task, Standing::Probing, true).0;
                    task = task.transition(event, now).unwrap().0;
                }
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
                                4 => Heard::Failed { failure: AiFailure::Busy, again: true },
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
