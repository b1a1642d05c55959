//! What the simulator is given to replay.

use std::time::Duration;

use isocenter_domain::{
    Time,
    access::Role,
    id::{CaseId, ReadId},
    key::{ReadKey, StudyKey},
    record::{
        ai_task::{AiAnswer, AiTask, AiTaskState},
        case::Case,
        plan::Reading,
        read::{Read, ReadEvent, ReadKind, ReturnReason, SuspendReason},
    },
    refs::Digest,
};
use isocenter_runtime::clock::Clock as _;
use isocenter_wire::{
    timestamp,
    v1::{self, archive_server::Archive as _},
};
use tonic::Code;

use super::fixture::{Fixture, Given, ai_key, asked, asked_as, case_id, case_key, read_key};

const MINUTE: Duration = Duration::from_secs(60);

fn given(uid: &'static str) -> Given {
    Given { uid, patient: "PATIENT-7", ..Given::default() }
}

/// Everything, in pages of `page_size` studies: the arrivals, and the answers as text.
async fn arrivals(fixture: &Fixture, page_size: i32) -> (v1::ListArrivalsResponse, String) {
    let (from, to) = (Some(timestamp(Time::ZERO)), Some(timestamp(fixture.clock.now().plus(MINUTE))));
    let mut all = v1::ListArrivalsResponse::default();
    let mut text = String::new();
    loop {
        let page_token = std::mem::take(&mut all.next_page_token);
        let request = v1::ListArrivalsRequest { from, to, page_size, page_token };
        let page = fixture.rpc().list_arrivals(asked(request)).await.unwrap().into_inner();
        text += &format!("{:?} {:?}\n", page.arrivals, page.left_out);
        all.arrivals.extend(page.arrivals);
        all.left_out.extend(page.left_out);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return (all, text);
        }
    }
}

/// A study with a case and what AI says of it, which waits.
async fn waiting(fixture: &Fixture, uid: &'static str) -> StudyKey {
    let key = fixture.complete(&given(uid)).await;
    fixture.plan(&key, Reading::Case(case_id(&key))).await;
    fixture.create(&case_key(&key), &fixture.case(&key)).await;
    fixture.create(&ai_key(&key), &fixture.task()).await;
    fixture.create(&read_key(&key), &Read::waiting(ReadKind::Primary, fixture.clock.now())).await;
    key
}

/// The event happens to the read a minute after what happened before.
async fn happens(fixture: &Fixture, key: &ReadKey, event: ReadEvent) {
    fixture.clock.advance(MINUTE);
    let now = fixture.clock.now();
    let name = event.name();
    fixture.update::<Read>(key, name, |read| read.transition(event, now).unwrap().0).await;
}

fn opened(reader: &str) -> ReadEvent {
    let token = format!("token-{reader}");
    ReadEvent::OpenedByName { reader: reader.parse().unwrap(), token, studies: Vec::new() }
}

fn suspended(reader: &str, until: Time) -> ReadEvent {
    let (reader, token) = (reader.parse().unwrap(), format!("token-{reader}"));
    ReadEvent::Suspended { reader, token, reason: SuspendReason::Interrupted, until }
}

fn returned(reader: &str) -> ReadEvent {
    let (reader, token) = (reader.parse().unwrap(), Some(format!("token-{reader}")));
    ReadEvent::Returned { reader, token, reason: ReturnReason::Interrupted }
}

fn signed(reader: &str) -> ReadEvent {
    ReadEvent::Signed {
        reader: reader.parse().unwrap(),
        token: format!("token-{reader}"),
        version: 1,
        studies: Vec::new(),
        conclusion: None,
        newer_images: false,
    }
}

