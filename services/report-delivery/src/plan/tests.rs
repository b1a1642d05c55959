use isocenter_domain::{
    id::{CaseId, ReadId, TenantId},
    record::{case::CaseState, report::ReportKind},
    refs::{Digest, Ref},
};
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn schedule() -> Schedule {
    Schedule::new(5 * SECOND, 300 * SECOND).give_up_after(259_200 * SECOND)
}

fn report_key(study: &str, n: u32) -> ReportKey {
    let tenant: TenantId = "t".parse().unwrap();
    let case = CaseId::of(&tenant, &study.parse().unwrap());
    ReportKey { tenant, read: ReadId { case, n }, version: 1 }
}

fn to(destination: &str, study: &str, n: u32) -> DeliveryKey {
    DeliveryKey { report: report_key(study, n), destination: destination.parse().unwrap() }
}

fn case(destinations: &[&str]) -> Case {
    Case {
        state: CaseState::Ready,
        members: vec!["1.2".parse().unwrap()],
        site: "north".parse().unwrap(),
        class: "ROUTINE".parse().unwrap(),
        complete_at: Time(0),
        deadline: SECOND,
        urgency: isocenter_domain::record::case::Urgency::default(),
        orphan_after: SECOND,
        pools: Vec::new(),
        destinations: destinations.iter().map(|d| d.parse().unwrap()).collect(),
        modalities: Vec::new(),
        body_part: String::new(),
        patient: None,
        accession: Ref([3; 16]),
        jurisdiction: None,
        paediatric: false,
        reading: isocenter_domain::record::case::Reading::default(),
        linked: None,
    }
}

fn report(n: u32, signed_at: Time) -> Report {
    Report {
        kind: if n == 1 { ReportKind::Final } else { ReportKind::Correction },
        body: Digest([0; 32]),
        author: "anna".parse().unwrap(),
        signed_at,
        studies: Vec::new(),
        replaces: None,
        about: None,
        request_id: "r".into(),
    }
}

fn delivery(n: u32, signed_at: i64, state: DeliveryState) -> Delivery {
    let made = pending(&to("ris", "1.2", n), &report(n, Time(signed_at)), &case(&["ris"]), Time(0));
    Delivery { state, ..made }
}

fn accepted() -> DeliveryState {
    DeliveryState::ApplicationAccepted { at: Time(1) }
}

fn retrying(next: i64) -> DeliveryState {
    DeliveryState::Retrying { next: Time(next), error: "no answer within 10s".into() }
}

fn decide(deliveries: &[(DeliveryKey, Delivery)], lane: Option<&Lane>, now: Time) -> Next {
    let known: Vec<_> = deliveries.iter().map(|(k, d)| (k, d)).collect();
    next(&known, lane, &schedule(), now)
}

#[test]
fn every_report_is_owed_to_every_destination_once_and_the_oldest_first() {
    let (first, second) = (report_key("1.2", 1), report_key("1.2", 2));
    let case = case(&["ris", "emr", "ris"]);
    let owed = missing(&case, [&second, &first], &BTreeSet::from([to("ris", "1.2", 1)]));
    assert_eq!(owed, [to("emr", "1.2", 1), to("emr", "1.2", 2), to("ris", "1.2", 2)]);
    let all = owed.into_iter().chain([to("ris", "1.2", 1)]).collect();
    assert_eq!(missing(&case, [&first, &second], &all), []);
}

#[test]
fn the_message_id_depends_on_the_report_version_and_the_destination_alone() {
    let made = |key: &DeliveryKey, at| pending(key, &report(1, Time(9)), &case(&["ris"]), at).message_id;
    let key = to("ris", "1.2", 1);
    assert_eq!(made(&key, Time(1)), made(&key, Time(2)));
    assert_eq!(made(&key, Time(1)).len(), 20);
    // Worked out with another implementation: another id would have receivers take every report again.
    assert_eq!(made(&key, Time(1)), "3ZNYTU2FNN4K5ZEUZ6HA");
    for other in [to("emr", "1.2", 1), to("ris", "1.2", 2), to("ris", "1.3", 1)] {
        assert_ne!(made(&other, Time(1)), made(&key, Time(1)));
    }
}

