//! Decisions on made-up studies.

use std::{sync::LazyLock, time::Duration};

use isocenter_domain::{
    document::{Images, Instance, Series},
    record::{
        registry::{Pool, PoolKind, Site},
        study::{self, Evidence, StudyEvent},
    },
};
use proptest::prelude::*;

use super::*;

const POLICY: &str = r#"
name: test
schema: 1
classes:
  STAT:    {deadline: 60m, orphan_after: 5m}
  ROUTINE: {deadline: 24h}
rules:
  - name: no-images
    when: image_count == 0
    read: false
  - name: late-nobody
    when: revision == 3
    read: false
  - name: late
    when: revision > 1
    class: STAT
    pools: [second]
    destinations: [ris]
  - name: chest
    when: body_part == 'CHEST'
    ai: [{service: opacity, timeout: 2m}]
default:
  class: ROUTINE
  read: true
  pools: ["site:{site}", general]
  destinations: ["site:{site}"]
"#;

const OWN: Ref = Ref([9; 16]);
const TEXT: Digest = Digest([5; 32]);

fn key() -> StudyKey {
    StudyKey { tenant: "t".parse().unwrap(), study: "1.2.3".parse().unwrap() }
}

fn facts_of(images: u32) -> study::Facts {
    study::Facts {
        modalities: vec!["CR".into()],
        body_part: "CHEST".into(),
        images,
        instances: 2,
        series: 1,
        patient: Some(Ref([1; 16])),
        accession: Some(Ref([2; 16])),
        ..study::Facts::default()
    }
}

/// A study of `revision`, whose first one was complete at 1000.
fn complete(revision: u32, facts: &study::Facts) -> Study {
    let mut study = Study::receiving("north".parse().unwrap(), "CR1".parse().unwrap(), Time(5));
    for n in 1..=revision {
        let now = Time(1000 * i64::from(n));
        study = study.transition(StudyEvent::Received, now).unwrap().0;
        let completed = StudyEvent::Completed {
            evidence: Evidence::QuietPeriod,
            doubt: None,
            manifest: Digest([1; 32]),
            facts: facts.clone(),
        };
        study = study.transition(completed, now).unwrap().0;
    }
    study
}

fn decide(study: &Study, case: Option<&Case>) -> Result<Planned, Illegal> {
    static PARSED: LazyLock<Policy> = LazyLock::new(|| Policy::parse(POLICY).unwrap());
    let moscow = "ru-mow".parse().unwrap();
    let subject = Subject { key: &key(), study, own: OWN, jurisdiction: Some(&moscow), visit: None, case };
    let facts = facts(study, &study.facts, None, study.revision, false);
    plan(&subject, &facts, &PARSED, TEXT, Time(9_000))
}

fn texts<T: ToString>(ids: &[T]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

fn rule<'a>(planned: &'a Planned, field: &str) -> &'a str {
    &planned.plan.rules.iter().find(|(name, _)| name == field).unwrap().1
}

#[test]
fn only_a_complete_revision_without_a_plan_of_its_own_is_due() {
    let study = complete(2, &facts_of(1));
    let mut plan = decide(&study, None).unwrap().plan;
    assert!(due(&study, None));
    assert!(!due(&study, Some(&plan)));
    plan.revision = 1;
    assert!(due(&study, Some(&plan)));
    let receiving = study.transition(StudyEvent::Received, Time(3_000)).unwrap().0;
    assert!(!due(&receiving, Some(&plan)));
    assert!(!due(&Study { state: StudyState::Closed, ..receiving }, None));
}

#[test]
fn a_study_to_be_read_opens_a_case_with_its_class_and_its_first_age() {
    let study = complete(1, &facts_of(1));
    let planned = decide(&study, None).unwrap();
    let case = planned.case.as_ref().unwrap();
    assert_eq!((case.state, case.complete_at), (CaseState::Ready, Time(1_000)));
    assert_eq!((case.class.as_str(), case.deadline), ("ROUTINE", Duration::from_secs(86_400)));
    assert_eq!((case.urgency.weight, case.urgency.prior_ppm, case.urgency.next_up), (2, 15_000, true));
    assert_eq!(case.jurisdiction.as_ref().map(JurisdictionId::as_str), Some("ru-mow"));
    assert_eq!(case.orphan_after, Duration::from_secs(1_800));
    assert_eq!(texts(&case.pools), ["site:north", "general"]);
    assert_eq!(texts(&case.destinations), ["north"]);
    assert_eq!((case.patient, case.accession), (Some(Ref([1; 16])), Ref([2; 16])));
    assert_eq!((texts(&case.members), case.body_part.as_str()), (vec!["1.2.3".to_owned()], "CHEST"));
    let plan = &planned.plan;
    assert_eq!((plan.revision, plan.policy), (1, TEXT));
    assert_eq!(plan.case(), Some(&CaseId::of(&key().tenant, &key().study)));
    assert_eq!(plan.ai[0].timeout, Duration::from_secs(120));
    assert_eq!((rule(&planned, "class"), rule(&planned, "ai")), (DEFAULT, "chest"));
}

