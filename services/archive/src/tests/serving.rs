//! The calls, and the whole service.

use std::time::Duration;

use isocenter_domain::{
    access::Role,
    key::text,
    record::{
        intake::Intake,
        report::{Report, ReportKind},
        study::Study,
    },
};
use isocenter_runtime::config::Period;
use isocenter_wire::v1::{self, archive_server::Archive as _};
use tonic::{Code, Request};

use super::fixture::{Fixture, Given, asked, asked_as, intake_key, read_key, report_key};
use crate::{Config, Service};

fn given(uid: &'static str, authority: &'static str, patient: &'static str, date: &'static str) -> Given {
    Given { uid, authority, patient, date }
}

async fn priors(fixture: &Fixture, uid: &str) -> Vec<String> {
    let request = v1::ListPriorsRequest { study_instance_uid: uid.into() };
    let answer = fixture.rpc().list_priors(asked(request)).await.unwrap().into_inner();
    answer.studies.into_iter().map(|study| study.study_instance_uid).collect()
}

#[tokio::test]
async fn priors_are_of_the_same_patient_of_the_same_authority_newest_first() {
    let fixture = Fixture::new().await;
    for study in [
        given("1.1", "north", "P1", "20200101"),
        given("1.2", "north", "P1", "20240101"),
        given("1.3", "south", "P1", "20230101"),
        given("1.4", "north", "P2", "20230101"),
        given("1.5", "north", "", "20230101"),
        given("1.6", "north", "", "20230102"),
    ] {
        fixture.complete(&study).await;
    }
    fixture.drain().await;
    // The present study need not be in the records yet.
    fixture.complete(&given("1.9", "north", "P1", "20260101")).await;
    assert_eq!(priors(&fixture, "1.9").await, ["1.2", "1.1"]);
    assert_eq!(priors(&fixture, "1.2").await, ["1.1"]);
    assert_eq!(priors(&fixture, "1.3").await, Vec::<String>::new());
    assert_eq!(priors(&fixture, "1.5").await, Vec::<String>::new(), "no id is nobody's id");
    let unknown = v1::ListPriorsRequest { study_instance_uid: "9.9".into() };
    assert_eq!(fixture.rpc().list_priors(asked(unknown)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn studies_are_found_by_what_is_asked_page_by_page() {
    let fixture = Fixture::new().await;
    for study in [
        given("1.1", "north", "P1", "20200101"),
        given("1.2", "north", "P2", "20240101"),
        given("1.3", "south", "P1", "20230101"),
    ] {
        fixture.complete(&study).await;
        fixture.clock.advance(Duration::from_secs(1));
    }
    fixture.drain().await;
    let rpc = fixture.rpc();
    let search = async |request: v1::SearchStudiesRequest| {
        let answer = rpc.search_studies(asked(request)).await.unwrap().into_inner();
        let uids: Vec<String> = answer.studies.into_iter().map(|s| s.study_instance_uid).collect();
        (uids, answer.next_page_token)
    };
    let two = v1::SearchStudiesRequest { page_size: 2, ..Default::default() };
    let (first, page_token) = search(two.clone()).await;
    assert_eq!(first, ["1.3", "1.2"]);
    assert_eq!(
        search(v1::SearchStudiesRequest { page_token, ..two }).await,
        (vec!["1.1".into()], String::new())
    );
    let patient = v1::SearchStudiesRequest {
        patient_id: "P1".into(),
        patient_authority: "north".into(),
        ..Default::default()
    };
    assert_eq!(search(patient.clone()).await.0, ["1.1"]);
    let accession = v1::SearchStudiesRequest { accession_number: "A-P2".into(), ..Default::default() };
    assert_eq!(search(accession).await.0, ["1.2"]);
    let none = v1::SearchStudiesRequest { modality: "MR".into(), ..Default::default() };
    assert_eq!(search(none).await.0, Vec::<String>::new());
    let ct = v1::SearchStudiesRequest { modality: "CT".into(), ..Default::default() };
    assert_eq!(search(ct).await.0.len(), 3);

    let bare = v1::SearchStudiesRequest { patient_authority: String::new(), ..patient.clone() };
    assert_eq!(rpc.search_studies(asked(bare)).await.unwrap_err().code(), Code::InvalidArgument);
    let bad = v1::SearchStudiesRequest { page_token: "!".into(), ..Default::default() };
    assert_eq!(rpc.search_studies(asked(bad)).await.unwrap_err().code(), Code::InvalidArgument);
    let vendor = Role::Vendor("opacity".parse().unwrap());
    let denied = rpc.search_studies(asked_as(patient.clone(), vendor)).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let nobody = rpc.search_studies(Request::new(patient)).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_report_is_the_same_live_and_closed() {
    let fixture = Fixture::new().await;
    let key = fixture.delivered(&Given::default()).await;
    let rpc = fixture.rpc();
    let request = v1::GetReportRequest { report_id: read_key(&key).read.to_string(), version: 0 };
    let live = rpc.get_report(asked(request.clone())).await.unwrap().into_inner();
    assert_eq!((live.findings.as_str(), live.version, live.status()), ("clear", 1, v1::ReportStatus::Final));
    assert_eq!(live.studies.len(), 1);
    fixture.drain().await;
    fixture.clock.advance(Duration::from_secs(7_200));
    fixture.closer().consider(&key).await.unwrap();
    assert!(fixture.load::<Study>(&key).await.is_none());
    let closed = rpc.get_report(asked(request.clone())).await.unwrap().into_inner();
    assert_eq!(closed, live);
    let second = v1::GetReportRequest { version: 2, ..request };
    assert_eq!(rpc.get_report(asked(second)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_report_that_is_withheld_is_shown_to_operators_alone_and_an_opinion_names_what_it_is_on() {
    let fixture = Fixture::new().await;
    let key = fixture.delivered(&Given::default()).await;
    let request = || v1::GetReportRequest { report_id: read_key(&key).read.to_string(), version: 0 };
    let rpc = fixture.rpc();
    let reader = || Role::Reader("boris".parse().unwrap());
    let about = |report: Report| Report { about: Some(7), ..report };
    fixture.update::<Report>(&report_key(&key), "signed", about).await;
    let shown = rpc.get_report(asked_as(request(), reader())).await.unwrap().into_inner();
    assert_eq!(shown.about_report_id, format!("{}.7", read_key(&key).read.case));
    let withheld = |report: Report| Report { kind: ReportKind::Withheld, ..report };
    fixture.update::<Report>(&report_key(&key), "signed", withheld).await;
    for role in [reader(), Role::Network] {
        let denied = rpc.get_report(asked_as(request(), role)).await.unwrap_err();
        assert_eq!(denied.code(), Code::PermissionDenied);
    }
    let shown = rpc.get_report(asked_as(request(), Role::Operator)).await.unwrap().into_inner();
    assert_eq!(shown.status(), v1::ReportStatus::Withheld);
}

#[tokio::test]
async fn events_are_listed_page_by_page_with_those_of_the_case() {
    let fixture = Fixture::new().await;
    let key = fixture.delivered(&Given::default()).await;
    fixture.drain().await;
    let rpc = fixture.rpc();
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let study_instance_uid = key.study.to_string();
        let request = v1::ListEventsRequest { study_instance_uid, page_size: 3, page_token };
        let answer = rpc.list_events(asked(request)).await.unwrap().into_inner();
        seen.extend(answer.events.into_iter().map(|event| (event.key, event.seq)));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let mut distinct = seen.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!((distinct.len(), seen.len()), (10, 10), "{seen:?}");
    assert!(seen.contains(&(text(&read_key(&key)), 2)));
}

#[tokio::test]
async fn who_had_a_read_in_hand_is_told_to_operators_alone() {
    let fixture = Fixture::new().await;
    let key = fixture.delivered(&Given::default()).await;
    fixture.drain().await;
    let rpc = fixture.rpc();
    let known = async |role: Role| {
        let study_instance_uid = key.study.to_string();
        let request = v1::ListEventsRequest { study_instance_uid, ..v1::ListEventsRequest::default() };
        let events = rpc.list_events(asked_as(request, role)).await.unwrap().into_inner().events;
        let of = |kind: &str| {
            let kind = format!("{kind}/");
            events.iter().filter(|event| event.key.starts_with(&kind)).all(|event| !event.actor.is_empty())
        };
        (of("study"), of("read"), of("report"))
    };
    assert_eq!(known(Role::Operator).await, (true, true, true));
    assert_eq!(known(Role::Reader("boris".parse().unwrap())).await, (true, false, false));
}

#[tokio::test]
async fn the_service_journals_closes_and_reopens_by_itself() {
    let fixture = Fixture::new().await;
    let zero = Period(Duration::ZERO);
    let config =
        Config { journal_interval: zero, close_after: zero, close_unread_after: zero, ..Config::default() };
    let service = Service::build(config, fixture.deps()).unwrap();
    let mut routes = tonic::service::RoutesBuilder::default();
    service.routes(&mut routes);
    fixture.tasks.essential("archive", service.run());
    let key = fixture.delivered(&Given::default()).await;
    let studies = fixture.mirrors.of::<Study>();
    let mut changes = studies.changes();
    let gone = async {
        while fixture.load::<Study>(&key).await.is_some() {
            // Each look moves the clock: what waits for the journal is looked at a second later.
            fixture.clock.advance(Duration::from_secs(2));
            tokio::task::yield_now().await;
        }
    };
    gone.await;
    fixture.create(&intake_key(&key), &Intake { pending: 1, ..Intake::default() }).await;
    while fixture.load::<Study>(&key).await.is_none() {
        futures::StreamExt::next(&mut changes).await;
    }
    fixture.tasks.drain(Duration::from_secs(5)).await;
    assert!(fixture.tasks.failure().is_none());
}