#[test]
fn only_the_first_that_is_not_accepted_may_go() {
    let key = |n| to("ris", "1.2", n);
    let lane = |first: DeliveryState, second| {
        vec![(key(2), delivery(2, 20, second)), (key(1), delivery(1, 10, first))]
    };
    let now = Time(1_000);
    let letter = DeliveryState::DeadLetter { reason: "receiver answered AR".into(), at: Time(5) };
    for (first, second, expected) in [
        (DeliveryState::Pending, DeliveryState::Pending, Next::Send(key(1))),
        (accepted(), DeliveryState::Pending, Next::Send(key(2))),
        (accepted(), accepted(), Next::Idle),
        (letter, DeliveryState::Pending, Next::Idle),
        (retrying(2_000), DeliveryState::Pending, Next::WaitUntil(Time(2_000))),
        (retrying(1_000), DeliveryState::Pending, Next::Send(key(1))),
        (DeliveryState::Sent { until: Time(1_001) }, DeliveryState::Pending, Next::WaitUntil(Time(1_001))),
        (DeliveryState::Sent { until: Time(1_000) }, DeliveryState::Pending, Next::Lapse(key(1))),
    ] {
        let sent = matches!(first, DeliveryState::Sent { .. });
        let held = Lane { in_flight: sent.then(|| key(1)) };
        let lane = lane(first, second);
        assert_eq!(decide(&lane, Some(&held), now), expected, "{lane:?}");
    }
    assert_eq!(decide(&[], None, now), Next::Idle);
    let ghost = Lane { in_flight: Some(key(1)) };
    assert_eq!(decide(&lane(accepted(), DeliveryState::Pending), Some(&ghost), now), Next::Free);
}

#[test]
fn a_final_report_takes_the_place_of_a_preliminary_one_that_has_not_left() {
    let key = |version| {
        let DeliveryKey { report, destination } = to("ris", "1.2", 1);
        DeliveryKey { report: ReportKey { version, ..report }, destination }
    };
    let preliminary = |state| Delivery { kind: ReportKind::Preliminary, ..delivery(1, 10, state) };
    let pair = |first| vec![(key(1), preliminary(first)), (key(2), delivery(1, 20, DeliveryState::Pending))];
    let now = Time(1_000);
    let letter = DeliveryState::DeadLetter { reason: "receiver answered AR".into(), at: Time(5) };
    for unsent in [DeliveryState::Pending, retrying(2_000), letter] {
        assert_eq!(decide(&pair(unsent), None, now), Next::Supersede(key(1)));
    }
    let sent = DeliveryState::Sent { until: Time(1_001) };
    let held = Lane { in_flight: Some(key(1)) };
    assert_eq!(
        decide(&pair(sent), Some(&held), now),
        Next::WaitUntil(Time(1_001)),
        "what has left is awaited"
    );
    for settled in [accepted(), DeliveryState::Superseded { at: Time(1) }] {
        assert_eq!(decide(&pair(settled), None, now), Next::Send(key(2)));
    }
    let alone = vec![(key(1), preliminary(DeliveryState::Pending))];
    assert_eq!(decide(&alone, None, now), Next::Send(key(1)));
}

#[test]
fn clocks_that_disagree_do_not_let_a_correction_overtake_but_cases_go_by_the_time_of_signing() {
    let first = (to("ris", "1.2", 1), delivery(1, 500, DeliveryState::Pending));
    let correction = (to("ris", "1.2", 2), delivery(2, 400, DeliveryState::Pending));
    let between = (to("ris", "1.3", 1), delivery(1, 450, DeliveryState::Pending));
    let both = [correction.clone(), first.clone()];
    assert_eq!(decide(&both, None, Time(900)), Next::Send(first.0.clone()));
    assert_eq!(decide(&[correction, between.clone(), first], None, Time(900)), Next::Send(between.0));
}

#[test]
fn what_is_not_accepted_in_three_days_is_given_up_but_never_untried() {
    let end = Time(0).plus(259_200 * SECOND);
    let tried = Delivery { attempts: 900, ..delivery(1, 0, retrying(end.0 + 5)) };
    let why = "given up after 900 attempts; the last: no answer within 10s";
    let key = to("ris", "1.2", 1);
    assert_eq!(decide(&[(key.clone(), tried.clone())], None, end), Next::DeadLetter(key.clone(), why.into()));
    let before = end.minus(Duration::from_micros(1));
    assert_eq!(decide(&[(key.clone(), tried.clone())], None, before), Next::WaitUntil(Time(end.0 + 5)));
    let held_back = delivery(1, 0, DeliveryState::Pending);
    assert_eq!(decide(&[(key.clone(), held_back)], None, end), Next::Send(key));
    let failed = Ended::NotNow("no answer within 10s".into());
    assert_eq!(
        after(&tried, failed.clone(), &schedule(), end),
        DeliveryEvent::Refused { reason: why.into() }
    );
    let again = after(&tried, failed, &schedule(), Time(0));
    assert!(
        matches!(again, DeliveryEvent::NotAccepted { retry_at, .. } if retry_at >= Time(0).plus(150 * SECOND))
    );
    assert!(overdue(&tried, 900 * SECOND, Time(0).plus(900 * SECOND)));
    assert!(!overdue(&delivery(1, 0, accepted()), 900 * SECOND, end));
}

