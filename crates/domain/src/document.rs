//! Documents kept in blobs: too large for the store, or about the patient. Each is written once and named by its hash or
//! number; none is ever changed.

use std::collections::BTreeMap;

use crate::{
    id::{InstanceUid, NodeId, SeriesUid, SiteId, SopClassUid, StudyUid, TransferSyntaxUid},
    phi::Phi,
    record::{ai_task::AiAnswer, study::Facts},
    refs::Digest,
    time::Time,
};

/// Who the images are of, as the images say. A patient is {assigning authority, value}; bare ids of different authorities
/// never match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patient {
    /// Issuer of Patient ID (0010,0021), or the site's authority where the images name none.
    pub authority: String,
    /// Patient ID (0010,0020).
    pub id: Phi<String>,
    /// Patient's Name (0010,0010), all component groups, in UTF-8.
    pub name: Phi<String>,
    /// Patient's Birth Date (0010,0030), as DICOM DA.
    pub birth_date: Phi<String>,
    /// Patient's Sex (0010,0040): M, F, O or empty.
    pub sex: Phi<String>,
}

/// One instance in blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// SOP Class UID (0008,0016).
    pub sop_class: SopClassUid,
    /// SOP Instance UID (0008,0018).
    pub instance: InstanceUid,
    /// Transfer Syntax UID (0002,0010).
    pub transfer_syntax: TransferSyntaxUid,
    /// Size of the Part 10 file in bytes.
    pub size: u64,
    /// SHA-256 of the Part 10 file: part of its path in blobs.
    pub sha256: Digest,
    /// SHA-256 of the data set after the file meta information: equal data sets are one instance received twice.
    pub data_set: Digest,
    /// Instance Number (0020,0013); 0 where absent.
    pub number: i64,
    /// Number of Frames (0028,0008); 0 where there are no pixels.
    pub frames: u32,
    /// Whether a person looks at it: it has pixel data and is not a presentation state, key object or report.
    pub image: bool,
}

/// The instances of one series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    /// Modality (0008,0060).
    pub modality: String,
    /// Body Part Examined (0018,0015), upper case.
    pub body_part: String,
    /// Series Number (0020,0011); 0 where absent.
    pub number: i64,
    /// The instances, by SOP Instance UID.
    pub instances: BTreeMap<InstanceUid, Instance>,
}

/// An instance put aside: the same SOP Instance UID had come with other content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quarantined {
    /// SOP Instance UID (0008,0018).
    pub instance: InstanceUid,
    /// SHA-256 of the Part 10 file: part of its path in quarantine.
    pub sha256: Digest,
    /// How it differs.
    pub why: String,
}

/// What is known of a study's images: one node's segment of it, or the whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// Who the images are of.
    pub patient: Patient,
    /// Accession Number (0008,0050); empty where absent.
    pub accession: Phi<String>,
    /// Study Date (0008,0020), DICOM DA.
    pub study_date: String,
    /// Study Time (0008,0030), DICOM TM.
    pub study_time: String,
    /// Study Description (0008,1030): free text, so it may name the patient.
    pub description: Phi<String>,
    /// Procedure Code Sequence (0008,1032): first item's code value.
    pub procedure_code: String,
    /// Requested Procedure Priority (0040,1003).
    pub priority: String,
    /// Institution Name (0008,0080).
    pub institution: String,
    /// The series.
    pub series: BTreeMap<SeriesUid, Series>,
    /// What was put aside.
    pub quarantined: Vec<Quarantined>,
}

/// What one node has of a study, in blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The study.
    pub study: StudyUid,
    /// The node.
    pub node: NodeId,
    /// Its images.
    pub images: Images,
}

/// A revision of a study.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The study.
    pub study: StudyUid,
    /// From 1.
    pub revision: u32,
    /// Who sent it.
    pub site: SiteId,
    /// When the revision was complete.
    pub complete_at: Time,
    /// Every instance of the study up to this revision.
    pub images: Images,
}

/// A report's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportBody {
    /// What was seen.
    pub findings: Phi<String>,
    /// What it means.
    pub impression: Phi<String>,
}

/// A vendor's whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct AiResult {
    /// Calibrated probability of a finding, 0 to 1.
    pub abnormal_probability: f64,
    /// Plain text, shown, never parsed.
    pub summary: String,
    /// What was marked.
    pub findings: Vec<AiFinding>,
    /// The model that answered.
    pub model: String,
    /// Its version.
    pub model_version: String,
}

/// A suspect region.
#[derive(Clone, Debug, PartialEq)]
pub struct AiFinding {
    /// Code value.
    pub code: String,
    /// Coding scheme designator.
    pub code_scheme: String,
    /// Code meaning, for people.
    pub label: String,
    /// 0 to 1.
    pub probability: f64,
    /// The instance it is on; empty: the study.
    pub instance: Option<InstanceUid>,
    /// Frame from 1; 0: the whole instance.
    pub frame: u32,
    /// Left, top, right, bottom in pixels; empty: everywhere.
    pub bounds: Vec<u32>,
}

