//! What ingestion decides, pure: what an instance is to its study, what a study's images amount to, and when they are whole.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use isocenter_dimse::part10::Header;
use isocenter_domain::{
    Phi, Time,
    document::{Images, Instance, Patient, Quarantined, Segment, Series},
    id::{InstanceUid, NodeId, SeriesUid, TransferSyntaxUid},
    record::{
        intake::Intake,
        study::{Doubt, Evidence, Study, StudyState},
    },
    refs::Digest,
};

/// Why an instance is put aside.
const OTHER_DATA: &str = "another data set under the same SOP Instance UID";
/// Why an instance is put aside whose data set may be the same, in another encoding.
const OTHER_SYNTAX: &str = "another transfer syntax under the same SOP Instance UID";

/// What an instance that arrived is to the study.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The study has nothing under this UID.
    New,
    /// The study has it: the same transfer syntax and data set.
    Repeat,
    /// The study has other content under this UID: both are kept.
    Contradiction(&'static str),
}

/// What a study has, for comparing.
#[derive(Debug, Default)]
pub(crate) struct Known {
    instances: HashMap<InstanceUid, (TransferSyntaxUid, Digest, Digest)>,
    quarantined: Vec<(InstanceUid, Digest)>,
}

impl Known {
    /// Adds what these images list; what was known first stays.
    pub(crate) fn learn(&mut self, images: &Images) {
        for (_, _, instance) in images.instances() {
            self.instances
                .entry(instance.instance.clone())
                .or_insert_with(|| (instance.transfer_syntax.clone(), instance.data_set, instance.sha256));
        }
        self.quarantined.extend(images.quarantined.iter().map(|q| (q.instance.clone(), q.sha256)));
    }

    /// Whether exactly this file is listed, so that it need not be looked at.
    pub(crate) fn lists(&self, instance: &InstanceUid, sha256: &Digest) -> bool {
        self.instances.get(instance).is_some_and(|(_, _, known)| known == sha256)
            || self.quarantined.iter().any(|(uid, known)| uid == instance && known == sha256)
    }

    /// Whether the instance is listed with this data set, in whatever file it came.
    pub(crate) fn has_data(&self, instance: &InstanceUid, data_set: &Digest) -> bool {
        self.instances.get(instance).is_some_and(|(_, known, _)| known == data_set)
    }

    /// What an instance is, beside what is known.
    pub(crate) fn place(
        &self,
        instance: &InstanceUid,
        syntax: &TransferSyntaxUid,
        data_set: &Digest,
    ) -> Place {
        match self.instances.get(instance) {
            None => Place::New,
            Some((known, data, _)) if known == syntax && data == data_set => Place::Repeat,
            Some((known, _, _)) if known == syntax => Place::Contradiction(OTHER_DATA),
            Some(_) => Place::Contradiction(OTHER_SYNTAX),
        }
    }
}

/// An instance's file, as it is listed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File {
    pub size: u64,
    pub sha256: Digest,
    pub data_set: Digest,
}

/// What one instance says, as images of which it is the only one. `authority` assigns patient ids that name none.
pub(crate) fn images_of(header: Header, file: File, authority: &str) -> Images {
    let instance = Instance {
        sop_class: header.sop_class,
        instance: header.instance,
        transfer_syntax: header.transfer_syntax,
        size: file.size,
        sha256: file.sha256,
        data_set: file.data_set,
        number: header.instance_number.map_or(0, i64::from),
        frames: header.frames,
        image: header.image,
    };
    let series = Series {
        modality: header.modality.unwrap_or_default(),
        body_part: header.body_part.unwrap_or_default().to_uppercase(),
        number: header.series_number.map_or(0, i64::from),
        instances: BTreeMap::from([(instance.instance.clone(), instance)]),
    };
    let patient = Patient {
        authority: header.patient_id_issuer.unwrap_or_else(|| authority.to_owned()),
        id: header.patient_id.unwrap_or_default(),
        name: header.patient_name.unwrap_or_default(),
        birth_date: header.birth_date.unwrap_or_default(),
        sex: header.sex.unwrap_or_default(),
    };
    Images {
        patient,
        accession: header.accession.unwrap_or_default(),
        study_date: header.study_date.unwrap_or_default(),
        study_time: header.study_time.unwrap_or_default(),
        description: Phi::new(header.study_description.unwrap_or_default()),
        procedure_code: header.procedure_code.map(|code| code.value).unwrap_or_default(),
        priority: header.priority.unwrap_or_default(),
        institution: header.institution.unwrap_or_default(),
        series: BTreeMap::from([(header.series, series)]),
        ..Images::default()
    }
}

/// Clocks that differ by less are waited for: the quiet period is then longer by as much.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// When a study is looked at again, or that it is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Completion {
    /// At this time, or when its intake changes.
    Wait(Option<Time>),
    /// Its images are to be made a revision.
    Complete {
        /// What says so.
        evidence: Evidence,
        /// What may be missing.
        doubt: Option<Doubt>,
    },
}