/// What happens in the world between and during two senders' steps.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// A further report of the case is signed, by a clock that is wrong by so many seconds.
    Sign(i8),
    /// A sender reads the lane.
    Look(bool),
    /// A sender does what the plan says about what it read.
    Obey(bool),
    /// Both, with nothing between.
    Step(bool),
    /// The message of a sender that holds a claim meets this fate.
    Exchange(bool, Fate),
    /// A sender writes down how its attempt ended.
    Settle(bool),
    /// A sender is killed.
    Kill(bool),
    /// Time passes, in seconds.
    Pass(u32),
    /// A person replays the dead letters.
    Replay,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered,
    AnswerLost,
    MessageLost,
    Busy,
    Refused,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Answered),
        2 => Just(Fate::AnswerLost),
        2 => Just(Fate::MessageLost),
        1 => Just(Fate::Busy),
        1 => Just(Fate::Refused),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => any::<i8>().prop_map(Act::Sign),
        8 => any::<bool>().prop_map(Act::Step),
        3 => any::<bool>().prop_map(Act::Look),
        3 => any::<bool>().prop_map(Act::Obey),
        3 => (any::<bool>(), fate()).prop_map(|(s, f)| Act::Exchange(s, f)),
        4 => any::<bool>().prop_map(Act::Settle),
        1 => any::<bool>().prop_map(Act::Kill),
        4 => (0_u32..45).prop_map(Act::Pass),
        1 => (0_u32..400_000).prop_map(Act::Pass),
        1 => Just(Act::Replay),
    ]
}

/// A lane as a store has it, where a change needs what it read to be unchanged.
#[derive(Clone, Debug, Default)]
struct Snapshot {
    records: BTreeMap<DeliveryKey, (Delivery, u64)>,
    lane: (Lane, u64),
}

#[derive(Clone, Debug, Default)]
struct Sender {
    seen: Option<Snapshot>,
    /// What it claimed, under which change, until when it may send, and how that ended.
    claim: Option<(DeliveryKey, u64, Time, Option<Ended>)>,
}

/// Store, receiver and two senders.
#[derive(Debug, Default)]
struct World {
    store: Snapshot,
    changes: u64,
    now: Time,
    senders: [Sender; 2],
    /// What the receiver took, in order; a message id it has is not taken again.
    received: Vec<String>,
    arrivals: usize,
}

const CLAIM: Duration = Duration::from_secs(40);
const ATTEMPT: Duration = Duration::from_secs(30);

impl World {
    fn act(&mut self, act: Act) {
        match act {
            Act::Sign(skew) => self.sign(skew),
            Act::Look(s) => self.senders[usize::from(s)].seen = Some(self.store.clone()),
            Act::Obey(s) => self.obey(usize::from(s)),
            Act::Step(s) => {
                self.senders[usize::from(s)].seen = Some(self.store.clone());
                self.obey(usize::from(s));
            }
            Act::Exchange(s, fate) => self.exchange(usize::from(s), fate),
            Act::Settle(s) => self.settle(usize::from(s)),
            Act::Kill(s) => self.senders[usize::from(s)] = Sender::default(),
            Act::Pass(seconds) => self.now = self.now.plus(seconds * SECOND),
            Act::Replay => self.replay(),
        }
        self.check();
    }

    fn sign(&mut self, skew: i8) {
        let n = u32::try_from(self.store.records.len()).unwrap() + 1;
        let key = to("ris", "1.2", n);
        let signed_at = Time(self.now.0 + i64::from(skew) * 1_000_000);
        let made = pending(&key, &report(n, signed_at), &case(&["ris"]), self.now);
        self.changes += 1;
        self.store.records.insert(key, (made, self.changes));
    }

    /// One compare-and-swap on a delivery and the lane.
    fn change(
        &mut self,
        seen: &Snapshot,
        key: &DeliveryKey,
        event: DeliveryEvent,
        holds: Option<bool>,
    ) -> bool {
        let (delivery, version) = seen.records[key].clone();
        if self.store.records[key].1 != version || (holds.is_some() && self.store.lane.1 != seen.lane.1) {
            return false;
        }
        let (after, _) = delivery.transition(event, self.now).expect("the plan asks for what is legal");
        self.changes += 1;
        self.store.records.insert(key.clone(), (after, self.changes));
        if let Some(holds) = holds {
            self.store.lane = (Lane { in_flight: holds.then(|| key.clone()) }, self.changes);
        }
        true
    }

