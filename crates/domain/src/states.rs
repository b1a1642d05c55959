//! `docs/states.md`, generated from the transitions themselves.

use std::fmt::Write as _;

use crate::{
    id::{AiServiceId, ReaderId},
    record::{
        ai_task::{AiAnswer, AiFailure, AiTask, AiTaskEvent, AiTaskState, SkipReason},
        case::{CaseEvent, CaseState},
        delivery::{Delivery, DeliveryEvent, DeliveryState},
        read::{
            Insufficiency, Preliminary, Read, ReadEvent, ReadKind, ReadState, ReturnReason, SuspendReason,
        },
        report::{ReportKind, StudyRevision},
        study::{Evidence, Facts, Study, StudyEvent, StudyState},
    },
    refs::{Digest, Ref},
    time::Time,
};

/// The life of every record with states, as Markdown: for each state and event what follows, or why not.
#[must_use]
pub fn render() -> String {
    let mut page = String::from(
        "# States\n\nGenerated from `transition()` by `isocenter states`; a test compares. A dash is an event that the \
         state refuses.\n",
    );
    let sample = Samples::new();
    table(
        &mut page,
        "Study",
        &sample.studies(),
        &sample.study_events(),
        |s| s.state.name(),
        StudyEvent::name,
        |s, e| s.transition(e, sample.later).ok().map(|(s, _)| s.state.name()),
    );
    table(
        &mut page,
        "Case",
        &[CaseState::Ready, CaseState::Closed],
        &[CaseEvent::Replanned, CaseEvent::Closed, CaseEvent::Reopened],
        |s| s.name(),
        CaseEvent::name,
        |state, e| sample.case(state).transition(e, sample.later).ok().map(|(c, _)| c.state.name()),
    );
    table(
        &mut page,
        "AI task",
        &sample.ai_tasks(),
        &sample.ai_task_events(),
        |t| t.state.name(),
        AiTaskEvent::name,
        |t, e| t.transition(e, sample.later).ok().map(|(t, _)| t.state.name()),
    );
    table(
        &mut page,
        "Read",
        &sample.reads(),
        &sample.read_events(),
        |r| r.state.name(),
        ReadEvent::name,
        |mut r, e| {
            if e == ReadEvent::Cancelled {
                // Of the kinds that have it.
                r.kind = ReadKind::Consultation;
            }
            r.transition(e, sample.later).ok().map(|(r, _)| r.state.name())
        },
    );
    table(
        &mut page,
        "Delivery",
        &sample.deliveries(),
        &sample.delivery_events(),
        |d| d.state.name(),
        DeliveryEvent::name,
        |d, e| d.transition(e, sample.later).ok().map(|(d, _)| d.state.name()),
    );
    page
}

fn table<S: Clone, E: Clone>(
    page: &mut String,
    title: &str,
    states: &[S],
    events: &[E],
    state_name: impl Fn(&S) -> &'static str,
    event_name: impl Fn(&E) -> &'static str,
    next: impl Fn(S, E) -> Option<&'static str>,
) {
    // Writing to a String cannot fail.
    let head: Vec<&str> = events.iter().map(&event_name).collect();
    let mut put = |line: String| writeln!(page, "{line}").expect("a String takes everything");
    put(format!("\n## {title}\n\n| state | {} |", head.join(" | ")));
    put(format!("|{}", "---|".repeat(events.len() + 1)));
    for state in states {
        let cells: Vec<&str> =
            events.iter().map(|event| next(state.clone(), event.clone()).unwrap_or("–")).collect();
        put(format!("| **{}** | {} |", state_name(state), cells.join(" | ")));
    }
}

/// One record in each state and one of each event, all by the same reader and token so that guards pass.
struct Samples {
    reader: ReaderId,
    token: String,
    studies: Vec<StudyRevision>,
    digest: Digest,
    start: Time,
    later: Time,
    deadline: Time,
}

impl Samples {
    fn new() -> Self {
        let study = "1.2.3".parse().expect("a UID");
        Self {
            reader: "reader".parse().expect("a name"),
            token: "token".into(),
            studies: vec![StudyRevision { study, revision: 1 }],
            digest: Digest([0; 32]),
            start: Time(0),
            later: Time(1),
            deadline: Time(2),
        }
    }

