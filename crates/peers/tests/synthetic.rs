//! Synthetic studies, judged by DCMTK, which nobody here wrote.

use std::{collections::HashSet, path::Path, process::Command};

use dicom_dictionary_std::tags;
use dicom_object::DefaultDicomObject;
use dicom_pixeldata::PixelDecoder;
use isocenter_peers::{
    study::{Content, Instance},
    synthetic::{StudyKind, Synthetic, SyntheticStudy},
};

const SEED: u64 = 7;

fn all() -> Vec<SyntheticStudy> {
    Synthetic::new(SEED).mix(StudyKind::ALL.len()).unwrap()
}

fn bytes(instance: &Instance) -> &[u8] {
    match &instance.content {
        Content::Memory(bytes) => bytes,
        Content::File(_) => panic!("synthetic instances are in memory"),
    }
}

fn object(instance: &Instance) -> DefaultDicomObject {
    dicom_object::from_reader(bytes(instance)).unwrap()
}

/// Runs a DCMTK tool; it must succeed and complain of nothing.
fn dcmtk(tool: &str, arguments: &[&str], file: &Path) -> String {
    let output = Command::new(tool)
        .args(arguments)
        .arg(file)
        .output()
        .unwrap_or_else(|e| panic!("{tool}: {e}; these tests need DCMTK on the PATH"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "seed {SEED}: {tool}: {out}{err}");
    // The one line that is about DCMTK and not about the file.
    let complaint = |l: &&str| l.starts_with(['W', 'E']) && !l.contains("VR checker does not support");
    assert_eq!(err.lines().find(complaint), None, "seed {SEED}: {tool}");
    out.into_owned()
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_other_studies() {
    let (a, b) = (all(), all());
    for (a, b) in a.iter().zip(&b) {
        assert_eq!(a.study.study_uid, b.study.study_uid);
        for (a, b) in a.study.instances.iter().zip(&b.study.instances) {
            assert!(bytes(a) == bytes(b), "seed {SEED}: {} differs", a.instance_uid);
        }
    }
    let other = Synthetic::new(SEED + 1).study(StudyKind::ALL[0]).unwrap();
    assert_ne!(other.study.study_uid, a[0].study.study_uid);
    assert_ne!(other.patient_id, a[0].patient_id);
}

#[test]
fn uids_are_unique_and_the_file_says_what_the_index_says() {
    let mut seen = HashSet::new();
    for study in all() {
        assert!(seen.insert(study.study.study_uid.to_string()));
        for instance in &study.study.instances {
            assert!(seen.insert(instance.instance_uid.to_string()));
            let object = object(instance);
            let text = |tag| object.element(tag).unwrap().to_str().unwrap().into_owned();
            assert_eq!(text(tags::STUDY_INSTANCE_UID), study.study.study_uid.as_str());
            assert_eq!(text(tags::SERIES_INSTANCE_UID), instance.series_uid.as_str());
            assert_eq!(text(tags::SOP_INSTANCE_UID), instance.instance_uid.as_str());
            assert_eq!(object.meta().media_storage_sop_class_uid(), instance.sop_class_uid.as_str());
            assert_eq!(object.meta().transfer_syntax(), instance.transfer_syntax_uid.as_str());
            assert_eq!(&text(tags::PATIENT_ID), study.patient_id.reveal());
            assert_eq!(&text(tags::ACCESSION_NUMBER), study.accession_number.reveal());
            assert_eq!(text(tags::MODALITY), study.kind.modality());
        }
    }
}

#[test]
fn every_image_decodes_to_pixels_that_differ() {
    for study in all().iter().filter(|s| s.kind != StudyKind::SrOnly) {
        for instance in &study.study.instances {
            let object = object(instance);
            let decoded = object.decode_pixel_data().unwrap();
            let pixels: Vec<f32> = decoded.to_vec_frame(0).unwrap();
            let (min, max) = pixels.iter().fold((f32::MAX, f32::MIN), |(a, b), p| (a.min(*p), b.max(*p)));
            assert!(max - min > 50.0, "{:?}: {min}..{max}", study.kind);
        }
    }
}

#[test]
fn dcmtk_reads_every_file_without_a_complaint() {
    let folder = tempfile::tempdir().unwrap();
    for (s, study) in all().iter().enumerate() {
        for (i, instance) in study.study.instances.iter().enumerate() {
            let file = folder.path().join(format!("{s}-{i}.dcm"));
            std::fs::write(&file, bytes(instance)).unwrap();
            dcmtk("dcmftest", &[], &file);
            let dump = dcmtk("dcmdump", &["-q", "+U8"], &file);
            assert!(dump.contains("(0010,0010)"), "{dump}");
            match instance.transfer_syntax_uid.as_str() {
                "1.2.840.10008.1.2.4.50" => dcmtk("dcmj2pnm", &["--write-raw-pnm"], &file),
                _ if study.kind == StudyKind::SrOnly => dcmtk("dsrdump", &[], &file),
                _ => dcmtk("dcm2pnm", &["--write-raw-pnm"], &file),
            };
        }
    }
}

#[test]
fn names_survive_their_character_sets() {
    let name = |study: &SyntheticStudy| {
        let object = object(&study.study.instances[0]);
        object.element(tags::PATIENT_NAME).unwrap().to_str().unwrap().into_owned()
    };
    let studies = all();
    assert_eq!(name(&studies[0]), "SYNTHETIC^PATIENT 001");
    assert_eq!(name(&studies[2]), "СИНТЕТИЧЕСКИЙ^ПАЦИЕНТ 003");
    assert_eq!(name(&studies[4]), "SYNTHETIC^PATIENT 005=合成^患者005");
}
