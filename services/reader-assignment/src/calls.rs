//! The fields of calls, read at the edge: each refusal names its field.

use std::time::Duration;

use bytes::Bytes;
use isocenter_domain::{
    Phi, Time,
    access::Principal,
    document::ReportBody,
    record::{
        read::{Agreement, Change, Insufficiency, Score, SuspendReason},
        report::StudyRevision,
    },
};
use isocenter_runtime::status::Answer;
use isocenter_store::table::Cause;
use isocenter_wire::{Malformed, document::Stored as _, v1};
use tonic::Status;

use crate::{ask::Question, plan::conclude::Said, rpc::request_id};

/// The longest text of a report, findings and impression together.
const MAX_TEXT: usize = 256 * 1024;

/// The longest question.
const MAX_QUESTION: usize = 16 * 1024;

/// For how long a read is set aside where the call names nothing, and at most: nothing waits without a bound.
const ASIDE: (Duration, Duration) = (Duration::from_secs(4 * 3600), Duration::from_secs(24 * 3600));

/// What a reader concludes beside the text.
pub(crate) fn said(request: &v1::SignReadRequest, has_findings: bool) -> Result<Said, Status> {
    let invalid = |field, why: &str| Answer::invalid(field, why).status();
    let unknown = |field| move |_| Answer::invalid(field, "is not one of its values").status();
    let change = v1::ReportChange::try_from(request.change).map_err(unknown("change"))?;
    let agreement = v1::Agreement::try_from(request.agreement).map_err(unknown("agreement"))?;
    let score = v1::ReviewScore::try_from(request.review_score).map_err(unknown("review_score"))?;
    let assessment = match request.assessment.as_str() {
        "" => None,
        text => Some(
            text.parse().map_err(|_| invalid("assessment", "is not 1 to 16 letters, digits and hyphens"))?,
        ),
    };
    Ok(Said {
        change: match change {
            v1::ReportChange::Unspecified => None,
            v1::ReportChange::None => Some(Change::None),
            v1::ReportChange::Minor => Some(Change::Minor),
            v1::ReportChange::Major => Some(Change::Major),
        },
        agreement: match agreement {
            v1::Agreement::Unspecified => None,
            v1::Agreement::Agrees => Some(Agreement::Agrees),
            v1::Agreement::Disagrees => Some(Agreement::Disagrees),
        },
        assessment,
        score: match score {
            v1::ReviewScore::Unspecified => None,
            v1::ReviewScore::ReviewScore1 => Some(Score::Concur),
            v1::ReviewScore::ReviewScore2a => Some(Score::UnderstandableInsignificant),
            v1::ReviewScore::ReviewScore2b => Some(Score::UnderstandableSignificant),
            v1::ReviewScore::ReviewScore3a => Some(Score::UnexpectedInsignificant),
            v1::ReviewScore::ReviewScore3b => Some(Score::UnexpectedSignificant),
        },
        has_findings,
    })
}

/// The stored form of a report's text.
pub(crate) fn body(findings: String, impression: String) -> Result<Bytes, Status> {
    if impression.trim().is_empty() {
        return Err(Answer::invalid("impression", "is empty").status());
    }
    if findings.len() + impression.len() > MAX_TEXT {
        return Err(Answer::invalid("findings", "is, with the impression, longer than 256 KiB").status());
    }
    let body = ReportBody { findings: Phi::new(findings), impression: Phi::new(impression) };
    Ok(body.encode().into())
}

/// The stored form of a notice that the images do not allow a report.
pub(crate) fn notice(reason: Insufficiency, repeat: bool, comment: String) -> Result<Bytes, Status> {
    let why = match reason {
        Insufficiency::Motion => "the patient moved",
        Insufficiency::Exposure => "too much noise, or wrongly exposed",
        Insufficiency::Coverage => "the region in question is not wholly in the images",
        Insufficiency::Artefact => "artefacts",
        Insufficiency::Contrast => "contrast medium is missing or came at the wrong time",
        Insufficiency::Incomplete => "images are missing",
        Insufficiency::WrongExamination => "not the examination or the patient that was asked for",
    };
    let next = if repeat { "Repeat the examination." } else { "The examination is not to be repeated." };
    let impression = format!("Non-diagnostic: {why}. {next}");
    if comment.len() + impression.len() > MAX_TEXT {
        return Err(Answer::invalid("comment", "is, with the notice, longer than 256 KiB").status());
    }
    let body = ReportBody { findings: Phi::new(comment), impression: Phi::new(impression) };
    Ok(body.encode().into())
}

pub(crate) fn studies(named: &[v1::StudyRevision]) -> Result<Vec<StudyRevision>, Malformed> {
    let one = |s: &v1::StudyRevision| {
        let study = s.study_instance_uid.parse().map_err(Malformed::at("studies.study_instance_uid"))?;
        Ok(StudyRevision { study, revision: s.revision })
    };
    named.iter().map(one).collect()
}

/// What somebody asks another reader.
pub(crate) fn question(
    principal: &Principal,
    text: String,
    due: Option<Time>,
    request: &str,
) -> Result<Question, Status> {
    request_id(request)?;
    if text.trim().is_empty() || text.len() > MAX_QUESTION {
        return Err(Answer::invalid("question", "is empty or longer than 16 KiB").status());
    }
    let body = ReportBody { findings: Phi::default(), impression: Phi::new(text) };
    let cause = Cause::request(request, &principal.subject);
    Ok(Question { body: body.encode().into(), due, cause })
}

/// For how long a read is set aside.
pub(crate) fn bound(asked: Option<Duration>) -> Result<Duration, Status> {
    let bound = asked.unwrap_or(ASIDE.0);
    if bound.is_zero() || bound > ASIDE.1 {
        return Err(Answer::invalid("bound", "is zero or longer than 24 h").status());
    }
    Ok(bound)
}

pub(crate) fn suspend_reason(reason: v1::SuspendReason) -> Result<SuspendReason, Status> {
    Ok(match reason {
        v1::SuspendReason::AwaitingPriors => SuspendReason::AwaitingPriors,
        v1::SuspendReason::AwaitingInformation => SuspendReason::AwaitingInformation,
        v1::SuspendReason::AwaitingAdvice => SuspendReason::AwaitingAdvice,
        v1::SuspendReason::Interrupted => SuspendReason::Interrupted,
        v1::SuspendReason::Unspecified => {
            return Err(Answer::invalid("reason", "is not one of the reasons to set a read aside").status());
        }
    })
}

pub(crate) fn insufficiency(reason: v1::Insufficiency) -> Result<Insufficiency, Status> {
    Ok(match reason {
        v1::Insufficiency::Motion => Insufficiency::Motion,
        v1::Insufficiency::Exposure => Insufficiency::Exposure,
        v1::Insufficiency::Coverage => Insufficiency::Coverage,
        v1::Insufficiency::Artefact => Insufficiency::Artefact,
        v1::Insufficiency::Contrast => Insufficiency::Contrast,
        v1::Insufficiency::Incomplete => Insufficiency::Incomplete,
        v1::Insufficiency::WrongExamination => Insufficiency::WrongExamination,
        v1::Insufficiency::Unspecified => {
            let why = "is not one of the reasons for which images do not allow a report";
            return Err(Answer::invalid("reason", why).status());
        }
    })
}
