//! Reports as they go out, judged by a parser that nobody here wrote.

use hl7_parser::message::Separators;
use isocenter_domain::{Phi, Time, id::StudyUid};
use isocenter_hl7::{
    message::{
        AddendumStyle, BuildError, Coded, Endpoint, Hd, Interpreter, Oru, Patient, PatientClass,
        PatientIdentifier, PersonName, ReportStatus, Sex, TextStyle, Visit,
    },
    parse_message,
};
use proptest::prelude::*;

/// 2026-01-02T00:04:05Z.
const WRITTEN: Time = Time(1_767_312_245_000_000);

fn phi(text: &str) -> Phi<String> {
    Phi::new(text.to_owned())
}

fn report() -> Oru {
    Oru {
        sender: Endpoint { application: Hd::local("ISOCENTER"), facility: Hd::local("CENTER") },
        receiver: Endpoint { application: Hd::local("EMR"), facility: Hd::local("NORTH") },
        written_at: WRITTEN,
        control_id: "ABCDEFGHIJKLMNOPQRST".to_owned(),
        utc_offset_minutes: 180,
        patient: Patient {
            identifiers: vec![PatientIdentifier {
                value: phi("7|7"),
                authority: Hd {
                    namespace_id: "NORTH".to_owned(),
                    universal_id: "1.2.3".to_owned(),
                    universal_id_type: "ISO".to_owned(),
                },
                type_code: "PI".to_owned(),
            }],
            name: Phi::new(PersonName::from_dicom("Иванова^Анна^^DR^=Ivanova^Anna")),
            birth_date: phi("19700131"),
            sex: Phi::new(Sex::from_dicom("F ")),
        },
        visit: None,
        placer_order_number: Some(phi("P1")),
        filler_order_number: phi("ACC-1"),
        service: Coded {
            code: "CT-CHEST".to_owned(),
            text: "CT & contrast".to_owned(),
            system: "L".to_owned(),
        },
        observed_at: Some(WRITTEN.minus(std::time::Duration::from_secs(3600))),
        reported_at: WRITTEN,
        status: ReportStatus::Final,
        parent: None,
        interpreter: Interpreter { id: "r1".to_owned(), family: "Wu".to_owned(), given: "Li".to_owned() },
        studies: vec![StudyUid::new("1.2.840.1").unwrap()],
        findings: phi("Two lines:\r\n2^3 ~ 8 | fine\n"),
        impression: phi("Норма"),
        text_style: TextStyle::Formatted,
    }
}

#[test]
fn a_report_is_written_as_the_standard_orders_it() {
    let expected = [
        r"MSH|^~\&|ISOCENTER|CENTER|EMR|NORTH|20260102030405+0300||ORU^R01^ORU_R01|ABCDEFGHIJKLMNOPQRST|P|2.5.1||||||UNICODE UTF-8",
        r"PID|1||7\F\7^^^NORTH&1.2.3&ISO^PI||Иванова^Анна^^^DR||19700131|F",
        r"ORC|RE|P1|ACC-1",
        r"OBR|1|P1|ACC-1|CT-CHEST^CT \T\ contrast^L|||20260102020405+0300|||||||||||||||20260102030405+0300|||F|||||||r1&Wu&Li",
        r"OBX|1|ST|113014^DICOM Study^DCM||1.2.840.1||||||O",
        r"OBX|2|FT|59776-5^Procedure Findings^LN||Two lines:\.br\2\S\3 \R\ 8 \F\ fine||||||F",
        r"OBX|3|FT|19005-8^Procedure Impression^LN||Норма||||||F",
        "",
    ];
    assert_eq!(report().build().unwrap(), expected.join("\r"));
}

#[test]
fn visits_lines_and_several_studies_have_their_place() {
    let mut oru = report();
    oru.visit = Some(Visit {
        class: PatientClass::Emergency,
        point_of_care: "ER".to_owned(),
        visit_number: phi("V9"),
    });
    oru.text_style = TextStyle::Lines;
    oru.impression = phi("  ");
    oru.studies.push(StudyUid::new("1.2.840.2").unwrap());
    oru.utc_offset_minutes = -210;
    oru.parent = Some(phi("ACC^1"));
    oru.status = ReportStatus::Addendum(AddendumStyle::Appended);
    let text = oru.build().unwrap();
    for line in [
        "PV1|1|E|ER||||||||||||||||V9",
        r"OBR|1|P1|ACC-1|CT-CHEST^CT \T\ contrast^L|||20260101193405-0330|||||||||||||||20260101203405-0330|||F||||^ACC\S\1|||r1&Wu&Li",
        "OBX|1|ST|113014^DICOM Study^DCM|1|1.2.840.1||||||O",
        "OBX|2|ST|113014^DICOM Study^DCM|2|1.2.840.2||||||O",
        r"OBX|3|TX|59776-5^Procedure Findings^LN||Two lines:~2\S\3 \R\ 8 \F\ fine||||||B",
    ] {
        assert!(text.split('\r').any(|l| l == line), "{line} is not in {text}");
    }
    assert!(text.contains("|20260101203405-0330|"), "{text}");
    assert!(!text.contains("19005-8"), "an empty impression has no OBX");
}