    fn studies(&self) -> Vec<Study> {
        let receiving =
            Study::receiving("site".parse().expect("a name"), "AE".parse().expect("an AE"), self.start);
        let complete = Study {
            state: StudyState::Complete { evidence: Evidence::QuietPeriod, doubt: None },
            revision: 1,
            complete_at: Some(self.start),
            ..receiving.clone()
        };
        let closed = Study { state: StudyState::Closed, ..complete.clone() };
        vec![Study { revision: 1, ..receiving }, complete, closed]
    }

    fn study_events(&self) -> Vec<StudyEvent> {
        let (evidence, manifest, facts) = (Evidence::QuietPeriod, self.digest, Facts::default());
        vec![
            StudyEvent::Received,
            StudyEvent::Completed { evidence, doubt: None, manifest, facts },
            StudyEvent::NothingNew,
            StudyEvent::Closed,
            StudyEvent::Reopened,
        ]
    }

    fn case(&self, state: CaseState) -> crate::record::case::Case {
        crate::record::case::Case {
            state,
            members: self.studies.iter().map(|s| s.study.clone()).collect(),
            site: "site".parse().expect("a name"),
            class: "ROUTINE".parse().expect("a class"),
            complete_at: self.start,
            deadline: std::time::Duration::ZERO,
            urgency: crate::record::case::Urgency::default(),
            orphan_after: std::time::Duration::ZERO,
            pools: Vec::new(),
            destinations: Vec::new(),
            modalities: Vec::new(),
            body_part: String::new(),
            patient: None,
            accession: Ref([0; 16]),
            jurisdiction: None,
            paediatric: false,
            reading: crate::record::case::Reading::default(),
            linked: None,
        }
    }

    fn answer(&self) -> AiAnswer {
        let model = "model".parse::<AiServiceId>().expect("a name").to_string();
        AiAnswer { probability_ppm: 0, model, model_version: "1".into(), result: self.digest, at: self.later }
    }

    fn ai_tasks(&self) -> Vec<AiTask> {
        let task = AiTask::requested(self.digest, self.start, self.deadline);
        [
            AiTaskState::Pending { not_before: self.start },
            AiTaskState::Dispatched { until: self.deadline },
            AiTaskState::Succeeded(self.answer()),
            AiTaskState::Late(self.answer()),
            AiTaskState::Rejected { reason: "modality".into() },
            AiTaskState::Failed(AiFailure::Error),
            AiTaskState::TimedOut,
            AiTaskState::Skipped { why: SkipReason::NotRegistered },
            AiTaskState::Cancelled,
        ]
        .into_iter()
        .map(|state| AiTask { state, ..task.clone() })
        .collect()
    }

    fn ai_task_events(&self) -> Vec<AiTaskEvent> {
        vec![
            AiTaskEvent::Claimed { until: self.deadline },
            AiTaskEvent::Answered { answer: self.answer(), after_signature: false },
            AiTaskEvent::Declined { reason: "modality".into() },
            AiTaskEvent::CallFailed { failure: AiFailure::Error, retry_at: Some(self.later) },
            AiTaskEvent::Lapsed,
            AiTaskEvent::Expired,
            AiTaskEvent::Skipped { why: SkipReason::NotRegistered },
            AiTaskEvent::Superseded,
        ]
    }

