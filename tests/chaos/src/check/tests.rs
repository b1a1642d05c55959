//! Each check finds what is planted, and nothing in a history in which all is well.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use isocenter_domain::{
    Time,
    document::Event,
    id::{CaseId, ReadId, ReaderId, SiteId, StudyUid, TenantId},
    key::{self, DeliveryKey, HoldingKey, ReadKey, RecordKey, ReportKey, StudyKey},
    record::{
        delivery::{Delivery, DeliveryState},
        read::{Holding, Read, ReadKind, ReadState},
        report::{Report, ReportKind, StudyRevision},
        study::{Evidence as Grounds, Study, StudyState},
    },
    refs::{Digest, Ref},
};
use isocenter_wire::record::{self as wire, Head, LEVEL, Stored};

use super::{Invariant, all};
use crate::{
    evidence::{Evidence, Line, Message, TENANT},
    record::{Deed, Op, Outcome},
    witness::Change,
};

const LEADER: &str = "leader/reader-assignment";

/// A history in the making, and all that goes with it.
#[derive(Clone, Default)]
struct Story {
    evidence: Evidence,
    revision: u64,
    seqs: BTreeMap<String, u64>,
}

/// One change within a transaction: a record's key, its new value if any, and the event.
type Put = (String, Option<Box<dyn Fn(&Head) -> Vec<u8>>>, &'static str);

fn tenant() -> TenantId {
    TENANT.parse().unwrap()
}

fn study_uid() -> StudyUid {
    StudyUid::new("1.2.3").unwrap()
}

fn reader(name: &str) -> ReaderId {
    ReaderId::new(name).unwrap()
}

fn read_id() -> ReadId {
    ReadId { case: CaseId::of(&tenant(), &study_uid()), n: 1 }
}

fn read_key() -> ReadKey {
    ReadKey { tenant: tenant(), read: read_id() }
}

fn report_key(version: u32) -> ReportKey {
    ReportKey { tenant: tenant(), read: read_id(), version }
}

fn delivery_key() -> DeliveryKey {
    DeliveryKey { report: report_key(1), destination: "north".parse().unwrap() }
}

fn record<K: RecordKey, R: Stored + Clone + 'static>(key: &K, record: R, event: &'static str) -> Put {
    (key::text(key), Some(Box::new(move |head: &Head| wire::encode(head, &record))), event)
}

fn gone<K: RecordKey>(key: &K, event: &'static str) -> Put {
    (key::text(key), None, event)
}

fn study(state: StudyState) -> Study {
    let north: SiteId = "north".parse().unwrap();
    let mut study = Study::receiving(north, "NORTH".parse().unwrap(), Time(1));
    study.state = state;
    study
}

fn complete() -> StudyState {
    StudyState::Complete { evidence: Grounds::QuietPeriod, doubt: None }
}

fn read(state: ReadState) -> Read {
    Read { state, ..Read::waiting(ReadKind::Primary, Time(1)) }
}

fn offered(to: &str) -> ReadState {
    ReadState::Offered { reader: reader(to), until: Time(9) }
}

fn revision() -> Vec<StudyRevision> {
    vec![StudyRevision { study: study_uid(), revision: 1 }]
}

fn open(by: &str) -> ReadState {
    ReadState::Open { reader: reader(by), token: "t1".to_owned(), since: Time(2), studies: revision() }
}

fn signed(by: &str) -> ReadState {
    ReadState::Signed { reader: reader(by), at: Time(3), version: 1, studies: revision() }
}

fn holding(by: &str, open: bool) -> Put {
    let key = HoldingKey { tenant: tenant(), reader: reader(by) };
    record(&key, Holding { open: open.then(read_id), ..Holding::default() }, "changed")
}

fn report(request: &str) -> Report {
    Report {
        kind: ReportKind::Final,
        body: Digest([1; 32]),
        author: reader("r0"),
        signed_at: Time(3),
        studies: revision(),
        replaces: None,
        about: None,
        request_id: request.to_owned(),
    }
}

fn delivery(state: DeliveryState, message_id: &str) -> Delivery {
    Delivery {
        state,
        message_id: message_id.to_owned(),
        kind: ReportKind::Final,
        accession: Ref([1; 16]),
        signed_at: Time(3),
        attempts: 0,
        since: Time(3),
    }
}

impl Story {
    /// A change of something that is no record.
    fn raw(&mut self, key: &str, value: Option<&str>) {
        self.revision += 1;
        self.push(key.to_owned(), value.map(|value| Bytes::from(value.to_owned())));
    }

