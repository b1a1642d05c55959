//! Reads as the public contract has them.

use std::collections::BTreeMap;

use isocenter_domain::{
    Time,
    id::{ReaderId, StudyUid},
    key::ReadKey,
    record::{
        case::Case,
        read::{Read, ReadKind, ReadState},
        report::StudyRevision,
    },
};
use isocenter_wire::{timestamp, v1};

use crate::plan::item::due_at;

/// A read. `present` are the studies' revisions as they are; what a reader has open or signed is as he saw it.
pub(crate) fn read(
    key: &ReadKey,
    read: &Read,
    case: &Case,
    present: &BTreeMap<StudyUid, u32>,
    p: Option<f64>,
) -> v1::Read {
    let (studies, holder, until) = match &read.state {
        ReadState::Waiting => (None, None, None),
        ReadState::Offered { reader, until } => (None, Some(reader), Some(*until)),
        ReadState::Open { reader, studies, .. } => (Some(studies), Some(reader), None),
        ReadState::Signed { studies, .. } => (Some(studies), None, None),
    };
    let now = || {
        let members = case.members.iter();
        members.map(|uid| revision(uid, present.get(uid).copied().unwrap_or_default())).collect()
    };
    v1::Read {
        read_id: key.read.to_string(),
        case_id: key.read.case.to_string(),
        studies: studies.map_or_else(now, |seen| revisions(seen)),
        state: state(&read.state).into(),
        kind: kind(read.kind).into(),
        clinical_class: case.class.to_string(),
        due_at: Some(timestamp(due_at(read, case))),
        waiting_since: Some(timestamp(read.waiting_since)),
        modalities: case.modalities.clone(),
        body_part: case.body_part.clone(),
        site_id: case.site.to_string(),
        pool_ids: case.pools.iter().map(ToString::to_string).collect(),
        abnormal_probability: p,
        holder_reader_id: holder.map(ReaderId::to_string).unwrap_or_default(),
        held_until: until.map(|until: Time| timestamp(until)),
        open_token: String::new(),
        drafts: read.drafts.iter().map(|draft| draft.0.to_vec()).collect(),
    }
}

fn revisions(seen: &[StudyRevision]) -> Vec<v1::StudyRevision> {
    seen.iter().map(|s| revision(&s.study, s.revision)).collect()
}

fn revision(study: &StudyUid, revision: u32) -> v1::StudyRevision {
    v1::StudyRevision { study_instance_uid: study.to_string(), revision }
}

/// A state, without what it holds.
pub(crate) const fn state(state: &ReadState) -> v1::ReadState {
    match state {
        ReadState::Waiting => v1::ReadState::Waiting,
        ReadState::Offered { .. } => v1::ReadState::Offered,
        ReadState::Open { .. } => v1::ReadState::Open,
        ReadState::Signed { .. } => v1::ReadState::Signed,
    }
}

const fn kind(kind: ReadKind) -> v1::ReadKind {
    match kind {
        ReadKind::Primary => v1::ReadKind::Primary,
        ReadKind::Discrepancy { .. } => v1::ReadKind::Discrepancy,
    }
}