/// What the archive keeps of a closed study: the records as they were, so that it can be reopened with the same ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The study.
    pub study: StudyUid,
    /// When it was closed.
    pub closed_at: Time,
    /// Key and stored value of each record, as the store held them.
    pub records: Vec<(String, Vec<u8>)>,
}

/// An event of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Key of the record that changed.
    pub key: String,
    /// The record's change counter.
    pub seq: u64,
    /// What happened, as the record's events are named.
    pub event: String,
    /// Who did it.
    pub actor: String,
    /// Why, for events that need a reason; empty otherwise.
    pub reason: String,
    /// When.
    pub at: Time,
    /// The request or operation that did it.
    pub op_id: String,
    /// W3C traceparent of the study.
    pub trace: String,
}

/// A line of the journal: an event and the record's value when it was journaled, under the seq which that value bears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// The event.
    pub event: Event,
    /// The value's own seq, at least the event's; 0 where the record is gone.
    pub value_seq: u64,
    /// The record as stored; empty where it is gone.
    pub value: Vec<u8>,
}

impl Images {
    /// The most modalities kept as facts.
    const MAX_MODALITIES: usize = 8;

    /// Takes over what `other` knows. What this already says wins; instances of equal UID are the caller's to compare.
    pub fn merge(&mut self, other: Self) {
        let first = self.series.is_empty();
        let Self { patient, accession, study_date, study_time, description, .. } = &mut *self;
        if first || patient.id.reveal().is_empty() {
            *patient = other.patient;
        }
        keep_phi(accession, other.accession);
        keep(study_date, other.study_date);
        keep(study_time, other.study_time);
        keep_phi(description, other.description);
        keep(&mut self.procedure_code, other.procedure_code);
        keep(&mut self.priority, other.priority);
        keep(&mut self.institution, other.institution);
        for (uid, series) in other.series {
            let ours = self.series.entry(uid).or_default();
            keep(&mut ours.modality, series.modality);
            keep(&mut ours.body_part, series.body_part);
            if ours.number == 0 {
                ours.number = series.number;
            }
            for (uid, instance) in series.instances {
                ours.instances.entry(uid).or_insert(instance);
            }
        }
        self.quarantined.extend(other.quarantined);
        self.quarantined.sort();
        self.quarantined.dedup();
    }

    /// Every instance with its series.
    pub fn instances(&self) -> impl Iterator<Item = (&SeriesUid, &Series, &Instance)> {
        self.series.iter().flat_map(|(uid, series)| series.instances.values().map(move |i| (uid, series, i)))
    }

    /// The instance of this UID.
    #[must_use]
    pub fn find(&self, instance: &InstanceUid) -> Option<&Instance> {
        self.series.values().find_map(|series| series.instances.get(instance))
    }

    /// What these images say, without saying whose they are. `patient` and `accession` are the references of the values
    /// here, which only the holder of the network's secret can make.
    #[must_use]
    pub fn facts(&self, patient: Option<crate::refs::Ref>, accession: Option<crate::refs::Ref>) -> Facts {
        let mut modalities: Vec<String> =
            self.series.values().map(|s| s.modality.clone()).filter(|m| !m.is_empty()).collect();
        modalities.sort();
        modalities.dedup();
        modalities.truncate(Self::MAX_MODALITIES);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Facts {
            modalities,
            body_part: self
                .series
                .values()
                .map(|s| s.body_part.clone())
                .find(|b| !b.is_empty())
                .unwrap_or_default(),
            procedure_code: self.procedure_code.clone(),
            order_priority: self.priority.chars().take(1).collect::<String>().to_uppercase(),
            images: count(self.instances().filter(|(_, _, i)| i.image).count()),
            instances: count(self.instances().count()),
            series: count(self.series.len()),
            bytes: self.instances().map(|(_, _, i)| i.size).sum(),
            patient,
            accession,
        }
    }
}

impl AiResult {
    /// The answer as the task's record keeps it.
    #[must_use]
    pub fn answer(&self, result: Digest, at: Time) -> AiAnswer {
        // The probability was checked to be in 0..=1 when the answer was taken.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0..=1 times a million fits"
        )]
        let probability_ppm = (self.abnormal_probability.clamp(0.0, 1.0) * 1e6).round() as u32;
        AiAnswer {
            probability_ppm,
            model: self.model.clone(),
            model_version: self.model_version.clone(),
            result,
            at,
        }
    }
}

fn keep(ours: &mut String, theirs: String) {
    if ours.is_empty() {
        *ours = theirs;
    }
}

fn keep_phi(ours: &mut Phi<String>, theirs: Phi<String>) {
    if ours.reveal().is_empty() {
        *ours = theirs;
    }
}