/// Whether a study in [`StudyState::Receiving`] is whole, by the intakes of all nodes.
///
/// Nothing pending, no association open, and no image for the `quiet` period make it whole. Past `max_assembly` it is whole
/// with what is there; a node that is not settled then is named as a doubt. A study of which no node lists anything is not
/// whole, unless a node is in doubt: what that one put into blobs it may not have come to list.
pub(crate) fn complete(
    study: &Study,
    intakes: &[(NodeId, Intake)],
    now: Time,
    quiet: Duration,
    max_assembly: Duration,
) -> Completion {
    let over = |since: Time, wait: Duration| since.is_over(wait, SKEW, now);
    let bound = study.first_received_at.plus(max_assembly);
    let past = over(study.first_received_at, max_assembly);
    match doubt(intakes) {
        Some(doubt) if past => Completion::Complete { evidence: Evidence::AssemblyBound, doubt: Some(doubt) },
        Some(_) => Completion::Wait(Some(bound)),
        None if intakes.iter().all(|(_, intake)| intake.segment.is_none()) && study.revision == 0 => {
            Completion::Wait(None)
        }
        None => {
            let last = intakes.iter().map(|(_, intake)| intake.last_at).max().unwrap_or_default();
            let quiet_at = last.plus(quiet);
            if over(last, quiet) {
                Completion::Complete { evidence: Evidence::QuietPeriod, doubt: None }
            } else if past {
                Completion::Complete { evidence: Evidence::AssemblyBound, doubt: None }
            } else {
                Completion::Wait(Some(quiet_at.min(bound)))
            }
        }
    }
}

/// Who may have more of a study: of the nodes that are not settled the one with the most pending, then the first by id, so
/// that it is the same whoever looks.
pub(crate) fn doubt(intakes: &[(NodeId, Intake)]) -> Option<Doubt> {
    let unsettled = intakes.iter().filter(|(_, intake)| !intake.settled());
    let worst = unsettled.max_by_key(|(node, intake)| (intake.pending, std::cmp::Reverse(node.clone())));
    worst.map(|(node, intake)| Doubt { node: node.clone(), pending: intake.pending })
}

/// Whether a complete study may have got images that its revision lacks: worth comparing segments with the manifest.
/// `changed` says whether an intake was written after the study, and `older` whether one is older than the study's record,
/// which is so where the archive has made the record again.
pub(crate) fn suspicious(study: &Study, intakes: &[(NodeId, Intake)], changed: bool, older: bool) -> bool {
    let stored: u64 = intakes.iter().map(|(_, intake)| u64::from(intake.stored)).sum();
    let listed = intakes.iter().any(|(_, intake)| intake.segment.is_some());
    let complete = matches!(study.state, StudyState::Complete { .. });
    complete && listed && (changed || older || stored > u64::from(study.facts.instances))
}

/// A previous revision and all segments, as one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Merged {
    /// All of it.
    pub images: Images,
    /// Whether anything is in it that the previous revision lacks.
    pub news: bool,
    /// Instances of a segment that contradict those listed first: their content has to be copied to quarantine.
    pub contradicting: Vec<Instance>,
}

/// Merges the last revision's images and the segments, these in the order of their nodes: the same whoever merges.
pub(crate) fn merge(previous: Option<&Images>, mut segments: Vec<Segment>) -> Merged {
    segments.sort_by(|a, b| a.node.cmp(&b.node));
    let mut images = previous.cloned().unwrap_or_default();
    let mut contradicting = Vec::new();
    let mut known = Known::default();
    known.learn(&images);
    for segment in segments {
        let mut theirs = segment.images;
        for instance in contradictions(&known, &theirs) {
            for series in theirs.series.values_mut() {
                series.instances.remove(&instance.instance);
            }
            let why = match known.place(&instance.instance, &instance.transfer_syntax, &instance.data_set) {
                Place::Contradiction(why) => why,
                Place::New | Place::Repeat => OTHER_DATA,
            };
            theirs.quarantined.push(Quarantined {
                instance: instance.instance.clone(),
                sha256: instance.sha256,
                why: why.to_owned(),
            });
            contradicting.push(instance);
        }
        // What is known under another series stays there alone.
        for (uid, series) in &mut theirs.series {
            series.instances.retain(|instance, _| !listed_elsewhere(&images, uid, instance));
        }
        theirs.series.retain(|uid, series| !series.instances.is_empty() || images.series.contains_key(uid));
        known.learn(&theirs);
        images.merge(theirs);
    }
    let count = |images: &Images| (images.instances().count(), images.quarantined.len());
    let news = count(&images) != previous.map(count).unwrap_or_default();
    Merged { images, news, contradicting }
}

fn contradictions(known: &Known, theirs: &Images) -> Vec<Instance> {
    let contradicts = |i: &Instance| {
        matches!(known.place(&i.instance, &i.transfer_syntax, &i.data_set), Place::Contradiction(_))
    };
    theirs.instances().filter(|(_, _, i)| contradicts(i)).map(|(_, _, i)| i.clone()).collect()
}

fn listed_elsewhere(images: &Images, series: &SeriesUid, instance: &InstanceUid) -> bool {
    images.series.iter().any(|(uid, other)| uid != series && other.instances.contains_key(instance))
}

#[cfg(test)]
mod tests;
