//! Round trips, and a record from the future.

use std::time::Duration;

use isocenter_domain::{
    Time,
    id::{CaseId, ReadId},
    record::{
        ai_task::{AiAnswer, AiFailure, AiTask, AiTaskState, SkipReason},
        case::{self, Case, CaseState, Urgency},
        delivery::{Delivery, DeliveryState},
        intake::Intake,
        read::{
            Agreement, Change, Conclusion, Holding, Insufficiency, Pair, Preliminary, Read, ReadKind,
            ReadState, Return, ReturnReason, Score, SuspendReason,
        },
        registry::{
            Conflicts, Destination, Entry, Grade, Licence, Overflow, Pool, PoolKind, Reader, Site, Sites,
            Skill, Via,
        },
        report::{Report, ReportKind, StudyRevision},
        roster::{DateException, Hours, Roster, Shift, Span, Weekdays},
        study::{Doubt, Evidence, Facts, Study, StudyState},
    },
    refs::{Digest, Ref},
};
use prost::Message;

use super::*;

fn head() -> Head {
    Head {
        level: LEVEL,
        seq: 7,
        op_id: "op".into(),
        created_at: Time(5),
        updated_at: Time(9),
        trace: "00-trace".into(),
        cell: "cell".into(),
    }
}

fn round_trip<R: Stored>(record: &R) {
    let bytes = encode(&head(), record);
    assert_eq!(decode::<R>(&bytes), Ok((head(), record.clone())));
    assert!(bytes.len() <= 1200, "{} bytes", bytes.len());
}

fn studies() -> Vec<StudyRevision> {
    vec![StudyRevision { study: "1.2.840".parse().unwrap(), revision: 2 }]
}

#[test]
#[expect(clippy::too_many_lines, reason = "one line a field")]
fn every_record_reads_back_and_is_small() {
    let facts = Facts {
        modalities: vec!["CT".into(), "SR".into()],
        body_part: "HEAD".into(),
        patient: Some(Ref([1; 16])),
        images: 40,
        ..Facts::default()
    };
    let doubt = Some(Doubt { node: "n".parse().unwrap(), pending: 3 });
    round_trip(&Study {
        site: "north".parse().unwrap(),
        calling_ae: "CT1".parse().unwrap(),
        state: StudyState::Complete { evidence: Evidence::AssemblyBound, doubt },
        revision: 2,
        first_received_at: Time(1),
        complete_at: Some(Time(2)),
        manifest: Some(Digest([3; 32])),
        facts,
    });
    round_trip(&Intake { stored: 4, pending: 1, segment: Some(Digest([1; 32])), ..Intake::default() });
    round_trip(&Case {
        state: CaseState::Ready,
        members: vec!["1.2".parse().unwrap()],
        site: "north".parse().unwrap(),
        class: "STAT".parse().unwrap(),
        complete_at: Time(4),
        deadline: Duration::from_secs(3600),
        urgency: Urgency { weight: 90, critical: 40, prior_ppm: 200_000, next_up: true },
        orphan_after: Duration::from_secs(300),
        pools: vec!["site:north".parse().unwrap(), "general".parse().unwrap()],
        destinations: vec!["north".parse().unwrap()],
        modalities: vec!["CT".into()],
        body_part: "HEAD".into(),
        patient: None,
        accession: Ref([2; 16]),
        jurisdiction: Some("ru-mow".parse().unwrap()),
        paediatric: true,
        reading: case::Reading { double: true, review_ppm: 50_000 },
        linked: Some(CaseId::of(&"t".parse().unwrap(), &"1.3".parse().unwrap())),
    });
    let mut task = AiTask::requested(Digest([1; 32]), Time(1), Time(2));
    round_trip(&task);
    task.state = AiTaskState::Late(AiAnswer {
        probability_ppm: 999_999,
        model: "m".into(),
        model_version: "1".into(),
        result: Digest([9; 32]),
        at: Time(8),
    });
    round_trip(&task);
    task.failures = 2;
    for why in [
        SkipReason::NotRegistered,
        SkipReason::MayNotReceive,
        SkipReason::NotForModality,
        SkipReason::NotForBodyPart,
        SkipReason::NotForTransferSyntax,
        SkipReason::Unavailable,
    ] {
        round_trip(&AiTask { state: AiTaskState::Skipped { why }, ..task.clone() });
    }
    for failure in [AiFailure::Unavailable, AiFailure::InvalidAnswer, AiFailure::Error, AiFailure::Busy] {
        round_trip(&AiTask { state: AiTaskState::Failed(failure), ..task.clone() });
    }
    let case = CaseId::of(&"t".parse().unwrap(), &"1.2".parse().unwrap());
    let reader: isocenter_domain::id::ReaderId = "anna".parse().unwrap();
    let mut read = Read::waiting(ReadKind::Discrepancy { of: 1, with: None }, Time(3));
    read.returns.push(Return { reader: reader.clone(), reason: ReturnReason::Conflict, at: Time(4) });
    read.drafts.push(Digest([4; 32]));
    read.state =
        ReadState::Open { reader: reader.clone(), token: "t".into(), since: Time(6), studies: studies() };
    round_trip(&read);
    every_read(&reader, &read);
    let hand = |n| ReadId { case: case.clone(), n };
    round_trip(&Holding { offered: None, open: Some(hand(2)), suspended: vec![hand(3), hand(1)] });
    round_trip(&Report {
        kind: ReportKind::Correction,
        body: Digest([5; 32]),
        author: reader,
        signed_at: Time(7),
        studies: studies(),
        replaces: Some(1),
        about: Some(2),
        request_id: "r".into(),
    });
    let viewed = DeliveryState::Viewed { accepted: Time(8), at: Time(9), by: "dr-7".into() };
    round_trip(&Delivery {
        state: viewed,
        message_id: "ABC".into(),
        kind: ReportKind::Final,
        accession: Ref([2; 16]),
        signed_at: Time(7),
        attempts: 1,
        since: Time(7),
    });
    for via in [Via::Mllp("ris:2575".into()), Via::MllpOverTls("[::1]:2575".into()), Via::Grpc] {
        round_trip(&Entry::Destination(Destination {
            via,
            application: "RIS".into(),
            facility: "NORTH".into(),
        }));
    }
    round_trip(&Delivery {
        state: DeliveryState::Retrying { next: Time(9), error: "no answer".into() },
        message_id: "ABC".into(),
        kind: ReportKind::Final,
        accession: Ref([2; 16]),
        signed_at: Time(7),
        attempts: 3,
        since: Time(7),
    });
}

