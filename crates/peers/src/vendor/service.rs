//! The calls of `AiInference`.

use std::{sync::Arc, time::Duration};

use isocenter_wire::v1::{
    AiFinding, AiRefusal, AiRefusalReason, AiResult, AnalyzeRequest, AnalyzeResponse, CancelRequest,
    CancelResponse, DescribeRequest, DescribeResponse, InstanceReference, ai_inference_server::AiInference,
    analyze_response::Outcome as Answer,
};
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::{
    Misbehaviour, Shared,
    fetch::{self, MAX_BYTES},
    jobs::{Admission, Job, Outcome},
};
use crate::sample::{Algorithm, Analysis, Refusal};

/// No analysis goes on for longer, whatever the caller's deadline.
const LIMIT: Duration = Duration::from_secs(600);

/// The service.
pub(super) struct Inference {
    pub shared: Arc<Shared>,
}

#[tonic::async_trait]
impl AiInference for Inference {
    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<DescribeResponse>, Status> {
        let config = self.shared.config;
        let list = |items: &[&str]| items.iter().map(|i| (*i).to_owned()).collect();
        Ok(Response::new(DescribeResponse {
            vendor: "Isocenter samples".to_owned(),
            model_id: config.algorithm.model_id().to_owned(),
            model_version: env!("CARGO_PKG_VERSION").to_owned(),
            modalities: list(config.algorithm.modalities()),
            body_parts: list(&[config.algorithm.body_part()]),
            accepted_transfer_syntaxes: Vec::new(),
            max_concurrency: config.max_concurrency,
            intended_use: "SAMPLE: shows the path of a result; not a medical device".to_owned(),
        }))
    }

    async fn analyze(&self, request: Request<AnalyzeRequest>) -> Result<Response<AnalyzeResponse>, Status> {
        let limit = timeout(request.metadata()).map_or(LIMIT, |timeout| timeout.min(LIMIT));
        let request = request.into_inner();
        if request.request_id.is_empty() || request.study_instance_uid.is_empty() {
            return Err(Status::invalid_argument("request_id and study_instance_uid are required"));
        }
        let shared = &self.shared;
        let admission =
            shared.jobs.lock().admit(&request.request_id, shared.config.max_concurrency, &shared.stop);
        shared.count(|c| c.requests += 1);
        let job = match admission {
            Admission::Busy => {
                shared.count(|c| c.turned_away += 1);
                return Err(Status::resource_exhausted("as many analyses as promised are under way"));
            }
            Admission::Join(job) => {
                shared.count(|c| c.deduplicated += 1);
                job
            }
            Admission::Begin(job) => {
                shared.count(|c| c.begun += 1);
                // A task of its own: the work goes on when the caller's connection does not, and a retry finds it.
                let (shared, job_of_task) = (Arc::clone(shared), Arc::clone(&job));
                self.shared.tasks.background("sample analysis", async move {
                    shared.run(request, limit, &job_of_task).await
                });
                job
            }
        };
        let mut outcome = job.outcome.subscribe();
        let ended = outcome.wait_for(Option::is_some).await;
        let ended = ended.map_err(|_| Status::internal("the analysis was lost"))?;
        ended.clone().unwrap_or_else(|| Err(Status::internal("the analysis was lost"))).map(Response::new)
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        let request_id = request.into_inner().request_id;
        let job = self.shared.jobs.lock().running(&request_id);
        job.ok_or_else(|| Status::not_found("no such request is under way"))?.cancel.cancel();
        Ok(Response::new(CancelResponse {}))
    }
}

impl Shared {
    fn count(&self, change: impl FnOnce(&mut super::VendorCounts)) {
        self.counts.send_modify(change);
    }

    /// Does one analysis and tells everybody who waits for it.
    async fn run(&self, request: AnalyzeRequest, limit: Duration, job: &Job) {
        let misbehaviour = *self.misbehaviour.lock();
        let outcome = tokio::select! {
            biased;
            () = job.cancel.cancelled() => {
                self.count(|c| c.cancelled += 1);
                Err(Status::cancelled("cancelled"))
            }
            () = tokio::time::sleep(limit) => Err(Status::deadline_exceeded("the analysis took too long")),
            outcome = self.behave(&request, misbehaviour) => outcome,
        };
        match &outcome {
            Ok(AnalyzeResponse { outcome: Some(Answer::Result(_)), .. }) => self.count(|c| c.results += 1),
            Ok(_) => self.count(|c| c.refusals += 1),
            Err(_) if job.cancel.is_cancelled() => {}
            Err(status) => {
                self.count(|c| c.failures += 1);
                tracing::warn!(code = ?status.code(), reason = status.message(), "sample analysis failed");
            }
        }
        self.jobs.lock().finish(&request.request_id, outcome);
    }

