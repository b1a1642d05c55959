//! Seeded studies of patients who never lived.
//!
//! The files are what a modality would send: complete IODs (PS3.3), images that any viewer opens, several transfer
//! syntaxes and character sets. Patients are called `SYNTHETIC^PATIENT nnn` and nothing in a file is of a person.
//! Pictures are drawings made of ellipses: they carry enough structure for [`crate::sample`] to measure something
//! real, and they are no model of disease.

mod attributes;
mod phantom;
mod studies;

use bytes::Bytes;
use dicom_object::mem::InMemDicomObject;
use isocenter_domain::{
    Phi,
    id::{InstanceUid, InvalidId, SeriesUid, SopClassUid, StudyUid, TransferSyntaxUid},
};
use isocenter_runtime::random::Seeded;
use sha2::{Digest, Sha256};

use crate::study::{Content, Instance, Study};

/// Which study is drawn. Procedure, priority and body part differ, so that different rules of a policy match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StudyKind {
    /// CT of the head under the stroke protocol, with a bright lesion; priority STAT; two series.
    CtStroke,
    /// CT of the head, routine; two series.
    CtHead,
    /// CR of the chest, lungs clear; explicit VR big endian.
    CrChest,
    /// CR of the chest with one opacity; priority HIGH.
    CrChestOpacity,
    /// DX of the chest, lungs clear.
    DxChest,
    /// DX of the chest with one opacity.
    DxChestOpacity,
    /// MG, four views, fatty breast.
    MgFatty,
    /// MG, four views, dense breast.
    MgDense,
    /// MR of the brain; implicit VR little endian.
    MrBrain,
    /// US of the abdomen: one native RGB image and one JPEG multi-frame loop.
    UsAbdomen,
    /// One Basic Text SR and no image; deflated explicit VR little endian.
    SrOnly,
}

impl StudyKind {
    /// Every kind, in the order in which [`Synthetic::mix`] takes them.
    pub const ALL: [Self; 11] = [
        Self::CrChestOpacity,
        Self::CtStroke,
        Self::MgDense,
        Self::UsAbdomen,
        Self::DxChest,
        Self::MrBrain,
        Self::CtHead,
        Self::MgFatty,
        Self::CrChest,
        Self::SrOnly,
        Self::DxChestOpacity,
    ];

    /// Modality (0008,0060).
    #[must_use]
    pub const fn modality(self) -> &'static str {
        self.procedure().modality
    }

    /// Body Part Examined (0018,0015), as in PS3.16 annex L.
    #[must_use]
    pub const fn body_part(self) -> &'static str {
        self.procedure().body_part
    }

    /// What was ordered.
    const fn procedure(self) -> Procedure {
        let (modality, body_part, code, description, priority) = match self {
            Self::CtStroke => ("CT", "HEAD", "CTSTROKE", "CT head, stroke protocol", "STAT"),
            Self::CtHead => ("CT", "HEAD", "CTHEAD", "CT head without contrast", "ROUTINE"),
            Self::CrChest => ("CR", "CHEST", "CRCHEST", "Chest radiograph", "ROUTINE"),
            Self::CrChestOpacity => ("CR", "CHEST", "CRCHEST", "Chest radiograph", "HIGH"),
            Self::DxChest => ("DX", "CHEST", "DXCHEST", "Chest radiograph", "ROUTINE"),
            Self::DxChestOpacity => ("DX", "CHEST", "DXCHEST", "Chest radiograph", "ROUTINE"),
            Self::MgFatty | Self::MgDense => ("MG", "BREAST", "MGSCREEN", "Screening mammography", "ROUTINE"),
            Self::MrBrain => ("MR", "BRAIN", "MRBRAIN", "MR brain", "ROUTINE"),
            Self::UsAbdomen => ("US", "ABDOMEN", "USABDOMEN", "Ultrasound abdomen", "MEDIUM"),
            Self::SrOnly => ("SR", "CHEST", "SRNOTE", "Note without images", "LOW"),
        };
        Procedure { modality, body_part, code, description, priority }
    }
}

