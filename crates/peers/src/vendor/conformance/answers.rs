//! Answers, held against the contract as Isocenter holds them.

use isocenter_wire::v1::{
    AiFinding, AiRefusalReason, AnalyzeRequest, AnalyzeResponse, DescribeResponse, analyze_response::Outcome,
};

/// The longest name of a model or version in bytes.
pub(super) const MAX_NAME: usize = 128;
/// The most findings, and the longest summary in bytes.
const MAX_FINDINGS: usize = 256;
const MAX_SUMMARY: usize = 4 << 10;
/// The longest detail of a refusal in bytes.
const MAX_DETAIL: usize = 1 << 10;

/// How an answer breaks the contract, if it does.
pub(super) fn broken(
    asked: &AnalyzeRequest,
    described: &DescribeResponse,
    answer: &AnalyzeResponse,
) -> Result<(), &'static str> {
    let holds = |holds: bool, otherwise| if holds { Ok(()) } else { Err(otherwise) };
    holds(answer.request_id == asked.request_id, "request_id is not the one asked with")?;
    holds(
        answer.study_instance_uid == asked.study_instance_uid,
        "study_instance_uid is not the one asked for",
    )?;
    holds(answer.model_id == described.model_id, "model_id is not the one that Describe names")?;
    holds(
        answer.model_version == described.model_version,
        "model_version is not the one that Describe names",
    )?;
    match &answer.outcome {
        None => Err("there is neither a result nor a refusal"),
        Some(Outcome::Refusal(refusal)) => {
            let known = AiRefusalReason::try_from(refusal.reason);
            let given = known.is_ok_and(|reason| reason != AiRefusalReason::Unspecified);
            holds(given, "the refusal has no reason of the contract")?;
            holds(refusal.detail.len() <= MAX_DETAIL, "the refusal's detail is longer than 1 KiB")
        }
        Some(Outcome::Result(result)) => {
            let probability = result.abnormal_probability;
            holds((0.0..=1.0).contains(&probability), "abnormal_probability is not one of 0 to 1")?;
            holds(result.summary.len() <= MAX_SUMMARY, "the summary is longer than 4 KiB")?;
            holds(result.findings.len() <= MAX_FINDINGS, "there are more than 256 findings")?;
            result.findings.iter().try_for_each(|found| finding(asked, found))
        }
    }
}

fn finding(asked: &AnalyzeRequest, finding: &AiFinding) -> Result<(), &'static str> {
    let mut instances = asked.series.iter().flat_map(|series| &series.instances);
    let known = finding.sop_instance_uid.is_empty()
        || instances.any(|instance| instance.sop_instance_uid == finding.sop_instance_uid);
    if !(0.0..=1.0).contains(&finding.probability) {
        return Err("a finding's probability is not one of 0 to 1");
    }
    if !matches!(finding.r#box.len(), 0 | 4) {
        return Err("a finding's box has neither 0 nor 4 sides");
    }
    if known { Ok(()) } else { Err("a finding is on an instance that the study does not have") }
}
