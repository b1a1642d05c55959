//! What an offer costs, and that a leader whose mirrors are behind makes none that should not be.

use std::{sync::Arc, time::Duration};

use isocenter_domain::{
    key::HoldingKey,
    record::{
        case::{Case, CaseState, Urgency},
        read::{Holding, ReadState},
    },
};
use isocenter_store::{
    Op, Txn,
    faulty::{Faults, FaultyStore},
};
use isocenter_testkit::wait_for;
use tonic::Code;

use super::{
    Node, PATIENCE, World, anna, boris, case, case_key, read_key, refusal, signature, tenant, unique,
};
use crate::presence;

/// A leader, the store as it sees it, and a replica that sees the same one as it is.
struct Leader {
    world: World,
    store: Arc<FaultyStore>,
    node: Node,
    other: Node,
}

/// Two cases wait, anna and boris are present, and the leader has seen all that.
async fn leader() -> Leader {
    let world = World::new().await;
    let store = world.faulty(1);
    let node = world.node_over(store.clone(), "a:1").await;
    node.leads().await;
    let other = world.node("b:1").await;
    for reader in [anna(), boris()] {
        world.present(&reader).await;
    }
    for n in [1, 2] {
        world.waiting(n, &node).await;
        other.caught_up(n).await;
    }
    let leader = Leader { world, store, node, other };
    leader.saw().await;
    leader
}

impl Leader {
    /// Waits until the mirrors show who is present, and what anna has in hand.
    async fn saw(&self) {
        let (view, key) = (&self.node.desk.view, HoldingKey { tenant: tenant(), reader: anna() });
        wait_for("the mirrors", PATIENCE, || async {
            let stored = self.world.get::<Holding>(&key).await.map(|hands| hands.mod_revision);
            let shown = view.holdings.get(&key).map(|hands| hands.mod_revision);
            view.presence.count() == 2 && shown == stored
        })
        .await;
    }

    /// The leader hears of nothing from now on.
    fn deafen(&self) {
        self.store.set(Faults { lose_events: 1.0, ..Faults::default() });
    }

    /// Anna's presence as a stream would put it, heard by nobody.
    async fn say(&self, value: &'static str) {
        let put = Op::put(&presence::key(&tenant(), &anna()), value);
        self.world.kv.txn(Txn::always(vec![put])).await.unwrap();
    }

    /// How many calls of the store an offer to anna took.
    async fn calls(&self) -> u64 {
        let before = self.store.requests();
        self.node.next(&anna()).await.unwrap().expect("a read waits");
        self.store.requests() - before
    }

