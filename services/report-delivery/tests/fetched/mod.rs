//! Reports that their receiver fetches by gRPC.

use std::{collections::BTreeSet, time::Duration};

use isocenter_domain::{
    access::{Principal, Role},
    key::DeliveryKey,
    record::{
        delivery::{Delivery, DeliveryState},
        registry::Via,
    },
};
use isocenter_report_delivery::Config;
use isocenter_runtime::config::Period;
use isocenter_testkit::wait_for;
use isocenter_wire::v1::{self, acknowledge_report_request::Outcome};
use tokio::time::timeout;
use tonic::{Code, Request, Status, Streaming};

use crate::bench::{Bench, LONG, Running, config, delivery_key, report_key, tenant};

/// A call by the network's own system of this name.
fn by<T>(name: &str, message: T) -> Request<T> {
    let subject = format!("CN={name},OU=network,O=t");
    let mut request = Request::new(message);
    request.extensions_mut().insert(Principal { subject, tenant: tenant(), role: Role::Network });
    request
}

fn watch(max_unacknowledged: u32) -> v1::WatchReportsRequest {
    v1::WatchReportsRequest { destination_id: "portal".into(), max_unacknowledged }
}

async fn open(running: &Running, most: u32) -> Streaming<v1::ReportMessage> {
    running.client.clone().watch_reports(by("portal", watch(most))).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<v1::ReportMessage>) -> v1::ReportMessage {
    timeout(LONG, stream.message())
        .await
        .expect("a report in time")
        .unwrap()
        .expect("a report before the end")
}

fn said(message: &v1::ReportMessage, outcome: Outcome) -> v1::AcknowledgeReportRequest {
    let report = message.report.as_ref().unwrap();
    v1::AcknowledgeReportRequest {
        destination_id: message.destination_id.clone(),
        report_id: report.report_id.clone(),
        version: report.version,
        message_id: message.message_id.clone(),
        outcome: Some(outcome),
    }
}

fn accepted(viewed_by: &str) -> Outcome {
    Outcome::Accepted(v1::ReportAccepted { viewed_by: viewed_by.into() })
}

fn refused(reason: &str) -> Outcome {
    Outcome::Refused(v1::ReportRefused { reason: reason.into() })
}

async fn tell(
    running: &Running,
    message: &v1::ReportMessage,
    outcome: Outcome,
) -> Result<v1::Delivery, Status> {
    let call = by("portal", said(message, outcome));
    running.client.clone().acknowledge_report(call).await.map(tonic::Response::into_inner)
}

fn key_of(message: &v1::ReportMessage) -> DeliveryKey {
    let report = message.report.as_ref().unwrap();
    let read = report.report_id.parse().unwrap();
    let report = isocenter_domain::key::ReportKey { tenant: tenant(), read, version: report.version };
    DeliveryKey { report, destination: message.destination_id.parse().unwrap() }
}

async fn portal() -> Bench {
    let bench = Bench::new().await;
    bench.register_via("portal", Via::Grpc).await;
    bench
}

