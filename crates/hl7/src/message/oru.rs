//! What an ORU^R01 is made of.

use isocenter_domain::{Phi, Time, id::StudyUid};

/// How long findings or impression may be: 65,536 characters, the maximum of FT and TX (§2.A.31, §2.A.78).
pub const TEXT_LIMIT: usize = 65_536;

/// An unsolicited observation message that carries one version of one report: ORU^R01^ORU_R01, HL7 v2.5.1 §7.3.1.
///
/// Plain data; [`Oru::build`] writes it. Empty text leaves a field empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oru {
    /// MSH-3 and MSH-4: who sends.
    pub sender: Endpoint,
    /// MSH-5 and MSH-6: who is to receive.
    pub receiver: Endpoint,
    /// MSH-7: when the message was written. A retry that shall be byte for byte the same keeps it.
    pub written_at: Time,
    /// MSH-10: 1 to 20 characters; see [`super::message_id`].
    pub control_id: String,
    /// The offset from UTC, in minutes, in which every time of the message is written; each names it (§2.A.22).
    pub utc_offset_minutes: i16,
    /// PID.
    pub patient: Patient,
    /// PV1, where the visit is known.
    pub visit: Option<Visit>,
    /// ORC-2 and OBR-2: the order's number at the placer (§4.5.1.2), where there is an order.
    pub placer_order_number: Option<Phi<String>>,
    /// ORC-3 and OBR-3: the number at the filler (§4.5.1.3): the accession number, or the case id where there is none.
    pub filler_order_number: Phi<String>,
    /// OBR-4: what was asked for (§7.4.1.4).
    pub service: Coded,
    /// OBR-7: when the examination began (§7.4.1.7), where it is known.
    pub observed_at: Option<Time>,
    /// OBR-22: when this version was signed (§7.4.1.22).
    pub reported_at: Time,
    /// OBR-25 and OBX-11: what this version is.
    pub status: ReportStatus,
    /// OBR-29: the filler order number of the report that this one stands beside (§7.4.1.29), as a second opinion does.
    pub parent: Option<Phi<String>>,
    /// OBR-32: who answers for the report (§7.4.1.32).
    pub interpreter: Interpreter,
    /// The studies read: at least one. Each is an OBX of type ST, `113014^DICOM Study^DCM`, whose OBX-11 is `O`: it
    /// describes the order and is no result (IHE Radiology, Results Distribution).
    pub studies: Vec<StudyUid>,
    /// The findings: LOINC 59776-5. No OBX where it is empty.
    pub findings: Phi<String>,
    /// The impression: LOINC 19005-8. No OBX where it is empty. It or the findings must say something.
    pub impression: Phi<String>,
    /// How lines of findings and impression are told apart.
    pub text_style: TextStyle,
}

/// A system: MSH-3 and MSH-4, or MSH-5 and MSH-6 (§2.15.9.3 to §2.15.9.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The application.
    pub application: Hd,
    /// The facility.
    pub facility: Hd,
}

/// A hierarchic designator (HD, §2.A.33): a local name, a universal id, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hd {
    /// HD.1: the local name.
    pub namespace_id: String,
    /// HD.2: the universal id.
    pub universal_id: String,
    /// HD.3: its type, e.g. `ISO`; has to be given with HD.2.
    pub universal_id_type: String,
}

impl Hd {
    /// A local name alone.
    #[must_use]
    pub fn local(name: &str) -> Self {
        Self { namespace_id: name.to_owned(), ..Self::default() }
    }
}

/// The patient: PID (§3.4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patient {
    /// PID-3: at least one. Bare numbers of different authorities never match.
    pub identifiers: Vec<PatientIdentifier>,
    /// PID-5.
    pub name: Phi<PersonName>,
    /// PID-7: `YYYY`, `YYYYMM` or `YYYYMMDD`, as in DICOM. Anything else is left out: a date that a modality got wrong
    /// must not keep the report back.
    pub birth_date: Phi<String>,
    /// PID-8.
    pub sex: Phi<Sex>,
}

/// One identifier of a patient (CX, §2.A.14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatientIdentifier {
    /// CX.1: the value; not empty.
    pub value: Phi<String>,
    /// CX.4: who assigned it.
    pub authority: Hd,
    /// CX.5: its type (table 0203), e.g. `PI`; may be empty.
    pub type_code: String,
}

/// A person's name (XPN, §2.A.88). The order of the last two is not that of DICOM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PersonName {
    /// XPN.1.
    pub family: String,
    /// XPN.2.
    pub given: String,
    /// XPN.3: further given names.
    pub middle: String,
    /// XPN.4, e.g. `JR`.
    pub suffix: String,
    /// XPN.5, e.g. `DR`.
    pub prefix: String,
}

