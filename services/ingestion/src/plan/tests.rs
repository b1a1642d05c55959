use isocenter_domain::{
    id::{SopClassUid, StudyUid},
    record::study::StudyEvent,
};
use proptest::prelude::*;

use super::*;

const QUIET: Duration = Duration::from_secs(10);
const BOUND: Duration = Duration::from_secs(1800);

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn at(seconds: u64) -> Time {
    Time::ZERO.plus(Duration::from_secs(seconds))
}

fn study() -> Study {
    Study::receiving("north".parse().unwrap(), "CT1".parse().unwrap(), at(100))
}

fn settled(last: u64) -> Intake {
    Intake { stored: 3, segment: Some(Digest::of(b"s")), last_at: at(last), ..Intake::default() }
}

fn decide(intakes: &[(&str, Intake)], now: u64) -> Completion {
    let intakes: Vec<_> = intakes.iter().map(|(n, i)| (node(n), i.clone())).collect();
    complete(&study(), &intakes, at(now), QUIET, BOUND)
}

#[test]
fn quiet_is_counted_from_the_last_image_of_any_node() {
    let two = [("a", settled(105)), ("b", settled(120))];
    assert_eq!(decide(&two, 129), Completion::Wait(Some(at(130))));
    let quiet = Completion::Complete { evidence: Evidence::QuietPeriod, doubt: None };
    assert_eq!(decide(&two, 130), quiet);
}

#[test]
fn pending_instances_and_open_associations_hold_a_study_up_to_its_bound_and_are_named_then() {
    let pending = Intake { pending: 2, ..settled(105) };
    let open = Intake { open_associations: 1, ..settled(105) };
    for held in [&pending, &open] {
        let intakes = [("a", settled(105)), ("b", held.clone())];
        assert_eq!(decide(&intakes, 1899), Completion::Wait(Some(at(1900))));
        let doubt = Some(Doubt { node: node("b"), pending: held.pending });
        let cut = Completion::Complete { evidence: Evidence::AssemblyBound, doubt };
        assert_eq!(decide(&intakes, 1900), cut);
    }
    // Of several the one with the most pending is named, then the first by id.
    let worst = decide(&[("a", open.clone()), ("b", pending.clone()), ("c", pending)], 2000);
    let Completion::Complete { doubt: Some(doubt), .. } = worst else { panic!("{worst:?}") };
    assert_eq!((doubt.node, doubt.pending), (node("b"), 2));
}

#[test]
fn images_that_never_cease_are_cut_at_the_bound_without_a_doubt() {
    let cut = Completion::Complete { evidence: Evidence::AssemblyBound, doubt: None };
    assert_eq!(decide(&[("a", settled(1895))], 1899), Completion::Wait(Some(at(1900))));
    assert_eq!(decide(&[("a", settled(1895))], 1900), cut);
}

#[test]
fn nobody_waits_for_a_clock_that_had_jumped_ahead() {
    let quiet = Completion::Complete { evidence: Evidence::QuietPeriod, doubt: None };
    assert_eq!(decide(&[("a", settled(105)), ("b", settled(3_720))], 120), quiet);
    assert_eq!(
        decide(&[("a", settled(129))], 120),
        Completion::Wait(Some(at(139))),
        "clocks differ a little"
    );
    let open = Intake { open_associations: 1, ..settled(105) };
    let (study, intakes) = (Study { first_received_at: at(7_300), ..study() }, [(node("a"), open)]);
    let doubt = Some(Doubt { node: node("a"), pending: 0 });
    let cut = Completion::Complete { evidence: Evidence::AssemblyBound, doubt };
    assert_eq!(complete(&study, &intakes, at(120), QUIET, BOUND), cut);
}

#[test]
fn a_study_of_which_nothing_is_in_blobs_is_never_complete() {
    let nothing = Intake { segment: None, ..settled(105) };
    assert_eq!(decide(&[("a", nothing.clone())], 9_999), Completion::Wait(None));
    assert_eq!(decide(&[], 9_999), Completion::Wait(None));
    // What a node in doubt put into blobs without listing it is looked for at the bound.
    let unlisted = Intake { pending: 1, ..nothing };
    assert_eq!(decide(&[("a", unlisted.clone())], 1_899), Completion::Wait(Some(at(1_900))));
    let doubt = Some(Doubt { node: node("a"), pending: 1 });
    let look = Completion::Complete { evidence: Evidence::AssemblyBound, doubt };
    assert_eq!(decide(&[("a", unlisted)], 1_900), look);
}

