//! Answers of services, held against the contract. Whatever does not keep it is an invalid answer: a service is software
//! that others wrote, and what it says decides about nobody before it was checked.

use isocenter_domain::{
    document::{AiFinding, AiResult, Images},
    id::{InstanceUid, StudyUid},
};
use isocenter_wire::v1;

use crate::plan::Heard;

/// The most findings of an answer.
const MAX_FINDINGS: usize = 256;
/// The longest summary in bytes.
const MAX_SUMMARY: usize = 4 << 10;
/// The longest name and version of a model in bytes: both are in the task's record, which is small.
const MAX_MODEL: usize = 128;

/// What an answer has to fit to.
pub(crate) struct Asked<'a> {
    pub request_id: &'a str,
    pub study: &'a StudyUid,
    pub images: &'a Images,
}

/// An answer that breaks the contract, and how. Nothing of the answer itself is repeated: it may be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub &'static str);

/// Takes an answer, or says how it breaks the contract.
pub(crate) fn judge(asked: &Asked<'_>, answer: v1::AnalyzeResponse) -> Result<Heard, Broken> {
    check(answer.request_id == asked.request_id, "it is of another request")?;
    check(answer.study_instance_uid == asked.study.as_str(), "it is of another study")?;
    check(answer.model_id.len() <= MAX_MODEL, "model_id is too long")?;
    check(answer.model_version.len() <= MAX_MODEL, "model_version is too long")?;
    match answer.outcome.ok_or(Broken("it has no outcome"))? {
        v1::analyze_response::Outcome::Refusal(refusal) => Ok(Heard::Declined(reason(&refusal)?)),
        v1::analyze_response::Outcome::Result(result) => {
            check(probability(result.abnormal_probability), "its probability is not one of 0 to 1")?;
            check(result.summary.len() <= MAX_SUMMARY, "its summary is too long")?;
            check(result.findings.len() <= MAX_FINDINGS, "it has too many findings")?;
            let findings = result.findings.into_iter().map(|f| finding(asked.images, f));
            Ok(Heard::Result(AiResult {
                abnormal_probability: result.abnormal_probability,
                summary: result.summary,
                findings: findings.collect::<Result<_, _>>()?,
                model: answer.model_id,
                model_version: answer.model_version,
            }))
        }
    }
}

fn check(holds: bool, otherwise: &'static str) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken(otherwise)) }
}

/// Not a number and infinities are in no range.
fn probability(p: f64) -> bool {
    (0.0..=1.0).contains(&p)
}

