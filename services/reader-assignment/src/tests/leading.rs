//! What the leader does beyond the first offer: leases ahead and recalls, who is at work, overflow, arrivals, prediction.

use std::time::Duration;

use isocenter_domain::{
    Time,
    id::{PoolId, ReaderId},
    key::{RegistryItem, RegistryKey},
    record::{
        case::{Case, Urgency},
        read::{Read, ReadState},
        registry::{Conflicts, Entry, Licence, Overflow, Pool, PoolKind, Reader, Sites, Skill},
        roster::{Hours, Roster, Shift, Span, Weekdays},
    },
    refs::Ref,
};
use isocenter_testkit::wait_for;
use isocenter_wire::v1::{self, reader_assignment_server::ReaderAssignment as _};
use tonic::Code;

use super::{
    Node, PATIENCE, World, anna, boris, by_developer, case, case_key, read_key, refusal, signature, tenant,
};

const MINUTE: Duration = Duration::from_secs(60);

async fn one() -> (World, Node) {
    let world = World::new().await;
    let node = world.node("a:1").await;
    node.leads().await;
    world.present(&anna()).await;
    world.present(&boris()).await;
    (world, node)
}

fn general() -> PoolId {
    "general".parse().unwrap()
}

fn radiologist() -> Reader {
    let skills = vec![Skill { modality: "CT".into(), body_part: "*".into() }];
    Reader { skills, sites: Sites::All, pools: vec![general()], ..Reader::default() }
}

impl World {
    /// Registers a reader, and waits until the queue knows.
    async fn registered(&self, id: &ReaderId, reader: Reader, node: &Node) {
        let key = crate::view::reader_key(&tenant(), id);
        self.put(&key, &Entry::Reader(reader.clone())).await;
        wait_for("the registry", PATIENCE, || async {
            node.desk
                .view
                .registry
                .get(&key)
                .is_some_and(|entry| entry.record == Entry::Reader(reader.clone()))
        })
        .await;
    }

    /// A case that waits, changed.
    async fn waiting_as(&self, n: u32, node: &Node, change: impl FnOnce(&mut Case)) {
        self.case(n).await;
        let mut case = case(&[n]);
        change(&mut case);
        self.put(&case_key(n), &case).await;
        node.reconcile(n).await;
        self.queued(n, node).await;
    }

    async fn state(&self, n: u32) -> ReadState {
        self.get::<Read>(&read_key(n, 1)).await.expect("the read exists").record.state
    }
}

