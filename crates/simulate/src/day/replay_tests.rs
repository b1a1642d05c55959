use std::collections::BTreeSet;

use super::*;
use crate::random::Random;

fn base() -> Scenario {
    Scenario::shipped("base").expect("shipped")
}

#[test]
fn instants_are_read() {
    assert_eq!(instant("1970-01-01T00:00:00Z"), Some(0));
    assert_eq!(instant("2026-11-22T17:15:00.5Z"), Some(1_795_367_700_500_000));
    assert_eq!(instant("2026-11-22T20:15:00.5+03:00"), Some(1_795_367_700_500_000));
    assert_eq!(instant("2026-11-22T07:45:00.5-09:30"), Some(1_795_367_700_500_000));
    assert_eq!(instant("2024-02-29T00:00:00Z"), Some(1_709_164_800_000_000));
    for bad in [
        "2026-11-22",
        "2026-13-01T00:00:00Z",
        "2026-11-22T17:15:00+3:00",
        "2026-11-22T17:15:00+24:00",
        "2026-11-22T17:15:00",
        "x",
        "\u{fffd}\u{fffd}",
        "2026-11-22T25:00:00Z",
        "2024-02-30T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-11-31T00:00:00Z",
        "2026-+3-01T00:00:00Z",
        "2026-3-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "2026-11-22T17:60:00Z",
        "2026-11-22T17:15:60Z",
        "2026-11-22T17:15:+1Z",
        "2026-11-22T17:15:00.Z",
        "2026-11-22T17:15:00.+5Z",
        "2026-11-22T17:15:00++3:00",
    ] {
        assert_eq!(instant(bad), None, "{bad}");
    }
}

#[test]
fn an_instant_is_written_as_it_is_read() {
    assert_eq!(rfc3339(1_709_164_800_000_000), "2024-02-29T00:00:00Z");
    assert_eq!(rfc3339(1_795_367_700_500_000), "2026-11-22T17:15:00Z");
    let seed = 11;
    let mut random = Random::new(seed, "instants");
    for _ in 0..20_000 {
        // To the year 2500.
        let second = i64::try_from(random.below(16_725_225_600)).expect("small");
        let text = rfc3339(second * 1_000_000);
        assert_eq!(instant(&text), Some(second * 1_000_000), "{text}, seed {seed}");
    }
}

#[test]
fn a_line_is_written_as_it_is_read() {
    let text = r#"{"complete_at":"2026-03-01T08:00:00Z","site":"north","class":"STAT","modality":"CT","body_part":"HEART","probability":0.4,"critical":true,"reading_min":7.25}"#;
    let line: Line = serde_json::from_str(text).expect("as documented");
    assert_eq!(line.json(), text);
    let known =
        Line { body_part: String::new(), probability: None, critical: None, reading_min: None, ..line };
    assert_eq!(
        known.json(),
        r#"{"complete_at":"2026-03-01T08:00:00Z","site":"north","class":"STAT","modality":"CT"}"#
    );
}

#[test]
fn of_several_modalities_the_one_that_takes_longest_is_read() {
    let of = |modalities: &[&str]| {
        read_as(&modalities.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(), "CHEST")
    };
    assert_eq!(of(&["CT", "SR"]).as_deref(), Some("CT"));
    assert_eq!(of(&["KO", "SR"]), None);
    assert_eq!(of(&["CR", "MR"]).as_deref(), Some("MR"));
    assert_eq!(of(&["ZB", "ZA"]).as_deref(), Some("ZA"), "of equals the first");
}

#[test]
fn a_log_takes_the_place_of_the_arrivals() {
    let mut scenario = base();
    let text = r#"{"complete_at":"2026-03-02T23:00:00Z","site":"north","class":"STAT","modality":"CT","body_part":"HEART","reading_min":7}
{"complete_at":"2026-03-01T11:00:00+03:00","site":"center","class":"ROUTINE","modality":"DX","probability":0.4,"critical":true}"#;
    let log = Log::parse(text, &mut scenario).expect("valid");
    assert_eq!((log.studies(), scenario.days), (2, [0, 2, 1]));
    let workload = log.workload(&scenario, 1);
    let (first, second) = (&workload.studies[0], &workload.studies[1]);
    assert_eq!((first.arrived, second.arrived), (8 * HOUR, DAY + 23 * HOUR));
    assert!(workload.truths[0].critical && workload.truths[1].reading == 7 * MINUTE);
    assert_eq!(workload.truths[0].answer.map(|answer| answer.probability), Some(0.4));
}

/// So many studies of which AI said `probability`.
fn said(probability: f64, studies: usize) -> String {
    let line = Line {
        complete_at: rfc3339(1_709_164_800_000_000),
        site: "north".to_owned(),
        class: "ROUTINE".to_owned(),
        modality: "DX".to_owned(),
        body_part: String::new(),
        probability: Some(probability),
        critical: None,
        reading_min: None,
    };
    format!("{}\n", line.json()).repeat(studies)
}

