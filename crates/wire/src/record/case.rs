//! Plan, case and AI task.

use isocenter_domain::{
    Time,
    record::{
        ai_task::{AiAnswer, AiFailure, AiTask, AiTaskState, SkipReason},
        case::{self, Case, CaseState},
        plan::{AiRequest, Plan, Reading},
    },
};

use super::{Body, Stored, field};
use crate::{
    error::Malformed,
    stored::{self, record::Body as B},
};

impl Stored for Plan {
    fn to_body(&self) -> Body {
        let (case, no_read_rule) = match &self.reading {
            Reading::Case(case) => (case.to_string(), String::new()),
            Reading::None { rule } => (String::new(), rule.clone()),
        };
        let ai = self.ai.iter().map(|request| stored::AiRequest {
            service: request.service.to_string(),
            timeout: field::micros(request.timeout),
        });
        let rules = self.rules.iter().cloned().map(|(field, rule)| stored::FieldRule { field, rule });
        Body(B::Plan(stored::Plan {
            revision: self.revision,
            policy: self.policy.0.to_vec(),
            case,
            no_read_rule,
            ai: ai.collect(),
            destinations: field::texts(&self.destinations),
            rules: rules.collect(),
        }))
    }

    fn from_body(body: Body) -> Result<Self, Malformed> {
        let B::Plan(p) = body.0 else { return Err(Malformed::new("body", "is not a plan")) };
        let reading = match field::optional(&p.case, "plan.case")? {
            Some(case) => Reading::Case(case),
            None => Reading::None { rule: p.no_read_rule },
        };
        let ai = p.ai.iter().map(|request| {
            Ok(AiRequest {
                service: field::id(&request.service, "plan.ai.service")?,
                timeout: field::from_micros(request.timeout, "plan.ai.timeout")?,
            })
        });
        Ok(Self {
            revision: p.revision,
            policy: field::digest(&p.policy, "plan.policy")?,
            reading,
            ai: ai.collect::<Result<_, Malformed>>()?,
            destinations: field::ids(&p.destinations, "plan.destinations")?,
            rules: p.rules.into_iter().map(|r| (r.field, r.rule)).collect(),
        })
    }
}

impl Stored for Case {
    fn to_body(&self) -> Body {
        Body(B::Case(stored::Case {
            state: match self.state {
                CaseState::Ready => 1,
                CaseState::Closed => 2,
            },
            members: field::texts(&self.members),
            site: self.site.to_string(),
            class: self.class.to_string(),
            complete_at: self.complete_at.0,
            deadline: field::micros(self.deadline),
            ai_credit: field::micros(self.ai_credit),
            orphan_after: field::micros(self.orphan_after),
            pools: field::texts(&self.pools),
            destinations: field::texts(&self.destinations),
            modalities: self.modalities.clone(),
            body_part: self.body_part.clone(),
            patient: field::reference_bytes(self.patient),
            accession: self.accession.0.to_vec(),
            double_reading: self.reading.double,
            review_ppm: self.reading.review_ppm,
        }))
    }

    fn from_body(body: Body) -> Result<Self, Malformed> {
        let B::Case(c) = body.0 else { return Err(Malformed::new("body", "is not a case")) };
        Ok(Self {
            state: match c.state {
                1 => CaseState::Ready,
                2 => CaseState::Closed,
                other => return field::unknown("case.state", other),
            },
            members: field::ids(&c.members, "case.members")?,
            site: field::id(&c.site, "case.site")?,
            class: field::id(&c.class, "case.class")?,
            complete_at: Time(c.complete_at),
            deadline: field::from_micros(c.deadline, "case.deadline")?,
            ai_credit: field::from_micros(c.ai_credit, "case.ai_credit")?,
            orphan_after: field::from_micros(c.orphan_after, "case.orphan_after")?,
            pools: field::ids(&c.pools, "case.pools")?,
            destinations: field::ids(&c.destinations, "case.destinations")?,
            modalities: c.modalities,
            body_part: c.body_part,
            patient: field::maybe_reference(&c.patient, "case.patient")?,
            accession: field::reference(&c.accession, "case.accession")?,
            reading: case::Reading { double: c.double_reading, review_ppm: c.review_ppm },
        })
    }
}