    fn push(&mut self, key: String, value: Option<Bytes>) {
        let seen = Duration::from_millis(self.revision);
        self.evidence.history.changes.push(Change { revision: self.revision, key, value, seen });
    }

    /// A transaction of records with their events, which the records database takes too.
    fn commit(&mut self, puts: Vec<Put>) {
        self.revision += 1;
        let op_id = format!("op{}", self.revision);
        for (key, value, event) in puts {
            let seq = self.seqs.get(&key).copied().unwrap_or(0) + 1;
            self.seqs.insert(key.clone(), seq);
            let head = Head { level: LEVEL, seq, op_id: op_id.clone(), ..Head::default() };
            let told = Event {
                key: key.clone(),
                seq,
                event: event.to_owned(),
                actor: String::new(),
                reason: String::new(),
                at: Time(1),
                op_id: op_id.clone(),
                trace: String::new(),
            };
            self.push(key.clone(), value.map(|value| value(&head).into()));
            self.push(format!("outbox/00/{key}/{seq:020}"), Some(wire::encode_event(&told).into()));
            let ord = i64::try_from(self.revision).unwrap();
            self.evidence.lines.push(Line { key, seq, op_id: op_id.clone(), event: event.to_owned(), ord });
        }
    }

    fn op(&mut self, deed: Deed, outcome: Outcome) {
        let at = Duration::from_millis(self.revision);
        self.evidence.ops.push(Op { deed, invoked: at, returned: at, outcome });
    }

    fn found(&self) -> Vec<Invariant> {
        let mut found: Vec<_> = all(&self.evidence).into_iter().map(|v| v.invariant).collect();
        found.dedup();
        found
    }
}

fn store(instance: &str, data_set: &str) -> Deed {
    Deed::Store {
        study: study_uid().to_string(),
        instance: instance.to_owned(),
        data_set: data_set.to_owned(),
    }
}

fn sign(request: &str) -> Deed {
    Deed::Sign { read: read_id().to_string(), reader: "r0".to_owned(), request: request.to_owned() }
}

/// A study is received and read.
fn until_signed() -> Story {
    let mut story = Story { revision: 1, ..Story::default() };
    let study_key = StudyKey { tenant: tenant(), study: study_uid() };
    story.raw("meta/epoch", Some("1"));
    story.op(store("1.2.3.1", "aa"), Outcome::Ok(String::new()));
    story.commit(vec![record(&study_key, study(StudyState::Receiving), "received")]);
    story.commit(vec![record(&study_key, study(complete()), "completed")]);
    story.raw(LEADER, Some("127.0.0.1:1"));
    story.commit(vec![record(&read_key(), read(ReadState::Waiting), "created")]);
    story.commit(vec![record(&read_key(), read(offered("r0")), "offered")]);
    story.commit(vec![record(&read_key(), read(open("r0")), "opened"), holding("r0", true)]);
    story.commit(vec![
        record(&read_key(), read(signed("r0")), "signed"),
        holding("r0", false),
        record(&report_key(1), report("q1"), "signed"),
    ]);
    story.op(sign("q1"), Outcome::Ok(format!("{}/1", read_id())));
    story.evidence.instances.insert("aa".to_owned(), 1);
    let named = [("1.2.3.1".to_owned(), "aa".to_owned())].into();
    story.evidence.manifests.insert(study_uid().to_string(), named);
    story.evidence.stages.insert(study_uid().to_string(), "delivered".to_owned());
    story
}

/// Received, read and delivered, without a fault.
fn whole() -> Story {
    let mut story = until_signed();
    let put = |state, event| record(&delivery_key(), delivery(state, "m1"), event);
    story.commit(vec![put(DeliveryState::Pending, "created")]);
    story.commit(vec![put(DeliveryState::Sent { until: Time(9) }, "claimed")]);
    story.commit(vec![put(DeliveryState::ApplicationAccepted { at: Time(8) }, "accepted")]);
    story.evidence.received.push(Message { id: "m1".to_owned() });
    story
}