    fn obey(&mut self, s: usize) {
        if self.senders[s].claim.is_some() {
            return;
        }
        let Some(seen) = self.senders[s].seen.take() else { return };
        let known: Vec<_> = seen.records.iter().map(|(k, (d, _))| (k, d)).collect();
        match next(&known, Some(&seen.lane.0), &schedule(), self.now) {
            Next::Idle | Next::WaitUntil(_) => {}
            Next::Send(key) => {
                let until = self.now.plus(CLAIM);
                if self.change(&seen, &key, DeliveryEvent::Claimed { until }, Some(true)) {
                    self.senders[s].claim = Some((key, self.changes, self.now.plus(ATTEMPT), None));
                }
            }
            Next::Lapse(key) => {
                self.change(&seen, &key, DeliveryEvent::Lapsed, Some(false));
            }
            Next::Supersede(key) => {
                self.change(&seen, &key, DeliveryEvent::Superseded, None);
            }
            Next::DeadLetter(key, reason) => {
                self.change(&seen, &key, DeliveryEvent::Refused { reason }, None);
            }
            Next::Free => panic!("claim and lane change together: {:?}", self.store),
        }
    }

    fn exchange(&mut self, s: usize, fate: Fate) {
        let Some((key, _, deadline, ended @ None)) = &mut self.senders[s].claim else { return };
        let message_id = self.store.records[key].0.message_id.clone();
        let late = self.now >= *deadline;
        *ended = Some(match fate {
            _ if late => Ended::NotNow("too late".into()),
            Fate::Answered => Ended::Accepted,
            Fate::AnswerLost | Fate::MessageLost => Ended::NotNow("no answer".into()),
            Fate::Busy => Ended::NotNow("receiver answered AE, error 207".into()),
            Fate::Refused => Ended::Refused("receiver answered AR".into()),
        });
        if !late && matches!(fate, Fate::Answered | Fate::AnswerLost) {
            self.arrivals += 1;
            if !self.received.contains(&message_id) {
                self.received.push(message_id);
            }
        } else if matches!(ended, Some(Ended::Refused(_))) && self.received.contains(&message_id) {
            // A receiver that has the message says what it said before.
            *ended = Some(Ended::Accepted);
        }
    }

    fn settle(&mut self, s: usize) {
        if !matches!(self.senders[s].claim, Some((.., Some(_)))) {
            return;
        }
        let Some((key, version, _, Some(ended))) = self.senders[s].claim.take() else { return };
        let seen = self.store.clone();
        let (delivery, current) = &seen.records[&key];
        if *current == version {
            let event = after(delivery, ended, &schedule(), self.now);
            assert!(self.change(&seen, &key, event, Some(false)));
        }
    }

    fn replay(&mut self) {
        for (key, (delivery, _)) in self.store.records.clone() {
            if matches!(delivery.state, DeliveryState::DeadLetter { .. }) {
                let seen = self.store.clone();
                assert!(self.change(&seen, &key, DeliveryEvent::Replayed, None));
            }
        }
    }

    fn check(&self) {
        let order: Vec<&String> = self.store.records.values().map(|(d, _)| &d.message_id).collect();
        let taken: Vec<&String> = self.received.iter().collect();
        assert_eq!(taken, order[..taken.len()], "received out of order");
        let sent = self.store.records.values().filter(|(d, _)| matches!(d.state, DeliveryState::Sent { .. }));
        assert!(sent.count() <= 1, "two under way");
        let sending = |s: &&Sender| matches!(&s.claim, Some((_, _, until, None)) if self.now < *until);
        assert!(self.senders.iter().filter(sending).count() <= 1, "two senders may send at once");
        for (delivery, _) in self.store.records.values() {
            assert!(
                !delivery.settled() || self.received.contains(&delivery.message_id),
                "accepted by nobody"
            );
        }
    }