/// One row of the table of procedures.
struct Procedure {
    modality: &'static str,
    body_part: &'static str,
    /// Code Value in Procedure Code Sequence (0008,1032).
    code: &'static str,
    description: &'static str,
    /// Requested Procedure Priority (0040,1003): STAT, HIGH, ROUTINE, MEDIUM or LOW (PS3.3 §C.4.11).
    priority: &'static str,
}

/// A study, and what its order would say.
#[derive(Clone, Debug)]
pub struct SyntheticStudy {
    /// What it shows.
    pub kind: StudyKind,
    /// Its objects, in memory.
    pub study: Study,
    /// Patient ID (0010,0020).
    pub patient_id: Phi<String>,
    /// Issuer of Patient ID (0010,0021): the same for every synthetic patient.
    pub issuer: &'static str,
    /// Accession Number (0008,0050).
    pub accession_number: Phi<String>,
}

/// Why a study could not be written: a defect of this crate or of the DICOM library, never of the caller.
#[derive(Debug, thiserror::Error)]
pub enum SyntheticError {
    /// A generated UID is none.
    #[error("a generated UID is not one")]
    Uid(#[from] InvalidId),
    /// The file meta group could not be made.
    #[error("cannot make the file meta information")]
    Meta(#[source] Box<dicom_object::WithMetaError>),
    /// The pixel data could not be compressed.
    #[error("cannot compress the pixel data")]
    Compress(#[source] Box<dicom_pixeldata::TranscodeError>),
    /// The data set could not be written.
    #[error("cannot write the data set")]
    Write(#[source] Box<dicom_object::WriteError>),
}

impl isocenter_domain::Kinded for SyntheticError {
    fn kind(&self) -> isocenter_domain::Kind {
        isocenter_domain::Kind::Internal
    }
}

/// Makes studies from a seed: the same seed and the same calls give the same bytes, on every machine, for one version
/// of this crate.
#[derive(Clone, Debug)]
pub struct Synthetic {
    seed: u64,
    ordinal: u32,
}

impl Synthetic {
    /// Issuer of Patient ID (0010,0021) of every synthetic patient.
    pub const ISSUER: &'static str = "ISOCENTER-SYNTHETIC";

    /// Starts at the first patient of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, ordinal: 0 }
    }

    /// The next patient's study. Every third and fifth patient's name needs ISO_IR 144 or ISO_IR 192.
    ///
    /// # Errors
    /// Only if the DICOM library refuses what this crate built.
    pub fn study(&mut self, kind: StudyKind) -> Result<SyntheticStudy, SyntheticError> {
        self.ordinal += 1;
        let names = Names { seed: self.seed, ordinal: self.ordinal };
        let subject = Subject::new(&names, kind);
        let mut draft = Draft { kind, names, subject, rng: names.rng(kind), written: Vec::new() };
        studies::draw(&mut draft)?;
        let study_uid = StudyUid::new(draft.study_uid())?;
        Ok(SyntheticStudy {
            kind,
            patient_id: Phi::new(draft.subject.id),
            issuer: Self::ISSUER,
            accession_number: Phi::new(draft.subject.accession),
            study: Study { study_uid, instances: draft.written },
        })
    }

    /// The next `n` patients' studies, taking [`StudyKind::ALL`] in turn.
    ///
    /// # Errors
    /// As [`Synthetic::study`].
    pub fn mix(&mut self, n: usize) -> Result<Vec<SyntheticStudy>, SyntheticError> {
        StudyKind::ALL.into_iter().cycle().take(n).map(|kind| self.study(kind)).collect()
    }
}

/// Where everything about the n-th patient is derived from.
#[derive(Clone, Copy)]
struct Names {
    seed: u64,
    ordinal: u32,
}

impl Names {
    fn digest(&self, what: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"isocenter synthetic 1\0");
        hash.update(self.seed.to_be_bytes());
        hash.update(self.ordinal.to_be_bytes());
        hash.update(what.as_bytes());
        hash.finalize().into()
    }

    /// A UID under 2.25 (PS3.5 §B.2): a version 8 UUID (RFC 9562 §5.8) written as one decimal number.
    fn uid(&self, what: &str) -> String {
        let digest = self.digest(what);
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&digest[..16]);
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        format!("2.25.{}", u128::from_be_bytes(uuid))
    }

    /// The generator of everything that is drawn.
    fn rng(&self, kind: StudyKind) -> Seeded {
        Seeded::new(self.seed).fork(&format!("{} {kind:?}", self.ordinal))
    }
}

/// The patient and the order.
struct Subject {
    name: String,
    /// Specific Character Set (0008,0005); `None`: the default repertoire.
    charset: Option<&'static str>,
    id: String,
    birth_date: String,
    sex: &'static str,
    accession: String,
    study_date: String,
    study_time: String,
}

impl Subject {
    fn new(names: &Names, kind: StudyKind) -> Self {
        let n = names.ordinal;
        let d = names.digest("subject");
        let (name, charset) = match n {
            n if n.is_multiple_of(3) => (format!("СИНТЕТИЧЕСКИЙ^ПАЦИЕНТ {n:03}"), Some("ISO_IR 144")),
            n if n.is_multiple_of(5) => {
                (format!("SYNTHETIC^PATIENT {n:03}=合成^患者{n:03}"), Some("ISO_IR 192"))
            }
            n => (format!("SYNTHETIC^PATIENT {n:03}"), None),
        };
        let female = matches!(kind, StudyKind::MgFatty | StudyKind::MgDense) || d[0] & 1 == 0;
        let seed = names.seed % 100_000;
        Self {
            name,
            charset,
            id: format!("SYN-{seed:05}-{n:05}"),
            birth_date: format!("{}{:02}{:02}", 1940 + u32::from(d[1] % 50), 1 + d[2] % 12, 1 + d[3] % 28),
            sex: if female { "F" } else { "M" },
            accession: format!("SYN{seed:05}{n:05}"),
            study_date: format!("202601{:02}", 5 + d[4] % 20),
            study_time: format!("{:02}{:02}{:02}", 7 + d[5] % 12, d[6] % 60, d[7] % 60),
        }
    }
}

/// A study while it is being drawn.
struct Draft {
    kind: StudyKind,
    names: Names,
    subject: Subject,
    rng: Seeded,
    written: Vec<Instance>,
}

impl Draft {
    fn uid(&self, what: &str) -> String {
        self.names.uid(&format!("{:?} {what}", self.kind))
    }

    fn study_uid(&self) -> String {
        self.uid("study")
    }

    fn series_uid(&self, series: u16) -> String {
        self.uid(&format!("series {series}"))
    }

    fn instance_uid(&self, series: u16, number: u16) -> String {
        self.uid(&format!("instance {series}.{number}"))
    }

    /// Writes one object as a Part 10 file in `transfer_syntax`.
    fn write(
        &mut self,
        object: InMemDicomObject,
        at: (u16, u16),
        sop_class: &str,
        transfer_syntax: &str,
    ) -> Result<(), SyntheticError> {
        let content = attributes::part10(object, transfer_syntax)?;
        self.written.push(Instance {
            series_uid: SeriesUid::new(self.series_uid(at.0))?,
            instance_uid: InstanceUid::new(self.instance_uid(at.0, at.1))?,
            sop_class_uid: SopClassUid::new(sop_class)?,
            transfer_syntax_uid: TransferSyntaxUid::new(transfer_syntax)?,
            content: Content::Memory(Bytes::from(content)),
        });
        Ok(())
    }
}