fn finding(images: &Images, finding: v1::AiFinding) -> Result<AiFinding, Broken> {
    check(probability(finding.probability), "a finding's probability is not one of 0 to 1")?;
    check(matches!(finding.r#box.len(), 0 | 4), "a finding's box has neither 0 nor 4 sides")?;
    let instance = match finding.sop_instance_uid.as_str() {
        "" => None,
        uid => {
            let uid: Option<InstanceUid> = uid.parse().ok();
            let known = uid.filter(|uid| images.find(uid).is_some());
            Some(known.ok_or(Broken("a finding is on an instance that the study does not have"))?)
        }
    };
    Ok(AiFinding {
        code: finding.code,
        code_scheme: finding.code_scheme,
        label: finding.label,
        probability: finding.probability,
        instance,
        frame: finding.frame,
        bounds: finding.r#box,
    })
}

/// The reason's name. The detail beside it is for the vendor's own support and is not kept: it is free text from outside.
fn reason(refusal: &v1::AiRefusal) -> Result<&'static str, Broken> {
    match v1::AiRefusalReason::try_from(refusal.reason) {
        Ok(v1::AiRefusalReason::ImageCount) => Ok("image-count"),
        Ok(v1::AiRefusalReason::Modality) => Ok("modality"),
        Ok(v1::AiRefusalReason::Series) => Ok("series"),
        Ok(v1::AiRefusalReason::Attribute) => Ok("attribute"),
        Ok(v1::AiRefusalReason::BodyPart) => Ok("body-part"),
        Ok(v1::AiRefusalReason::ImageQuality) => Ok("image-quality"),
        Ok(v1::AiRefusalReason::Other) => Ok("other"),
        Ok(v1::AiRefusalReason::Unspecified) | Err(_) => Err(Broken("it declines without a reason")),
    }
}

#[cfg(test)]
mod tests {
    use isocenter_domain::{document::Series, refs::Digest};
    use v1::analyze_response::Outcome;

    use super::*;

    fn images() -> Images {
        let instance = isocenter_domain::document::Instance {
            sop_class: "1.2.840.10008.5.1.4.1.1.1".parse().unwrap(),
            instance: "1.2.3.1.1".parse().unwrap(),
            transfer_syntax: "1.2.840.10008.1.2.1".parse().unwrap(),
            size: 1,
            sha256: Digest::of(b"x"),
            data_set: Digest::of(b"x"),
            number: 1,
            frames: 1,
            image: true,
        };
        let series =
            Series { instances: [(instance.instance.clone(), instance)].into(), ..Series::default() };
        Images { series: [("1.2.3.1".parse().unwrap(), series)].into(), ..Images::default() }
    }

    fn judged(change: impl FnOnce(&mut v1::AnalyzeResponse, &mut v1::AiResult)) -> Result<Heard, Broken> {
        let finding = v1::AiFinding {
            probability: 0.5,
            sop_instance_uid: "1.2.3.1.1".into(),
            r#box: vec![1, 2, 3, 4],
            ..v1::AiFinding::default()
        };
        let mut result = v1::AiResult {
            abnormal_probability: 0.9,
            summary: "s".repeat(MAX_SUMMARY),
            findings: vec![finding; MAX_FINDINGS],
        };
        let mut answer = v1::AnalyzeResponse {
            request_id: "r".into(),
            study_instance_uid: "1.2.3".into(),
            model_id: "m".into(),
            model_version: "1".into(),
            outcome: None,
        };
        change(&mut answer, &mut result);
        answer.outcome = answer.outcome.or(Some(Outcome::Result(result)));
        let study = "1.2.3".parse().unwrap();
        judge(&Asked { request_id: "r", study: &study, images: &images() }, answer)
    }

    #[test]
    fn an_answer_at_every_bound_is_taken() {
        let Ok(Heard::Result(result)) = judged(|_, _| {}) else { panic!("refused") };
        assert_eq!((result.findings.len(), result.summary.len()), (256, 4096));
        for p in [0.0, 1.0] {
            assert!(judged(|_, r| r.abnormal_probability = p).is_ok());
        }
    }

    #[test]
    fn whatever_breaks_the_contract_is_refused() {
        for p in [f64::NAN, f64::INFINITY, -0.001, 1.000_001] {
            assert!(judged(|_, r| r.abnormal_probability = p).is_err(), "{p}");
            assert!(judged(|_, r| r.findings[7].probability = p).is_err(), "{p}");
        }
        assert!(judged(|a, _| a.request_id = "other".into()).is_err());
        assert!(judged(|a, _| a.study_instance_uid = "1.2.4".into()).is_err());
        assert!(judged(|a, _| a.model_id = "m".repeat(129)).is_err());
        assert!(judged(|a, _| a.model_version = "m".repeat(129)).is_err());
        assert!(judged(|_, r| r.summary.push('s')).is_err());
        assert!(judged(|_, r| r.findings.push(v1::AiFinding::default())).is_err());
        for sides in [1, 3, 5] {
            assert!(judged(|_, r| r.findings[0].r#box = vec![0; sides]).is_err(), "{sides}");
        }
        for uid in ["1.2.3.1.2", "not a uid"] {
            assert!(judged(|_, r| r.findings[0].sop_instance_uid = uid.into()).is_err(), "{uid}");
        }
    }

    #[test]
    fn refusals_need_a_reason_that_the_contract_knows() {
        let refused = |reason| {
            let refusal = v1::AiRefusal { reason, detail: String::new() };
            judged(move |a, _| a.outcome = Some(Outcome::Refusal(refusal)))
        };
        assert_eq!(refused(v1::AiRefusalReason::ImageQuality.into()), Ok(Heard::Declined("image-quality")));
        assert_eq!(refused(v1::AiRefusalReason::Other.into()), Ok(Heard::Declined("other")));
        assert!(refused(0).is_err());
        assert!(refused(99).is_err());
    }
}