#[tokio::test]
async fn a_receiver_fetches_its_reports_in_order_and_each_until_it_is_acknowledged() {
    let bench = portal().await;
    bench.case(1, &["portal"]).await;
    bench.case(2, &["portal"]).await;
    bench.sign(1, 1).await;
    bench.sign(1, 2).await;
    bench.sign(2, 1).await;
    let running = bench.serve(config());
    let mut stream = open(&running, 0).await;
    let (first, other) = (next(&mut stream).await, next(&mut stream).await);
    assert_eq!(
        [key_of(&first), key_of(&other)],
        [delivery_key(1, 1, "portal"), delivery_key(2, 1, "portal")]
    );
    let delivery = bench.delivery(&delivery_key(1, 1, "portal")).await.unwrap();
    assert!(matches!(delivery.state, DeliveryState::Sent { .. }), "{delivery:?}");
    assert_eq!((first.message_id.as_str(), first.attempt), (delivery.message_id.as_str(), 1));
    let (report, patient) = (first.report.clone().unwrap(), first.patient.clone().unwrap());
    assert_eq!(report.status(), v1::ReportStatus::Final);
    assert_eq!(
        (report.findings.as_str(), report.impression.as_str()),
        ("Report 1.\nNothing acute.", "Normal.")
    );
    assert_eq!((report.reader_id.as_str(), report.studies[0].study_instance_uid.as_str()), ("anna", "1.2.1"));
    assert_eq!(report.sha256.len(), 32);
    assert_eq!(
        (patient.authority, patient.patient_id, patient.name, patient.birth_date, patient.sex),
        ("NORTH".into(), "P1".into(), "IVANOVA^ANNA".into(), "19700101".into(), "F".into())
    );
    assert_eq!((first.accession_number.as_str(), first.replaces), ("A1", 0));
    assert_eq!(first.procedure.as_ref().unwrap().description, "CT thorax");

    // The correction waits for what it corrects.
    let shown = tell(&running, &first, accepted("")).await.unwrap();
    assert_eq!(shown.state(), v1::DeliveryState::ApplicationAccepted);
    let correction = next(&mut stream).await;
    assert_eq!(key_of(&correction), delivery_key(1, 2, "portal"));
    assert_eq!(
        (correction.report.as_ref().unwrap().status(), correction.replaces),
        (v1::ReportStatus::Correction, 1)
    );
    // And what is signed later comes later.
    tell(&running, &other, accepted("")).await.unwrap();
    bench.sign(2, 2).await;
    assert_eq!(key_of(&next(&mut stream).await), delivery_key(2, 2, "portal"));

    // Said again, nothing changes; who has seen it may be said later, and once.
    let seq = |all: &[isocenter_store::table::Stored<Delivery>]| all[0].head.seq;
    let before = seq(&bench.deliveries().await);
    tell(&running, &first, accepted("")).await.unwrap();
    assert_eq!(seq(&bench.deliveries().await), before);
    let contradiction = tell(&running, &first, refused("UNKNOWN_PATIENT")).await.unwrap_err();
    assert_eq!(contradiction.code(), Code::FailedPrecondition);
    let viewed = tell(&running, &first, accepted("dr.7@portal")).await.unwrap();
    assert_eq!((viewed.state(), viewed.viewed_by.as_str()), (v1::DeliveryState::Viewed, "dr.7@portal"));
    let viewed = tell(&running, &first, accepted("another")).await.unwrap();
    assert_eq!(viewed.viewed_by, "dr.7@portal");
    assert_eq!(bench.lanes().await.len(), 2, "those of the two reports under way");
    running.until_counted(r#"isocenter_report_delivery_attempts_total{outcome="accepted"} 2"#).await;
}

#[tokio::test]
async fn what_a_stream_leaves_comes_again_at_once_under_the_same_id_at_another_process() {
    let bench = portal().await;
    for case in 1..=3 {
        bench.case(case, &["portal"]).await;
        bench.sign(case, 1).await;
    }
    let (one, two) = (bench.serve(config()), bench.serve(config()));
    let mut ids = BTreeSet::new();
    let mut stream = open(&one, 0).await;
    for _ in 1..=3 {
        ids.insert(next(&mut stream).await.message_id);
    }
    // While the first stream has them, the other process hands out only what is new.
    let mut other = open(&two, 0).await;
    bench.case(4, &["portal"]).await;
    bench.sign(4, 1).await;
    let new = tokio::select! {
        message = next(&mut stream) => message,
        message = next(&mut other) => message,
    };
    assert_eq!(key_of(&new), delivery_key(4, 1, "portal"));
    tell(&two, &new, accepted("")).await.unwrap();
    drop(stream);
    let mut again = BTreeSet::new();
    for _ in 1..=3 {
        let message = next(&mut other).await;
        assert_eq!(message.attempt, 2);
        again.insert(message.message_id.clone());
        tell(&two, &message, accepted("")).await.unwrap();
    }
    assert_eq!(again, ids);
    assert_eq!(bench.lanes().await, []);
}

#[tokio::test]
async fn what_a_killed_process_has_handed_out_comes_again_when_its_claim_is_over() {
    let bench = portal().await;
    bench.case(1, &["portal"]).await;
    bench.sign(1, 1).await;
    let short = Config { acknowledge_within: Period(Duration::from_millis(300)), ..config() };
    let killed = bench.serve(short.clone());
    let first = next(&mut open(&killed, 0).await).await;
    drop(killed);
    let running = bench.serve(short);
    let mut stream = open(&running, 0).await;
    let mut again = next(&mut stream).await;
    assert_eq!(again.message_id, first.message_id);
    assert!(again.attempt > 1);
    // The acknowledgement of the first handing out counts, whenever it comes.
    tell(&running, &first, accepted("")).await.unwrap();
    bench.sign(1, 2).await;
    while key_of(&again) == delivery_key(1, 1, "portal") {
        again = next(&mut stream).await;
    }
    assert_eq!(key_of(&again), delivery_key(1, 2, "portal"));
}

#[tokio::test]
async fn several_streams_share_the_work_and_a_window_bounds_each() {
    let bench = portal().await;
    let (one, two) = (bench.serve(config()), bench.serve(config()));
    let (mut left, mut right) = (open(&one, 2).await, open(&two, 3).await);
    for case in 1..=8 {
        bench.case(case, &["portal"]).await;
        bench.sign(case, 1).await;
    }
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push((next(&mut left).await, &one));
    }
    for _ in 0..3 {
        held.push((next(&mut right).await, &two));
    }
    let sent = || async {
        let all = bench.deliveries().await;
        all.iter().filter(|d| matches!(d.record.state, DeliveryState::Sent { .. })).count()
    };
    wait_for("every delivery to be made", LONG, || async { bench.deliveries().await.len() == 8 }).await;
    assert_eq!(sent().await, 5, "more is claimed than the windows have room for");
    // The other one's report may be acknowledged here.
    for (message, _) in &held {
        tell(&one, message, accepted("")).await.unwrap();
    }
    for _ in 0..3 {
        let message = tokio::select! {
            message = next(&mut left) => message,
            message = next(&mut right) => message,
        };
        tell(&two, &message, accepted("")).await.unwrap();
        held.push((message, &two));
    }
    let ids: BTreeSet<_> = held.iter().map(|(message, _)| message.message_id.clone()).collect();
    assert_eq!(ids.len(), 8, "each went to one stream, once");
}