#[tokio::test]
async fn a_read_is_told_with_its_minutes_and_without_anybody_in_it() {
    let fixture = Fixture::new().await;
    let complete_at = fixture.clock.now();
    let key = waiting(&fixture, "1.2.3.4").await;
    let (read, until) = (read_key(&key), complete_at.plus(60 * MINUTE));
    happens(&fixture, &read, opened("boris")).await;
    happens(&fixture, &read, returned("boris")).await;
    happens(&fixture, &read, opened("anna")).await;
    happens(&fixture, &read, suspended("anna", until)).await;
    let again = ReadEvent::Opened {
        reader: "anna".parse().unwrap(),
        token: "token-anna".into(),
        studies: Vec::new(),
    };
    happens(&fixture, &read, again).await;
    happens(&fixture, &read, signed("anna")).await;
    fixture.drain().await;
    let (all, text) = arrivals(&fixture, 0).await;
    let expected = v1::Arrival {
        complete_at: Some(timestamp(complete_at)),
        site_id: "north".into(),
        class: super::fixture::CLASS.into(),
        modalities: vec!["CT".into()],
        body_part: "HEAD".into(),
        abnormal_probability: Some(7e-6),
        reading: Some(isocenter_wire::duration(2 * MINUTE)),
    };
    assert_eq!((all.arrivals, all.left_out), (vec![expected], Vec::new()));
    for somebody in ["PATIENT-7", "A-PATIENT", "1.2.3.4", "anna", "boris", case_id(&key).as_str()] {
        assert!(!text.contains(somebody), "{somebody} in {text}");
    }
}

#[tokio::test]
async fn pages_have_every_study_once_and_say_what_they_leave_out() {
    let fixture = Fixture::new().await;
    for uid in ["1.1", "1.2", "1.3"] {
        // Two of them at the same instant.
        let key = waiting(&fixture, uid).await;
        if uid == "1.2" {
            fixture.clock.advance(MINUTE);
            let second = ReadKey { read: ReadId { n: 2, ..read_key(&key).read }, ..read_key(&key) };
            fixture.create(&second, &Read::waiting(ReadKind::Consultation, fixture.clock.now())).await;
        }
    }
    let nobody = fixture.complete(&given("1.4")).await;
    fixture.plan(&nobody, Reading::None { rule: "nothing-to-read".into() }).await;
    fixture.complete(&given("1.5")).await;
    // Read together with another study that was complete before, whose case it is; late, and so not what AI ordered it by.
    let beside = fixture.complete(&given("1.7")).await.study;
    fixture.clock.advance(MINUTE);
    let key = fixture.complete(&given("1.6")).await;
    let case: CaseId = case_id(&key);
    fixture.plan(&key, Reading::Case(case)).await;
    let members = vec![key.study.clone(), beside];
    fixture.create(&case_key(&key), &Case { members, ..fixture.case(&key) }).await;
    fixture.create(&read_key(&key), &Read::waiting(ReadKind::Primary, fixture.clock.now())).await;
    let answer = AiAnswer {
        probability_ppm: 9,
        model: String::new(),
        model_version: String::new(),
        result: Digest::of(b"late"),
        at: fixture.clock.now(),
    };
    let late = AiTask { state: AiTaskState::Late(answer), ..fixture.task() };
    fixture.create(&ai_key(&key), &late).await;
    fixture.drain().await;
    let (whole, _) = arrivals(&fixture, 1000).await;
    let (paged, _) = arrivals(&fixture, 2).await;
    assert_eq!(paged.arrivals, whole.arrivals);
    assert_eq!(whole.arrivals.len(), 4);
    assert!(whole.arrivals.iter().all(|arrival| arrival.reading.is_none()));
    let said: Vec<_> = whole.arrivals.iter().map(|arrival| arrival.abnormal_probability.is_some()).collect();
    assert_eq!(said, [true, true, true, false]);
    assert!(whole.left_out.iter().all(|left| left.count == 1));
    let told: Vec<&str> = whole.left_out.iter().map(|left| left.what.as_str()).collect();
    let expected = [
        "further reads: consultation",
        "studies that are not routed yet",
        "studies that are read with another one of their case",
        "studies that nobody reads, by the policy",
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn only_operators_may_ask_and_only_for_a_time_that_there_is() {
    let fixture = Fixture::new().await;
    let request = |from: i64, to: i64| v1::ListArrivalsRequest {
        from: Some(timestamp(Time(from))),
        to: Some(timestamp(Time(to))),
        ..v1::ListArrivalsRequest::default()
    };
    let rpc = fixture.rpc();
    for role in [Role::Network, Role::Reader("boris".parse().unwrap())] {
        let denied = rpc.list_arrivals(asked_as(request(0, 1), role)).await.unwrap_err();
        assert_eq!(denied.code(), Code::PermissionDenied);
    }
    assert!(rpc.list_arrivals(asked(request(0, 1))).await.is_ok());
    let page_token = "!".to_owned();
    let wrong = [
        v1::ListArrivalsRequest::default(),
        request(1, 1),
        v1::ListArrivalsRequest { page_token, ..request(0, 1) },
    ];
    for wrong in wrong {
        let refused = rpc.list_arrivals(asked(wrong)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}
