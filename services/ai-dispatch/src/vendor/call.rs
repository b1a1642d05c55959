//! One call of Analyze.

use std::{sync::Arc, time::Duration};

use isocenter_domain::{Time, document::Manifest, key::AiTaskKey, record::ai_task::AiFailure};
use isocenter_runtime::{clock::Clock, telemetry::trace};
use isocenter_wire::v1::{AnalyzeRequest, InstanceReference, SeriesReference};
use tonic::Code;

use super::{Client, answer};
use crate::plan::{self, Heard};

/// Everything a call needs.
pub(crate) struct Call {
    pub key: AiTaskKey,
    pub attempt: u32,
    pub request_id: String,
    pub fetch_address: String,
    pub fetch_token: String,
    /// The study's trace.
    pub trace: String,
    pub manifest: Manifest,
    pub deadline: Time,
    /// What the task had in all, from the plan's wish to the deadline.
    pub allowed: Duration,
}

impl Call {
    /// Calls the service and judges its answer. Ends by the task's deadline.
    pub async fn make(&self, client: Option<Client>, clock: &Arc<dyn Clock>) -> Heard {
        // An address that cannot be used is a service that cannot be reached; the registry may be corrected meanwhile.
        let Some(mut client) = client else {
            return Heard::Failed { failure: AiFailure::Unavailable, again: true };
        };
        let left = self.deadline.since(clock.now());
        let mut request = tonic::Request::new(self.request());
        request.set_timeout(left);
        trace::inject(request.metadata_mut());
        let answer = match tokio::time::timeout(left, client.inference.analyze(request)).await {
            Err(_) => return Heard::Nothing,
            Ok(Err(status)) if self.over(clock) => {
                tracing::debug!(code = ?status.code(), "ai call ended with its deadline");
                return Heard::Nothing;
            }
            Ok(Err(status)) => return self.failed(status.code()),
            Ok(Ok(answer)) => answer.into_inner(),
        };
        let images = &self.manifest.images;
        let asked = answer::Asked { request_id: &self.request_id, study: &self.key.study, images };
        answer::judge(&asked, answer).unwrap_or_else(|broken| {
            tracing::warn!(service = %self.key.service, why = broken.0, "ai service broke the contract");
            Heard::Failed { failure: AiFailure::InvalidAnswer, again: false }
        })
    }

    /// Whether the deadline is here: the service's timer and this clock may differ by a little, and nothing that is tried
    /// again now would be answered before it.
    fn over(&self, clock: &Arc<dyn Clock>) -> bool {
        self.deadline.since(clock.now()) < Duration::from_millis(50)
    }

    fn failed(&self, code: Code) -> Heard {
        let (failure, again) = failure(code);
        tracing::info!(service = %self.key.service, ?code, attempt = self.attempt, "ai call failed");
        Heard::Failed { failure, again }
    }

    fn request(&self) -> AnalyzeRequest {
        let series = plan::ordered(&self.manifest.images);
        AnalyzeRequest {
            request_id: self.request_id.clone(),
            service_id: self.key.service.to_string(),
            attempt: self.attempt,
            study_instance_uid: self.key.study.to_string(),
            study_revision: self.key.revision,
            series: series
                .into_iter()
                .map(|(uid, series, instances)| SeriesReference {
                    series_instance_uid: uid.to_string(),
                    modality: series.modality.clone(),
                    body_part: series.body_part.clone(),
                    instances: instances.into_iter().map(reference).collect(),
                })
                .collect(),
            fetch_address: self.fetch_address.clone(),
            fetch_token: self.fetch_token.clone(),
            traceparent: trace::of(&tracing::Span::current()).unwrap_or_else(|| self.trace.clone()),
        }
    }
}

/// An instance as the contract refers to it.
pub(crate) fn reference(instance: &isocenter_domain::document::Instance) -> InstanceReference {
    InstanceReference {
        sop_class_uid: instance.sop_class.to_string(),
        sop_instance_uid: instance.instance.to_string(),
        transfer_syntax_uid: instance.transfer_syntax.to_string(),
        size_bytes: instance.size,
    }
}

/// The class of a failure, and whether the same call may succeed later.
fn failure(code: Code) -> (AiFailure, bool) {
    match code {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => (AiFailure::Unavailable, true),
        Code::ResourceExhausted => (AiFailure::Busy, true),
        // Made on this side of an answer above the limit.
        Code::OutOfRange => (AiFailure::InvalidAnswer, false),
        Code::InvalidArgument | Code::Unimplemented => (AiFailure::Error, false),
        Code::Ok
        | Code::Unknown
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => (AiFailure::Error, true),
    }
}
