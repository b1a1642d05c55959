use super::*;

#[test]
fn every_shipped_scenario_is_valid_and_bears_its_name() {
    for (name, text) in SHIPPED {
        let scenario = Scenario::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(scenario.name, name);
    }
}

#[test]
fn a_file_changes_what_it_names_and_keeps_the_rest() {
    let text = "schema: 1\nname: mine\nabout: Half the readers\nreaders: {count: 185}\nai: {d_prime: 1}\n";
    let (mine, base) = (Scenario::parse(text).expect("valid"), Scenario::shipped("base").expect("shipped"));
    assert_eq!((mine.readers.count, mine.readers.hours), (185, base.readers.hours));
    assert_eq!((mine.ai.d_prime, mine.ai.delay), (1.0, base.ai.delay));
    assert_eq!(mine.classes.len(), base.classes.len());
}

#[test]
fn errors_name_the_field_and_the_line() {
    let cases = [
        ("readers: {count: -3}", "count"),
        ("readers: {count: 2.5}", "whole"),
        ("readers: {shifts: [{start: \"25:00\", share: 1}]}", "start"),
        ("studies_per_day: .nan", "studies_per_day"),
        ("hourly: [1, 2]", "hourly"),
        ("reading: {sigma: 9}", "reading.sigma"),
        ("ai: {delay: soon}", "ai.delay"),
        ("surges: [{day: 1, from: \"14:00\", to: \"10:00\", factor: 2}]", "to"),
        ("sites: []", "sites"),
        ("visits: {share: 101, studies: 3, saves: 1}", "visits.share"),
        ("colour: blue", "colour"),
        ("days: {warm_up: 1, measured: 0}", "days.measured"),
    ];
    for (line, word) in cases {
        let text = format!("schema: 1\nname: mine\nabout: A mistake\n{line}\n");
        let error = Scenario::parse(&text).expect_err(line);
        assert_eq!(error.line, 4, "{line}: {error}");
        assert!(error.problem.contains(word), "{line}: {error}");
    }
    let other = Scenario::parse("schema: 2\nname: mine\nabout: Later\n").expect_err("no such schema");
    assert!(other.problem.contains("schema 2"));
}
