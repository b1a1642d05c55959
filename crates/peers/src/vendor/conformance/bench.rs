//! The service under check, the pixels for it, and the requests it gets.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use isocenter_runtime::{random, task::Tasks};
use isocenter_wire::v1::{
    AnalyzeRequest, AnalyzeResponse, CancelRequest, DescribeRequest, DescribeResponse, InstanceReference,
    SeriesReference, ai_inference_client::AiInferenceClient,
};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

use super::{
    CheckError, Options,
    dispatcher::{Dispatcher, Manner, Served},
};
use crate::synthetic::{StudyKind, Synthetic};

/// How long anything but an analysis may take.
pub(super) const SHORT: Duration = Duration::from_secs(5);
/// The most bytes of an answer that Isocenter takes.
const MAX_ANSWER: usize = 1 << 20;

/// A study to ask about.
#[derive(Clone)]
pub(super) struct Sample {
    uid: String,
    series: String,
    modality: String,
    body_part: String,
    instances: Vec<Served>,
}

/// Everything that checks need.
pub(super) struct Bench {
    pub channel: Channel,
    pub dispatcher: Dispatcher,
    pub patience: Duration,
    /// What the service says it is, once it was asked.
    pub described: Option<DescribeResponse>,
    fetch_address: String,
    seed: u64,
    /// Set apart from every other run: a service remembers request ids.
    run: String,
    next: AtomicU64,
}

impl Bench {
    pub async fn start(options: Options, tasks: &Tasks) -> Result<Self, CheckError> {
        let endpoint = Endpoint::from_shared(options.address.clone());
        let endpoint = endpoint.map_err(|_| CheckError::Address(options.address.clone()))?;
        let started = Dispatcher::start(options.listen, tasks).await;
        let (dispatcher, bound) = started.map_err(|e| CheckError::Listen(options.listen, e))?;
        Ok(Self {
            channel: endpoint.connect_timeout(SHORT).connect_lazy(),
            dispatcher,
            patience: options.patience,
            described: None,
            fetch_address: options.fetch_address.unwrap_or_else(|| format!("http://{bound}")),
            seed: options.seed,
            run: random::uuid_v7().simple().to_string(),
            next: AtomicU64::new(1),
        })
    }

    fn client(&self) -> AiInferenceClient<Channel> {
        AiInferenceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub async fn describe(&self) -> Result<DescribeResponse, Status> {
        let mut request = Request::new(DescribeRequest {});
        request.set_timeout(SHORT);
        Ok(self.client().describe(request).await?.into_inner())
    }

    pub async fn analyze(
        &self,
        request: &AnalyzeRequest,
        within: Duration,
    ) -> Result<AnalyzeResponse, Status> {
        let mut call = Request::new(request.clone());
        call.set_timeout(within);
        let answered = tokio::time::timeout(within, self.client().analyze(call)).await;
        Ok(answered.map_err(|_| Status::deadline_exceeded("no answer in time"))??.into_inner())
    }

    pub async fn cancel(&self, request_id: &str) -> Result<(), Code> {
        let mut request = Request::new(CancelRequest { request_id: request_id.to_owned() });
        request.set_timeout(SHORT);
        self.client().cancel(request).await.map(drop).map_err(|status| status.code())
    }

    /// A study that the service says it takes; why there is none, otherwise.
    pub fn sample(&self) -> Result<Sample, String> {
        let described = self.described.clone().unwrap_or_default();
        let any = |list: &[String], value: &str| list.is_empty() || list.iter().any(|own| own == value);
        let mut of_modality = false;
        for kind in StudyKind::ALL.into_iter().filter(|kind| any(&described.modalities, kind.modality())) {
            let part = described.body_parts.iter().any(|part| part.eq_ignore_ascii_case(kind.body_part()));
            if !described.body_parts.is_empty() && !part {
                continue;
            }
            of_modality = true;
            let sample = self.of_kind(kind)?;
            let taken = |served: &Served| {
                any(&described.accepted_transfer_syntaxes, &served.reference.transfer_syntax_uid)
            };
            if sample.instances.iter().all(taken) {
                return Ok(sample);
            }
        }
        Err(if of_modality {
            "no synthetic study is in a transfer syntax that it takes".to_owned()
        } else {
            "no synthetic study is of a modality and body part that it takes".to_owned()
        })
    }

    /// A study of a modality that the service does not list; `None` where it takes any.
    pub fn foreign(&self) -> Option<Sample> {
        let taken = &self.described.as_ref()?.modalities;
        let foreign = |kind: &StudyKind| !taken.iter().any(|modality| modality == kind.modality());
        let kind = StudyKind::ALL.into_iter().find(foreign).filter(|_| !taken.is_empty())?;
        self.of_kind(kind).ok()
    }

    fn of_kind(&self, kind: StudyKind) -> Result<Sample, String> {
        let made = Synthetic::new(self.seed).study(kind);
        let study = made.map_err(|_| "a synthetic study cannot be made".to_owned())?.study;
        let mut instances = Vec::new();
        for instance in &study.instances {
            let crate::study::Content::Memory(file) = &instance.content else { continue };
            let reference = InstanceReference {
                sop_class_uid: instance.sop_class_uid.to_string(),
                sop_instance_uid: instance.instance_uid.to_string(),
                transfer_syntax_uid: instance.transfer_syntax_uid.to_string(),
                size_bytes: file.len() as u64,
            };
            instances.push(Served { reference, file: file.clone() });
        }
        Ok(Sample {
            uid: study.study_uid.to_string(),
            series: study.instances[0].series_uid.to_string(),
            modality: kind.modality().to_owned(),
            body_part: kind.body_part().to_owned(),
            instances,
        })
    }

    /// A request for `sample`, whose pixels are served so.
    pub fn request(&self, sample: &Sample, manner: Manner) -> AnalyzeRequest {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let request_id = format!("check-{}-{n}", self.run);
        let fetch_token = format!("token-{}-{n}", self.run);
        let instances = sample.instances.iter().map(|served| served.reference.clone()).collect();
        let request = AnalyzeRequest {
            request_id,
            service_id: "check".to_owned(),
            attempt: 1,
            study_instance_uid: sample.uid.clone(),
            study_revision: 1,
            series: vec![SeriesReference {
                series_instance_uid: sample.series.clone(),
                modality: sample.modality.clone(),
                body_part: sample.body_part.clone(),
                instances,
            }],
            fetch_address: self.fetch_address.clone(),
            fetch_token,
            traceparent: String::new(),
        };
        self.serve(&request, sample, manner);
        request
    }

    /// Serves the pixels of a request so from now on.
    pub fn serve(&self, request: &AnalyzeRequest, sample: &Sample, manner: Manner) {
        let (id, token) = (&request.request_id, &request.fetch_token);
        self.dispatcher.serve(id, token, manner, sample.instances.clone());
    }
}

impl Sample {
    /// The same study with files that are no DICOM.
    pub fn damaged(mut self) -> Self {
        for served in &mut self.instances {
            served.file = Bytes::from(vec![0x5a; 4096]);
            served.reference.size_bytes = 4096;
        }
        self
    }
}
