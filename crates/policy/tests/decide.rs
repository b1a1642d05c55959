//! What policies say of studies.

use std::time::Duration;

use isocenter_domain::{
    Phi,
    id::SiteId,
    record::case::{Reading, Urgency},
};
use isocenter_policy::{AiRequest, DEFAULT_TEXT, Decision, Facts, GroupBy, Outcome, Policy, Source};

const NETWORK: &str = r#"
name: network
schema: 1
classes:
  STROKE:    {deadline: 20m, orphan_after: 5m}
  STAT:      {deadline: 60m, orphan_after: 5m}
  ROUTINE:   {deadline: 24h}
  SCREENING: {deadline: 72h}
rules:
  - name: nothing-to-read
    when: image_count == 0
    read: false
  - name: stroke
    when: "'CT' in modalities && body_part == 'HEAD' && procedure_code in ['CTSTROKE', 'CTAHEAD']"
    class: STROKE
    pools: [neuro, reference-center]
  - name: ordered-stat
    when: order_priority == 'S' || order_priority == 'A'
    class: STAT
  - name: mammography
    when: "'MG' in modalities"
    class: SCREENING
    ai: [{service: sample-density, timeout: 5m}]
    pools: [mammo, reference-center]
  - name: chest-film
    when: "('CR' in modalities || 'DX' in modalities) && body_part == 'CHEST'"
    ai: [{service: sample-opacity, timeout: 2m}]
    pools: ["site:{site}", "site:north", reference-center]
default:
  class: ROUTINE
  read: true
  pools: [general]
  destinations: ["site:{site}", "site:archive"]
"#;

fn facts(modality: &str, body_part: &str) -> Facts {
    let mut facts = Facts::of(SiteId::new("north").unwrap());
    facts.modalities = vec![modality.into()];
    facts.body_part = body_part.into();
    facts.image_count = 2;
    facts
}

fn decide(text: &str, facts: &Facts) -> Decision {
    Policy::parse(text).unwrap().decide(facts)
}

fn texts<T: ToString>(ids: &[T]) -> Vec<String> {
    ids.iter().map(T::to_string).collect()
}

/// Whether a policy of one rule with this condition matches.
fn outcome(when: &str, facts: &Facts) -> Outcome {
    let text = format!(
        "name: p\nschema: 1\nclasses: {{A: {{deadline: 1h}}}}\nrules:\n  - name: a\n    when: |\n      {when}\n    \
         class: A\ndefault: {{class: A, read: true, pools: [general], destinations: [x]}}\n"
    );
    let mut trace = Policy::parse(&text).unwrap_or_else(|e| panic!("{when}: {e}")).decide(facts).trace;
    trace.remove(0).outcome
}

#[test]
fn the_first_rule_that_sets_a_field_wins_for_that_field() {
    let mut study = facts("CT", "HEAD");
    study.procedure_code = "CTSTROKE".into();
    study.order_priority = "S".into();
    let decision = decide(NETWORK, &study);
    assert_eq!(decision.class.as_str(), "STROKE");
    assert_eq!(texts(&decision.pools), ["neuro", "reference-center"]);
    assert_eq!(texts(&decision.destinations), ["north", "archive"]);
    assert_eq!(decision.fields.class, Source::Rule("stroke".into()));
    assert_eq!(decision.fields.destinations, Source::Default);
    let matched: Vec<_> =
        decision.trace.iter().filter(|r| r.outcome == Outcome::Matched).map(|r| &*r.rule).collect();
    assert_eq!(matched, ["stroke", "ordered-stat"]);

    // A later rule fills what the first left open.
    let mut study = facts("MG", "BREAST");
    study.order_priority = "A".into();
    let decision = decide(NETWORK, &study);
    assert_eq!(decision.class.as_str(), "STAT");
    assert_eq!(texts(&decision.pools), ["mammo", "reference-center"]);
    assert_eq!(
        decision.ai,
        [AiRequest { service: "sample-density".parse().unwrap(), timeout: Duration::from_secs(300) }]
    );
}