#[test]
fn who_is_critical_is_drawn_by_what_ai_said() {
    for (probability, expected) in [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)] {
        let mut scenario = base();
        let log = Log::parse(&said(probability, 2000), &mut scenario).expect("valid");
        let truths = log.workload(&scenario, 1).truths;
        let share = truths.iter().filter(|truth| truth.critical).count() as f64 / 2000.0;
        assert!((share - expected).abs() < 0.04, "{share} of those at {probability}");
    }
}

#[test]
fn ai_says_what_the_log_has_however_rarely_the_scenarios_own_answers_but_not_in_an_outage() {
    let answers = |ai: &str| {
        let text = format!("schema: 1\nname: x\nabout: x\nai: {ai}\n");
        let mut scenario = Scenario::parse(&text).expect("valid");
        let log = Log::parse(&said(0.3, 5), &mut scenario).expect("valid");
        log.workload(&scenario, 1).truths.iter().filter(|truth| truth.answer.is_some()).count()
    };
    assert_eq!(answers("{answers: 0}"), 5);
    assert_eq!(answers("{answers: 0, outages: [{from: \"00:00\", to: \"24:00\"}]}"), 0);
}

#[test]
fn the_category_is_the_closest() {
    let text = "schema: 1\nname: x\nabout: x\ncategories:\n  \
                - {name: heart, modality: CT, body_part: HEART, share: 1, minutes: 20, readers: 100}\n  \
                - {name: other, modality: CT, share: 1, minutes: 8, readers: 100}\n  \
                - {name: knee, modality: MR, body_part: KNEE, share: 1, minutes: 8, readers: 100}\n\
                classes:\n  - {name: STAT, deadline: 1h, day: 1, night: 1, critical: 1, priority: 1, weight: 1, \
                kappa: 1, cost: 1}\n";
    let mut scenario = Scenario::parse(text).expect("valid");
    let line = |modality: &str, part: &str| {
        format!(
            r#"{{"complete_at":"2026-03-01T08:00:00Z","site":"north","class":"STAT","modality":"{modality}","body_part":"{part}"}}"#
        )
    };
    let lines = [line("CT", "HEART"), line("CT", "HEAD"), line("CT", ""), line("MR", "HEAD")].join("\n");
    let log = Log::parse(&lines, &mut scenario).expect("valid");
    let categories: Vec<u8> = log.workload(&scenario, 1).studies.iter().map(|study| study.category).collect();
    assert_eq!(categories, [0, 1, 1, 2]);
}

#[test]
fn a_wrong_line_is_named() {
    let line = |site: &str, more: &str| {
        format!(
            r#"{{"complete_at":"2026-03-01T08:00:00Z","site":"{site}","class":"STAT","modality":"CT"{more}}}"#
        )
    };
    let cases = [
        (line("north", r#","probability":1.5"#), "probability"),
        (line("north", r#","reading_min":-1"#), "reading_min"),
        (line("north", r#","colour":1"#), "colour"),
        ("{".to_owned(), "docs/simulator.md"),
    ];
    for (line, word) in cases {
        // The scenario's lack is told only of a log that can be read.
        let text = format!("\n{line}\n");
        let error = Log::parse(&text, &mut base()).expect_err("wrong");
        assert!(matches!(&error, LogError::Line { line: 2, problem } if problem.contains(word)), "{error}");
    }
    assert_eq!(Log::parse("", &mut base()).expect_err("no study"), empty());
}

#[test]
fn everything_that_the_scenario_lacks_is_named_at_once_but_not_without_end() {
    let line = |site: &str, class: &str, modality: &str| {
        format!(
            r#"{{"complete_at":"2026-03-01T08:00:00Z","site":"{site}","class":"{class}","modality":"{modality}"}}"#
        )
    };
    let mut scenario = base();
    let text = [line("kazan", "STAT", "NM"), line("north", "ONCOLOGY", "NM"), line("tver", "STAT", "CT")];
    let error = Log::parse(&text.join("\n"), &mut scenario).expect_err("of another network");
    let LogError::Missing { missing, .. } = &error else { panic!("{error}") };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(missing.sites, set(&["kazan", "tver"]));
    assert_eq!(missing.classes, set(&["ONCOLOGY"]));
    assert_eq!(missing.modalities, set(&["NM"]));
    let told = error.to_string();
    assert!(
        told.contains("sites `kazan`, `tver`; classes `ONCOLOGY`; categories of modality `NM`;"),
        "{told}"
    );
    assert!(told.contains("isocenter simulate scenario"), "{told}");
    assert_eq!(scenario.days, base().days);
    let many: Vec<_> = (100..150).map(|n| line(&format!("s{n}"), "STAT", "CT")).collect();
    let told = Log::parse(&many.join("\n"), &mut scenario).expect_err("of another network").to_string();
    assert!(told.contains("`s119` and 30 more;") && !told.contains("s120"), "{told}");
}
