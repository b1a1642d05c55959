//! What happened, as the archive and the record system tell it, and whether it may have happened.

use std::collections::BTreeMap;

use isocenter_domain::id::StudyUid;
use isocenter_testkit::wait_for;
use isocenter_wire::v1::{self, archive_client::ArchiveClient, report_delivery_client::ReportDeliveryClient};
use tonic::Status;

use crate::{
    calls::persist,
    world::{PATIENCE, Sim},
};

/// A message that the record system has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// MSH-10.
    pub message_id: String,
    /// OBR-25: F or C.
    pub status: String,
}

/// The committed messages, oldest first.
pub fn delivered(sim: &Sim) -> Vec<Delivered> {
    let read = |received: isocenter_peers::receiver::Received| {
        let message = isocenter_hl7::parse_message(received.raw.reveal()).unwrap();
        let status = message.component("OBR", 1, 25, 1).unwrap().into_revealed();
        Delivered { message_id: received.control_id, status }
    };
    sim.receiver.received().into_iter().map(read).collect()
}

/// Their statuses, in order.
pub fn statuses(sim: &Sim) -> Vec<String> {
    delivered(sim).into_iter().map(|message| message.status).collect()
}

/// A signed report; version 0 is the newest.
pub async fn report(sim: &Sim, report_id: &str, version: u32) -> Result<v1::Report, Status> {
    let client = ArchiveClient::new(sim.channel());
    let request = v1::GetReportRequest { report_id: report_id.to_owned(), version };
    persist("GetReport", || {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.get_report(request).await }
    })
    .await
}

/// The revision of the one study that a report names.
pub fn revision(report: &v1::Report) -> u32 {
    assert_eq!(report.studies.len(), 1);
    report.studies[0].revision
}

/// Everything that happened to a study, oldest first.
pub async fn events(sim: &Sim, study: &StudyUid) -> Vec<v1::Event> {
    let client = ArchiveClient::new(sim.channel());
    let mut events = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListEventsRequest {
            study_instance_uid: study.to_string(),
            page_size: 0,
            page_token: page_token.clone(),
        };
        let page = persist("ListEvents", || {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.list_events(request).await }
        });
        let page = page.await.unwrap();
        events.extend(page.events);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return events;
        }
    }
}

/// What the archive knows of a study.
pub async fn archived(sim: &Sim, study: &StudyUid) -> Option<v1::ArchivedStudy> {
    let client = ArchiveClient::new(sim.channel());
    let request = v1::SearchStudiesRequest { page_size: 1000, ..v1::SearchStudiesRequest::default() };
    let found = persist("SearchStudies", || {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.search_studies(request).await }
    });
    found.await.unwrap().studies.into_iter().find(|found| found.study_instance_uid == study.as_str())
}

/// Waits until the comparison of received, routed, read and delivered finds no difference.
pub async fn until_reconciled(sim: &Sim) {
    let client = ArchiveClient::new(sim.channel());
    let last = std::sync::Mutex::new(Vec::new());
    let clean = tokio::time::timeout(
        PATIENCE,
        wait_for("no difference", PATIENCE * 2, || async {
            let found = persist("Reconcile", || {
                let mut client = client.clone();
                async move { client.reconcile(v1::ReconcileRequest::default()).await }
            });
            let differences = found.await.unwrap().differences;
            let clean = differences.is_empty();
            *last.lock().unwrap() = differences;
            clean
        }),
    );
    assert!(clean.await.is_ok(), "reconcile still finds {:#?}", last.lock().unwrap());
}

/// Every live delivery.
pub async fn deliveries(sim: &Sim) -> Vec<v1::Delivery> {
    let client = ReportDeliveryClient::new(sim.channel());
    let request = v1::ListDeliveriesRequest { page_size: 1000, ..v1::ListDeliveriesRequest::default() };
    let listed = persist("ListDeliveries", || {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.list_deliveries(request).await }
    });
    listed.await.unwrap().deliveries
}

/// Waits until the archive tells of `signed` signed reads of these studies, and checks that each of their reads was in one
/// reader's hands at a time and signed once.
pub async fn until_legal(sim: &Sim, studies: &[&StudyUid], signed: usize) {
    let found = std::sync::Mutex::new(0);
    let told = tokio::time::timeout(
        PATIENCE,
        wait_for("the events", PATIENCE * 2, || async {
            let mut sum = 0;
            for study in studies {
                sum += legal(&events(sim, study).await);
            }
            *found.lock().unwrap() = sum;
            sum >= signed
        }),
    );
    drop(told.await);
    assert_eq!(*found.lock().unwrap(), signed, "signed reads that the archive tells of");
}

/// Checks what happened to the reads of a study; returns how many are signed.
fn legal(events: &[v1::Event]) -> usize {
    let mut reads: BTreeMap<&str, BTreeMap<u64, &str>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.key.starts_with("read/")) {
        let twice = reads.entry(&event.key).or_default().insert(event.seq, &event.event);
        assert_eq!(twice, None, "an event is told twice");
    }
    let mut signed = 0;
    for (key, events) in reads {
        let mut state = "absent";
        for (nth, (seq, name)) in (1..).zip(&events) {
            assert_eq!(nth, *seq, "{key}: an event is missing in {events:?}");
            state = match (state, *name) {
                ("absent", "created" | "discrepancy") => "waiting",
                ("waiting", "offered") => "offered",
                ("offered", "lapsed") | ("offered" | "open", "returned" | "reassigned") => "waiting",
                ("offered" | "open", "opened") => "open",
                ("open", "signed") | ("closed", "reopened") => "signed",
                ("signed", "closed") => "closed",
                (state @ ("waiting" | "offered" | "open"), "draft-kept") => state,
                (state, name) => panic!("{key}: {name} while {state}, in {events:?}"),
            };
        }
        signed += usize::from(matches!(state, "signed" | "closed"));
    }
    signed
}