    /// In a kind that every event is possible for, but where only a first read or a final one has it.
    fn reads(&self) -> Vec<Read> {
        let waiting = Read::waiting(ReadKind::Primary, self.start);
        let (reader, token, studies) = (self.reader.clone(), self.token.clone(), self.studies.clone());
        let (since, until, reason) = (self.start, self.deadline, SuspendReason::Interrupted);
        let insufficient = Insufficiency::Motion;
        let resident = Preliminary {
            reader: "resident".parse().expect("a name"),
            at: self.start,
            version: 1,
            studies: studies.clone(),
        };
        let state = |state| Read { state, ..waiting.clone() };
        vec![
            state(ReadState::Waiting),
            Read { preliminary: Some(resident), ..state(ReadState::AwaitingFinal) },
            state(ReadState::Offered { reader: reader.clone(), until }),
            state(ReadState::Open {
                reader: reader.clone(),
                token: token.clone(),
                since,
                studies: studies.clone(),
            }),
            state(ReadState::Suspended {
                reader: reader.clone(),
                token,
                reason,
                since,
                until,
                studies: studies.clone(),
            }),
            state(ReadState::Signed {
                reader: reader.clone(),
                at: since,
                version: 1,
                studies: studies.clone(),
            }),
            state(ReadState::NonDiagnostic {
                reader,
                at: since,
                version: 1,
                studies,
                reason: insufficient,
                repeat: true,
            }),
            state(ReadState::Cancelled { at: since }),
        ]
    }

    fn read_events(&self) -> Vec<ReadEvent> {
        let (reader, token, studies) = (self.reader.clone(), self.token.clone(), self.studies.clone());
        let (other, until) = (|| "other".parse().expect("a name"), self.deadline);
        vec![
            ReadEvent::Offered { reader: reader.clone(), until },
            ReadEvent::Lapsed,
            ReadEvent::Opened { reader: reader.clone(), token: token.clone(), studies: studies.clone() },
            ReadEvent::OpenedByName { reader: other(), token: token.clone(), studies: studies.clone() },
            ReadEvent::Suspended {
                reader: reader.clone(),
                token: token.clone(),
                reason: SuspendReason::Interrupted,
                until,
            },
            ReadEvent::Transferred { by: None, to: other(), until },
            ReadEvent::Returned {
                reader: reader.clone(),
                token: Some(token.clone()),
                reason: ReturnReason::Interrupted,
            },
            ReadEvent::Reassigned,
            ReadEvent::SignedPreliminary {
                reader: reader.clone(),
                token: token.clone(),
                studies: studies.clone(),
            },
            ReadEvent::Signed {
                reader: reader.clone(),
                token: token.clone(),
                version: 1,
                studies: studies.clone(),
                conclusion: None,
                newer_images: false,
            },
            ReadEvent::DeclaredNonDiagnostic {
                reader,
                token,
                version: 1,
                studies,
                reason: Insufficiency::Motion,
                repeat: true,
                conclusion: None,
            },
            ReadEvent::Cancelled,
            ReadEvent::DraftKept { body: self.digest },
        ]
    }

    fn deliveries(&self) -> Vec<Delivery> {
        [
            DeliveryState::Pending,
            DeliveryState::Sent { until: self.deadline },
            DeliveryState::Retrying { next: self.later, error: String::new() },
            DeliveryState::ApplicationAccepted { at: self.later },
            DeliveryState::Viewed { accepted: self.later, at: self.later, by: String::new() },
            DeliveryState::Superseded { at: self.later },
            DeliveryState::DeadLetter { reason: String::new(), at: self.later },
        ]
        .into_iter()
        .map(|state| Delivery {
            state,
            message_id: "id".into(),
            kind: ReportKind::Preliminary,
            accession: Ref([0; 16]),
            signed_at: self.start,
            attempts: 0,
            since: self.start,
        })
        .collect()
    }

    fn delivery_events(&self) -> Vec<DeliveryEvent> {
        vec![
            DeliveryEvent::Claimed { until: self.deadline },
            DeliveryEvent::Accepted,
            DeliveryEvent::Acknowledged,
            DeliveryEvent::Viewed { by: String::new() },
            DeliveryEvent::NotAccepted { retry_at: self.later, error: String::new() },
            DeliveryEvent::Refused { reason: String::new() },
            DeliveryEvent::Lapsed,
            DeliveryEvent::Superseded,
            DeliveryEvent::Replayed,
        ]
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_in_docs_is_what_the_code_does() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/states.md");
        let found = std::fs::read_to_string(page).expect("docs/states.md");
        assert_eq!(found, super::render(), "run: cargo run -p isocenter -- states > docs/states.md");
    }
}
