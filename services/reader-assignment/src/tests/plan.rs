//! What is decided about a case's reads.

use std::collections::BTreeMap;

use isocenter_assign::{Exclusion, Queue};
use isocenter_domain::{
    Time,
    id::StudyUid,
    record::{
        case::{Case, CaseState, Reading, Urgency},
        read::{Read, ReadKind, ReadState, Return, ReturnReason},
        report::StudyRevision,
        study::Study,
    },
};
use proptest::prelude::*;

use super::{anna, boris, case, case_id, complete, uid};
use crate::plan::{
    Action, Plan, Presence, Situation,
    apart::{self, Barred},
    item, plan,
};

fn decide(case: &Case, reads: &[&Read], studies: &[(StudyUid, Study)], present: Presence) -> Plan {
    let numbered = (1..).zip(reads.iter().copied());
    let id = case_id(1);
    let situation = Situation {
        id: &id,
        case,
        reads: numbered.collect(),
        studies: studies.iter().map(|(uid, study)| (uid.clone(), study)).collect::<BTreeMap<_, _>>(),
    };
    plan(&situation, Time(5_000_000), |_| present)
}

fn signed(revision: u32) -> Read {
    let studies = vec![StudyRevision { study: uid(1), revision }];
    let state = ReadState::Signed { reader: anna(), at: Time(3), version: 1, studies };
    Read { state, ..Read::waiting(ReadKind::Primary, Time(1)) }
}

fn offered(until: i64) -> Read {
    let state = ReadState::Offered { reader: anna(), until: Time(until) };
    Read { state, ..Read::waiting(ReadKind::Primary, Time(1)) }
}

#[test]
fn a_ready_case_gets_its_primary_read_with_the_age_of_the_case() {
    let case = case(&[1]);
    let create = Action::Create(vec![(1, Read::waiting(ReadKind::Primary, case.complete_at))]);
    assert_eq!(decide(&case, &[], &[(uid(1), complete(1))], Presence::Present).actions, [create]);
    let waiting = Read::waiting(ReadKind::Primary, Time(1));
    assert_eq!(decide(&case, &[&waiting], &[(uid(1), complete(2))], Presence::Present), Plan::default());
    let closed = Case { state: CaseState::Closed, ..case };
    assert_eq!(decide(&closed, &[], &[(uid(1), complete(1))], Presence::Present), Plan::default());
}

#[test]
fn images_that_no_signed_read_names_get_a_discrepancy_read_once_nothing_is_live() {
    let (case, two) = (case(&[1]), [(uid(1), complete(2))]);
    let kind = ReadKind::Discrepancy { of: 1, with: None };
    let create = Action::Create(vec![(2, Read::waiting(kind, Time(5_000_000)))]);
    assert_eq!(decide(&case, &[&signed(1)], &two, Presence::Present).actions, [create]);
    assert_eq!(decide(&case, &[&signed(2)], &two, Presence::Present), Plan::default());
    let live = Read::waiting(kind, Time(2));
    assert_eq!(decide(&case, &[&signed(1), &live], &two, Presence::Present), Plan::default());
    assert_eq!(decide(&case, &[&signed(1), &signed(2)], &two, Presence::Present), Plan::default());
}

#[test]
fn a_case_that_is_read_twice_gets_both_reads_at_once() {
    let double = Case { reading: Reading { double: true, review_ppm: 0 }, ..case(&[1]) };
    let of = |with| Read::waiting(ReadKind::Blinded { with }, double.complete_at);
    let create = Action::Create(vec![(1, of(2)), (2, of(1))]);
    assert_eq!(decide(&double, &[], &[(uid(1), complete(1))], Presence::Present).actions, [create]);
    let (one, two) = (of(2), of(1));
    assert_eq!(decide(&double, &[&one, &two], &[(uid(1), complete(2))], Presence::Present), Plan::default());
}

#[test]
fn what_stands_beside_the_report_neither_hides_newer_images_nor_is_corrected_by_them() {
    let (case, two) = (case(&[1]), [(uid(1), complete(2))]);
    let asked = Read::waiting(ReadKind::Consultation, Time(2));
    let create = Read::waiting(ReadKind::Discrepancy { of: 1, with: None }, Time(5_000_000));
    let plan = decide(&case, &[&signed(1), &asked], &two, Presence::Present);
    assert_eq!(plan.actions, [Action::Create(vec![(3, create)])]);
    let opinion = Read { kind: ReadKind::SecondOpinion { of: 1 }, ..signed(2) };
    let plan = decide(&case, &[&signed(1), &opinion], &two, Presence::Present);
    assert_eq!(plan.actions.len(), 1, "what the second opinion saw, the report did not");
}

#[test]
fn a_sample_of_signed_first_reads_is_reviewed_once_and_everybody_draws_the_same() {
    let one = [(uid(1), complete(1))];
    let sampled = |ppm| Case { reading: Reading { double: false, review_ppm: ppm }, ..case(&[1]) };
    assert_eq!(decide(&sampled(0), &[&signed(1)], &one, Presence::Present), Plan::default());
    let plan = decide(&sampled(1_000_000), &[&signed(1)], &one, Presence::Present);
    let [Action::Create(created)] = &plan.actions[..] else { panic!("{plan:?}") };
    assert_eq!((created[0].0, created[0].1.kind), (2, ReadKind::Review { of: 1 }));
    assert!(created[0].1.due > Some(Time(5_000_000)));
    let again = decide(&sampled(1_000_000), &[&signed(1), &created[0].1], &one, Presence::Present);
    assert_eq!(again, Plan::default());
    let waiting = Read::waiting(ReadKind::Primary, Time(1));
    assert_eq!(decide(&sampled(1_000_000), &[&waiting], &one, Presence::Present), Plan::default());

    let of = |n, ppm| {
        let (id, case, signed) = (case_id(n), sampled(ppm), signed(1));
        let situation = Situation {
            id: &id,
            case: &case,
            reads: BTreeMap::from([(1, &signed)]),
            studies: BTreeMap::new(),
        };
        !plan_of(&situation).actions.is_empty()
    };
    let drawn = (1..=4_000).filter(|n| of(*n, 50_000)).count();
    assert!((150..=250).contains(&drawn), "{drawn} of 4000 at 5 %");
    assert!(
        (1..=200).all(|n| !of(n, 50_000) || of(n, 100_000)),
        "a larger share draws all that a smaller one does"
    );
}