    /// From here on nothing fails: everything has to arrive.
    fn finish(&mut self) {
        let mut rounds = 0;
        while self.store.records.values().any(|(d, _)| !d.settled()) {
            rounds += 1;
            assert!(rounds < 1_000, "does not come to an end: {:?}", self.store);
            for act in [
                Act::Exchange(false, Fate::Answered),
                Act::Exchange(true, Fate::Answered),
                Act::Settle(false),
                Act::Settle(true),
                Act::Replay,
                Act::Step(false),
                Act::Exchange(false, Fate::Answered),
                Act::Settle(false),
                Act::Pass(30),
            ] {
                self.act(act);
            }
        }
        assert_eq!(self.received.len(), self.store.records.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever is lost, late, repeated or killed: each report version takes effect once, and in order.
    #[test]
    fn each_report_takes_effect_once_and_in_order(acts in prop::collection::vec(act(), 1..200)) {
        let mut world = World::default();
        for act in acts {
            world.act(act);
        }
        world.finish();
        prop_assert!(world.arrivals >= world.received.len());
    }
}

#[test]
fn what_is_not_fetched_waits_until_its_time_is_over_and_is_then_for_a_person() {
    let key = to("portal", "1.2", 1);
    let three_days = Time(0).plus(259_200 * SECOND);
    let almost = Time(three_days.0 - 1);
    let pending = delivery(1, 0, DeliveryState::Pending);
    assert_eq!(unfetched(&key, &pending, &schedule(), Time(0)), Next::WaitUntil(three_days));
    assert_eq!(unfetched(&key, &pending, &schedule(), almost), Next::WaitUntil(three_days));
    let never = Next::DeadLetter(key.clone(), "given up: its receiver never fetched it".into());
    assert_eq!(unfetched(&key, &pending, &schedule(), three_days), never);
    let left = delivery(1, 0, retrying(5));
    let Next::DeadLetter(_, why) = unfetched(&key, &left, &schedule(), three_days) else { panic!() };
    assert_eq!(why, "given up after 0 attempts; the last: no answer within 10s");
    let patient = Schedule::new(5 * SECOND, 300 * SECOND);
    assert_eq!(unfetched(&key, &pending, &patient, Time(i64::MAX)), Next::Idle);
}

#[test]
fn a_wait_is_cut_short_and_never_made_longer() {
    for (next, expected) in [(9, 5), (3, 3)] {
        let mut waiting = delivery(1, 0, retrying(next));
        hasten(&mut waiting, Time(5));
        assert_eq!(waiting.state, retrying(expected));
    }
    let mut accepted_one = delivery(1, 0, accepted());
    hasten(&mut accepted_one, Time(5));
    assert_eq!(accepted_one.state, accepted());
}

#[test]
fn what_a_stream_leaves_is_due_at_once_until_its_time_is_over() {
    let sent = delivery(1, 0, DeliveryState::Sent { until: Time(9) });
    let event = released(&sent, &schedule(), Time(5));
    assert!(matches!(event, DeliveryEvent::NotAccepted { retry_at: Time(5), .. }), "{event:?}");
    let late = released(&sent, &schedule(), Time(0).plus(259_200 * SECOND));
    assert!(matches!(late, DeliveryEvent::Refused { .. }), "{late:?}");
}

#[test]
fn what_a_receiver_says_counts_whatever_the_sender_knows_and_once() {
    let dead = DeliveryState::DeadLetter { reason: "given up".into(), at: Time(1) };
    let viewed = DeliveryState::Viewed { accepted: Time(1), at: Time(2), by: "first".into() };
    let open = [DeliveryState::Pending, DeliveryState::Sent { until: Time(9) }, retrying(9), dead.clone()];
    let yes = |by: Option<&str>| Told::Accepted { viewed_by: by.map(str::to_owned) };
    let no = Told::Refused { reason: "UNKNOWN_PATIENT".into() };
    let after = |state: &DeliveryState, said: &Told| {
        told(&delivery(1, 0, state.clone()), said, Time(5)).map(|t| t.map(|(d, event)| (d.state, event)))
    };
    let now_accepted = DeliveryState::ApplicationAccepted { at: Time(5) };
    let now_viewed = |accepted| DeliveryState::Viewed { accepted, at: Time(5), by: "anna".into() };
    for state in &open {
        assert_eq!(after(state, &yes(None)).unwrap(), Some((now_accepted.clone(), "acknowledged")));
        assert_eq!(after(state, &yes(Some("anna"))).unwrap(), Some((now_viewed(Time(5)), "viewed")));
    }
    for state in &open[..3] {
        let (state, event) = after(state, &no).unwrap().unwrap();
        assert!(matches!(state, DeliveryState::DeadLetter { .. }) && event == "refused");
    }
    assert_eq!(after(&dead, &no).unwrap(), None);
    assert_eq!(after(&accepted(), &yes(None)).unwrap(), None);
    assert_eq!(after(&accepted(), &yes(Some("anna"))).unwrap(), Some((now_viewed(Time(1)), "viewed")));
    assert_eq!(after(&viewed, &yes(Some("anna"))).unwrap(), None);
    for state in [accepted(), viewed] {
        assert!(after(&state, &no).is_err());
    }
}
