//! Setting aside, handing on, taking by name, and images that do not allow a report.

use std::time::Duration;

use isocenter_domain::{
    access::Role,
    record::{
        read::{ReadState, ReturnReason},
        report::ReportKind,
    },
};
use isocenter_store::faulty::Faults;
use isocenter_testkit::wait_for;
use isocenter_wire::v1::{self, reader_assignment_server::ReaderAssignment as _};
use tonic::{Code, Status};

use super::{
    Node, PATIENCE, World, anna, boris, by, by_developer, case_key, read_key, refusal, signature, tenant,
    unique,
};

async fn one() -> (World, Node) {
    let world = World::new().await;
    let node = world.node("a:1").await;
    node.leads().await;
    world.present(&anna()).await;
    world.present(&boris()).await;
    (world, node)
}

fn precondition(reason: &str) -> (Code, String) {
    (Code::FailedPrecondition, reason.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_set_aside_leaves_the_hands_free_and_is_taken_up_again_by_its_reader_alone() {
    let (world, node) = one().await;
    world.waiting(1, &node).await;
    world.waiting(2, &node).await;
    let open = node.take(&anna()).await;
    let aside = node.suspend(&open, &anna(), "s1").await.unwrap();
    assert_eq!(
        (aside.state(), aside.suspended()),
        (v1::ReadState::Suspended, v1::SuspendReason::AwaitingPriors)
    );
    assert_eq!(aside.studies, open.studies, "as they were seen");
    assert_eq!(node.suspend(&open, &anna(), "s1").await.unwrap(), aside, "a repeat changes nothing");
    assert_eq!(refusal(node.sign(signature(&open, &anna())).await), precondition("SUSPENDED"));
    assert_eq!(refusal(node.open(&open.read_id, &boris(), "b").await), precondition("NOT_HELD"));

    let other = node.take(&anna()).await;
    assert_ne!(other.read_id, open.read_id);
    assert_eq!(refusal(node.open(&open.read_id, &anna(), "r").await), precondition("READ_OPEN"));
    node.sign(signature(&other, &anna())).await.unwrap();
    let again = node.open(&open.read_id, &anna(), "r2").await.unwrap();
    assert_ne!(again.open_token, open.open_token);
    assert_eq!(world.holding(&anna()).await.suspended, []);
    node.sign(signature(&again, &anna())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_set_aside_past_its_bound_is_counted_and_a_lead_takes_it_back() {
    let (world, node) = one().await;
    world.waiting(1, &node).await;
    let open = node.take(&anna()).await;
    node.suspend(&open, &anna(), &unique()).await.unwrap();
    world.clock.advance(Duration::from_secs(4 * 3600 - 1));
    node.caught_up(1).await;
    assert_eq!(node.desk.stuck(node.desk.now()), 0);
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(node.desk.stuck(node.desk.now()), 1);
    let back = node.reassign(&open.read_id, &anna()).await.unwrap();
    assert_eq!((back.state(), back.waiting_since), (v1::ReadState::Waiting, open.waiting_since));
    assert_eq!(world.holding(&anna()).await.suspended, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sets_aside_eight_reads_and_no_more() {
    let (world, node) = one().await;
    for n in 1..=9 {
        world.waiting(n, &node).await;
        let open = node.take(&anna()).await;
        let aside = node.suspend(&open, &anna(), &unique()).await;
        if n < 9 {
            aside.unwrap();
        } else {
            assert_eq!(refusal(aside), precondition("TOO_MANY_SUSPENDED"));
            node.give_back(&open.read_id, &anna(), &open.open_token, &unique()).await.unwrap();
        }
    }
    assert_eq!(world.holding(&anna()).await.suspended.len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_handed_on_and_taken_or_declined_with_its_age() {
    let (world, node) = one().await;
    world.waiting(1, &node).await;
    let open = node.take(&anna()).await;
    let stale = v1::Read { open_token: "stale".into(), ..open.clone() };
    assert_eq!(refusal(node.transfer(&stale, &anna(), &boris(), "t0").await).1, "STALE_TOKEN");
    world.absent(&boris()).await;
    let gone = || async { node.desk.view.presence.of(&tenant(), &boris()).is_none() };
    wait_for("the mirror of presence", PATIENCE, gone).await;
    assert_eq!(refusal(node.transfer(&open, &anna(), &boris(), "t0").await), precondition("NOT_PRESENT"));
    world.present(&boris()).await;
    let handed = node.transfer(&open, &anna(), &boris(), "t1").await.unwrap();
    assert_eq!((handed.state(), handed.holder_reader_id.as_str()), (v1::ReadState::Offered, "boris"));
    assert_eq!(node.transfer(&open, &anna(), &boris(), "t1").await.unwrap(), handed);
    assert_eq!(world.holding(&anna()).await.open, None);
    assert_eq!(node.next(&boris()).await.unwrap().unwrap().read_id, open.read_id, "it is his offer");

    let declined = node.give_back(&open.read_id, &boris(), "", &unique()).await.unwrap();
    assert_eq!((declined.state(), declined.waiting_since), (v1::ReadState::Waiting, open.waiting_since));
    let reasons: Vec<_> = world.read(1, 1).await.returns.iter().map(|back| back.reason).collect();
    assert_eq!(reasons, [ReturnReason::Transferred, ReturnReason::NotCompetent]);
    let by_name = node.open_by_name(&open.read_id, &anna(), "n").await;
    assert_eq!(refusal(by_name), precondition("EXCLUDED"), "who gave it away does not get it back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_handed_to_a_busy_reader_waits_beside_what_he_has_open() {
    let (world, node) = one().await;
    for n in 1..=3 {
        world.waiting(n, &node).await;
    }
    let theirs = node.take(&boris()).await;
    let open = node.take(&anna()).await;
    let aside = node.suspend(&open, &anna(), &unique()).await.unwrap();
    let aside = v1::Read { open_token: open.open_token.clone(), ..aside };
    node.transfer(&aside, &anna(), &boris(), "t").await.unwrap();
    assert_eq!(refusal(node.open(&open.read_id, &boris(), "b").await), precondition("READ_OPEN"));
    let third = node.take(&anna()).await;
    let full = node.transfer(&third, &anna(), &boris(), "t2").await;
    assert_eq!(refusal(full), precondition("OFFERED_ANOTHER"));
    node.sign(signature(&theirs, &boris())).await.unwrap();
    let taken = node.open(&open.read_id, &boris(), "b2").await.unwrap();
    node.sign(signature(&taken, &boris())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_hands_on_what_nobody_proves_to_hold_and_a_reader_does_not() {
    let (world, node) = one().await;
    world.waiting(1, &node).await;
    let request = |reader: &str| v1::TransferReadRequest {
        read_id: read_key(1, 1).read.to_string(),
        reader_id: String::new(),
        to_reader_id: reader.into(),
        reason: "asked for by the clinic".into(),
        request_id: unique(),
        ..v1::TransferReadRequest::default()
    };
    let denied = node.rpc.transfer_read(by(request("boris"), Role::Reader(anna()))).await;
    assert_eq!(refusal(denied).0, Code::PermissionDenied);
    let handed = node.rpc.transfer_read(by(request("boris"), Role::Operator)).await.unwrap().into_inner();
    assert_eq!(handed.holder_reader_id, "boris");
    let again = node.rpc.transfer_read(by(request("boris"), Role::Operator)).await.unwrap().into_inner();
    assert_eq!(again.holder_reader_id, "boris", "the answer to the first may have been lost");
    let blind = node.rpc.transfer_read(by(request("anna"), Role::Operator)).await;
    assert_eq!(refusal(blind), precondition("HELD"), "it is taken from nobody by chance");
    world.register(&anna(), "MR").await;
    let request = |reader: &str| v1::TransferReadRequest { reader_id: "boris".into(), ..request(reader) };
    let from_anna = v1::TransferReadRequest { reader_id: "anna".into(), ..request("vera") };
    let refused = node.rpc.transfer_read(by(from_anna, Role::Operator)).await;
    assert_eq!(refusal(refused), precondition("NOT_HELD"), "nobody is told that what was not done was done");
    let unfit = node.rpc.transfer_read(by(request("anna"), Role::Operator)).await;
    assert_eq!(refusal(unfit), precondition("SKILL"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_case_is_taken_by_name_for_a_reason_by_one_of_those_who_may() {
    let (world, node) = one().await;
    let other = world.node("b:1").await;
    world.waiting(1, &node).await;
    let id = read_key(1, 1).read.to_string();
    assert_eq!(refusal(node.open(&id, &anna(), "r").await), precondition("NOT_HELD"), "not without a reason");
    let (anna, boris) = (anna(), boris());
    let both = tokio::join!(node.open_by_name(&id, &anna, "r1"), other.open_by_name(&id, &boris, "r2"));
    let (winner, open, loser) = match both {
        (Ok(open), Err(lost)) => (anna, open, lost),
        (Err(lost), Ok(open)) => (boris, open, lost),
        both => panic!("one wins: {both:?}"),
    };
    assert_eq!(refusal::<()>(Err(loser)), precondition("NOT_HELD"));
    let request = if winner == super::anna() { "r1" } else { "r2" };
    assert_eq!(node.open_by_name(&id, &winner, request).await.unwrap(), open, "a repeat has the same token");
    node.sign(signature(&open, &winner)).await.unwrap();

    world.waiting(2, &node).await;
    world.register(&winner, "MR").await;
    let unfit = node.open_by_name(&read_key(2, 1).read.to_string(), &winner, "r3").await;
    assert_eq!(refusal(unfit), precondition("SKILL"));
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_allow_no_report_end_the_read_with_a_notice() {
    let (world, node) = one().await;
    world.waiting(1, &node).await;
    let open = node.take(&anna()).await;
    let request = v1::DeclareNonDiagnosticRequest {
        read_id: open.read_id.clone(),
        reader_id: anna().to_string(),
        open_token: open.open_token.clone(),
        reason: v1::Insufficiency::Motion.into(),
        repeat: true,
        comment: "SYNTHETIC".into(),
        studies: open.studies.clone(),
        request_id: "n1".into(),
    };
    let ended = node.rpc.declare_non_diagnostic(by_developer(request.clone())).await.unwrap().into_inner();
    let read = ended.read.clone().unwrap();
    assert_eq!(
        (read.state(), read.non_diagnostic(), read.repeat),
        (v1::ReadState::NonDiagnostic, v1::Insufficiency::Motion, true)
    );
    assert_eq!(node.rpc.declare_non_diagnostic(by_developer(request)).await.unwrap().into_inner(), ended);
    assert_eq!(world.report(1, 1).await.unwrap().kind, ReportKind::NonDiagnostic);
    assert_eq!(refusal(node.sign(signature(&open, &anna())).await), precondition("SIGNED"));
    assert_eq!(world.holding(&anna()).await.open, None);

    // The examination is repeated in the same study: what is signed then is the first report.
    world.study(1, &super::complete(2)).await;
    node.reconcile(1).await;
    node.caught_up(1).await;
    let again = node.open_by_name(&read_key(1, 2).read.to_string(), &boris(), "b").await.unwrap();
    assert_eq!((again.kind(), again.earlier_reports.len()), (v1::ReadKind::Discrepancy, 1));
    node.sign(signature(&again, &boris())).await.unwrap();
    let report = world.report(1, 2).await.unwrap();
    assert_eq!((report.kind, report.replaces), (ReportKind::Final, Some(1)));
    assert!(matches!(world.read(1, 1).await.state, ReadState::NonDiagnostic { .. }));
    assert!(node.desk.reconcile(&case_key(1)).await.is_ok());
}

/// Repeats the very same request, as a workstation does, until its answer is one that stays.
async fn persist<T, F: Future<Output = Result<T, Status>>>(call: impl Fn() -> F) -> T {
    for _ in 0..200 {
        match call().await {
            Ok(answer) => return answer,
            Err(status) => assert!(
                matches!(status.code(), Code::Unknown | Code::Unavailable | Code::Aborted),
                "{status:?}"
            ),
        }
    }
    panic!("no answer in 200 attempts")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_once_is_done_once_however_many_answers_are_lost() {
    let (world, node) = one().await;
    for seed in 1..=8_u32 {
        let faulty = world.faulty(u64::from(seed));
        let shaky = world.node_over(faulty.clone(), "b:1").await;
        world.waiting(seed, &node).await;
        shaky.caught_up(seed).await;
        faulty.set(Faults { timeout_before: 0.2, timeout_after: 0.3, ..Faults::default() });
        let id = read_key(seed, 1).read.to_string();
        let requests: Vec<String> = (0..9).map(|_| unique()).collect();
        let (anna, boris) = (anna(), boris());
        let open = persist(|| shaky.open_by_name(&id, &anna, &requests[0])).await;
        let aside = persist(|| shaky.suspend(&open, &anna, &requests[1])).await;
        assert_eq!(aside.state(), v1::ReadState::Suspended, "seed {seed}");
        let handed = persist(|| shaky.transfer(&open, &anna, &boris, &requests[2])).await;
        assert_eq!(handed.holder_reader_id, "boris", "seed {seed}");
        let theirs = persist(|| shaky.open(&id, &boris, &requests[3])).await;
        let ask = || v1::RequestSecondOpinionRequest {
            read_id: id.clone(),
            question: "SYNTHETIC".into(),
            due_at: None,
            request_id: requests[4].clone(),
        };
        let asked = persist(|| shaky.rpc.request_second_opinion(by_developer(ask()))).await.into_inner();
        let sign = v1::SignReadRequest { request_id: requests[5].clone(), ..signature(&theirs, &boris) };
        persist(|| shaky.sign(sign.clone())).await;
        let cancel = || v1::CancelReadRequest {
            read_id: asked.read_id.clone(),
            reason: "not needed".into(),
            request_id: requests[6].clone(),
        };
        persist(|| shaky.rpc.cancel_read(by_developer(cancel()))).await;
        faulty.set(Faults::default());
        let read = world.read(seed, 1).await;
        assert_eq!(read.returns.len(), 1, "seed {seed}: handed on once");
        assert_eq!(world.report(seed, 1).await.unwrap().author, boris);
        assert!(matches!(world.read(seed, 2).await.state, ReadState::Cancelled { .. }));
        let third = world.get::<isocenter_domain::record::read::Read>(&read_key(seed, 3)).await;
        assert!(third.is_none(), "seed {seed}: asked once");
        for reader in [&anna, &boris] {
            assert_eq!(world.holding(reader).await, isocenter_domain::record::read::Holding::default());
        }
        shaky.tasks.drain(Duration::from_secs(5)).await;
    }
}
