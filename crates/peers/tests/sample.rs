//! The sample algorithms on synthetic studies, and on what they must refuse.

use bytes::Bytes;
use isocenter_peers::{
    sample::{Algorithm, Refusal},
    study::Content,
    synthetic::{StudyKind, Synthetic},
};

fn files(seed: u64, kind: StudyKind) -> Vec<Bytes> {
    let study = Synthetic::new(seed).study(kind).unwrap().study;
    let bytes = |content| match content {
        Content::Memory(bytes) => bytes,
        Content::File(_) => panic!("synthetic instances are in memory"),
    };
    study.instances.into_iter().map(|i| bytes(i.content)).collect()
}

use isocenter_runtime::random::Seeded;

#[test]
fn the_scores_separate_what_was_drawn() {
    let cases = [
        (Algorithm::Density, StudyKind::MgFatty, StudyKind::MgDense),
        (Algorithm::Opacity, StudyKind::CrChest, StudyKind::CrChestOpacity),
        (Algorithm::Opacity, StudyKind::DxChest, StudyKind::DxChestOpacity),
    ];
    for seed in 0..12 {
        for (algorithm, normal, abnormal) in cases {
            let normal = algorithm.analyse(&files(seed, normal)).unwrap();
            let abnormal = algorithm.analyse(&files(seed, abnormal)).unwrap();
            let (n, a) = (normal.probability, abnormal.probability);
            assert!((0.0..0.3).contains(&n), "seed {seed} {algorithm:?}: normal {n}");
            assert!((0.7..=1.0).contains(&a), "seed {seed} {algorithm:?}: abnormal {a}");
            assert!(normal.findings.is_empty() && !abnormal.findings.is_empty());
            for finding in &abnormal.findings {
                let [left, top, right, bottom] = finding.area;
                assert!(left < right && top < bottom && right <= 192 && bottom <= 192, "{finding:?}");
            }
            assert!(abnormal.summary.starts_with("SAMPLE"));
        }
    }
}

#[test]
fn studies_of_another_modality_and_no_study_are_refused_for_that() {
    assert_eq!(Algorithm::Density.analyse(&files(1, StudyKind::CtHead)), Err(Refusal::Modality("MG")));
    assert_eq!(Algorithm::Opacity.analyse(&[] as &[Bytes]), Err(Refusal::ImageCount("CR")));
}

/// The film with the value of one attribute, `head` being its tag, VR and length, replaced by one of the same length.
fn altered(head: &[u8; 8], to: &str) -> Bytes {
    assert_eq!(usize::from(head[6]), to.len());
    let mut file = files(1, StudyKind::DxChest).remove(0).to_vec();
    let at = file.windows(8).position(|w| w == head).expect("the attribute is in the file") + 8;
    file[at..at + to.len()].copy_from_slice(to.as_bytes());
    file.into()
}

#[test]
fn another_body_part_is_refused_for_that() {
    assert_eq!(
        Algorithm::Opacity.analyse(&[altered(b"\x18\0\x15\0CS\x06\0", "WRIST ")]),
        Err(Refusal::BodyPart("CHEST"))
    );
}

#[test]
fn a_transfer_syntax_that_cannot_be_decoded_is_refused_with_its_uid() {
    let file = altered(b"\x02\0\x10\0UI\x14\0", "1.2.840.10008.1.2.9\0");
    match Algorithm::Opacity.analyse(&[file]) {
        Err(Refusal::ImageQuality(why)) => assert!(why.contains("1.2.840.10008.1.2.9"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn damaged_files_are_refused_and_never_panic() {
    let whole = files(1, StudyKind::DxChest).remove(0);
    for length in (0..whole.len()).step_by(997) {
        assert!(Algorithm::Opacity.analyse(&[whole.slice(..length)]).is_err(), "cut at {length}");
    }
    let mut rng = Seeded::new(2);
    for _ in 0..400 {
        let mut file = whole.to_vec();
        // The first two kilobytes hold the header: lengths, tags and everything that sizes an image.
        for _ in 0..=rng.range(0..3) {
            file[rng.range(132..2048) as usize] = rng.next_u64() as u8;
        }
        drop(Algorithm::Opacity.analyse(&[file]));
    }
    assert!(Algorithm::Opacity.analyse(&[altered(b"\x28\0\x04\0CS\x0c\0", "PALETTECOLOR")]).is_err());
}
