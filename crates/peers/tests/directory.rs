//! Scanning a folder as a user may leave one.

use std::fs;

use isocenter_peers::{
    directory::{DirectoryError, Skipped, scan},
    study::Content,
    synthetic::{StudyKind, Synthetic},
};

#[tokio::test]
async fn files_of_any_name_are_grouped_by_study_and_the_rest_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut synthetic = Synthetic::new(3);
    let studies = [
        synthetic.study(StudyKind::CtHead).unwrap().study,
        synthetic.study(StudyKind::MgDense).unwrap().study,
        synthetic.study(StudyKind::SrOnly).unwrap().study,
    ];
    let mut names = 0;
    for study in &studies {
        // Backwards, so that order on disk is not the order asked for.
        for instance in study.instances.iter().rev() {
            names += 1;
            let place = folder.path().join(["", "a", "a/b/c"][names % 3]);
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join(format!("IM{names:03}")), instance.read().await.unwrap()).unwrap();
        }
    }
    let first = studies[0].instances[0].read().await.unwrap();
    fs::write(folder.path().join("zz-copy"), &first).unwrap();
    fs::write(folder.path().join("zz-cut"), &first[..300]).unwrap();
    fs::write(folder.path().join("README"), "not DICOM").unwrap();

    let found = scan(folder.path()).unwrap();

    assert_eq!(found.skipped, Skipped { not_dicom: 1, unusable: 1, repeated: 1 });
    assert_eq!(found.studies.len(), 3);
    for study in &studies {
        let found = found.studies.iter().find(|s| s.study_uid == study.study_uid).unwrap();
        let uids = |i: &isocenter_peers::study::Instance| {
            (
                i.series_uid.clone(),
                i.instance_uid.clone(),
                i.sop_class_uid.clone(),
                i.transfer_syntax_uid.clone(),
            )
        };
        assert!(found.instances.iter().map(uids).eq(study.instances.iter().map(uids)));
        for (a, b) in found.instances.iter().zip(&study.instances) {
            assert!(matches!(a.content, Content::File(_)));
            assert_eq!(a.read().await.unwrap(), b.read().await.unwrap());
        }
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    match scan(&missing) {
        Err(DirectoryError::Read { path, .. }) => assert_eq!(path, missing),
        other => panic!("{other:?}"),
    }
}