impl Stored for AiTask {
    fn to_body(&self) -> Body {
        use AiTaskState as S;
        let mut task = stored::AiTask {
            requested_at: self.requested_at.0,
            deadline_at: self.deadline_at.0,
            attempts: self.attempts,
            failures: self.failures,
            manifest: self.manifest.0.to_vec(),
            ..Default::default()
        };
        match &self.state {
            S::Pending { not_before } => (task.state, task.state_at) = (1, not_before.0),
            S::Dispatched { until } => (task.state, task.state_at) = (2, until.0),
            S::Succeeded(a) => (task.state, task.answer) = (3, Some(answer(a))),
            S::Late(a) => (task.state, task.answer) = (4, Some(answer(a))),
            S::Rejected { reason } => (task.state, task.reason) = (5, reason.clone()),
            S::Failed(failure) => (task.state, task.cause) = (6, failure_number(*failure)),
            S::TimedOut => task.state = 7,
            S::Skipped { why } => (task.state, task.cause) = (8, skip_number(*why)),
            S::Cancelled => task.state = 9,
        }
        Body(B::AiTask(task))
    }

    fn from_body(body: Body) -> Result<Self, Malformed> {
        use AiTaskState as S;
        let B::AiTask(t) = body.0 else { return Err(Malformed::new("body", "is not an AI task")) };
        let state = match t.state {
            1 => S::Pending { not_before: Time(t.state_at) },
            2 => S::Dispatched { until: Time(t.state_at) },
            3 => S::Succeeded(from_answer(t.answer)?),
            4 => S::Late(from_answer(t.answer)?),
            5 => S::Rejected { reason: t.reason },
            6 => S::Failed(match t.cause {
                1 => AiFailure::Unavailable,
                2 => AiFailure::InvalidAnswer,
                3 => AiFailure::Error,
                4 => AiFailure::Busy,
                other => return field::unknown("ai_task.cause", other),
            }),
            7 => S::TimedOut,
            8 => S::Skipped {
                why: match t.cause {
                    1 => SkipReason::NotRegistered,
                    2 => SkipReason::MayNotReceive,
                    3 => SkipReason::NotForModality,
                    4 => SkipReason::NotForBodyPart,
                    5 => SkipReason::NotForTransferSyntax,
                    6 => SkipReason::Unavailable,
                    other => return field::unknown("ai_task.cause", other),
                },
            },
            9 => S::Cancelled,
            other => return field::unknown("ai_task.state", other),
        };
        Ok(Self {
            state,
            requested_at: Time(t.requested_at),
            deadline_at: Time(t.deadline_at),
            attempts: t.attempts,
            failures: t.failures,
            manifest: field::digest(&t.manifest, "ai_task.manifest")?,
        })
    }
}

const fn failure_number(failure: AiFailure) -> u32 {
    match failure {
        AiFailure::Unavailable => 1,
        AiFailure::InvalidAnswer => 2,
        AiFailure::Error => 3,
        AiFailure::Busy => 4,
    }
}

const fn skip_number(why: SkipReason) -> u32 {
    match why {
        SkipReason::NotRegistered => 1,
        SkipReason::MayNotReceive => 2,
        SkipReason::NotForModality => 3,
        SkipReason::NotForBodyPart => 4,
        SkipReason::NotForTransferSyntax => 5,
        SkipReason::Unavailable => 6,
    }
}

fn answer(a: &AiAnswer) -> stored::AiAnswer {
    stored::AiAnswer {
        probability_ppm: a.probability_ppm,
        model: a.model.clone(),
        model_version: a.model_version.clone(),
        result: a.result.0.to_vec(),
        at: a.at.0,
    }
}

fn from_answer(answer: Option<stored::AiAnswer>) -> Result<AiAnswer, Malformed> {
    let a = answer.ok_or_else(|| Malformed::new("ai_task.answer", "is absent"))?;
    Ok(AiAnswer {
        probability_ppm: a.probability_ppm,
        model: a.model,
        model_version: a.model_version,
        result: field::digest(&a.result, "ai_task.answer.result")?,
        at: Time(a.at),
    })
}