fn plan_of(situation: &Situation<'_>) -> Plan {
    plan(situation, Time(5_000_000), |_| Presence::Present)
}

#[test]
fn an_offer_lapses_by_time_or_absence_and_an_open_read_never() {
    let case = case(&[1]);
    let standing = decide(&case, &[&offered(6_000_000)], &[], Presence::Present);
    assert_eq!(standing, Plan { actions: Vec::new(), look_again: Some(Time(6_000_000)) });
    let unproven =
        |from| decide(&case, &[&offered(6_000_000)], &[], Presence::Unproven(Time(from))).look_again;
    assert_eq!(
        unproven(5_500_000),
        Some(Time(5_500_000)),
        "an absence that does not count yet is looked at again"
    );
    assert_eq!(unproven(7_000_000), Some(Time(6_000_000)));
    for (read, present) in [(offered(5_000_000), Presence::Present), (offered(6_000_000), Presence::Absent)] {
        let plan = decide(&case, &[&read], &[], present);
        assert!(matches!(plan.actions[..], [Action::Lapse { n: 1, .. }]), "{plan:?}");
    }
    let state = ReadState::Open { reader: anna(), token: "t".into(), since: Time(0), studies: Vec::new() };
    let open = Read { state, ..Read::waiting(ReadKind::Primary, Time(1)) };
    assert_eq!(decide(&case, &[&open], &[], Presence::Absent), Plan::default());
}

#[test]
fn who_returned_a_read_is_not_offered_it_again() {
    let mut read = Read::waiting(ReadKind::Primary, Time(1));
    read.returns.push(Return { reader: boris(), reason: ReturnReason::Conflict, at: Time(9) });
    let id = isocenter_domain::id::ReadId { case: case_id(1), n: 1 };
    let item = item::item(&id, &read, &case(&[1]), None);
    assert_eq!(item.excluded, BTreeMap::from([(boris(), Exclusion::Returned)]));
    assert_eq!((item.complete_at, item.waiting_since), (Time(1), Time(9)));
}

#[test]
fn what_stands_beside_an_emergency_is_none() {
    let urgency = Urgency { weight: 180, critical: 20, prior_ppm: 200_000, next_up: false };
    let case = Case { urgency, ..case(&[1]) };
    let id = |n| isocenter_domain::id::ReadId { case: case_id(1), n };
    let item = |kind| item::item(&id(2), &Read::waiting(kind, Time(1)), &case, None).urgency;
    assert!(!item(ReadKind::Primary).next_up && !item(ReadKind::Arbitration { of: 1, with: 2 }).next_up);
    for kind in [ReadKind::Review { of: 1 }, ReadKind::SecondOpinion { of: 1 }, ReadKind::Consultation] {
        let beside = item(kind);
        assert!(beside.next_up && beside.weight < 180 && beside.critical == 0, "{beside:?}");
    }
}

#[test]
fn who_had_one_of_two_blinded_reads_in_hand_does_not_get_the_other() {
    let mut first = Read::waiting(ReadKind::Blinded { with: 2 }, Time(1));
    first.returns.push(Return { reader: boris(), reason: ReturnReason::Interrupted, at: Time(9) });
    let second = Read::waiting(ReadKind::Blinded { with: 1 }, Time(1));
    let barred = apart::barred(2, &BTreeMap::from([(1, &first), (2, &second)]));
    assert_eq!(barred, BTreeMap::from([(boris(), Barred::Blinded)]));
}

proptest! {
    /// The worklist's order is the queue's.
    #[test]
    fn the_worklist_is_in_the_order_of_the_queue(
        reads in prop::collection::vec((0_i64..5_000, 1_u64..5_000, 1_u32..100, prop::option::of(0.0_f64..1.0)), 1..20),
        now in 0_i64..8_000,
    ) {
        let now = Time(now * 1_000_000);
        let mut queue = Queue::default();
        let mut listed = Vec::new();
        for (n, (complete_at, deadline, weight, p)) in (1..).zip(reads) {
            let urgency = Urgency { weight, critical: 40, prior_ppm: 15_000, next_up: weight < 50 };
            let case = Case { deadline: std::time::Duration::from_secs(deadline), urgency, ..case(&[1]) };
            let read = Read::waiting(ReadKind::Primary, Time(complete_at * 1_000_000));
            let id = isocenter_domain::id::ReadId { case: case_id(n), n: 1 };
            let item = item::item(&id, &read, &case, p);
            listed.push((isocenter_assign::Params::default().rank(&item, None, now), item.read.clone()));
            queue.insert(item);
        }
        listed.sort();
        let places: Vec<_> = listed.iter().map(|(_, read)| queue.position(read, now).unwrap()).collect();
        prop_assert_eq!(places, (1..=listed.len()).collect::<Vec<_>>());
    }
}
