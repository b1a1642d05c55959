//! Offers, opening, returning, lapsing, leading.

use isocenter_domain::{
    id::ReaderId,
    record::read::{ReadKind, ReadState, ReturnReason},
};
use isocenter_store::{Key, Op, Txn};
use isocenter_testkit::wait_for;
use isocenter_wire::v1;
use tonic::Code;

use super::{Node, PATIENCE, World, anna, boris, case_key, read_key, refusal, signature, tenant, unique};
use crate::{error::Error, offer::Offers};

async fn one() -> (World, Node) {
    let world = World::new().await;
    let node = world.node("a:1").await;
    node.leads().await;
    world.present(&anna()).await;
    world.present(&boris()).await;
    (world, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_goes_from_the_queue_through_one_readers_hands_to_a_report() {
    let (world, node) = one().await;
    assert_eq!(node.next(&anna()).await.unwrap(), None);
    world.waiting(1, &node).await;
    let offered = node.next(&anna()).await.unwrap().unwrap();
    assert_eq!(offered.state(), v1::ReadState::Offered);
    assert_eq!(node.next(&anna()).await.unwrap().unwrap(), offered, "the offer stands");
    assert_eq!(node.next(&boris()).await.unwrap(), None, "nobody else is offered it");
    assert_eq!(
        refusal(node.open(&offered.read_id, &boris(), "r").await),
        (Code::FailedPrecondition, "NOT_HELD".into())
    );

    let open = node.open(&offered.read_id, &anna(), "r1").await.unwrap();
    assert_eq!((open.state(), open.open_token.len()), (v1::ReadState::Open, 22));
    assert_eq!(
        node.open(&offered.read_id, &anna(), "r1").await.unwrap(),
        open,
        "a repeat has the same token"
    );
    assert_eq!(refusal(node.next(&anna()).await), (Code::FailedPrecondition, "READ_OPEN".into()));
    assert_eq!(world.holding(&anna()).await.open, Some(read_key(1, 1).read));

    let again = node.open(&offered.read_id, &anna(), "r2").await.unwrap();
    assert_ne!(again.open_token, open.open_token);
    let stale = node.sign(signature(&open, &anna())).await;
    assert_eq!(refusal(stale), (Code::Aborted, "STALE_TOKEN".into()));
    assert_eq!(world.read(1, 1).await.drafts.len(), 1, "the text is not lost");

    let request = signature(&again, &anna());
    let signed = node.sign(request.clone()).await.unwrap();
    assert_eq!((signed.version, signed.report_id.as_str()), (1, again.read_id.as_str()));
    assert_eq!(node.sign(request).await.unwrap(), signed, "a repeat has the first answer");
    assert_eq!(
        refusal(node.sign(signature(&again, &anna())).await),
        (Code::FailedPrecondition, "SIGNED".into())
    );
    assert_eq!(world.holding(&anna()).await, isocenter_domain::record::read::Holding::default());
    assert_eq!(node.next(&anna()).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returned_read_goes_to_somebody_else_with_its_age() {
    let (world, node) = one().await;
    world.waiting(1, &node).await;
    let open = node.take(&anna()).await;
    let wrong = node.give_back(&open.read_id, &anna(), "other", &unique()).await;
    assert_eq!(refusal(wrong), (Code::Aborted, "STALE_TOKEN".into()));
    let back = node.give_back(&open.read_id, &anna(), &open.open_token, "r").await.unwrap();
    assert_eq!((back.state(), back.waiting_since), (v1::ReadState::Waiting, open.waiting_since));
    world.queued(1, &node).await;
    assert_eq!(node.next(&anna()).await.unwrap(), None);
    let theirs = node.take(&boris()).await;
    let repeat = node.give_back(&open.read_id, &anna(), &open.open_token, "r").await.unwrap();
    assert_eq!(repeat.holder_reader_id, "boris", "the repeat changes nothing");
    assert_eq!(world.read(1, 1).await.returns.len(), 1);
    node.sign(signature(&theirs, &boris())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_read_outlives_its_readers_presence_until_a_lead_takes_it_back() {
    let (world, node) = one().await;
    world.waiting(1, &node).await;
    let open = node.take(&anna()).await;
    world.absent(&anna()).await;
    world.clock.advance(std::time::Duration::from_secs(3_600));
    node.reconcile(1).await;
    assert!(matches!(world.read(1, 1).await.state, ReadState::Open { .. }));
    assert_eq!(node.desk.stuck(node.desk.now()), 1, "it is counted");
    let back = node.reassign(&open.read_id, &anna()).await.unwrap();
    assert_eq!(back.state(), v1::ReadState::Waiting);
    assert_eq!(world.read(1, 1).await.returns[0].reason, ReturnReason::Reassigned);
    let late = node.sign(signature(&open, &anna())).await;
    assert_eq!(refusal(late), (Code::Aborted, "STALE_TOKEN".into()));
    world.queued(1, &node).await;
    let theirs = node.take(&boris()).await;
    assert_eq!(theirs.drafts.len(), 1, "the next reader sees what was written");
    let again = node.reassign(&open.read_id, &anna()).await.unwrap();
    assert_eq!(
        again.holder_reader_id, "boris",
        "what was taken from one is not taken from the next by a repeat"
    );
    let never = node.reassign(&open.read_id, &"vera".parse().unwrap()).await;
    assert_eq!(refusal(never), (Code::FailedPrecondition, "NOT_HELD".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_lapses_by_its_time() {
    let (world, node) = one().await;
    world.waiting(1, &node).await;
    let offered = node.next(&anna()).await.unwrap().unwrap();
    world.clock.advance(std::time::Duration::from_secs(60));
    node.reconcile(1).await;
    assert_eq!(world.read(1, 1).await.state, ReadState::Waiting);
    assert_eq!(refusal(node.open(&offered.read_id, &anna(), "r").await).1, "NOT_HELD");
    world.queued(1, &node).await;
    assert_eq!(node.next(&boris()).await.unwrap().unwrap().read_id, offered.read_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_lapses_with_its_readers_presence_but_not_at_once_under_a_new_leader() {
    let (world, node) = one().await;
    world.waiting(1, &node).await;
    node.next(&anna()).await.unwrap().unwrap();
    world.absent(&anna()).await;
    wait_for("the mirror", PATIENCE, || async { node.desk.view.presence.of(&tenant(), &anna()).is_none() })
        .await;
    node.reconcile(1).await;
    assert!(matches!(world.read(1, 1).await.state, ReadState::Offered { .. }), "the leader is new");
    world.clock.advance(std::time::Duration::from_secs(31));
    node.reconcile(1).await;
    assert_eq!(world.read(1, 1).await.state, ReadState::Waiting);
    assert_eq!(world.holding(&anna()).await.offered, None);
    assert_eq!(refusal(node.next(&anna()).await), (Code::FailedPrecondition, "NOT_PRESENT".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_leader_cannot_make_an_offer() {
    let (world, old) = one().await;
    let other = world.node("b:1").await;
    world.waiting(1, &old).await;
    let fence = old.desk.leadership.fence().unwrap();
    // The old leader sleeps; its key expires, and somebody is elected anew.
    let key = Key::new("leader/reader-assignment").unwrap();
    world.kv.txn(Txn::always(vec![Op::delete(&key)])).await.unwrap();
    wait_for("another leader", PATIENCE, || async {
        world.kv.get(&key).await.unwrap().is_some_and(|kv| kv.create_revision > fence.token())
    })
    .await;
    let offers = Offers::new(old.desk.clone());
    let made = offers.under(fence, tenant(), anna(), "dev".into()).await;
    assert!(matches!(made, Err(Error::NoLeader)), "{made:?}");
    assert_eq!(world.read(1, 1).await.state, ReadState::Waiting);
    assert_eq!(world.holding(&anna()).await.offered, None);
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_lost_the_skill_after_the_offer_cannot_open() {
    let (world, node) = one().await;
    world.waiting(1, &node).await;
    let offered = node.next(&anna()).await.unwrap().unwrap();
    world.register(&anna(), "MR").await;
    assert_eq!(
        refusal(node.open(&offered.read_id, &anna(), "r").await),
        (Code::FailedPrecondition, "SKILL".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ai_reorders_what_waits_and_nothing_else() {
    let (world, node) = one().await;
    world.waiting(1, &node).await;
    world.waiting(2, &node).await;
    world.answer(2, 1, 900_000).await;
    let second = read_key(2, 1).read;
    wait_for("the promotion", PATIENCE, || async {
        node.desk.board.explain(&tenant(), &second, node.desk.now(), &[]).is_some_and(|e| e.position == 1)
    })
    .await;
    let open = node.take(&anna()).await;
    assert_eq!((open.read_id.as_str(), open.abnormal_probability), (second.to_string().as_str(), Some(0.9)));
    node.sign(signature(&open, &anna())).await.unwrap();
    let before = (world.read(2, 1).await, world.report(2, 1).await);
    world.answer(2, 1, 100_000).await;
    wait_for("the late answer", PATIENCE, || async {
        let case = node.desk.view.cases.get(&case_key(2)).unwrap();
        node.desk.view.probability(&tenant(), &case.record) == Some(0.1)
    })
    .await;
    node.reconcile(2).await;
    assert_eq!((world.read(2, 1).await, world.report(2, 1).await), before);
    assert!(node.desk.board.explain(&tenant(), &second, node.desk.now(), &[]).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_revision_of_a_signed_study_gets_a_discrepancy_read_whose_report_is_a_correction() {
    let (world, node) = one().await;
    world.waiting(1, &node).await;
    let open = node.take(&anna()).await;
    node.sign(signature(&open, &anna())).await.unwrap();
    world.study(1, &super::complete(2)).await;
    node.reconcile(1).await;
    node.reconcile(1).await;
    assert_eq!(world.read(1, 2).await.kind, ReadKind::Discrepancy { of: 1, with: None });
    assert!(world.get::<isocenter_domain::record::read::Read>(&read_key(1, 3)).await.is_none());
    wait_for("the queue", PATIENCE, || async {
        node.desk.board.explain(&tenant(), &read_key(1, 2).read, node.desk.now(), &[]).is_some()
    })
    .await;
    let second = node.take(&anna()).await;
    assert_eq!(second.studies[0].revision, 2);
    node.sign(signature(&second, &anna())).await.unwrap();
    let report = world.report(1, 2).await.unwrap();
    assert_eq!((report.kind.name(), report.replaces), ("correction", Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_lead_passes_on_once_and_else_says_when_to_ask_again() {
    let (world, leader) = one().await;
    let other = world.node("127.0.0.1:1").await;
    wait_for("the leader to be known", PATIENCE, || async { other.desk.leadership.address().is_some() })
        .await;
    // The leader's address answers nobody here.
    let (code, reason) = refusal(other.next(&anna()).await);
    assert_eq!((code, reason.as_str()), (Code::Unavailable, "UNAVAILABLE"));
    drop(leader);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_are_asked_one_at_a_time_and_many_at_once() {
    let (world, node) = one().await;
    for n in 1..=12 {
        world.waiting(n, &node).await;
    }
    let readers: Vec<ReaderId> = (0..12).map(|n| format!("r{n}").parse().unwrap()).collect();
    for reader in &readers {
        world.register(reader, "CT").await;
        world.present(reader).await;
    }
    wait_for("the registry", PATIENCE, || async { node.desk.view.profiles(&tenant()).len() == 14 }).await;
    let asked = futures::future::join_all(readers.iter().map(|reader| node.next(reader))).await;
    let mut reads: Vec<_> = asked.into_iter().map(|r| r.unwrap().expect("one for each").read_id).collect();
    reads.sort();
    reads.dedup();
    assert_eq!(reads.len(), 12);
}