fn span(start: &str, end: &str) -> Span {
    Span { start: start.parse().unwrap(), end: end.parse().unwrap() }
}

#[test]
fn registry_entries_read_back_with_their_rosters() {
    let plain = Reader {
        skills: vec![Skill { modality: "CT".into(), body_part: "*".into() }],
        sites: Sites::Some(vec!["north".parse().unwrap()]),
        pools: vec!["general".parse().unwrap()],
        ..Reader::default()
    };
    round_trip(&Entry::Reader(plain.clone()));
    let night =
        Hours { span: span("20:00", "08:00"), breaks: vec![span("00:30", "01:15"), span("04:00", "04:20")] };
    let exception = |day| DateException {
        date: format!("2026-12-{day:02}").parse().unwrap(),
        hours: vec![night.clone()],
    };
    round_trip(&Entry::Reader(Reader {
        grade: Grade::Resident,
        licences: vec![
            Licence { jurisdiction: "ru-mow".parse().unwrap(), until: Some(Time(7)) },
            Licence { jurisdiction: "kz".parse().unwrap(), until: None },
        ],
        paediatric: true,
        home: Some("north".parse().unwrap()),
        roster: Some(Roster {
            zone: "Asia/Vladivostok".parse().unwrap(),
            shifts: vec![Shift { days: Weekdays::from_bits(0b11).unwrap(), hours: night.clone() }; 14],
            exceptions: (1..=20).map(exception).collect(),
        }),
        share: Some(500),
        capacity: Some(60_000),
        conflicts: Conflicts { patients: vec![Ref([7; 16])], sites: vec!["south".parse().unwrap()] },
        ..plain
    }));
    round_trip(&Entry::Site(Site {
        jurisdiction: Some("ru-mow".parse().unwrap()),
        zone: Some("Europe/Moscow".parse().unwrap()),
        ..Site::default()
    }));
    for kind in [PoolKind::Center, PoolKind::Site, PoolKind::OnCall] {
        let to = "center".parse().unwrap();
        let overflow = Overflow { to, at_percent: 25, predicted_wait: Some(Duration::from_secs(60)) };
        round_trip(&Entry::Pool(Pool { description: "d".into(), kind, overflow: Some(overflow) }));
    }
}

#[test]
fn a_stored_share_above_the_whole_is_damage_and_names_the_field() {
    let case = stored::Case {
        state: 1,
        site: "north".into(),
        class: "STAT".into(),
        accession: vec![2; 16],
        urgency: Some(stored::Urgency { prior_ppm: 1_000_001, ..Default::default() }),
        ..Default::default()
    };
    let body = Some(stored::record::Body::Case(case));
    let bytes = stored::Record { level: LEVEL, body, ..Default::default() }.encode_to_vec();
    let refused = decode::<Case>(&bytes).unwrap_err();
    assert_eq!(refused.to_string(), "stored value is damaged: case.urgency.prior_ppm is more than a million");
}

