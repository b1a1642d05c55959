//! Report delivery over sockets, with a receiver that fails as real ones do.

mod bench;
mod fetched;
mod replicas;
mod tls;

use std::time::Duration;

use bench::{Bench, LONG, config, delivery_key, report_key, tenant};
use isocenter_domain::{
    Time,
    access::{Principal, Role},
    key::{DeliveryKey, LaneKey, ReportKey},
    record::{
        delivery::{Delivery, DeliveryState, Lane},
        report::ReportKind,
    },
    refs::Digest,
};
use isocenter_peers::receiver::{Answer, Receiver};
use isocenter_report_delivery::{Config, plan};
use isocenter_runtime::{
    config::Period,
    random::Seeded,
    telemetry::testing::{Finished, TestSpans},
};
use isocenter_store::{faulty::Faults, table::Cause};
use isocenter_testkit::wait_for;
use isocenter_wire::v1;
use tonic::{Code, Request};

/// For tests that count attempts: no answer is late, however busy the machine is.
fn unhurried() -> Config {
    Config { hl7_ack_timeout: Period(Duration::from_secs(20)), ..config() }
}

/// What a receiver took, as control id and text.
fn taken(receiver: &Receiver) -> Vec<(String, String)> {
    let text = |raw: &[u8]| String::from_utf8(raw.to_vec()).unwrap();
    receiver.received().iter().map(|m| (m.control_id.clone(), text(m.raw.reveal()))).collect()
}

fn call<T>(message: T, role: Role) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Principal { subject: "cn=olga".into(), tenant: tenant(), role });
    request
}