impl PersonName {
    /// Reads a DICOM person name (PS3.5 §6.2.1): the first component group that is not empty, without its padding.
    /// DICOM's prefix comes before its suffix, HL7's after it.
    #[must_use]
    pub fn from_dicom(value: &str) -> Self {
        let group = value
            .split('=')
            .find(|group| !group.trim_matches([' ', '^', '\0']).is_empty())
            .unwrap_or_default();
        let mut parts = group.split('^').map(|part| part.trim_matches([' ', '\0']).to_owned());
        let mut next = || parts.next().unwrap_or_default();
        let (family, given, middle, prefix, suffix) = (next(), next(), next(), next(), next());
        Self { family, given, middle, suffix, prefix }
    }
}

/// Administrative sex (table 0001).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sex {
    /// `F`
    Female,
    /// `M`
    Male,
    /// `O`
    Other,
    /// `U`
    #[default]
    Unknown,
}

impl Sex {
    /// Reads DICOM's Patient's Sex (0010,0040); anything but F, M and O is unknown.
    #[must_use]
    pub fn from_dicom(value: &str) -> Self {
        match value.trim_matches([' ', '\0']) {
            "F" => Self::Female,
            "M" => Self::Male,
            "O" => Self::Other,
            _ => Self::Unknown,
        }
    }

    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::Female => "F",
            Self::Male => "M",
            Self::Other => "O",
            Self::Unknown => "U",
        }
    }
}

/// The visit: PV1 (§3.4.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// PV1-2.
    pub class: PatientClass,
    /// PV1-3.1: the ward or point of care; may be empty.
    pub point_of_care: String,
    /// PV1-19.1: the visit's number; may be empty.
    pub visit_number: Phi<String>,
}

/// Patient class (table 0004).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatientClass {
    /// `E`
    Emergency,
    /// `I`
    Inpatient,
    /// `O`
    Outpatient,
    /// `U`
    Unknown,
}

impl PatientClass {
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::Emergency => "E",
            Self::Inpatient => "I",
            Self::Outpatient => "O",
            Self::Unknown => "U",
        }
    }
}

/// A coded element (CE, §2.A.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coded {
    /// CE.1.
    pub code: String,
    /// CE.2: what it means.
    pub text: String,
    /// CE.3: the coding system (table 0396).
    pub system: String,
}

/// The physician who answers for the report (CNN in NDL.1, §2.A.9, §2.A.46).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interpreter {
    /// CNN.1.
    pub id: String,
    /// CNN.2; may be empty.
    pub family: String,
    /// CNN.3; may be empty.
    pub given: String,
}

/// What this version of the report is: OBR-25 (table 0123) and OBX-11 (table 0085).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportStatus {
    /// P and P.
    Preliminary,
    /// F and F: can only be changed by a correction.
    Final,
    /// Something is added to a final report, in the way that the destination understands.
    Addendum(AddendumStyle),
    /// C and C: replaces what was final.
    Correction,
    /// X and X: the images do not allow a report.
    NotObtainable,
    /// X and W: what was sent is withdrawn, as a report on the wrong patient is.
    Retraction,
}

/// How a destination wants an addendum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddendumStyle {
    /// F and F, with the whole text.
    CumulativeFinal,
    /// C and C, with the whole text.
    CumulativeCorrection,
    /// F and B, with what was added alone. OBX-11 = B is younger than v2.5.1.
    Appended,
}

impl ReportStatus {
    /// OBR-25.
    #[must_use]
    pub const fn result_status(self) -> &'static str {
        match self {
            Self::Preliminary => "P",
            Self::Final | Self::Addendum(AddendumStyle::CumulativeFinal | AddendumStyle::Appended) => "F",
            Self::Addendum(AddendumStyle::CumulativeCorrection) | Self::Correction => "C",
            Self::NotObtainable | Self::Retraction => "X",
        }
    }

    /// OBX-11 of findings and impression.
    #[must_use]
    pub const fn observation_status(self) -> &'static str {
        match self {
            Self::Preliminary => "P",
            Self::Final | Self::Addendum(AddendumStyle::CumulativeFinal) => "F",
            Self::Addendum(AddendumStyle::CumulativeCorrection) | Self::Correction => "C",
            Self::Addendum(AddendumStyle::Appended) => "B",
            Self::NotObtainable => "X",
            Self::Retraction => "W",
        }
    }
}

/// How lines are told apart in OBX-5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextStyle {
    /// TX, each line a repetition (§2.A.78).
    Lines,
    /// FT, lines parted by `\.br\` (§2.7.6).
    Formatted,
}