    /// The right answer, or the wrong one that was asked for.
    async fn behave(&self, request: &AnalyzeRequest, how: Misbehaviour) -> Outcome {
        match how {
            Misbehaviour::None => self.answer(request).await,
            Misbehaviour::Slow(delay) => {
                tokio::time::sleep(delay).await;
                self.answer(request).await
            }
            Misbehaviour::Hang => std::future::pending().await,
            Misbehaviour::Error => Err(Status::internal("told to fail")),
            Misbehaviour::RefuseAll => {
                Ok(self.response(request, refusal(&Refusal::ImageQuality("told to refuse".to_owned()))))
            }
            Misbehaviour::Garbage => {
                let mut response = self.answer(request).await?;
                let garbage = AiResult { abnormal_probability: f64::NAN, ..AiResult::default() };
                response.outcome = Some(Answer::Result(garbage));
                Ok(response)
            }
            Misbehaviour::WrongStudy => {
                let mut response = self.answer(request).await?;
                // The nil UUID as a UID (PS3.5 §B.2): no study bears it.
                response.study_instance_uid = "2.25.0".to_owned();
                Ok(response)
            }
        }
    }

    async fn answer(&self, request: &AnalyzeRequest) -> Outcome {
        let algorithm = self.config.algorithm;
        let wanted = match wanted(algorithm, request) {
            Ok(wanted) => wanted,
            Err(reason) => return Ok(self.response(request, refusal(&reason))),
        };
        let files = fetch::fetch(request, &wanted).await?;
        self.count(|c| c.instances += files.len() as u64);
        // Decoding is work for a processor, for as long as it takes.
        let analysis = tokio::task::spawn_blocking(move || algorithm.analyse(&files)).await;
        let outcome = match analysis {
            Ok(Ok(analysis)) => Answer::Result(result(analysis)),
            Ok(Err(reason)) => refusal(&reason),
            Err(_) => refusal(&Refusal::Other("the algorithm failed".to_owned())),
        };
        Ok(self.response(request, outcome))
    }

    fn response(&self, request: &AnalyzeRequest, outcome: Answer) -> AnalyzeResponse {
        AnalyzeResponse {
            request_id: request.request_id.clone(),
            study_instance_uid: request.study_instance_uid.clone(),
            model_id: self.config.algorithm.model_id().to_owned(),
            model_version: env!("CARGO_PKG_VERSION").to_owned(),
            outcome: Some(outcome),
        }
    }
}

/// How long the caller waits (gRPC over HTTP/2, "Timeout"): what goes on longer keeps a place for nobody.
fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(number.saturating_mul(60))),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The instances worth fetching: those of the algorithm's modalities, which the request names before any pixel moves.
fn wanted(algorithm: Algorithm, request: &AnalyzeRequest) -> Result<Vec<&InstanceReference>, Refusal> {
    let modality = algorithm.modalities()[0];
    let of_modality = |s: &&_| {
        let series: &isocenter_wire::v1::SeriesReference = s;
        algorithm.modalities().contains(&series.modality.as_str())
    };
    let mut series = request.series.iter().filter(of_modality).peekable();
    if series.peek().is_none() {
        return Err(Refusal::Modality(modality));
    }
    let wanted: Vec<_> = series.flat_map(|s| &s.instances).collect();
    if wanted.is_empty() {
        return Err(Refusal::ImageCount(modality));
    }
    let bytes = wanted.iter().fold(0_u64, |sum, i| sum.saturating_add(i.size_bytes));
    if bytes > MAX_BYTES {
        return Err(Refusal::Attribute("the study is larger than 1 GiB".to_owned()));
    }
    Ok(wanted)
}

fn result(analysis: Analysis) -> AiResult {
    let finding = |f: crate::sample::Finding| AiFinding {
        code: f.code.to_owned(),
        code_scheme: "SCT".to_owned(),
        label: f.label.to_owned(),
        probability: f.probability,
        sop_instance_uid: f.instance_uid.to_string(),
        frame: 1,
        r#box: f.area.to_vec(),
    };
    AiResult {
        abnormal_probability: analysis.probability,
        summary: analysis.summary,
        // At most 256, says the contract.
        findings: analysis.findings.into_iter().take(256).map(finding).collect(),
    }
}

fn refusal(reason: &Refusal) -> Answer {
    let code = match reason {
        Refusal::ImageCount(_) => AiRefusalReason::ImageCount,
        Refusal::Modality(_) => AiRefusalReason::Modality,
        Refusal::BodyPart(_) => AiRefusalReason::BodyPart,
        Refusal::Attribute(_) => AiRefusalReason::Attribute,
        Refusal::ImageQuality(_) => AiRefusalReason::ImageQuality,
        Refusal::Other(_) => AiRefusalReason::Other,
    };
    // At most 1 KiB, says the contract.
    Answer::Refusal(AiRefusal { reason: code.into(), detail: reason.to_string().chars().take(250).collect() })
}