#[test]
fn the_sites_own_pool_and_destination_are_named_after_the_site_and_come_once() {
    let decision = decide(NETWORK, &facts("DX", "CHEST"));
    assert_eq!(texts(&decision.pools), ["site:north", "reference-center"]);
    assert_eq!(texts(&decision.destinations), ["north", "archive"]);
    let mut study = facts("DX", "CHEST");
    study.site = SiteId::new("south").unwrap();
    assert_eq!(texts(&decide(NETWORK, &study).pools), ["site:south", "site:north", "reference-center"]);
}

#[test]
fn a_study_nobody_reads_goes_nowhere_and_says_why() {
    let mut study = facts("MG", "BREAST");
    study.image_count = 0;
    let decision = decide(NETWORK, &study);
    assert!(!decision.read);
    assert_eq!(decision.no_read_reason.as_deref(), Some("nothing-to-read"));
    assert!(decision.pools.is_empty() && decision.ai.is_empty() && decision.destinations.is_empty());
    assert_eq!(decision.fields.pools, Source::Rule("nothing-to-read".into()));
    assert_eq!(decision.class.as_str(), "SCREENING");
}

#[test]
fn the_default_policy_reads_everything_with_images_in_the_general_pool() {
    let policy = Policy::parse(DEFAULT_TEXT).unwrap();
    let decision = policy.decide(&facts("OT", ""));
    assert!(decision.read);
    assert_eq!(texts(&decision.pools), ["general"]);
    assert_eq!(texts(&decision.destinations), ["north"]);
    assert_eq!(policy.class_of(&decision).deadline, Duration::from_secs(24 * 3600));
    assert!(!policy.decide(&Facts::of(SiteId::new("north").unwrap())).read);
    let mut stat = facts("CT", "");
    stat.order_priority = "STAT".into();
    assert_eq!(policy.decide(&stat).class.as_str(), "STAT");
}

#[test]
fn a_class_has_defaults_and_a_policy_a_version() {
    let policy = Policy::parse(NETWORK).unwrap();
    let class = |name: &str| policy.class(&name.parse().unwrap()).unwrap().clone();
    assert_eq!(class("ROUTINE").orphan_after, Duration::from_secs(30 * 60));
    assert!(policy.class(&"GONE".parse().unwrap()).is_none());
    assert_eq!(policy.hash(), Policy::parse(NETWORK).unwrap().hash());
    assert_ne!(policy.hash(), Policy::parse(&format!("{NETWORK}\n")).unwrap().hash());
    assert_eq!(policy.hash().len(), 64);
}

#[test]
fn a_class_weighs_by_its_deadline_or_as_it_says() {
    let text = NETWORK.replace(
        "ROUTINE:   {deadline: 24h}",
        "ROUTINE:   {deadline: 24h, weight: 7, ai_weight: 0, prior: 0.5%, next_up: false}",
    );
    let policy = Policy::parse(&text).unwrap();
    let urgency = |name: &str| policy.class(&name.parse().unwrap()).unwrap().urgency;
    assert_eq!(urgency("STAT"), Urgency { weight: 180, critical: 20, prior_ppm: 200_000, next_up: false });
    assert_eq!(urgency("SCREENING"), Urgency { weight: 2, critical: 20, prior_ppm: 15_000, next_up: true });
    assert_eq!(urgency("ROUTINE"), Urgency { weight: 7, critical: 0, prior_ppm: 5_000, next_up: false });
}

#[test]
fn rules_and_classes_say_how_a_study_is_read_and_where_its_readers_are_licensed() {
    let text = NETWORK
        .replace("SCREENING: {deadline: 72h}", "SCREENING: {deadline: 72h, reads: double, peer_review: 5%}")
        .replace("    ai: [{service: sample-opacity", "    reads: double\n    peer_review: 0.25%\n    jurisdiction: kz\n    ai: [{service: sample-opacity")
        .replace("schema: 1", "schema: 1\npaediatric_under: 16\ngroup_by: visit")
        .replace("  read: true\n", "  read: true\n  jurisdiction: ru\n");
    let policy = Policy::parse(&text).unwrap();
    assert_eq!(policy.group_by(), GroupBy::Visit);
    let breast = policy.decide(&facts("MG", "BREAST"));
    assert_eq!(breast.reading, Reading { double: true, review_ppm: 50_000 });
    assert_eq!((breast.jurisdiction.unwrap().as_str(), breast.fields.jurisdiction), ("ru", Source::Default));
    let mut film = facts("DX", "CHEST");
    film.patient_age_years = Some(15);
    let film = policy.decide(&film);
    assert_eq!(film.reading, Reading { double: true, review_ppm: 2_500 });
    assert_eq!(
        (film.jurisdiction.unwrap().as_str(), film.fields.reads),
        ("kz", Source::Rule("chest-film".into()))
    );
    assert!(film.paediatric && !breast.paediatric, "an unknown age is no child's");
    let plain = decide(NETWORK, &facts("CT", ""));
    assert_eq!((plain.reading, plain.jurisdiction, plain.paediatric), (Reading::default(), None, false));
}

