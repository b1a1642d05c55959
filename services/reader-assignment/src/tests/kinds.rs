//! Each kind of read from its beginning to its end.

use isocenter_domain::{
    access::Role,
    id::ReaderId,
    key::ReportKey,
    record::{
        case::Reading,
        read::{Conclusion, Pair, ReadKind, ReadState},
        registry::Grade,
        report::{Report, ReportKind},
    },
};
use isocenter_testkit::wait_for;
use isocenter_wire::v1::{self, reader_assignment_server::ReaderAssignment as _};
use tonic::{Code, Status};

use super::{
    Node, PATIENCE, World, anna, boris, by, case, case_key, complete, read_key, refusal, signature, tenant,
    unique,
};

fn clara() -> ReaderId {
    "clara".parse().unwrap()
}

async fn one() -> (World, Node) {
    let world = World::new().await;
    world.register(&clara(), "CT").await;
    let node = world.node("a:1").await;
    node.leads().await;
    for reader in [anna(), boris(), clara()] {
        world.present(&reader).await;
    }
    (world, node)
}

/// Opens a read by its name once the mirrors have it.
async fn open(node: &Node, case: u32, n: u32, reader: &ReaderId) -> Result<v1::Read, Status> {
    node.caught_up(case).await;
    node.open_by_name(&read_key(case, n).read.to_string(), reader, &unique()).await
}

async fn version(world: &World, n: u32, version: u32) -> Report {
    let key = ReportKey { tenant: tenant(), read: read_key(1, n).read, version };
    world.get::<Report>(&key).await.expect("the report exists").record
}