async fn rejected(node: &Node, case: u32, reader: &ReaderId) -> String {
    let read_id = read_key(case, 1).read.to_string();
    let explained = node.rpc.explain_read(by_developer(v1::ExplainReadRequest { read_id })).await.unwrap();
    let verdicts = explained.into_inner().readers;
    verdicts.into_iter().find(|v| v.reader_id == reader.as_str()).unwrap().rejected_by
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_read_open_is_leased_the_next_and_keeps_it_when_he_signs() {
    let (world, node) = one().await;
    world.waiting(1, &node).await;
    let open = node.take(&anna()).await;
    assert_eq!(refusal(node.next(&anna()).await).1, "READ_OPEN", "nothing waits that could be leased");
    world.waiting(2, &node).await;
    let leased = node.next(&anna()).await.unwrap().unwrap();
    assert_eq!(leased.read_id, read_key(2, 1).read.to_string());
    assert_eq!(node.next(&anna()).await.unwrap().unwrap(), leased, "the depth is one");
    let hands = world.holding(&anna()).await;
    assert_eq!((hands.open, hands.offered), (Some(read_key(1, 1).read), Some(read_key(2, 1).read)));
    assert_eq!(refusal(node.open(&leased.read_id, &anna(), "r").await).1, "READ_OPEN", "one at a time");
    node.sign(signature(&open, &anna())).await.unwrap();
    assert_eq!(node.next(&anna()).await.unwrap().unwrap().read_id, leased.read_id);
    node.open(&leased.read_id, &anna(), "r2").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immediate_class_is_never_leased_ahead() {
    let (world, node) = one().await;
    world.waiting(1, &node).await;
    node.take(&anna()).await;
    world.waiting_as(2, &node, |case| case.urgency = Urgency { next_up: false, ..case.urgency }).await;
    assert_eq!(refusal(node.next(&anna()).await).1, "READ_OPEN");
    assert!(node.next(&boris()).await.unwrap().is_some(), "who is free gets it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emergency_does_not_wait_behind_what_its_reader_was_leased() {
    let (world, node) = one().await;
    for n in [1, 2] {
        world.waiting(n, &node).await;
    }
    let open = node.take(&anna()).await;
    let leased = node.next(&anna()).await.unwrap().unwrap();
    world.waiting_as(3, &node, |case| case.urgency = Urgency { next_up: false, ..case.urgency }).await;
    assert_eq!(node.next(&anna()).await.unwrap().unwrap().read_id, leased.read_id, "she is still reading");
    node.sign(signature(&open, &anna())).await.unwrap();
    let next = node.next(&anna()).await.unwrap().unwrap();
    assert_eq!(next.read_id, read_key(3, 1).read.to_string());
    assert_eq!(world.state(2).await, ReadState::Waiting, "the other goes back with its age");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_not_opened_past_an_emergency() {
    let (world, node) = one().await;
    for n in [1, 2] {
        world.waiting(n, &node).await;
    }
    let open = node.take(&anna()).await;
    let leased = node.next(&anna()).await.unwrap().unwrap();
    world.waiting_as(3, &node, |case| case.urgency = Urgency { next_up: false, ..case.urgency }).await;
    node.sign(signature(&open, &anna())).await.unwrap();
    assert_eq!(refusal(node.open(&leased.read_id, &anna(), "r").await).1, "OUTRANKED");
    let next = node.next(&anna()).await.unwrap().unwrap();
    assert_eq!(next.read_id, read_key(3, 1).read.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_recalled_for_who_is_free_but_not_at_once() {
    let (world, node) = one().await;
    for n in [1, 2] {
        world.waiting(n, &node).await;
    }
    node.take(&anna()).await;
    let leased = node.next(&anna()).await.unwrap().unwrap();
    wait_for("the mirrors", PATIENCE, || async {
        let hands = node.desk.view.profile(&tenant(), &anna()).unwrap().holding;
        (hands.open, hands.offered) == (1, 1)
    })
    .await;
    assert_eq!(node.next(&boris()).await.unwrap(), None, "a lease rests five minutes");
    world.clock.advance(5 * MINUTE);
    let theirs = node.next(&boris()).await.unwrap().unwrap();
    assert_eq!(theirs.read_id, leased.read_id);
    assert_eq!(world.holding(&anna()).await.offered, None);
    assert!(world.holding(&anna()).await.open.is_some(), "what is open is never taken");
    assert_eq!(refusal(node.open(&leased.read_id, &anna(), "r").await).0, Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_not_taken_up_with_free_hands_lapses_as_an_offer_does() {
    let (world, node) = one().await;
    for n in [1, 2] {
        world.waiting(n, &node).await;
    }
    let open = node.take(&anna()).await;
    node.next(&anna()).await.unwrap().unwrap();
    world.clock.advance(10 * MINUTE);
    node.caught_up(2).await;
    node.desk.sweep_leases(node.desk.now()).await;
    assert!(matches!(world.state(2).await, ReadState::Offered { .. }), "while she reads it stands");
    node.sign(signature(&open, &anna())).await.unwrap();
    wait_for("free hands", PATIENCE, || async {
        node.desk.view.profile(&tenant(), &anna()).unwrap().holding.open == 0
    })
    .await;
    world.clock.advance(MINUTE);
    node.desk.sweep_leases(node.desk.now()).await;
    assert_eq!(world.state(2).await, ReadState::Waiting);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_as_the_deadline_nears() {
    let (world, node) = one().await;
    for n in [1, 2] {
        world.waiting(n, &node).await;
    }
    node.take(&anna()).await;
    node.next(&anna()).await.unwrap().unwrap();
    node.caught_up(2).await;
    world.clock.advance(48 * MINUTE);
    wait_for("the recall", PATIENCE, || async {
        node.desk.sweep_leases(node.desk.now()).await;
        world.state(2).await == ReadState::Waiting
    })
    .await;
}

/// 1970-01-01 is a Thursday, and the clock begins at its midnight.
fn thursday(hours: &str) -> Option<Roster> {
    let (start, end) = hours.split_once('-').unwrap();
    let span = Span { start: start.parse().unwrap(), end: end.parse().unwrap() };
    let days = Weekdays::from_bits(1 << 3).unwrap();
    let shifts = vec![Shift { days, hours: Hours { span, breaks: Vec::new() } }];
    Some(Roster { zone: "UTC".parse().unwrap(), shifts, exceptions: Vec::new() })
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_offered_or_opens_a_read_off_shift() {
    let (world, node) = one().await;
    world.registered(&anna(), Reader { roster: thursday("00:10-00:20"), ..radiologist() }, &node).await;
    world.waiting(1, &node).await;
    assert_eq!(node.next(&anna()).await.unwrap(), None);
    assert_eq!(rejected(&node, 1, &anna()).await, "off-shift");
    world.clock.advance(19 * MINUTE + Duration::from_secs(30));
    let offered = node.next(&anna()).await.unwrap().unwrap();
    world.clock.advance(Duration::from_secs(25));
    let late = node.open(&offered.read_id, &anna(), "r").await;
    assert_eq!(
        refusal(late),
        (Code::FailedPrecondition, "OFF_SHIFT".into()),
        "the shift ended with the offer standing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_licence_is_asked_for_and_once_more_at_opening() {
    let (world, node) = one().await;
    let until = Some(Time(10_000_000).plus(MINUTE / 2));
    let licences = vec![Licence { jurisdiction: "ru-mow".parse().unwrap(), until }];
    world.registered(&anna(), Reader { licences, ..radiologist() }, &node).await;
    world.waiting_as(1, &node, |case| case.jurisdiction = Some("ru-mow".parse().unwrap())).await;
    assert_eq!(node.next(&boris()).await.unwrap(), None);
    assert_eq!(rejected(&node, 1, &boris()).await, "licence");
    let offered = node.next(&anna()).await.unwrap().unwrap();
    world.clock.advance(MINUTE / 2);
    assert_eq!(refusal(node.open(&offered.read_id, &anna(), "r").await).1, "LICENCE_EXPIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_licence_that_ended_while_a_read_was_open_signs_nothing_and_the_text_is_kept() {
    let (world, node) = one().await;
    let until = Some(Time(10_000_000).plus(MINUTE / 2));
    let licences = vec![Licence { jurisdiction: "ru-mow".parse().unwrap(), until }];
    world.registered(&anna(), Reader { licences, ..radiologist() }, &node).await;
    world.waiting_as(1, &node, |case| case.jurisdiction = Some("ru-mow".parse().unwrap())).await;
    let open = node.take(&anna()).await;
    world.clock.advance(MINUTE / 2);
    assert_eq!(refusal(node.sign(signature(&open, &anna())).await).1, "LICENCE_EXPIRED");
    let read = world.read(1, 1).await;
    assert_eq!((read.holder(), read.drafts.len()), (Some(&anna()), 1));
    assert!(world.report(1, 1).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_declared_an_interest_in_a_patient_or_reads_no_children_is_passed_over() {
    let (world, node) = one().await;
    world.registered(&anna(), Reader { paediatric: true, ..radiologist() }, &node).await;
    world.waiting_as(1, &node, |case| (case.patient, case.paediatric) = (Some(Ref([5; 16])), true)).await;
    assert_eq!(rejected(&node, 1, &boris()).await, "paediatric");
    let conflicts = Conflicts { patients: vec![Ref([5; 16])], ..Conflicts::default() };
    world.registered(&boris(), Reader { paediatric: true, conflicts, ..radiologist() }, &node).await;
    wait_for("the conflict to reach what waits already", PATIENCE, || async {
        rejected(&node, 1, &boris()).await == "conflict"
    })
    .await;
    assert_eq!(node.next(&boris()).await.unwrap(), None);
    assert!(node.next(&anna()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capacity_ends_the_shift() {
    let (world, node) = one().await;
    for n in [1, 2] {
        world.waiting(n, &node).await;
    }
    world.registered(&anna(), Reader { capacity: Some(800), ..radiologist() }, &node).await;
    let open = node.take(&anna()).await;
    node.sign(signature(&open, &anna())).await.unwrap();
    wait_for("the points", PATIENCE, || async { rejected(&node, 2, &anna()).await == "hard-stop" }).await;
    assert_eq!(node.next(&anna()).await.unwrap(), None);
    assert!(node.next(&boris()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sites_work_overflows_to_the_center_before_its_deadline() {
    let (world, node) = one().await;
    let own: PoolId = "site:north".parse().unwrap();
    let overflow = Some(Overflow { to: general(), at_percent: 25, predicted_wait: None });
    let pool = Pool { description: String::new(), kind: PoolKind::Site, overflow };
    let key = RegistryKey { tenant: tenant(), item: RegistryItem::Pool(own.clone()) };
    world.put(&key, &Entry::Pool(pool)).await;
    wait_for("the rule", PATIENCE, || async { !node.desk.view.people.overflows(&tenant()).is_empty() }).await;
    world.waiting_as(1, &node, |case| case.pools = vec![own]).await;
    assert_eq!(node.next(&anna()).await.unwrap(), None);
    world.clock.advance(15 * MINUTE);
    let open = node.take(&anna()).await;
    let aside = node.suspend(&open, &anna(), "aside").await.unwrap();
    let closed = Pool { description: String::new(), kind: PoolKind::Site, overflow: None };
    world.put(&key, &Entry::Pool(closed)).await;
    wait_for("no rule", PATIENCE, || async { node.desk.view.people.overflows(&tenant()).is_empty() }).await;
    let again = node.open(&aside.read_id, &anna(), "again").await.expect("who has begun may finish");
    node.sign(signature(&again, &anna())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_goes_to_the_idle_reader_whom_it_suits() {
    let (world, node) = one().await;
    world.registered(&boris(), Reader { home: Some("north".parse().unwrap()), ..radiologist() }, &node).await;
    for reader in [anna(), boris()] {
        assert_eq!(node.next(&reader).await.unwrap(), None);
    }
    world.waiting(1, &node).await;
    let chosen = node.desk.match_arrivals();
    let chosen: Vec<_> = chosen.into_iter().map(|(read, holder)| (read, holder.reader)).collect();
    assert_eq!(chosen, [(read_key(1, 1), boris())]);
    assert!(node.desk.match_arrivals().is_empty(), "it has come once");
    world.clock.advance(MINUTE);
    world.waiting(2, &node).await;
    assert!(node.desk.match_arrivals().is_empty(), "who has not asked for a minute is not idle");
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_in_records_does_not_stop_the_queue() {
    let (world, node) = one().await;
    world.case(1).await;
    let urgency = Urgency { prior_ppm: 2_000_000, ..case(&[1]).urgency };
    world.put(&case_key(1), &Case { urgency, ..case(&[1]) }).await;
    world.waiting(2, &node).await;
    world.answer(2, 1, 2_000_000).await;
    let offered = node.next(&anna()).await.unwrap().unwrap();
    assert_eq!(offered.read_id, read_key(2, 1).read.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shortage_is_told_before_the_deadline_with_the_skill_that_would_help() {
    let (world, node) = one().await;
    for n in 1..=3 {
        world.waiting_as(n, &node, |case| case.modalities = vec!["MR".into()]).await;
    }
    node.desk.look_ahead();
    let (ahead, _) = node.desk.view.outlook.of(&tenant()).unwrap();
    assert!(ahead.forecasts.iter().all(|f| f.wait.is_none()), "nobody reads MR");
    let relief = ahead.shortages[0].relief.as_ref().unwrap();
    assert_eq!((ahead.shortages.len(), relief.skill.modality()), (1, "MR"));
    world
        .registered(
            &boris(),
            Reader { skills: vec![Skill { modality: "MR".into(), body_part: "*".into() }], ..radiologist() },
            &node,
        )
        .await;
    node.desk.look_ahead();
    assert!(node.desk.view.outlook.of(&tenant()).unwrap().0.shortages.is_empty());
}
