//! What lies in folders.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use isocenter_dimse::part10::dataset_digest;

use super::{TENANT, python::interpreter};

/// Every file below a folder, sorted; none where there is no such folder.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// The instances below `blobs/{kind}/{tenant}`: how many files bear each data set, known by the SHA-256 of its bytes in
/// hexadecimal digits.
///
/// # Panics
/// If a file does not lie where its own UIDs and content say, or is no Part 10 file.
pub fn data_sets(blobs: &Path, kind: &str) -> BTreeMap<String, usize> {
    let root = blobs.join(kind).join(TENANT);
    let mut found = BTreeMap::new();
    for path in files_below(&root) {
        let digest = dataset_digest(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        let expected = format!("/{}/{}.dcm", digest.meta.sop_instance, digest.file);
        assert!(name.ends_with(&expected), "{name} is not named after its content");
        *found.entry(digest.data_set.to_string()).or_default() += 1;
    }
    found
}

/// The folder of the test files of the Python package pydicom.
pub async fn pydicom_folder() -> PathBuf {
    let code =
        "import pydicom, pathlib; print(pathlib.Path(pydicom.__file__).parent / 'data' / 'test_files')";
    let folder = interpreter(["-c", code]).await.succeeded();
    PathBuf::from(folder.trim())
}
