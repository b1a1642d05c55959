//! The alerts and the dashboard: every alert fires when it should and not otherwise, and no name in either is one that no
//! process has.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::harness::{Bench, get, program};

/// What only a process with certificates has; the one here has none.
const OF_CERTIFICATES: [&str; 2] = ["isocenter_tls_certificate_not_after_seconds", "isocenter_tls_stale"];

/// `ops` of the repository.
fn ops(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops").join(file)
}

/// The names of metrics in a text: a histogram's parts count as the histogram. One with `.+` in it stands for several.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && !"_.+".contains(c));
    let names = words.filter(|word| word.starts_with("isocenter_"));
    let whole = |name: &str| {
        let parts = ["_bucket", "_sum", "_count"];
        parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name).to_owned()
    };
    names.map(whole).collect()
}

/// Whether a name, or one that it stands for, is among `there_are`.
fn is_among(name: &str, there_are: &BTreeSet<String>) -> bool {
    match name.split_once(".+") {
        None => there_are.contains(name),
        Some((first, last)) => there_are.iter().any(|one| one.starts_with(first) && one.ends_with(last)),
    }
}

/// What a process says that it has, with samples or without.
fn metrics_of(answer: &str) -> BTreeSet<String> {
    let described = answer.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next());
    described.map(str::to_owned).collect()
}

#[tokio::test]
async fn every_alert_fires_when_it_should_and_only_then() {
    let tests = ops("prometheus/isocenter.test.yaml");
    let rules = ops("prometheus/isocenter.rules.yaml");
    program("promtool", ["check", "rules", rules.to_str().unwrap()]).await.succeeded();
    program("promtool", ["test", "rules", tests.to_str().unwrap()]).await.succeeded();
    let (rules, tests) = (std::fs::read_to_string(rules).unwrap(), std::fs::read_to_string(tests).unwrap());
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        for case in ["fires", "does not fire"] {
            assert!(
                tests.contains(&format!("- name: {alert} {case}\n")),
                "{alert} has no test in which it {case}"
            );
        }
    }
}

#[tokio::test]
async fn alerts_and_dashboard_name_what_there_is() {
    let bench = Bench::start(&[]).await;
    let (status, answer) = get(bench.server.listen, "/metrics").await.unwrap();
    assert_eq!(status, 200);
    let there_are = metrics_of(&answer);
    for file in ["prometheus/isocenter.rules.yaml", "grafana/isocenter.json"] {
        let named = metrics_in(&std::fs::read_to_string(ops(file)).unwrap());
        assert!(named.len() > 20, "{file} names only {named:?}");
        let unknown: Vec<_> = named
            .iter()
            .filter(|name| !OF_CERTIFICATES.contains(&name.as_str()) && !is_among(name, &there_are))
            .collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}, which is not in /metrics");
    }
}

/// An alert that sends an operator to a page that is not there helps nobody.
#[test]
fn every_alert_has_its_page_in_the_guide() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operator.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let anchor = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-');
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    let anchors: BTreeSet<_> = guide
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches(['#', ' '])))
        .collect();
    let rules = std::fs::read_to_string(ops("prometheus/isocenter.rules.yaml")).unwrap();
    for page in rules.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: docs/operator.md#")) {
        assert!(anchors.contains(page), "docs/operator.md has no heading for #{page}");
    }
}
