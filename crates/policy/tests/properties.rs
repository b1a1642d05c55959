//! What holds for every study and every text.

use std::time::Duration;

use isocenter_domain::{Phi, id::SiteId};
use isocenter_policy::{DEFAULT_TEXT, Facts, Outcome, Policy};
use proptest::prelude::*;

/// Rules that use every name and can fail, so that arbitrary facts reach every path.
const EAGER: &str = r#"
name: eager
schema: 1
classes: {A: {deadline: 1h}, B: {deadline: 2h}}
rules:
  - {name: fails, when: "modalities[2] == sop_classes[1]", read: false}
  - {name: senders, when: "procedure_code == calling_ae || institution == study_description", class: B}
  - {name: counts, when: "image_count > instance_count || series_count > 3", pools: [counted]}
  - {name: people, when: "patient_age_years < 16 && order_priority != 'S' && !doubt", ai: [{service: x, timeout: 1m}]}
  - {name: orders, when: "order_priority in ['S', 'A'] || procedure_code == body_part || revision > 1", destinations: [y]}
  - {name: sites, when: "site.startsWith('n') && modalities.exists(m, m == 'SR')", read: false}
default: {class: A, read: true, pools: [general, "site:{site}"], destinations: ["site:{site}"]}
"#;

fn facts() -> impl Strategy<Value = Facts> {
    let texts = || prop::collection::vec(".{0,5}", 0..4);
    let words = prop::collection::vec(".{0,12}", 9);
    let numbers = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>(), any::<Option<u32>>());
    ("[a-z0-9][a-z0-9.-]{0,62}", texts(), texts(), words, numbers, any::<bool>()).prop_map(
        |(site, modalities, sop_classes, words, numbers, doubt)| Facts {
            modalities,
            body_part: words[0].clone(),
            site: SiteId::new(site).unwrap(),
            calling_ae: words[2].clone(),
            sop_classes,
            image_count: numbers.0,
            instance_count: numbers.1,
            series_count: numbers.2,
            order_priority: words[3].clone(),
            procedure_code: words[4].clone(),
            study_description: Phi::new(words[6].clone()),
            institution: words[7].clone(),
            patient_age_years: numbers.4,
            revision: numbers.3,
            doubt,
        },
    )
}

proptest! {
    #[test]
    fn every_study_is_decided_alike_each_time_and_goes_somewhere_if_read(facts in facts()) {
        for text in [EAGER, DEFAULT_TEXT] {
            let policy = Policy::parse(text).unwrap();
            let decision = policy.decide(&facts);
            prop_assert_eq!(&decision, &Policy::parse(text).unwrap().decide(&facts));
            prop_assert!(policy.class_of(&decision).deadline > Duration::ZERO);
            prop_assert_eq!(decision.read, decision.no_read_reason.is_none());
            prop_assert_eq!(decision.read, !decision.pools.is_empty());
            prop_assert_eq!(decision.read, !decision.destinations.is_empty());
        }
    }

    #[test]
    fn the_default_policy_leaves_unread_only_what_has_no_image(facts in facts()) {
        let decision = Policy::parse(DEFAULT_TEXT).unwrap().decide(&facts);
        prop_assert_eq!(decision.read, facts.image_count > 0);
        prop_assert!(decision.trace.iter().all(|rule| !matches!(rule.outcome, Outcome::Error(_))));
    }

    #[test]
    fn no_text_and_no_condition_stops_the_program(text in ".{0,200}", when in "[-a-z0-9'\"\\[\\](){}.,&|?:!=<>+ ]{0,80}") {
        drop(Policy::parse(&text));
        let block = format!(
            "name: p\nschema: 1\nclasses: {{A: {{deadline: 1h}}}}\nrules:\n  - name: a\n    when: |\n      {when}\n    class: A\n\
             default: {{class: A, read: true, pools: [general], destinations: [x]}}\n"
        );
        drop(Policy::parse(&block));
    }
}