#[test]
fn conditions_see_tidy_values() {
    let mut study = facts(" ct ", "Head ");
    study.modalities.push("SR".into());
    study.order_priority = "s".into();
    study.study_description = Phi::new("CT Head without contrast".into());
    study.patient_age_years = Some(7);
    let holds = [
        "'CT' in modalities && body_part == 'HEAD' && order_priority == 'S'",
        "modalities == ['CT', 'SR'] && size(modalities) == 2 && modalities[1] == 'SR'",
        "modalities.exists(m, m == 'SR') && modalities.exists_one(m, m == 'CT') && modalities.all(m, size(m) == 2)",
        "study_description.contains('Head') && study_description.startsWith('CT') && site.endsWith('th')",
        "patient_age_years >= 0 && patient_age_years < 16 && !doubt && revision == 1",
        "calling_ae == '' && procedure_code == '' && sop_classes == []",
        "(doubt ? 1 : image_count) == 2 && -1 < image_count",
        "site in ['north', \"south\"]",
        "sop_classes.all(s, s == '1.2.840.10008.5.1.4.1.1.2')",
    ];
    for when in holds {
        assert_eq!(outcome(when, &study), Outcome::Matched, "{when}");
    }
    study.patient_age_years = None;
    assert_eq!(outcome("patient_age_years == -1", &study), Outcome::Matched);
    assert_eq!(outcome("patient_age_years > 0", &study), Outcome::NotMatched);
}

#[test]
fn an_error_in_a_rule_is_recorded_and_loses_no_study() {
    let text = NETWORK.replace("image_count == 0", "sop_classes[3] == '1.2'");
    let decision = decide(&text, &facts("CT", ""));
    assert_eq!(
        decision.trace[0].outcome,
        Outcome::Error("there is nothing at that place of the list".into())
    );
    assert!(decision.read);
    assert_eq!(texts(&decision.pools), ["general"]);
    // What cannot be told on one side of an `or` does not matter where the other side holds.
    assert_eq!(outcome("sop_classes[3] == '1.2' || image_count == 2", &facts("CT", "")), Outcome::Matched);
}

#[test]
fn the_deepest_condition_allowed_is_evaluated_on_a_small_stack() {
    let open = format!("(true{} == ", " == true".repeat(4));
    let deep = format!("{}true{}", open.repeat(8), ")".repeat(8));
    let policy = format!(
        "name: p\nschema: 1\nclasses: {{A: {{deadline: 1h}}}}\nrules: [{{name: a, when: {deep}, class: A}}]\n\
         default: {{class: A, read: true, pools: [general], destinations: [x]}}\n"
    );
    let policy = Policy::parse(&policy).unwrap();
    let decided = std::thread::Builder::new().stack_size(512 * 1024);
    let decided = decided.spawn(move || policy.decide(&facts("CT", ""))).unwrap().join().unwrap();
    assert_eq!(decided.trace[0].outcome, Outcome::Matched);
}

#[test]
fn policies_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Policy>();
}

#[test]
fn the_policy_the_operators_guide_shows_is_accepted() {
    let guide = include_str!("../../../docs/policy.md");
    let shown = guide.split("```").filter_map(|block| block.strip_prefix("yaml\n"));
    let policies: Vec<_> = shown.filter(|block| block.contains("schema: 1")).collect();
    assert_eq!(policies.len(), 1);
    let decision = decide(policies[0], &facts("DX", "CHEST"));
    assert_eq!(texts(&decision.pools), ["site:north", "reference-center"]);
}