#[tokio::test]
async fn what_the_receiver_refuses_holds_its_accession_until_it_is_replayed() {
    let bench = portal().await;
    bench.case(1, &["portal"]).await;
    bench.sign(1, 1).await;
    bench.sign(1, 2).await;
    let running = bench.serve(config());
    let mut stream = open(&running, 0).await;
    let first = next(&mut stream).await;
    for bad in ["", "unknown patient Ivanova", "x"] {
        assert_eq!(tell(&running, &first, refused(bad)).await.unwrap_err().code(), Code::InvalidArgument);
    }
    for _ in 0..2 {
        let shown = tell(&running, &first, refused("UNKNOWN_PATIENT")).await.unwrap();
        assert_eq!(shown.state(), v1::DeliveryState::DeadLetter);
        assert_eq!(shown.last_error, "receiver refused it: UNKNOWN_PATIENT");
    }
    // Another accession goes on, and comes after whatever this one might have brought by now.
    bench.case(2, &["portal"]).await;
    bench.sign(2, 1).await;
    assert_eq!(key_of(&next(&mut stream).await), delivery_key(2, 1, "portal"));
    let replay = v1::ReplayDeliveryRequest {
        report_id: report_key(1, 1).read.to_string(),
        version: 1,
        destination_id: "portal".into(),
        request_id: "again".into(),
    };
    running.client.clone().replay_delivery(crate::call(replay, Role::Operator)).await.unwrap();
    let again = next(&mut stream).await;
    assert_eq!((again.message_id.as_str(), again.attempt), (first.message_id.as_str(), 1));
    tell(&running, &again, accepted("")).await.unwrap();
    assert_eq!(key_of(&next(&mut stream).await), delivery_key(1, 2, "portal"));
}