#[tokio::test]
async fn a_signed_report_goes_to_every_destination_as_an_oru() {
    let spans = TestSpans::install();
    let bench = Bench::new().await;
    let (ris, emr) = (bench.receiver("ris").await, bench.receiver("emr").await);
    bench.case(1, &["ris", "emr"]).await;
    let running = bench.serve(unhurried());
    bench.sign(1, 1).await;
    for name in ["ris", "emr"] {
        let delivery = bench.until_accepted(&delivery_key(1, 1, name)).await;
        assert_eq!(delivery.attempts, 1);
    }
    let (id, text) = taken(&ris).remove(0);
    assert_eq!(id, bench.delivery(&delivery_key(1, 1, "ris")).await.unwrap().message_id);
    assert_ne!(id, taken(&emr)[0].0);
    for part in [
        "|ISOCENTER|t|RIS|RIS|",
        "PID|1||P1^^^NORTH^PI||IVANOVA^ANNA||19700101|F\r",
        "ORC|RE||A1\r",
        "OBR|1||A1|^CT thorax|",
        "|||F|||||||anna\r",
        "OBX|1|ST|113014^DICOM Study^DCM||1.2.1||||||O\r",
        "||Report 1.~Nothing acute.||||||F\r",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    assert_eq!(bench.lanes().await, []);
    running.until_counted(r#"isocenter_report_delivery_attempts_total{outcome="accepted"} 2"#).await;
    let is_accepted = |s: &Finished| s.attributes.get("outcome").is_some_and(|o| o == "accepted");
    let accepted = || spans.of(&bench.trace).into_iter().filter(is_accepted).collect::<Vec<_>>();
    wait_for("both spans", LONG, || async { accepted().len() == 2 }).await;
    assert!(accepted().iter().all(|s| s.name == "deliver report" && s.parent.is_some()));
}

#[tokio::test]
async fn a_correction_waits_for_the_report_it_corrects() {
    let bench = Bench::new().await;
    let ris = bench.receiver("ris").await;
    ris.set_answer(Answer::AnswerAe(Some(207)));
    bench.case(1, &["ris"]).await;
    bench.sign(1, 1).await;
    bench.sign(1, 2).await;
    let _running = bench.serve(config());
    let error = bench.until_retrying(&delivery_key(1, 1, "ris")).await;
    assert_eq!(error, "receiver answered AE, error 207");
    assert_eq!(bench.delivery(&delivery_key(1, 2, "ris")).await.unwrap().attempts, 0);
    ris.set_answer(Answer::Accept);
    bench.until_accepted(&delivery_key(1, 2, "ris")).await;
    let texts: Vec<String> = taken(&ris).into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts.len(), 2);
    assert!(texts[0].contains("||Report 1.~") && texts[0].contains("||||||F\r"), "{texts:?}");
    assert!(texts[1].contains("||Report 2.~") && texts[1].contains("||||||C\r"), "{texts:?}");
}

#[tokio::test]
async fn a_preliminary_report_goes_as_such_unless_its_final_one_is_there_before_it_has_left() {
    let bench = Bench::new().await;
    let ris = bench.receiver("ris").await;
    ris.set_answer(Answer::AnswerAe(Some(207)));
    for case in [1, 2] {
        bench.case(case, &["ris"]).await;
    }
    let to_ris = |report: ReportKey| DeliveryKey { report, destination: "ris".parse().unwrap() };
    let unsent = to_ris(bench.sign_version(1, 1, 1, ReportKind::Preliminary, None).await);
    let _running = bench.serve(config());
    bench.until_retrying(&unsent).await;
    let made_final = to_ris(bench.sign_version(1, 1, 2, ReportKind::Final, None).await);
    bench.until(&unsent, "superseded", |state| matches!(state, DeliveryState::Superseded { .. })).await;
    ris.set_answer(Answer::Accept);
    bench.until_accepted(&made_final).await;
    let sent = to_ris(bench.sign_version(2, 1, 1, ReportKind::Preliminary, None).await);
    bench.until_accepted(&sent).await;
    bench.until_accepted(&to_ris(bench.sign_version(2, 1, 2, ReportKind::Final, None).await)).await;
    let texts: Vec<String> = taken(&ris).into_iter().map(|(_, text)| text).collect();
    let statuses = [("Version 2 of 1.", "F"), ("Version 1 of 1.", "P"), ("Version 2 of 1.", "F")];
    assert_eq!(texts.len(), statuses.len(), "{texts:?}");
    for (text, (version, status)) in texts.iter().zip(statuses) {
        assert!(text.contains(&format!("||{version}||||||{status}\r")), "{text:?}");
        assert!(text.contains(&format!("|||{status}|||||||anna\r")), "{text:?}");
    }
}

#[tokio::test]
async fn an_opinion_does_not_take_the_place_of_the_first_report_and_what_is_withheld_stays() {
    let bench = Bench::new().await;
    let ris = bench.receiver("ris").await;
    bench.case(1, &["ris"]).await;
    let _running = bench.serve(config());
    let to_ris = |report: ReportKey| DeliveryKey { report, destination: "ris".parse().unwrap() };
    let withheld = to_ris(bench.sign_version(1, 1, 1, ReportKind::Withheld, None).await);
    bench.until_accepted(&to_ris(bench.sign_version(1, 2, 1, ReportKind::Final, None).await)).await;
    let opinion = bench.sign_version(1, 3, 1, ReportKind::Final, Some(2)).await;
    bench.until_accepted(&to_ris(opinion.clone())).await;
    bench.until_accepted(&to_ris(bench.sign_version(1, 4, 1, ReportKind::NonDiagnostic, None).await)).await;
    assert_eq!(bench.delivery(&withheld).await, None);
    let texts: Vec<String> = taken(&ris).into_iter().map(|(_, text)| text).collect();
    let own = format!("OBR|1||{}|", opinion.read);
    assert!(texts[0].contains("OBR|1||A1|") && texts[1].contains(&own), "{texts:?}");
    assert!(texts[1].contains("|||F||||^A1|||anna\r"), "{texts:?}");
    assert!(texts[2].contains("|||X|||||||anna\r") && texts[2].contains("||||||X\r"), "{texts:?}");
}

#[tokio::test]
async fn what_is_refused_is_a_dead_letter_that_holds_its_lane_until_it_is_replayed() {
    let bench = Bench::new().await;
    let (ris, emr) = (bench.receiver("ris").await, bench.receiver("emr").await);
    ris.set_answer(Answer::AnswerAr(Some(203)));
    emr.set_answer(Answer::AnswerAe(Some(101)));
    bench.case(1, &["ris", "emr"]).await;
    bench.case(2, &["ris"]).await;
    bench.sign(1, 1).await;
    bench.sign(1, 2).await;
    let mut running = bench.serve(config());
    let (first, second) = (delivery_key(1, 1, "ris"), delivery_key(1, 2, "ris"));
    assert_eq!(bench.until_dead(&first).await, "receiver answered AR, error 203");
    assert_eq!(bench.until_dead(&delivery_key(1, 1, "emr")).await, "receiver answered AE, error 101");
    // Another accession goes on, and comes after whatever this one might have sent by now.
    ris.set_answer(Answer::Accept);
    bench.sign(2, 1).await;
    bench.until_accepted(&delivery_key(2, 1, "ris")).await;
    assert_eq!(taken(&ris).len(), 1);
    assert_eq!(bench.delivery(&second).await.unwrap().state, DeliveryState::Pending);

    let id = bench.delivery(&first).await.unwrap().message_id;
    let replay = v1::ReplayDeliveryRequest {
        report_id: report_key(1, 1).read.to_string(),
        version: 1,
        destination_id: "ris".into(),
        request_id: "again".into(),
    };
    let answer =
        running.client.replay_delivery(call(replay.clone(), Role::Operator)).await.unwrap().into_inner();
    assert_eq!((answer.state(), answer.message_id.as_str()), (v1::DeliveryState::Pending, id.as_str()));
    bench.until_accepted(&second).await;
    let ids: Vec<String> = taken(&ris).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids[1..], [id, bench.delivery(&second).await.unwrap().message_id]);

    let other = v1::ReplayDeliveryRequest { request_id: "another".into(), ..replay };
    let refused = running.client.replay_delivery(call(other, Role::Operator)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn whatever_is_lost_on_the_way_it_takes_effect_once_under_one_message_id() {
    let hostile = [Answer::Drip, Answer::Garbage, Answer::OtherMessage];
    let lossy = [Answer::Nothing, Answer::HalfFrame, Answer::CloseBefore, Answer::DropAckAfterCommit];
    for answer in lossy.into_iter().chain(hostile) {
        let bench = Bench::new().await;
        let ris = bench.receiver("ris").await;
        ris.set_answer(answer);
        bench.case(1, &["ris"]).await;
        bench.sign(1, 1).await;
        bench.sign(1, 2).await;
        let _running = bench.serve(config());
        let (first, second) = (delivery_key(1, 1, "ris"), delivery_key(1, 2, "ris"));
        // A message that was committed is answered as before when it comes again, so that its failure soon passes.
        let repeated = !matches!(answer, Answer::Nothing | Answer::CloseBefore);
        if repeated {
            ris.until(|counts| counts.accepted > 0).await;
        } else {
            let error = bench.until_retrying(&first).await;
            assert!(!error.contains("IVANOVA") && !error.contains("Nothing acute"), "{error}");
        }
        ris.set_answer(Answer::Accept);
        bench.until_accepted(&second).await;
        let first = bench.delivery(&first).await.unwrap();
        assert!(first.attempts >= 2, "{answer:?}: {first:?}");
        let ids: Vec<String> = taken(&ris).into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids, [first.message_id, bench.delivery(&second).await.unwrap().message_id], "{answer:?}");
        assert_eq!(ris.counts().duplicates > 0, repeated, "{answer:?}");
    }
}

#[tokio::test]
async fn a_destination_that_is_not_there_yet_loses_nothing() {
    let bench = Bench::new().await;
    bench.case(1, &["ris", "emr"]).await;
    bench.sign(1, 1).await;
    // The port is known and nobody listens there.
    let address = bench.receiver_at("127.0.0.1:0".parse().unwrap()).await.address();
    bench.tasks.drain(Duration::from_secs(5)).await;
    bench.register("emr", address).await;
    let _running = bench.serve(config());
    let (ris, emr) = (delivery_key(1, 1, "ris"), delivery_key(1, 1, "emr"));
    assert_eq!(bench.until_retrying(&ris).await, "destination ris is not registered");
    let error = bench.until_retrying(&emr).await;
    assert!(error.starts_with("could not connect to 127.0.0.1:"), "{error}");

    let tasks = isocenter_runtime::task::Tasks::new();
    let clock = isocenter_runtime::clock::system();
    let receiver = Receiver::start(address, clock, &tasks).await.unwrap();
    bench.register("ris", address).await;
    bench.until_accepted(&ris).await;
    bench.until_accepted(&emr).await;
    assert_eq!(receiver.counts().accepted, 2);
}

#[tokio::test]
async fn a_process_killed_during_an_attempt_is_followed_by_one_that_sends_the_same_message() {
    let bench = Bench::new().await;
    let ris = bench.receiver("ris").await;
    ris.set_answer(Answer::Nothing);
    bench.case(1, &["ris"]).await;
    let killed = bench.serve(config());
    bench.sign(1, 1).await;
    ris.until(|counts| counts.refused > 0).await;
    drop(killed);
    ris.set_answer(Answer::Accept);
    let _next = bench.serve(config());
    let delivery = bench.until_accepted(&delivery_key(1, 1, "ris")).await;
    assert!(delivery.attempts >= 2, "{delivery:?}");
    assert_eq!(taken(&ris).into_iter().map(|(id, _)| id).collect::<Vec<_>>(), [delivery.message_id]);
}

#[tokio::test]
async fn a_claim_left_behind_lapses_and_the_lane_goes_on() {
    let bench = Bench::new().await;
    let ris = bench.receiver("ris").await;
    bench.case(1, &["ris"]).await;
    bench.sign(1, 1).await;
    let dead = bench.serve(unhurried());
    let key = delivery_key(1, 1, "ris");
    bench.until_accepted(&key).await;
    drop(dead);
    // As a process leaves it that dies right after its claim.
    let stored = bench.deliveries().await.remove(0);
    let lane =
        LaneKey { tenant: tenant(), destination: "ris".parse().unwrap(), accession: stored.record.accession };
    let mut change = bench.tables.change(Cause::role("report-delivery"));
    let until = change.now().plus(Duration::from_millis(300));
    let sent = Delivery { state: DeliveryState::Sent { until }, ..stored.record.clone() };
    change.update(&stored, &sent, "claimed");
    change.create_after(&lane, &Lane { in_flight: Some(key.clone()) }, "occupied", "", 1_000);
    change.commit().await.unwrap();

    let running = bench.serve(unhurried());
    let delivery = bench.until_accepted(&key).await;
    assert_eq!((delivery.attempts, ris.counts().duplicates, ris.counts().accepted), (2, 1, 1));
    let DeliveryState::ApplicationAccepted { at } = delivery.state else { panic!("{delivery:?}") };
    assert!(at >= until, "sent while another held the claim");
    assert_eq!(bench.lanes().await, []);
    running.until_counted(r#"attempts_total{outcome="lapsed"} 1"#).await;
}

#[tokio::test]
async fn a_dead_destination_holds_up_nobody_else() {
    let bench = Bench::new().await;
    let (dead, fine) = (bench.receiver("dead").await, bench.receiver("fine").await);
    dead.set_answer(Answer::Nothing);
    for case in 1..=80 {
        bench.case(case, &["dead", "fine"]).await;
        bench.sign(case, 1).await;
    }
    // Long enough that a lane of the dead one stays where it is while the others go.
    let _running = bench.serve(Config { hl7_ack_timeout: Period(Duration::from_secs(30)), ..config() });
    fine.until(|counts| counts.accepted == 80).await;
    dead.until(|counts| counts.refused == 4).await;
    assert_eq!(dead.counts().connections, 4);
}

#[tokio::test]
async fn a_body_that_is_gone_or_damaged_is_for_a_person() {
    let bench = Bench::new().await;
    let ris = bench.receiver("ris").await;
    bench.case(1, &["ris"]).await;
    bench.case(2, &["ris"]).await;
    bench.sign_hash(1, 1, Digest([7; 32])).await;
    let read = report_key(2, 1).read;
    let path = isocenter_blobs::path::report(&tenant(), &read, &Digest([8; 32]));
    bench.blobs.put_new(&path, bytes::Bytes::from_static(b"damaged")).await.unwrap();
    bench.sign_hash(2, 1, Digest([8; 32])).await;
    let _running = bench.serve(config());
    assert_eq!(bench.until_dead(&delivery_key(1, 1, "ris")).await, "the report body is not in blobs");
    assert_eq!(bench.until_dead(&delivery_key(2, 1, "ris")).await, "the report body in blobs is damaged");
    assert_eq!(ris.counts().connections, 0);
}

#[tokio::test]
async fn after_the_schedule_a_delivery_is_given_up() {
    let bench = Bench::new().await;
    let ris = bench.receiver("ris").await;
    ris.set_answer(Answer::CloseBefore);
    bench.case(1, &["ris"]).await;
    bench.sign(1, 1).await;
    let give_up = Config { dead_letter_after: Period(Duration::from_millis(200)), ..config() };
    let _running = bench.serve(give_up);
    let reason = bench.until_dead(&delivery_key(1, 1, "ris")).await;
    assert!(reason.starts_with("given up after "), "{reason}");
    assert!(reason.ends_with("receiver closed the connection before it answered"), "{reason}");
}

#[tokio::test]
async fn two_services_over_one_store_send_each_report_once() {
    let bench = Bench::new().await;
    let ris = bench.receiver("ris").await;
    let _both = (bench.serve(unhurried()), bench.serve(unhurried()));
    for case in 1..=10 {
        bench.case(case, &["ris"]).await;
        bench.sign(case, 1).await;
        bench.sign(case, 2).await;
    }
    for case in 1..=10 {
        bench.until_accepted(&delivery_key(case, 2, "ris")).await;
    }
    let attempts: u32 = bench.deliveries().await.iter().map(|d| d.record.attempts).sum();
    assert_eq!((attempts, ris.counts().accepted, ris.counts().duplicates), (20, 20, 0));
}

#[tokio::test]
async fn deliveries_are_listed_in_pages_to_those_who_may_see_them() {
    let bench = Bench::new().await;
    let _ris = bench.receiver("ris").await;
    for case in 1..=5 {
        bench.case(case, &["ris", "nowhere"]).await;
        bench.sign(case, 1).await;
    }
    let mut running = bench.serve(config());
    for case in 1..=5 {
        bench.until_accepted(&delivery_key(case, 1, "ris")).await;
        bench.until_retrying(&delivery_key(case, 1, "nowhere")).await;
    }
    let all = v1::ListDeliveriesRequest { page_size: 4, ..Default::default() };
    let mut seen = Vec::new();
    let mut asked = all.clone();
    loop {
        let page = running.client.list_deliveries(call(asked, Role::Network)).await.unwrap().into_inner();
        assert!(page.deliveries.len() <= 4);
        seen.extend(page.deliveries.into_iter().map(|d| (d.report_id, d.version, d.destination_id)));
        if page.next_page_token.is_empty() {
            break;
        }
        asked = v1::ListDeliveriesRequest { page_token: page.next_page_token, ..all.clone() };
    }
    assert_eq!(seen.len(), 10);
    assert!(seen.is_sorted(), "{seen:?}");
    let accepted = v1::ListDeliveriesRequest {
        states: vec![v1::DeliveryState::ApplicationAccepted.into()],
        destination_id: "ris".into(),
        ..Default::default()
    };
    // The list is a cache's: what was just accepted is there a moment later.
    wait_for("five accepted in the list", LONG, || async {
        let asked = call(accepted.clone(), Role::Operator);
        let page = running.client.clone().list_deliveries(asked).await.unwrap().into_inner();
        page.deliveries.len() == 5
    })
    .await;

    let vendor = Role::Vendor("opacity".parse().unwrap());
    let denied = running.client.list_deliveries(call(all.clone(), vendor)).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let nobody = running.client.list_deliveries(Request::new(all)).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);
    let replay = v1::ReplayDeliveryRequest { version: 1, ..Default::default() };
    let invalid = running.client.replay_delivery(call(replay.clone(), Role::Operator)).await.unwrap_err();
    assert_eq!(invalid.code(), Code::InvalidArgument);
    let denied = running.client.replay_delivery(call(replay, Role::Network)).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_replay_asked_for_twice_is_done_once() {
    let bench = Bench::new().await;
    let ris = bench.receiver("ris").await;
    bench.case(1, &["ris"]).await;
    bench.sign_hash(1, 1, Digest([7; 32])).await;
    let first = bench.serve(config());
    let key = delivery_key(1, 1, "ris");
    bench.until_dead(&key).await;
    drop(first);
    // Replays are asked of a service that does not send, so that nothing happens between the two.
    let mut client = bench.calls_only();
    let replay = v1::ReplayDeliveryRequest {
        report_id: key.report.read.to_string(),
        version: 1,
        destination_id: "ris".into(),
        request_id: "again".into(),
    };
    let mut seqs = Vec::new();
    for _ in 0..2 {
        let answer = client.replay_delivery(call(replay.clone(), Role::Operator)).await.unwrap();
        assert_eq!(answer.into_inner().state(), v1::DeliveryState::Pending);
        seqs.push(bench.deliveries().await[0].head.seq);
    }
    assert_eq!(seqs[0], seqs[1]);
    let unknown = v1::ReplayDeliveryRequest { version: 9, ..replay };
    let missing = client.replay_delivery(call(unknown, Role::Operator)).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    assert_eq!(ris.counts().connections, 0);
}

#[tokio::test]
async fn a_case_that_gets_a_further_destination_sends_its_reports_there_too() {
    let bench = Bench::new().await;
    let (_ris, emr) = (bench.receiver("ris").await, bench.receiver("emr").await);
    bench.case(1, &["ris"]).await;
    bench.sign(1, 1).await;
    bench.sign(1, 2).await;
    let _running = bench.serve(config());
    bench.until_accepted(&delivery_key(1, 2, "ris")).await;
    bench.add_destination(1, "emr").await;
    bench.until_accepted(&delivery_key(1, 2, "emr")).await;
    let texts: Vec<String> = taken(&emr).into_iter().map(|(_, text)| text).collect();
    assert!(texts[0].contains("||Report 1.~") && texts[1].contains("||Report 2.~"), "{texts:?}");
}

#[tokio::test]
async fn messages_are_the_same_bytes_on_every_attempt() {
    let bench = Bench::new().await;
    let listener = isocenter_hl7::mllp::Listener::bind("127.0.0.1:0", 1 << 20).await.unwrap();
    bench.register("ris", listener.local_addr().unwrap()).await;
    bench.case(1, &["ris"]).await;
    bench.sign(1, 1).await;
    let _running = bench.serve(config());
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let (mut connection, _) = listener.accept().await.unwrap();
        seen.push(connection.receive().await.unwrap().expect("a message before the end"));
        // A commit answer alone is no acceptance; then the connection ends.
        let header = isocenter_hl7::parse_message(&seen[0]).unwrap();
        let commit = isocenter_hl7::AckCode::CommitAccept;
        let answer = isocenter_hl7::ack::ack_for(header.header(), commit, "R1", Time(0), None).unwrap();
        connection.reply(&answer).await.unwrap();
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
    let stored = bench.deliveries().await.remove(0);
    assert!(!stored.record.settled());
    assert_eq!(plan::lane_of(&stored.key, &stored.record).destination.as_str(), "ris");
}

#[tokio::test]
async fn a_store_that_loses_requests_answers_and_watches_changes_nothing_for_the_receiver() {
    let rng = Seeded::fresh();
    let seed = rng.seed();
    let bench = Bench::new().await;
    let ris = bench.receiver("ris").await;
    let faults = Faults {
        timeout_before: 0.05,
        timeout_after: 0.1,
        conflict: 0.05,
        cut_watch: 0.05,
        ..Faults::default()
    };
    let quick = Config { hl7_ack_timeout: Period(Duration::from_millis(100)), ..config() };
    let (_running, store) = bench.serve_faulty(quick, faults, rng).await;
    for case in 1..=8 {
        bench.case(case, &["ris"]).await;
        for n in 1..=3 {
            bench.sign(case, n).await;
        }
    }
    let what = format!("half of the reports (seed {seed})");
    wait_for(&what, LONG, || async { ris.counts().accepted >= 12 }).await;
    store.set(Faults::default());
    for case in 1..=8 {
        bench.until_accepted(&delivery_key(case, 3, "ris")).await;
    }
    let ids: Vec<String> = taken(&ris).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), 24, "seed {seed}");
    for case in 1..=8 {
        let mut places = Vec::new();
        for n in 1..=3 {
            let id = bench.delivery(&delivery_key(case, n, "ris")).await.unwrap().message_id;
            places.push(ids.iter().position(|taken| *taken == id));
        }
        assert!(
            places.iter().all(Option::is_some) && places.is_sorted(),
            "seed {seed}, case {case}: {places:?}"
        );
    }
}