#[test]
fn a_study_without_accession_is_delivered_in_an_order_of_its_own() {
    let study = complete(1, &study::Facts { accession: None, ..facts_of(1) });
    assert_eq!(decide(&study, None).unwrap().case.unwrap().accession, OWN);
}

#[test]
fn what_nobody_reads_has_a_reason_and_no_case() {
    let planned = decide(&complete(1, &facts_of(0)), None).unwrap();
    assert_eq!(planned.case, None);
    assert_eq!(planned.plan.reading, Reading::None { rule: "no-images".into() });
    assert!(planned.plan.ai.is_empty() && planned.plan.destinations.is_empty());
    assert_eq!(rule(&planned, "read"), "no-images");
}

#[test]
fn a_visit_is_of_one_patient_and_site_within_four_hours_and_prefers_its_first_case() {
    let study = complete(1, &facts_of(1));
    let case = decide(&study, None).unwrap().case.unwrap();
    let at =
        |case: &Case, hours: i64| Case { complete_at: Time(1_000 - hours * 3_600_000_000), ..case.clone() };
    let key_of =
        |uid: &str| CaseKey { tenant: key().tenant, case: CaseId::of(&key().tenant, &uid.parse().unwrap()) };
    let found =
        |cases: &[(CaseKey, Case)]| visit(&key(), &study, cases.iter().map(|(key, case)| (key, case)));
    assert_eq!(
        found(&[(key_of("1.9"), at(&case, 1)), (key_of("1.8"), at(&case, 3))]),
        Some(key_of("1.8").case)
    );
    let other_site = Case { site: "south".parse().unwrap(), ..at(&case, 1) };
    let other_patient = Case { patient: Some(Ref([7; 16])), ..at(&case, 1) };
    let unknown = Case { patient: None, ..at(&case, 1) };
    let closed = Case { state: CaseState::Closed, ..at(&case, 1) };
    for none in [at(&case, 5), at(&case, -1), other_site, other_patient, unknown, closed] {
        assert_eq!(found(&[(key_of("1.9"), none)]), None);
    }
    assert_eq!(found(&[(key_of("1.2.3"), at(&case, 0))]), None, "its own is no other");
}

#[test]
fn a_late_image_changes_class_and_pools_and_neither_age_nor_what_was_promised() {
    let first = decide(&complete(1, &facts_of(1)), None).unwrap().case.unwrap();
    let late = complete(2, &study::Facts { accession: Some(Ref([7; 16])), ..facts_of(1) });
    let planned = decide(&late, Some(&first)).unwrap();
    let case = planned.case.unwrap();
    assert_eq!((case.class.as_str(), case.deadline), ("STAT", Duration::from_secs(3_600)));
    assert_eq!(texts(&case.pools), ["second"]);
    assert_eq!(texts(&case.destinations), ["ris", "north"]);
    assert_eq!((case.complete_at, case.accession), (first.complete_at, first.accession));
    assert_eq!(planned.plan.destinations, case.destinations);
}

#[test]
fn a_late_image_never_takes_a_case_back() {
    let first = decide(&complete(1, &facts_of(1)), None).unwrap().case.unwrap();
    let planned = decide(&complete(3, &facts_of(1)), Some(&first)).unwrap();
    assert_eq!(planned.case.as_ref(), Some(&first));
    assert_eq!(planned.plan.revision, 3);
    assert!(planned.plan.case().is_some());
    assert_eq!((rule(&planned, "read"), rule(&planned, "class")), (EARLIER, EARLIER));
    assert_eq!(rule(&planned, "ai"), "late-nobody");
}

#[test]
fn a_study_becomes_readable_with_a_late_image_and_is_as_old_as_it_is() {
    let planned = decide(&complete(2, &facts_of(1)), None).unwrap();
    assert_eq!(planned.case.unwrap().complete_at, Time(1_000));
}

