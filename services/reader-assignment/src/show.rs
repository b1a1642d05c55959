//! Reads as the public contract has them.

use std::collections::BTreeMap;

use isocenter_domain::{
    Time,
    id::{ReadId, ReaderId, StudyUid},
    key::ReadKey,
    record::{
        case::Case,
        read::{
            Agreement, Change, Conclusion, Insufficiency, Read, ReadKind, ReadState, Score, SuspendReason,
        },
        report::StudyRevision,
    },
};
use isocenter_wire::{timestamp, v1};

use crate::{basis, plan::item::due_at};

/// A read. `present` are the studies' revisions as they are; what a reader has in hand or signed is as he saw it.
pub(crate) fn read(
    key: &ReadKey,
    read: &Read,
    case: &Case,
    present: &BTreeMap<StudyUid, u32>,
    p: Option<f64>,
) -> v1::Read {
    let now = || {
        let members = case.members.iter();
        members.map(|uid| revision(uid, present.get(uid).copied().unwrap_or_default())).collect()
    };
    let about = read.kind.about().into_iter().flatten();
    let about = about.map(|n| ReadId { case: key.read.case.clone(), n }.to_string());
    let mut shown = v1::Read {
        read_id: key.read.to_string(),
        case_id: key.read.case.to_string(),
        studies: seen(&read.state).map_or_else(now, |seen| revisions(seen)),
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
        holder_reader_id: read.holder().map(ReaderId::to_string).unwrap_or_default(),
        drafts: read.drafts.iter().map(|draft| draft.0.to_vec()).collect(),
        about_read_ids: about.collect(),
        attending_only: read.needs_attending(),
        ..v1::Read::default()
    };
    details(&mut shown, &read.state);
    if let Some(conclusion) = &read.conclusion {
        conclude(&mut shown, conclusion);
    }
    shown
}

/// What a reader in whose hands a read is or was saw of the studies.
const fn seen(state: &ReadState) -> Option<&Vec<StudyRevision>> {
    match state {
        ReadState::Open { studies, .. }
        | ReadState::Suspended { studies, .. }
        | ReadState::Signed { studies, .. }
        | ReadState::NonDiagnostic { studies, .. } => Some(studies),
        ReadState::Waiting
        | ReadState::AwaitingFinal
        | ReadState::Offered { .. }
        | ReadState::Cancelled { .. } => None,
    }
}

fn details(shown: &mut v1::Read, state: &ReadState) {
    let held = |until: &Time| Some(timestamp(*until));
    match state {
        ReadState::Offered { until, .. } => shown.held_until = held(until),
        ReadState::Suspended { until, reason, .. } => {
            shown.held_until = held(until);
            shown.set_suspended(suspend_reason(*reason));
        }
        ReadState::NonDiagnostic { reason, repeat, .. } => {
            shown.set_non_diagnostic(insufficiency(*reason));
            shown.repeat = *repeat;
        }
        ReadState::Waiting
        | ReadState::AwaitingFinal
        | ReadState::Open { .. }
        | ReadState::Signed { .. }
        | ReadState::Cancelled { .. } => {}
    }
}

fn conclude(shown: &mut v1::Read, conclusion: &Conclusion) {
    match conclusion {
        Conclusion::Final(change) => shown.set_change(match change {
            Change::None => v1::ReportChange::None,
            Change::Minor => v1::ReportChange::Minor,
            Change::Major => v1::ReportChange::Major,
        }),
        Conclusion::Opinion(agreement) => shown.set_agreement(match agreement {
            Agreement::Agrees => v1::Agreement::Agrees,
            Agreement::Disagrees => v1::Agreement::Disagrees,
        }),
        Conclusion::Blinded { .. } => shown.assessment = basis::assessment(conclusion),
        Conclusion::Review(score) => shown.set_review_score(match score {
            Score::Concur => v1::ReviewScore::ReviewScore1,
            Score::UnderstandableInsignificant => v1::ReviewScore::ReviewScore2a,
            Score::UnderstandableSignificant => v1::ReviewScore::ReviewScore2b,
            Score::UnexpectedInsignificant => v1::ReviewScore::ReviewScore3a,
            Score::UnexpectedSignificant => v1::ReviewScore::ReviewScore3b,
        }),
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
        ReadState::AwaitingFinal => v1::ReadState::AwaitingFinal,
        ReadState::Offered { .. } => v1::ReadState::Offered,
        ReadState::Open { .. } => v1::ReadState::Open,
        ReadState::Suspended { .. } => v1::ReadState::Suspended,
        ReadState::Signed { .. } => v1::ReadState::Signed,
        ReadState::NonDiagnostic { .. } => v1::ReadState::NonDiagnostic,
        ReadState::Cancelled { .. } => v1::ReadState::Cancelled,
    }
}

const fn kind(kind: ReadKind) -> v1::ReadKind {
    match kind {
        ReadKind::Primary => v1::ReadKind::Primary,
        ReadKind::Blinded { .. } => v1::ReadKind::Blinded,
        ReadKind::Arbitration { .. } => v1::ReadKind::Arbitration,
        ReadKind::Discrepancy { .. } => v1::ReadKind::Discrepancy,
        ReadKind::SecondOpinion { .. } => v1::ReadKind::SecondOpinion,
        ReadKind::Consultation => v1::ReadKind::Consultation,
        ReadKind::Review { .. } => v1::ReadKind::Review,
    }
}

const fn suspend_reason(reason: SuspendReason) -> v1::SuspendReason {
    match reason {
        SuspendReason::AwaitingPriors => v1::SuspendReason::AwaitingPriors,
        SuspendReason::AwaitingInformation => v1::SuspendReason::AwaitingInformation,
        SuspendReason::AwaitingAdvice => v1::SuspendReason::AwaitingAdvice,
        SuspendReason::Interrupted => v1::SuspendReason::Interrupted,
    }
}

const fn insufficiency(reason: Insufficiency) -> v1::Insufficiency {
    match reason {
        Insufficiency::Motion => v1::Insufficiency::Motion,
        Insufficiency::Exposure => v1::Insufficiency::Exposure,
        Insufficiency::Coverage => v1::Insufficiency::Coverage,
        Insufficiency::Artefact => v1::Insufficiency::Artefact,
        Insufficiency::Contrast => v1::Insufficiency::Contrast,
        Insufficiency::Incomplete => v1::Insufficiency::Incomplete,
        Insufficiency::WrongExamination => v1::Insufficiency::WrongExamination,
    }
}