    async fn nothing_is_in_annas_hands(&self) {
        assert_eq!(self.world.holding(&anna()).await, Holding::default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_to_free_hands_is_one_call_of_the_store() {
    let leader = leader().await;
    assert_eq!(leader.calls().await, 1, "the first one ever");
    let (world, node) = (&leader.world, &leader.node);
    let first = node.next(&anna()).await.unwrap().unwrap();
    let open = node.open(&first.read_id, &anna(), &unique()).await.unwrap();
    node.sign(signature(&open, &anna())).await.unwrap();
    leader.saw().await;
    assert_eq!(leader.calls().await, 1, "and every later one");
    assert!(matches!(world.read(2, 1).await.state, ReadState::Offered { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_somebody_has_taken_is_not_offered() {
    let leader = leader().await;
    leader.deafen();
    for n in [1, 2] {
        let id = read_key(n, 1).read.to_string();
        let open = leader.other.open_by_name(&id, &boris(), &unique()).await.unwrap();
        leader.other.suspend(&open, &boris(), &unique()).await.unwrap();
    }
    assert_eq!(leader.node.next(&anna()).await.unwrap(), None);
    leader.nothing_is_in_annas_hands().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_case_that_was_closed_is_not_offered() {
    let leader = leader().await;
    leader.deafen();
    for n in [1, 2] {
        let closed = Case { state: CaseState::Closed, ..case(&[n]) };
        leader.world.put(&case_key(n), &closed).await;
    }
    let refused = leader.node.next(&anna()).await;
    assert_eq!(refusal(refused), (Code::Aborted, "CONFLICT".into()), "until the leader hears of it");
    leader.nothing_is_in_annas_hands().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_begun_to_read_meanwhile_is_offered_nothing_that_must_not_wait() {
    let leader = leader().await;
    let urgency = Urgency { next_up: false, ..case(&[2]).urgency };
    leader.world.put(&case_key(2), &Case { urgency, ..case(&[2]) }).await;
    leader.node.caught_up(2).await;
    leader.deafen();
    let open = leader.other.open_by_name(&read_key(1, 1).read.to_string(), &anna(), "r").await.unwrap();
    assert_eq!(refusal(leader.node.next(&anna()).await), (Code::FailedPrecondition, "READ_OPEN".into()));
    assert_eq!(leader.world.holding(&anna()).await.offered, None);
    // Nor is what was made known of her hands believed once they are free again.
    leader.other.sign(signature(&open, &anna())).await.unwrap();
    assert!(leader.node.next(&anna()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_stands_is_given_whether_or_not_the_leader_heard_of_it() {
    let leader = leader().await;
    leader.deafen();
    let first = leader.node.next(&anna()).await.unwrap().unwrap();
    assert_eq!(leader.node.next(&anna()).await.unwrap(), Some(first));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_takes_for_present_who_has_left() {
    let leader = leader().await;
    leader.deafen();
    leader.world.absent(&anna()).await;
    assert!(leader.node.next(&anna()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_left_is_offered_nothing() {
    let leader = leader().await;
    leader.deafen();
    leader.world.absent(&anna()).await;
    assert!(leader.node.desk.leadership.grants_grace(), "it begins to count");
    leader.world.clock.advance(Duration::from_secs(31));
    assert_eq!(refusal(leader.node.next(&anna()).await), (Code::FailedPrecondition, "NOT_PRESENT".into()));
    leader.nothing_is_in_annas_hands().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_just_said_that_no_offers_are_wanted_gets_none() {
    let leader = leader().await;
    leader.deafen();
    leader.say("test 0").await;
    assert_eq!(leader.node.next(&anna()).await.unwrap(), None);
    leader.nothing_is_in_annas_hands().await;
    leader.say("test 1").await;
    assert!(leader.node.next(&anna()).await.unwrap().is_some(), "and again, as soon as they are");
}

/// Boris reads and was leased ahead what has become worth more than the two reads that wait.
async fn better_use() -> (Leader, String) {
    let leader = leader().await;
    let (world, node) = (&leader.world, &leader.node);
    node.take(&boris()).await;
    let leased = node.next(&boris()).await.unwrap().unwrap().read_id;
    world.answer(2, 1, 900_000).await;
    for n in [3, 4] {
        world.waiting(n, node).await;
    }
    wait_for("the mirrors", PATIENCE, || async {
        let view = &node.desk.view;
        let hands = view.profile(&tenant(), &boris()).unwrap().holding;
        (hands.open, hands.offered) == (1, 1) && view.probability(&tenant(), &case(&[2])) == Some(0.9)
    })
    .await;
    assert_eq!(leased, read_key(2, 1).read.to_string());
    world.clock.advance(Duration::from_secs(5 * 60));
    (leader, leased)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_more_use_goes_to_free_hands_before_what_waits() {
    let (leader, leased) = better_use().await;
    assert_eq!(leader.node.next(&anna()).await.unwrap().unwrap().read_id, leased);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_recalled_for_who_has_begun_to_read_meanwhile() {
    let (leader, leased) = better_use().await;
    leader.deafen();
    leader.other.caught_up(3).await;
    leader.other.open_by_name(&read_key(3, 1).read.to_string(), &anna(), "r").await.unwrap();
    let next = leader.node.next(&anna()).await.unwrap().unwrap();
    assert_eq!(next.read_id, read_key(4, 1).read.to_string(), "she is leased what waits");
    let theirs = leader.world.holding(&boris()).await.offered;
    assert_eq!(theirs.map(|read| read.to_string()), Some(leased));
}