/// Each state, kind and conclusion of a read.
fn every_read(reader: &isocenter_domain::id::ReaderId, read: &Read) {
    let (reader, token, since, until) = (reader.clone(), "t".to_owned(), Time(6), Time(7));
    let suspended = |reason| ReadState::Suspended {
        reader: reader.clone(),
        token: token.clone(),
        reason,
        since,
        until,
        studies: studies(),
    };
    let insufficient = |reason| ReadState::NonDiagnostic {
        reader: reader.clone(),
        at: since,
        version: 2,
        studies: studies(),
        reason,
        repeat: true,
    };
    let states = [
        ReadState::Waiting,
        ReadState::AwaitingFinal,
        ReadState::Offered { reader: reader.clone(), until },
        suspended(SuspendReason::AwaitingPriors),
        suspended(SuspendReason::AwaitingInformation),
        suspended(SuspendReason::AwaitingAdvice),
        suspended(SuspendReason::Interrupted),
        ReadState::Signed { reader: reader.clone(), at: since, version: 2, studies: studies() },
        insufficient(Insufficiency::Motion),
        insufficient(Insufficiency::Exposure),
        insufficient(Insufficiency::Coverage),
        insufficient(Insufficiency::Artefact),
        insufficient(Insufficiency::Contrast),
        insufficient(Insufficiency::Incomplete),
        insufficient(Insufficiency::WrongExamination),
        ReadState::Cancelled { at: since },
    ];
    for state in states {
        round_trip(&Read { state, ..read.clone() });
    }
    let kinds = [
        ReadKind::Primary,
        ReadKind::Blinded { with: 2 },
        ReadKind::Arbitration { of: 1, with: 2 },
        ReadKind::Discrepancy { of: 1, with: Some(3) },
        ReadKind::SecondOpinion { of: 1 },
        ReadKind::Consultation,
        ReadKind::Review { of: 1 },
    ];
    for kind in kinds {
        round_trip(&Read { kind, ..read.clone() });
    }
    let blinded = |text: &str, pair| Conclusion::Blinded { assessment: text.parse().ok(), pair };
    let conclusions = [
        Conclusion::Final(Change::None),
        Conclusion::Final(Change::Minor),
        Conclusion::Final(Change::Major),
        Conclusion::Opinion(Agreement::Agrees),
        Conclusion::Opinion(Agreement::Disagrees),
        blinded("recall", Pair::First),
        blinded("", Pair::Agreed),
        blinded("BI-RADS-2", Pair::Disagreed),
    ];
    for conclusion in conclusions.into_iter().chain(Score::ALL.map(Conclusion::Review)) {
        round_trip(&Read { conclusion: Some(conclusion), ..read.clone() });
    }
    let preliminary = Some(Preliminary { reader, at: since, version: 1, studies: studies() });
    let (due, question) = (Some(until), Some(Digest([7; 32])));
    round_trip(&Read { preliminary, due, question, request_id: "r".into(), ..read.clone() });
}

/// What a later build would write: a level above ours, a state we do not know, and a field we do not know.
#[test]
fn a_record_from_the_future_is_refused_by_level_and_its_head_is_still_read() {
    let mut bytes = stored::Record {
        level: LEVEL + 1,
        seq: 3,
        body: Some(stored::record::Body::Read(stored::Read { state: 99, ..Default::default() })),
        ..Default::default()
    }
    .encode_to_vec();
    bytes.extend([0xfa, 0x3f, 0x03, b'n', b'e', b'w']); // field 1023, length-delimited
    let refused = decode::<Read>(&bytes).unwrap_err();
    assert_eq!(refused, Undecodable::FromTheFuture { level: LEVEL + 1, ours: LEVEL });
    assert_eq!(decode_head(&bytes).unwrap().seq, 3);
}

#[test]
fn an_unknown_state_at_our_level_is_damage_and_names_the_field() {
    let bytes = stored::Record {
        level: LEVEL,
        body: Some(stored::record::Body::Read(stored::Read { kind: 1, state: 99, ..Default::default() })),
        ..Default::default()
    }
    .encode_to_vec();
    let refused = decode::<Read>(&bytes).unwrap_err();
    assert_eq!(refused.to_string(), "stored value is damaged: read.state 99 is not known");
    assert!(matches!(decode::<Intake>(&bytes), Err(Undecodable::Damaged(_))));
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        drop(decode::<Read>(&bytes));
        drop(decode::<Study>(&bytes));
        drop(decode::<Entry>(&bytes));
    }
}