fn invalid<T: std::fmt::Debug>(result: Result<T, Status>) -> String {
    let status = result.expect_err("is refused");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    status.message().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resident_signs_preliminary_and_an_attending_makes_it_final() {
    let (world, node) = one().await;
    world.register_as(&anna(), "CT", Grade::Resident).await;
    world.waiting(1, &node).await;
    let theirs = node.take(&anna()).await;
    let mut request = signature(&theirs, &anna());
    request.set_change(v1::ReportChange::Minor);
    assert!(invalid(node.sign(request).await).contains("change"));
    let request = signature(&theirs, &anna());
    let signed = node.sign(request.clone()).await.unwrap();
    assert_eq!((signed.version, signed.read.as_ref().unwrap().state()), (1, v1::ReadState::AwaitingFinal));
    assert_eq!(version(&world, 1, 1).await.kind, ReportKind::Preliminary);
    assert_eq!(node.sign(request.clone()).await.unwrap(), signed);
    assert_eq!(refusal(node.sign(signature(&theirs, &anna())).await).1, "SIGNED");

    world.queued(1, &node).await;
    assert_eq!(
        node.next(&anna()).await.unwrap(),
        None,
        "a resident is offered nothing that awaits its final"
    );
    let own = open(&node, 1, 1, &anna()).await;
    assert_eq!(refusal(own).1, "EXCLUDED");
    let final_read = node.take(&boris()).await;
    assert_eq!(final_read.earlier_reports.len(), 1);
    assert_eq!(final_read.earlier_reports[0].reader_id, "anna");
    assert!(invalid(node.sign(signature(&final_read, &boris())).await).contains("change"));
    let mut request = signature(&final_read, &boris());
    request.set_change(v1::ReportChange::Major);
    let made = node.sign(request).await.unwrap();
    assert_eq!((made.version, made.read.unwrap().change()), (2, v1::ReportChange::Major));
    let report = version(&world, 1, 2).await;
    assert_eq!((report.kind, report.author), (ReportKind::Final, boris()));
    let again = node.sign(signature(&theirs, &anna())).await;
    assert_eq!(refusal(again).1, "SIGNED");
    let first = node.sign(signature_again(&theirs, &signed, &request_id(&version(&world, 1, 1).await))).await;
    assert_eq!(first.unwrap().version, 1, "the resident's request has its own answer for ever");
}

fn request_id(report: &Report) -> String {
    report.request_id.clone()
}

fn signature_again(open: &v1::Read, _: &v1::SignReadResponse, request_id: &str) -> v1::SignReadRequest {
    v1::SignReadRequest { request_id: request_id.to_owned(), ..signature(open, &anna()) }
}

/// A case of two blinded reads.
async fn pair(world: &World, node: &Node) {
    world.case(1).await;
    let reading = Reading { double: true, review_ppm: 0 };
    world.put(&case_key(1), &isocenter_domain::record::case::Case { reading, ..case(&[1]) }).await;
    node.reconcile(1).await;
    node.caught_up(1).await;
    assert_eq!(world.read(1, 2).await.kind, ReadKind::Blinded { with: 1 });
}

fn blinded(open: &v1::Read, reader: &ReaderId, assessment: &str) -> v1::SignReadRequest {
    v1::SignReadRequest { assessment: assessment.into(), ..signature(open, reader) }
}

async fn sees(node: &Node, reader: &ReaderId) -> Vec<String> {
    let request = v1::ListWorklistRequest { reader_id: reader.to_string(), ..Default::default() };
    let list = node.rpc.list_worklist(by(request, Role::Reader(reader.clone()))).await.unwrap().into_inner();
    list.reads.into_iter().map(|read| read.read_id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_blinded_readers_who_agree_make_one_final_report() {
    let (world, node) = one().await;
    pair(&world, &node).await;
    let (first, second) = (read_key(1, 1).read.to_string(), read_key(1, 2).read.to_string());
    let theirs = open(&node, 1, 1, &anna()).await.unwrap();
    assert!(theirs.earlier_reports.is_empty());
    assert!(invalid(node.sign(signature(&theirs, &anna())).await).contains("assessment"));
    node.sign(blinded(&theirs, &anna(), "BI-RADS-2")).await.unwrap();
    assert_eq!(world.report(1, 1).await.unwrap().kind, ReportKind::Withheld);
    node.caught_up(1).await;
    assert_eq!(refusal(open(&node, 1, 2, &anna()).await).1, "EXCLUDED", "not both by one reader");
    assert_eq!(sees(&node, &anna()).await, std::slice::from_ref(&first), "and he does not see the other");
    assert_eq!(
        sees(&node, &boris()).await,
        std::slice::from_ref(&second),
        "nobody sees what was signed blindly"
    );
    let request = v1::ExplainReadRequest { read_id: first.clone() };
    let hidden = node.rpc.explain_read(by(request, Role::Reader(boris()))).await;
    assert_eq!(refusal(hidden).0, Code::NotFound);
    let opinion = ask_opinion(&node, &first, "q", "o").await;
    assert_eq!(refusal(opinion).1, "BLINDED");

    let ours = open(&node, 1, 2, &boris()).await.unwrap();
    assert!(ours.earlier_reports.is_empty(), "the second reader is blind");
    node.sign(blinded(&ours, &boris(), "bi-rads-2")).await.unwrap();
    assert_eq!(world.report(1, 2).await.unwrap().kind, ReportKind::Final);
    let read = world.read(1, 2).await;
    assert!(matches!(read.conclusion, Some(Conclusion::Blinded { pair: Pair::Agreed, .. })));
    assert_eq!((world.read(1, 1).await.released(), read.released()), (0, 1), "one report leaves");
    node.caught_up(1).await;
    let mut both = sees(&node, &boris()).await;
    both.sort();
    assert_eq!(both, [first, second], "nothing is hidden any more");
    node.reconcile(1).await;
    assert!(world.get::<isocenter_domain::record::read::Read>(&read_key(1, 3)).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_blinded_readers_who_differ_are_decided_by_a_third_who_sees_both() {
    let (world, node) = one().await;
    pair(&world, &node).await;
    let (theirs, ours) =
        (open(&node, 1, 1, &anna()).await.unwrap(), open(&node, 1, 2, &boris()).await.unwrap());
    let (by_anna, by_boris) = (blinded(&theirs, &anna(), "normal"), blinded(&ours, &boris(), "recall"));
    // At once: each rests on the other's not having been signed.
    let both = tokio::join!(node.sign(by_anna.clone()), node.sign(by_boris.clone()));
    assert!(both.0.is_ok() && both.1.is_ok(), "{both:?}");
    for n in [1, 2] {
        assert_eq!(
            world.report(1, n).await.unwrap().kind,
            ReportKind::Withheld,
            "nothing final before the third"
        );
    }
    assert_eq!(world.read(1, 3).await.kind, ReadKind::Arbitration { of: 1, with: 2 });
    assert_eq!(world.read(1, 3).await.waiting_since, world.read(1, 1).await.waiting_since);
    for reader in [anna(), boris()] {
        assert_eq!(refusal(open(&node, 1, 3, &reader).await).1, "EXCLUDED");
    }
    let third = open(&node, 1, 3, &clara()).await.unwrap();
    let said: Vec<_> =
        third.earlier_reports.iter().map(|r| (r.reader_id.as_str(), r.assessment.as_str())).collect();
    assert_eq!(said, [("anna", "normal"), ("boris", "recall")]);
    node.sign(signature(&third, &clara())).await.unwrap();
    assert_eq!(world.report(1, 3).await.unwrap().kind, ReportKind::Final);
    assert_eq!(node.sign(by_anna).await.unwrap().version, 1);
    assert!(world.get::<isocenter_domain::record::read::Read>(&read_key(1, 4)).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blinded_reader_waits_for_newer_images_whatever_he_says() {
    let (world, node) = one().await;
    pair(&world, &node).await;
    let theirs = open(&node, 1, 1, &anna()).await.unwrap();
    world.study(1, &complete(2)).await;
    let request = v1::SignReadRequest { as_of: true, ..blinded(&theirs, &anna(), "normal") };
    assert_eq!(refusal(node.sign(request).await).1, "NEW_IMAGES");
}

async fn ask_opinion(node: &Node, read: &str, question: &str, request: &str) -> Result<v1::Read, Status> {
    let request = v1::RequestSecondOpinionRequest {
        read_id: read.into(),
        question: question.into(),
        due_at: None,
        request_id: request.into(),
    };
    Ok(node.rpc.request_second_opinion(by(request, Role::Network)).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_opinion_stands_beside_the_first_and_disagreement_opens_a_discrepancy() {
    let (world, node) = one().await;
    world.waiting(1, &node).await;
    let first = node.take(&anna()).await;
    node.sign(signature(&first, &anna())).await.unwrap();
    let asked = ask_opinion(&node, &first.read_id, "SYNTHETIC: a second look?", "q1").await.unwrap();
    assert_eq!(
        (asked.kind(), asked.about_read_ids),
        (v1::ReadKind::SecondOpinion, vec![first.read_id.clone()])
    );
    assert!(asked.question.is_empty(), "only its reader is shown the question");
    assert_eq!(
        ask_opinion(&node, &first.read_id, "SYNTHETIC: a second look?", "q1").await.unwrap().read_id,
        asked.read_id
    );
    assert_eq!(refusal(ask_opinion(&node, &first.read_id, "another", "q1").await).1, "OTHER_REQUEST");
    assert_eq!(refusal(ask_opinion(&node, &asked.read_id, "on an opinion", "q2").await).1, "NOT_OF_RECORD");

    assert_eq!(refusal(open(&node, 1, 2, &anna()).await).1, "EXCLUDED");
    let theirs = open(&node, 1, 2, &boris()).await.unwrap();
    assert_eq!(theirs.question, "SYNTHETIC: a second look?");
    assert_eq!(theirs.earlier_reports[0].impression, "nothing");
    assert!(invalid(node.sign(signature(&theirs, &boris())).await).contains("agreement"));
    let mut request = signature(&theirs, &boris());
    request.set_agreement(v1::Agreement::Disagrees);
    node.sign(request).await.unwrap();
    let report = world.report(1, 2).await.unwrap();
    assert_eq!((report.kind, report.about, report.replaces), (ReportKind::Final, Some(1), None));
    assert_eq!(world.report(1, 1).await.unwrap().author, anna(), "the first stands");

    assert_eq!(world.read(1, 3).await.kind, ReadKind::Discrepancy { of: 1, with: Some(2) });
    for reader in [anna(), boris()] {
        assert_eq!(refusal(open(&node, 1, 3, &reader).await).1, "EXCLUDED");
    }
    let third = open(&node, 1, 3, &clara()).await.unwrap();
    assert_eq!(third.earlier_reports.len(), 2);
    node.sign(signature(&third, &clara())).await.unwrap();
    let report = world.report(1, 3).await.unwrap();
    assert_eq!((report.kind, report.replaces), (ReportKind::Correction, Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_opinion_on_an_open_read_has_nothing_to_agree_with() {
    let (world, node) = one().await;
    world.waiting(1, &node).await;
    let first = node.take(&anna()).await;
    ask_opinion(&node, &first.read_id, "q", "q1").await.unwrap();
    assert_eq!(refusal(open(&node, 1, 2, &anna()).await).1, "READ_OPEN");
    let theirs = open(&node, 1, 2, &boris()).await.unwrap();
    assert!(theirs.earlier_reports.is_empty());
    node.sign(signature(&theirs, &boris())).await.unwrap();
    node.sign(signature(&first, &anna())).await.unwrap();
    node.reconcile(1).await;
    assert!(world.get::<isocenter_domain::record::read::Read>(&read_key(1, 3)).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clinicians_question_is_answered_beside_the_report_by_its_own_time_or_withdrawn() {
    let (world, node) = one().await;
    world.waiting(1, &node).await;
    let first = node.take(&anna()).await;
    node.sign(signature(&first, &anna())).await.unwrap();
    let ask = |due: i64, request: &str| v1::RequestConsultationRequest {
        case_id: first.case_id.clone(),
        question: "SYNTHETIC: older than the last?".into(),
        due_at: Some(isocenter_wire::timestamp(isocenter_domain::Time(due))),
        request_id: request.into(),
    };
    let past = node.rpc.request_consultation(by(ask(1, "c0"), Role::Network)).await;
    assert!(invalid(past).contains("due_at"));
    let vendor = Role::Vendor("v".parse().unwrap());
    let denied = node.rpc.request_consultation(by(ask(99_000_000, "c0"), vendor)).await;
    assert_eq!(refusal(denied).0, Code::PermissionDenied);
    let asked = node.rpc.request_consultation(by(ask(99_000_000, "c1"), Role::Network)).await;
    let asked = asked.unwrap().into_inner();
    assert_eq!(asked.due_at, ask(99_000_000, "").due_at);
    let theirs = open(&node, 1, 2, &boris()).await.unwrap();
    assert_eq!(
        (theirs.question.as_str(), theirs.earlier_reports.len()),
        ("SYNTHETIC: older than the last?", 1)
    );
    node.sign(signature(&theirs, &boris())).await.unwrap();
    assert_eq!(world.report(1, 2).await.unwrap().about, Some(1));

    let request = ask(99_000_000, "c2");
    let unwanted =
        node.rpc.request_consultation(by(request, Role::Reader(anna()))).await.unwrap().into_inner();
    let held = open(&node, 1, 3, &boris()).await.unwrap();
    let cancel = |read: &str| v1::CancelReadRequest {
        read_id: read.into(),
        reason: "asked twice".into(),
        request_id: unique(),
    };
    let denied = node.rpc.cancel_read(by(cancel(&unwanted.read_id), Role::Reader(boris()))).await;
    assert_eq!(refusal(denied).0, Code::PermissionDenied);
    let cancelled =
        node.rpc.cancel_read(by(cancel(&unwanted.read_id), Role::Operator)).await.unwrap().into_inner();
    assert_eq!(cancelled.state(), v1::ReadState::Cancelled);
    assert_eq!(world.holding(&boris()).await.open, None);
    assert_eq!(refusal(node.sign(signature(&held, &boris())).await).1, "CANCELLED");
    let own = node.rpc.cancel_read(by(cancel(&first.read_id), Role::Operator)).await;
    assert_eq!(refusal(own).1, "SIGNED");
    world.waiting(2, &node).await;
    let own = node.rpc.cancel_read(by(cancel(&read_key(2, 1).read.to_string()), Role::Operator)).await;
    assert_eq!(refusal(own).1, "OF_RECORD");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_reviews_without_knowing_whom_and_a_significant_miss_opens_a_discrepancy() {
    let (world, node) = one().await;
    world.case(1).await;
    let reading = Reading { double: false, review_ppm: 1_000_000 };
    world.put(&case_key(1), &isocenter_domain::record::case::Case { reading, ..case(&[1]) }).await;
    node.reconcile(1).await;
    world.queued(1, &node).await;
    let first = node.take(&anna()).await;
    node.sign(signature(&first, &anna())).await.unwrap();
    node.reconcile(1).await;
    assert_eq!(world.read(1, 2).await.kind, ReadKind::Review { of: 1 });
    assert_eq!(refusal(open(&node, 1, 2, &anna()).await).1, "EXCLUDED", "nobody reviews himself");
    let review = open(&node, 1, 2, &boris()).await.unwrap();
    assert_eq!(review.earlier_reports[0].reader_id, "", "the author is masked");
    let request = v1::ExplainReadRequest { read_id: review.read_id.clone() };
    let told = |role| node.rpc.explain_read(by(request.clone(), role));
    let against = |e: v1::ExplainReadResponse| {
        e.readers.into_iter().find(|v| v.reader_id == "anna").map(|verdict| verdict.rejected_by)
    };
    assert_eq!(against(told(Role::Reader(boris())).await.unwrap().into_inner()), None);
    let all = against(told(Role::Operator).await.unwrap().into_inner());
    assert_eq!(all.as_deref(), Some("first-reader"));

    let mut silent = signature(&review, &boris());
    silent.findings = String::new();
    silent.set_review_score(v1::ReviewScore::ReviewScore2b);
    assert!(invalid(node.sign(silent).await).contains("findings"));
    let mut request = signature(&review, &boris());
    request.set_review_score(v1::ReviewScore::ReviewScore3b);
    node.sign(request).await.unwrap();
    let report = world.report(1, 2).await.unwrap();
    assert_eq!((report.kind, world.read(1, 2).await.released()), (ReportKind::Withheld, 0));
    assert_eq!(world.read(1, 3).await.kind, ReadKind::Discrepancy { of: 1, with: Some(2) });
    node.caught_up(1).await;
    node.reconcile(1).await;
    assert!(
        world.get::<isocenter_domain::record::read::Read>(&read_key(1, 4)).await.is_none(),
        "reviewed once"
    );
    wait_for("the discrepancy in the queue", PATIENCE, || async {
        node.desk.board.explain(&tenant(), &read_key(1, 3).read, isocenter_domain::Time(0), &[]).is_some()
    })
    .await;
    assert_eq!(node.next(&boris()).await.unwrap(), None, "he does not judge his own judgement");
    assert_eq!(node.take(&clara()).await.read_id, read_key(1, 3).read.to_string());
    assert!(matches!(world.read(1, 3).await.state, ReadState::Open { .. }));
}