#[test]
fn a_closed_case_waits_for_the_archive() {
    let mut case = decide(&complete(1, &facts_of(1)), None).unwrap().case.unwrap();
    case.state = CaseState::Closed;
    assert!(decide(&complete(2, &facts_of(1)), Some(&case)).is_err());
}

#[test]
fn facts_take_from_the_manifest_what_the_record_does_not_hold() {
    let study = complete(1, &facts_of(1));
    let instance = Instance {
        sop_class: "1.2.840.10008.5.1.4.1.1.1".parse().unwrap(),
        instance: "1.2.3.4".parse().unwrap(),
        transfer_syntax: "1.2.840.10008.1.2.1".parse().unwrap(),
        size: 1,
        sha256: TEXT,
        data_set: TEXT,
        number: 1,
        frames: 1,
        image: true,
    };
    let mut series = Series::default();
    series.instances.insert(instance.instance.clone(), instance);
    let mut images = Images { institution: "North".into(), ..Images::default() };
    images.description = isocenter_domain::Phi::new("CHEST DOE JANE".into());
    images.series.insert("1.2.3.1".parse().unwrap(), series);
    let facts = facts(&study, &study.facts, Some(&images), 4, true);
    assert_eq!(facts.sop_classes, ["1.2.840.10008.5.1.4.1.1.1"]);
    assert_eq!((facts.institution.as_str(), facts.calling_ae.as_str()), ("North", "CR1"));
    assert_eq!((facts.revision, facts.doubt, facts.patient_age_years), (4, true, None));
    assert_eq!(facts.study_description.reveal(), "CHEST DOE JANE");
    assert!(!format!("{facts:?}").contains("DOE"));
}

proptest! {
    /// Whatever images come in whatever number of revisions: once there is a case it stays, with its age, its accession
    /// and every destination it ever had, and plan and case agree.
    #[test]
    fn what_was_promised_is_kept(counts in proptest::collection::vec((0_u32..2, any::<bool>()), 1..6)) {
        let mut case: Option<Case> = None;
        for (n, (images, accession)) in counts.into_iter().enumerate() {
            let mut facts = facts_of(images);
            facts.accession = facts.accession.filter(|_| accession);
            let study = complete(u32::try_from(n).unwrap() + 1, &facts);
            let planned = decide(&study, case.as_ref()).unwrap();
            prop_assert_eq!(planned.plan.case().is_some(), planned.case.is_some());
            if let Some(before) = &case {
                let after = planned.case.as_ref().unwrap();
                prop_assert_eq!((after.complete_at, after.accession), (before.complete_at, before.accession));
                prop_assert!(before.destinations.iter().all(|d| after.destinations.contains(d)));
                prop_assert_eq!(&planned.plan.destinations, &after.destinations);
            }
            case = planned.case;
        }
    }
}

#[test]
fn an_ae_title_is_taken_by_any_other_site_of_the_cell() {
    let site = |titles: &[&str]| {
        Entry::Site(Site {
            ae_titles: titles.iter().map(|title| title.parse().unwrap()).collect(),
            ..Site::default()
        })
    };
    let key = |tenant: &str, id: &str| RegistryKey {
        tenant: tenant.parse().unwrap(),
        item: RegistryItem::Site(id.parse().unwrap()),
    };
    let pool =
        RegistryKey { tenant: "t".parse().unwrap(), item: RegistryItem::Pool("general".parse().unwrap()) };
    let registered = [
        (
            pool.clone(),
            Entry::Pool(Pool { description: String::new(), kind: PoolKind::Center, overflow: None }),
        ),
        (key("t", "north"), site(&["CT1", "CT2"])),
        (key("other", "north"), site(&["MR1"])),
    ];
    let taken = |key: &RegistryKey, entry: &Entry| {
        taken(key, entry, registered.iter().map(|(key, entry)| (key, entry)))
            .map(|(title, key)| (title.to_string(), key.tenant.to_string()))
    };
    assert_eq!(taken(&key("t", "south"), &site(&["CT3", "CT2"])), Some(("CT2".into(), "t".into())));
    assert_eq!(taken(&key("t", "south"), &site(&["MR1"])), Some(("MR1".into(), "other".into())));
    assert_eq!(taken(&key("t", "north"), &site(&["CT1", "CT3"])), None);
    assert_eq!(taken(&pool, &registered[0].1), None);
}