#[test]
fn what_each_version_is_can_be_told_from_both_statuses() {
    use AddendumStyle::{Appended, CumulativeCorrection, CumulativeFinal};
    use ReportStatus::{Addendum, Correction, Final, NotObtainable, Preliminary, Retraction};
    for (status, obr_25, obx_11) in [
        (Preliminary, "P", "P"),
        (NotObtainable, "X", "X"),
        (Final, "F", "F"),
        (Addendum(CumulativeFinal), "F", "F"),
        (Addendum(CumulativeCorrection), "C", "C"),
        (Addendum(Appended), "F", "B"),
        (Correction, "C", "C"),
        (Retraction, "X", "W"),
    ] {
        let text = Oru { status, ..report() }.build().unwrap();
        let message = hl7_parser::Message::parse(&text).unwrap();
        assert_eq!(message.query("OBR.25").unwrap().raw_value(), obr_25);
        assert_eq!(message.query("OBX[2].11").unwrap().raw_value(), obx_11);
        assert_eq!(message.query("OBX[1].11").unwrap().raw_value(), "O");
    }
}

#[test]
fn what_the_standard_requires_is_not_left_out() {
    type Spoil = fn(&mut Oru);
    let faults: [(&str, Spoil); 9] = [
        ("MSH-10", |o| o.control_id.clear()),
        ("MSH-10", |o| o.control_id.push('U')),
        ("PID-3", |o| o.patient.identifiers.clear()),
        ("OBR-3", |o| o.filler_order_number = phi("")),
        ("OBR-4", |o| o.service = Coded::default()),
        ("OBR-32", |o| o.interpreter.id.clear()),
        ("OBX-5 of 113014", |o| o.studies.clear()),
        ("OBX-5 of 59776-5", |o| o.findings = phi(&"ж".repeat(65_537))),
        ("MSH-7", |o| o.utc_offset_minutes = 1440),
    ];
    for (field, spoil) in faults {
        let mut oru = report();
        spoil(&mut oru);
        assert_eq!(oru.build().unwrap_err().field, field);
    }
    let silent = Oru { findings: phi("\n"), impression: phi(""), ..report() };
    assert_eq!(silent.build(), Err(BuildError { field: "OBX-5", why: "says nothing" }));
}

#[test]
fn what_a_modality_got_wrong_does_not_keep_a_report_back() {
    let mut oru = report();
    oru.patient.birth_date = phi("31.01.1970");
    oru.patient.name = Phi::new(PersonName::from_dicom("^^"));
    let text = oru.build().unwrap();
    assert!(text.contains("||^^^^^^U|||F\r"), "{text}");
    assert_eq!(PersonName::from_dicom("=王^小東=").family, "王");
}

#[test]
fn nothing_of_the_patient_is_printed() {
    let shown = format!("{:?}", report());
    for secret in ["Иванова", "7|7", "ACC-1", "Норма", "1970"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

proptest! {
    /// Whatever a value says, it stays one value of its field, for our reader and for another.
    #[test]
    fn no_text_escapes_from_its_field(
        name in "\\PC{0,12}|[|^&~\\\\\r\n\"\u{0}-\u{1f}]{0,8}",
        findings in any::<String>(),
        lines in any::<bool>(),
    ) {
        let mut oru = report();
        oru.patient.name = Phi::new(PersonName { family: name.clone(), given: "G".to_owned(), ..PersonName::default() });
        oru.findings = Phi::new(findings.clone());
        oru.text_style = if lines { TextStyle::Lines } else { TextStyle::Formatted };
        let text = oru.build().unwrap();
        prop_assert!(text.chars().all(|c| c == '\r' || !c.is_ascii_control()));

        let told = !findings.trim().is_empty();
        let names = ["MSH", "PID", "ORC", "OBR", "OBX", "OBX", "OBX"];
        let names = &names[..if told { 7 } else { 6 }];
        let judge = hl7_parser::Message::parse(&text).unwrap();
        prop_assert_eq!(judge.segments().map(|s| s.name).collect::<Vec<_>>(), names);
        prop_assert_eq!(judge.query("PID.5.2").unwrap().raw_value(), "G");
        prop_assert_eq!(judge.query("PID.8").unwrap().raw_value(), "F");

        let ours = parse_message(text.as_bytes()).unwrap();
        prop_assert_eq!(ours.component("PID", 1, 5, 1).unwrap().into_revealed(), name);
        if told {
            let sent = findings.replace("\r\n", "\n").replace('\r', "\n");
            let sent = sent.trim_end_matches('\n');
            let read: Vec<String> =
                ours.repetitions("OBX", 2, 5).into_iter().map(Phi::into_revealed).collect();
            prop_assert_eq!(read.join("\n"), sent);
        }
    }

    /// The other parser decodes what we escape, as far as it can: it slices bytes by counts of characters, so ASCII.
    #[test]
    fn another_decoder_reads_what_is_escaped(value in "[ -~\r\n]{0,64}") {
        prop_assume!(value != "\"\"");
        let escaped = isocenter_hl7::text::escape(&value);
        prop_assert_eq!(Separators::default().decode(&escaped).to_string(), value.clone());
        let theirs = Separators::default().encode(&value).to_string();
        prop_assert_eq!(isocenter_hl7::text::unescape(&theirs, isocenter_hl7::text::Delimiters::STANDARD), value);
    }

    #[test]
    fn every_value_survives_escaping(value in any::<String>()) {
        let escaped = isocenter_hl7::text::escape(&value);
        prop_assert_eq!(isocenter_hl7::text::unescape(&escaped, isocenter_hl7::text::Delimiters::STANDARD), value);
    }
}
