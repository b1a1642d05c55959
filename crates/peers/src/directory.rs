//! Studies from a folder of DICOM files: what `--dicom-dir` sends.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use isocenter_dimse::part10::{InspectError, inspect};
use isocenter_domain::{
    Kind, Kinded,
    id::{InstanceUid, SeriesUid, StudyUid},
};

use crate::study::{Content, Instance, Study};

/// Folders below the root that are entered. Exports nest by patient, study and series; deeper is a loop or a mistake.
const MAX_DEPTH: usize = 16;
/// Files that are looked at; above it the scan fails, for nobody means to send that many by hand.
const MAX_FILES: u64 = 1_000_000;

/// What a folder holds.
#[derive(Debug, Default)]
pub struct Scan {
    /// The studies, by Study Instance UID; in each, instances by series number, then instance number.
    pub studies: Vec<Study>,
    /// What was left out.
    pub skipped: Skipped,
}

/// Files left out of a scan, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// No `DICM` at byte 128 (PS3.10 §7.1).
    pub not_dicom: u64,
    /// DICOM, but cut off or broken, or without one of the UIDs that filing it needs (a DICOMDIR among them).
    pub unusable: u64,
    /// A SOP Instance UID that an earlier file of the same study already has.
    pub repeated: u64,
}

/// Why a folder could not be scanned.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A folder or file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// More files than are looked at.
    #[error("more than {MAX_FILES} files: name a smaller folder")]
    TooMany,
}

impl Kinded for DirectoryError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => Kind::NotFound,
            Self::Read { .. } => Kind::Unavailable,
            Self::TooMany => Kind::Exhausted,
        }
    }
}

/// Looks at every file under `root`, whatever its name, and groups what is DICOM by study. Only headers are read.
/// Links to folders are not followed, so that a scan ends. Blocks: call it off the async threads.
///
/// # Errors
/// If a folder or file cannot be opened, or there are more than a million files.
pub fn scan(root: &Path) -> Result<Scan, DirectoryError> {
    let mut found = Found::default();
    found.folder(root, 0)?;
    Ok(found.finish())
}

/// One file as it will be sorted: series number, series, instance number, instance.
type Order = (Option<i32>, SeriesUid, Option<i32>, InstanceUid);

#[derive(Default)]
struct Found {
    files: u64,
    skipped: Skipped,
    studies: BTreeMap<StudyUid, BTreeMap<InstanceUid, (Order, Instance)>>,
}

impl Found {
    fn folder(&mut self, folder: &Path, depth: usize) -> Result<(), DirectoryError> {
        let failed = |source| DirectoryError::Read { path: folder.to_owned(), source };
        let entries = fs::read_dir(folder).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let mut paths = Vec::with_capacity(entries.len());
        for entry in entries {
            paths.push((entry.path(), entry.file_type().map_err(failed)?.is_dir()));
        }
        // Folders list themselves in no order; the same folder is to give the same scan.
        paths.sort();
        for (path, is_folder) in paths {
            if is_folder {
                if depth < MAX_DEPTH {
                    self.folder(&path, depth + 1)?;
                }
            } else if path.is_file() {
                self.files += 1;
                if self.files > MAX_FILES {
                    return Err(DirectoryError::TooMany);
                }
                self.file(path)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: PathBuf) -> Result<(), DirectoryError> {
        let header = match inspect(&path) {
            Ok(header) => header,
            Err(InspectError::Io(source)) => return Err(DirectoryError::Read { path, source }),
            Err(InspectError::NotPart10) => {
                self.skipped.not_dicom += 1;
                return Ok(());
            }
            Err(_) => {
                self.skipped.unusable += 1;
                return Ok(());
            }
        };
        let instances = self.studies.entry(header.study).or_default();
        if instances.contains_key(&header.instance) {
            self.skipped.repeated += 1;
            return Ok(());
        }
        let (series, instance) = (header.series, header.instance);
        let order = (header.series_number, series.clone(), header.instance_number, instance.clone());
        let found = Instance {
            series_uid: series,
            instance_uid: instance.clone(),
            sop_class_uid: header.sop_class,
            transfer_syntax_uid: header.transfer_syntax,
            content: Content::File(path),
        };
        instances.insert(instance, (order, found));
        Ok(())
    }

    fn finish(self) -> Scan {
        let study = |(study_uid, instances): (_, BTreeMap<_, (Order, Instance)>)| {
            let mut instances: Vec<_> = instances.into_values().collect();
            instances.sort_by(|a, b| a.0.cmp(&b.0));
            Study { study_uid, instances: instances.into_iter().map(|(_, instance)| instance).collect() }
        };
        Scan { studies: self.studies.into_iter().map(study).collect(), skipped: self.skipped }
    }
}