#[test]
fn where_all_is_well_nothing_is_found() {
    let violations = all(&whole().evidence);
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn an_acknowledged_instance_that_is_lost_is_found() {
    let mut story = whole();
    story.evidence.instances.clear();
    assert_eq!(story.found(), [Invariant::Kept]);
    let mut story = whole();
    story.evidence.manifests.clear();
    assert_eq!(story.found(), [Invariant::Kept], "a file that no manifest names is lost too");
    let mut story = whole();
    story.op(store("1.2.3.2", "bb"), Outcome::Unknown(String::new()));
    assert_eq!(story.found(), [], "what was not acknowledged may be lost");
    story.op(store("1.2.3.2", "bb"), Outcome::Ok(String::new()));
    assert_eq!(story.found(), [Invariant::Kept]);
}

#[test]
fn a_study_without_an_end_or_with_two_is_found() {
    let mut story = whole();
    story.evidence.stages.clear();
    assert_eq!(story.found(), [Invariant::OneEnd]);
    let mut story = whole();
    story.evidence.stages.insert(study_uid().to_string(), "waiting-for-reader".to_owned());
    assert_eq!(story.found(), [Invariant::OneEnd]);
    let mut story = whole();
    story.commit(vec![record(&report_key(1), report("q2"), "signed")]);
    assert_eq!(story.found(), [Invariant::OneEnd], "a version written twice");
}

#[test]
fn a_life_that_leaps_is_found() {
    let mut story = whole();
    let put = record(&read_key(), read(ReadState::Waiting), "lapsed");
    story.commit(vec![put]);
    assert_eq!(story.found(), [Invariant::Lives], "nothing follows a signature");
    let mut story = whole();
    story.seqs.insert(key::text(&read_key()), 9);
    story.commit(vec![record(&read_key(), read(signed("r0")), "touched")]);
    assert!(story.found().contains(&Invariant::Lives), "a change is missing");
    let mut story = whole();
    let head = Head { level: LEVEL, seq: 5, ..Head::default() };
    story.revision += 1;
    let value = wire::encode(&head, &read(signed("r0")));
    story.push(key::text(&read_key()), Some(value.into()));
    assert!(story.found().contains(&Invariant::Lives), "a change without its event");
}

#[test]
fn an_offer_without_a_leader_and_an_epoch_that_goes_back_are_found() {
    let mut story = Story { revision: 1, ..Story::default() };
    story.commit(vec![record(&read_key(), read(ReadState::Waiting), "created")]);
    story.raw(LEADER, Some("a"));
    story.raw(LEADER, None);
    story.commit(vec![record(&read_key(), read(offered("r0")), "offered")]);
    assert_eq!(story.found(), [Invariant::Fenced]);
    let mut story = whole();
    story.raw("meta/epoch", Some("2"));
    assert_eq!(story.found(), []);
    story.raw("meta/epoch", Some("1"));
    assert_eq!(story.found(), [Invariant::Fenced]);
}

#[test]
fn a_read_in_two_hands_is_found() {
    let mut story = Story { revision: 1, ..Story::default() };
    story.raw(LEADER, Some("a"));
    story.commit(vec![record(&read_key(), read(ReadState::Waiting), "created")]);
    story.commit(vec![record(&read_key(), read(offered("r0")), "offered")]);
    story.commit(vec![record(&read_key(), read(open("r0")), "opened"), holding("r0", true)]);
    assert_eq!(story.found(), []);
    let mut twice = story.clone();
    twice.commit(vec![
        record(&read_key(), read(open("r1")), "opened"),
        holding("r1", true),
        holding("r0", false),
    ]);
    assert_eq!(twice.found(), [Invariant::OneReader]);
    let mut both = story.clone();
    both.commit(vec![holding("r1", true)]);
    assert_eq!(both.found(), [Invariant::OneReader], "two hold one read");
    let mut other = story;
    other.commit(vec![record(&read_key(), read(signed("r1")), "signed"), holding("r0", false)]);
    assert_eq!(other.found(), [Invariant::OneReader], "signed by another");
}

#[test]
fn records_that_tell_otherwise_are_found() {
    let mut lost = whole();
    lost.evidence.lines.pop();
    assert_eq!(lost.found(), [Invariant::Records]);
    let mut twice = whole();
    let line = twice.evidence.lines[0].clone();
    twice.evidence.lines.insert(0, Line { op_id: "another".to_owned(), ..line });
    assert_eq!(twice.found(), [Invariant::Records]);
    let mut swapped = whole();
    let of_read = key::text(&read_key());
    let of_read: Vec<_> =
        (0..swapped.evidence.lines.len()).filter(|n| swapped.evidence.lines[*n].key == of_read).collect();
    swapped.evidence.lines.swap(of_read[0], of_read[1]);
    assert_eq!(swapped.found(), [Invariant::Records]);
    let mut invented = whole();
    invented.evidence.lines[0].key = "study/00/default/9.9".to_owned();
    assert_eq!(invented.found(), [Invariant::Records]);
}

#[test]
fn a_report_that_is_lost_or_doubled_is_found() {
    let mut lost = whole();
    lost.evidence.received.clear();
    assert_eq!(lost.found(), [Invariant::OneMessage]);
    let mut twice = whole();
    twice.evidence.received.push(Message { id: "m1".to_owned() });
    assert_eq!(twice.found(), [Invariant::OneMessage]);
    let mut strange = whole();
    strange.evidence.received.push(Message { id: "m2".to_owned() });
    assert_eq!(strange.found(), [Invariant::OneMessage]);
    assert_eq!(until_signed().found(), [Invariant::OneMessage], "nobody was to deliver it");
    let mut renamed = until_signed();
    renamed.commit(vec![record(&delivery_key(), delivery(DeliveryState::Pending, "m0"), "created")]);
    renamed.commit(vec![record(
        &delivery_key(),
        delivery(DeliveryState::Sent { until: Time(9) }, "m1"),
        "claimed",
    )]);
    renamed.commit(vec![record(
        &delivery_key(),
        delivery(DeliveryState::ApplicationAccepted { at: Time(8) }, "m1"),
        "accepted",
    )]);
    renamed.evidence.received.push(Message { id: "m1".to_owned() });
    assert_eq!(renamed.found(), [Invariant::OneMessage]);
}

#[test]
fn an_answer_that_is_not_true_is_found() {
    let mut untrue = whole();
    untrue.op(sign("q2"), Outcome::Ok(format!("{}/2", read_id())));
    assert_eq!(untrue.found(), [Invariant::Answers], "told signed, and there is no report");
    let mut refused = whole();
    refused.evidence.ops.retain(|op| !matches!(op.deed, Deed::Sign { .. }));
    refused.op(sign("q1"), Outcome::Failed("refused".to_owned()));
    assert_eq!(refused.found(), [Invariant::Answers], "told refused, and there is a report");
    refused.op(sign("q1"), Outcome::Unknown(String::new()));
    assert_eq!(refused.found(), [], "an answer that was lost may have been done");
    let mut opened = whole();
    let deed = Deed::Open { read: read_id().to_string(), reader: "r0".into(), request: "q3".into() };
    opened.op(deed, Outcome::Ok("another token".to_owned()));
    assert_eq!(opened.found(), [Invariant::Answers]);
    let mut next = whole();
    let deed = Deed::Next { reader: "r1".into(), request: "q4".into() };
    next.op(deed, Outcome::Ok(read_id().to_string()));
    assert_eq!(next.found(), [Invariant::Answers]);
}

#[test]
fn processes_that_see_differently_are_found() {
    let mut story = whole();
    let view = |state: &str| BTreeMap::from([("1.2.3".to_owned(), state.to_owned())]);
    story.evidence.views.insert("studies of a".to_owned(), view("delivered"));
    story.evidence.views.insert("studies of b".to_owned(), view("delivered"));
    story.evidence.views.insert("reads of a".to_owned(), view("signed"));
    assert_eq!(story.found(), []);
    story.evidence.views.insert("studies of b".to_owned(), view("reported"));
    assert_eq!(story.found(), [Invariant::Views]);
}

#[test]
fn what_a_closed_study_leaves_behind_is_found() {
    let mut story = whole();
    let study_key = StudyKey { tenant: tenant(), study: study_uid() };
    for n in 0..story.evidence.history.changes.len() {
        // What the archive has journaled it removes.
        let key = story.evidence.history.changes[n].key.clone();
        if key.starts_with("outbox/") {
            story.raw(&key, None);
        }
    }
    story.commit(vec![gone(&study_key, "closed")]);
    let left = story.evidence.history.changes.last().unwrap().key.clone();
    assert_eq!(story.found(), [Invariant::Closed], "its last event");
    story.raw(&left, None);
    assert_eq!(story.found(), []);
    story.raw("intake/00/default/1.2.3/node", Some("x"));
    assert!(story.found().contains(&Invariant::Closed));
}

#[test]
fn what_others_have_found_is_passed_on() {
    let mut story = whole();
    story.evidence.history.faults.push("revision 7 follows 5".to_owned());
    story.evidence.differences.push("a study is not routed".to_owned());
    story.evidence.deaths.push("archive-0 ended".to_owned());
    assert_eq!(story.found(), [Invariant::Revisions, Invariant::Reconciled, Invariant::Alive]);
}