proptest! {
    /// Whatever the intakes: never complete before both the quiet period (or the bound) and never with unsettled nodes
    /// but at the bound; and waiting always ends at or before the bound.
    #[test]
    fn no_study_waits_past_its_bound_and_none_is_complete_too_early(
        nodes in prop::collection::vec((0u32..3, 0u32..2, 100u64..3000), 1..4),
        now in 100u64..4000,
    ) {
        let intakes: Vec<_> = nodes.iter().enumerate().map(|(i, (pending, open, last))| {
            (node(&format!("n{i}")), Intake { pending: *pending, open_associations: *open, ..settled(*last) })
        }).collect();
        let all_settled = intakes.iter().all(|(_, i)| i.settled());
        match complete(&study(), &intakes, at(now), QUIET, BOUND) {
            Completion::Wait(Some(until)) => prop_assert!(until > at(now) && until <= at(100).plus(BOUND)),
            Completion::Wait(None) => prop_assert!(false, "something is in blobs"),
            Completion::Complete { evidence: Evidence::Released, .. } => {
                prop_assert!(false, "nobody released it");
            }
            Completion::Complete { evidence: Evidence::QuietPeriod, doubt } => {
                prop_assert!(all_settled && doubt.is_none());
                let last = nodes.iter().map(|(_, _, last)| *last).max().unwrap();
                prop_assert!(now >= last + 10 || last > now + 300, "quiet, or written by a clock that is wrong");
            }
            Completion::Complete { evidence: Evidence::AssemblyBound, doubt } => {
                prop_assert!(now >= 1900);
                prop_assert_eq!(doubt.is_some(), !all_settled);
            }
        }
    }
}

fn instance(uid: &str, content: &str, syntax: &str) -> Instance {
    Instance {
        sop_class: SopClassUid::new("1.2.840.10008.5.1.4.1.1.2").unwrap(),
        instance: uid.parse().unwrap(),
        transfer_syntax: syntax.parse().unwrap(),
        size: 10,
        sha256: Digest::of(format!("{content}{syntax}").as_bytes()),
        data_set: Digest::of(content.as_bytes()),
        number: 1,
        frames: 1,
        image: true,
    }
}

fn images(instances: &[(&str, Instance)]) -> Images {
    let mut images = Images::default();
    for (series, instance) in instances {
        let series = images.series.entry(series.parse().unwrap()).or_default();
        series.instances.insert(instance.instance.clone(), instance.clone());
    }
    images
}

fn segment(name: &str, images: Images) -> Segment {
    Segment { study: StudyUid::new("1.2").unwrap(), node: node(name), images }
}

#[test]
fn an_instance_is_new_a_repeat_or_a_contradiction() {
    let mut known = Known::default();
    let held = instance("1.1", "pixels", "1.2.1");
    known.learn(&images(&[("5", held.clone())]));
    let place = |known: &Known, i: &Instance| known.place(&i.instance, &i.transfer_syntax, &i.data_set);
    assert_eq!(place(&known, &held), Place::Repeat);
    assert_eq!(place(&known, &instance("1.2", "pixels", "1.2.1")), Place::New);
    assert_eq!(place(&known, &instance("1.1", "other", "1.2.1")), Place::Contradiction(OTHER_DATA));
    assert_eq!(place(&known, &instance("1.1", "pixels", "1.2.2")), Place::Contradiction(OTHER_SYNTAX));
    assert!(known.lists(&held.instance, &held.sha256));
    assert!(!known.lists(&held.instance, &Digest::of(b"else")));
}

#[test]
fn merging_is_the_union_whatever_the_order_and_contradictions_are_put_aside() {
    let (one, two) = (instance("1.1", "a", "1.2.1"), instance("1.2", "b", "1.2.1"));
    let other = instance("1.1", "changed", "1.2.1");
    let a = segment("a", images(&[("5", one.clone())]));
    let b = segment("b", images(&[("5", two.clone()), ("6", other.clone())]));
    let merged = merge(None, vec![b.clone(), a.clone()]);
    assert_eq!(merged, merge(None, vec![a.clone(), b.clone()]));
    assert!(merged.news);
    assert_eq!(merged.contradicting.as_slice(), std::slice::from_ref(&other));
    assert_eq!(merged.images.instances().count(), 2);
    assert_eq!(merged.images.find(&one.instance), Some(&one));
    assert_eq!(merged.images.quarantined.len(), 1);
    assert_eq!(merged.images.quarantined[0].sha256, other.sha256);

    let again = merge(Some(&merged.images), vec![a, b]);
    assert!(!again.news, "a revision holds all that its own segments list");
    assert_eq!(again.images, merged.images);
    let late = segment("c", images(&[("5", instance("1.3", "late", "1.2.1"))]));
    assert!(merge(Some(&merged.images), vec![late]).news);
}

#[test]
fn a_complete_study_is_compared_with_its_segments_only_where_something_may_be_new() {
    let event = StudyEvent::Completed {
        evidence: Evidence::QuietPeriod,
        doubt: None,
        manifest: Digest::of(b"m"),
        facts: isocenter_domain::record::study::Facts { instances: 3, ..Default::default() },
    };
    assert!(!suspicious(&study(), &[(node("a"), settled(1))], true, true), "it is received anyway");
    let (complete, _) = study().transition(event, at(200)).unwrap();
    let suspects = |stored, changed, older| {
        suspicious(&complete, &[(node("a"), Intake { stored, ..settled(1) })], changed, older)
    };
    assert!(!suspects(3, false, false));
    assert!(suspects(4, false, false) && suspects(3, true, false) && suspects(1, false, true));
}