#[tokio::test]
async fn reports_are_for_the_destination_itself_and_for_nobody_else() {
    let bench = portal().await;
    let _ris = bench.receiver("ris").await;
    bench.case(1, &["portal"]).await;
    bench.sign(1, 1).await;
    let running = bench.serve(config());
    let message = next(&mut open(&running, 0).await).await;
    let mut client = running.client.clone();
    let strangers = [
        by("ris", ()).extensions().clone(),
        crate::call((), Role::Operator).extensions().clone(),
        crate::call((), Role::Reader("anna".parse().unwrap())).extensions().clone(),
        crate::call((), Role::Vendor("opacity".parse().unwrap())).extensions().clone(),
    ];
    for extensions in strangers {
        let from = |extensions: &tonic::Extensions| (tonic::metadata::MetadataMap::new(), extensions.clone());
        let (metadata, shown) = from(&extensions);
        let refusal = client.watch_reports(Request::from_parts(metadata, shown, watch(0))).await.unwrap_err();
        assert_eq!(refusal.code(), Code::PermissionDenied, "{extensions:?}");
        let (metadata, shown) = from(&extensions);
        let call = Request::from_parts(metadata, shown, said(&message, accepted("")));
        assert_eq!(client.acknowledge_report(call).await.unwrap_err().code(), Code::PermissionDenied);
    }
    assert_eq!(client.watch_reports(Request::new(watch(0))).await.unwrap_err().code(), Code::Unauthenticated);
    let mut code = async |call| client.watch_reports(call).await.unwrap_err().code();
    assert_eq!(code(by("portal", watch(257))).await, Code::InvalidArgument);
    let ris = v1::WatchReportsRequest { destination_id: "ris".into(), max_unacknowledged: 0 };
    assert_eq!(code(by("ris", ris)).await, Code::FailedPrecondition);
    let wrong = v1::ReportMessage { message_id: "another".into(), ..message.clone() };
    assert_eq!(tell(&running, &wrong, accepted("")).await.unwrap_err().code(), Code::InvalidArgument);
    let name = "ivanova anna";
    assert_eq!(tell(&running, &message, accepted(name)).await.unwrap_err().code(), Code::InvalidArgument);
    let mut unknown = message.clone();
    unknown.report.as_mut().unwrap().version = 7;
    assert_eq!(tell(&running, &unknown, accepted("")).await.unwrap_err().code(), Code::NotFound);
    assert!(bench.delivery(&key_of(&message)).await.unwrap().settled().eq(&false));
}

#[tokio::test]
async fn a_destination_has_so_many_streams_and_no_more() {
    let bench = portal().await;
    bench.register_via("archive", Via::Grpc).await;
    let running = bench.serve(config());
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(open(&running, 1).await);
    }
    let mut client = running.client.clone();
    let refusal = client.watch_reports(by("portal", watch(1))).await.unwrap_err();
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    let other = v1::WatchReportsRequest { destination_id: "archive".into(), max_unacknowledged: 1 };
    let _other = client.watch_reports(by("archive", other)).await.unwrap();
    streams.pop();
    let again = || async { running.client.clone().watch_reports(by("portal", watch(1))).await.is_ok() };
    wait_for("the place of a stream that ended", LONG, again).await;
}

#[tokio::test]
async fn a_receiver_that_does_not_read_holds_nothing_and_one_that_never_comes_is_for_a_person() {
    let bench = portal().await;
    for case in 1..=6 {
        bench.case(case, &["portal"]).await;
        bench.sign(case, 1).await;
    }
    let quick = Config { acknowledge_within: Period(Duration::from_millis(200)), ..config() };
    let running = bench.serve(quick);
    let unread = open(&running, 0).await;
    running.until_counted("isocenter_report_delivery_watches 1").await;
    running.until_counted("isocenter_report_delivery_watches 0").await;
    let claimed = bench.deliveries().await.iter().filter(|d| d.record.attempts > 0).count();
    assert!(claimed < 6, "{claimed} claimed for a caller who does not read");
    drop((unread, running));
    let give_up = Config { dead_letter_after: Period(Duration::from_millis(100)), ..config() };
    let _running = bench.serve(give_up);
    for case in 1..=6 {
        let reason = bench.until_dead(&delivery_key(case, 1, "portal")).await;
        assert!(reason.starts_with("given up"), "{reason}");
    }
}
