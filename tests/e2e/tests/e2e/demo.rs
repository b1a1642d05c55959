//! `isocenter demo --once`: the whole way in one command.

use serde_json::Value;

use crate::harness::{isocenter, program, pydicom_folder};

async fn demo(more: &[&str]) -> (Value, String) {
    let ran = program(isocenter(), ["demo", "--once", "--json"].iter().chain(more)).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let last = ran.stdout.lines().last().unwrap_or_default();
    (serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {last:?}")), ran.stderr)
}

fn count(summary: &Value, name: &str) -> u64 {
    summary[name].as_u64().unwrap_or_else(|| panic!("no {name} in {summary}"))
}

#[tokio::test]
async fn synthetic_studies_go_all_the_way() {
    let (summary, told) = demo(&[]).await;
    assert_eq!(count(&summary, "lost"), 0, "{summary}");
    assert!(count(&summary, "reads_signed") > 0, "{summary}");
    assert!(count(&summary, "reports_acknowledged") >= count(&summary, "reads_signed"), "{summary}");
    assert!(count(&summary, "ai_succeeded") > 0, "{summary}");
    assert!(told.contains("seed"), "{told}");
}

#[tokio::test]
async fn a_folder_of_files_goes_all_the_way() {
    let folder = pydicom_folder().await;
    let (summary, _) = demo(&["--dicom-dir", &folder.display().to_string()]).await;
    assert_eq!(count(&summary, "lost"), 0, "{summary}");
    assert!(count(&summary, "reads_signed") > 0, "{summary}");
    assert!(count(&summary, "reports_acknowledged") >= count(&summary, "reads_signed"), "{summary}");
}
