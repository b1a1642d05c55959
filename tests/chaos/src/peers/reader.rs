//! A reader at a workstation, who takes what is offered, thinks, and signs, and who writes down each answer.

use std::time::Duration;

use anyhow::Result;
use futures::StreamExt as _;
use isocenter_runtime::{
    random::{self, Seeded},
    task::Tasks,
};
use isocenter_wire::v1::{
    ListWorklistRequest, NextReadRequest, OpenReadRequest, Read, ReadState, ReturnReadRequest, ReturnReason,
    SetPresenceRequest, SignReadRequest, reader_assignment_client::ReaderAssignmentClient,
};
use tokio_stream::wrappers::IntervalStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use crate::record::{Deed, Outcome, Recorder};

/// Signs of life.
const PRESENCE: Duration = Duration::from_secs(3);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(8);
/// Between repetitions of a call.
const AGAIN: Duration = Duration::from_millis(300);
/// Between questions when there is nothing to read.
const IDLE: Duration = Duration::from_millis(200);
/// Repetitions of one request: about as long as a fault lasts.
const ATTEMPTS: u32 = 200;

/// A workstation.
#[derive(Clone)]
pub(super) struct Desk {
    reader: String,
    client: ReaderAssignmentClient<Channel>,
    rng: Seeded,
    returns: f64,
    recorder: Recorder,
}

impl Desk {
    pub fn new(reader: String, url: &str, seed: u64, returns: f64, recorder: Recorder) -> Result<Self> {
        let channel = Endpoint::from_shared(url.to_owned())?
            .connect_timeout(Duration::from_secs(2))
            // A server that vanished or froze must not look alive.
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(2))
            .connect_lazy();
        let rng = Seeded::new(seed).fork(&reader);
        Ok(Self { reader, client: ReaderAssignmentClient::new(channel), rng, returns, recorder })
    }

    pub fn start(self, tasks: &Tasks) {
        let (present, stop) = (self.clone(), tasks.token());
        let mut desk = self;
        tasks.background("reader", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = present.presence() => {}
                () = desk.work() => {}
            }
        });
    }

    async fn presence(&self) {
        loop {
            let reader_id = self.reader.clone();
            let sign = move |_| SetPresenceRequest { reader_id: reader_id.clone(), accepting: true };
            // The connection would go on sending by itself after nobody reads the answers any more.
            let over = CancellationToken::new();
            let signs = IntervalStream::new(tokio::time::interval(PRESENCE))
                .map(sign)
                .take_until(over.clone().cancelled_owned());
            let _guard = over.drop_guard();
            if let Ok(answers) = self.client.clone().set_presence(signs).await {
                let mut answers = answers.into_inner();
                while let Ok(Some(_)) = answers.message().await {}
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn work(&mut self) {
        loop {
            if !self.turn().await {
                tokio::time::sleep(IDLE).await;
            }
        }
    }

    /// One read; `false` where there is nothing to do now.
    async fn turn(&mut self) -> bool {
        let request = request_id();
        let next = NextReadRequest { reader_id: self.reader.clone(), request_id: request.clone() };
        let deed = Deed::Next { reader: self.reader.clone(), request };
        let client = self.client.clone();
        let call = || {
            let (mut client, next) = (client.clone(), bounded(&next));
            async move { client.next_read(next).await.map(tonic::Response::into_inner) }
        };
        let told = |answer: &isocenter_wire::v1::NextReadResponse| {
            answer.read.as_ref().map(|read| read.read_id.clone()).unwrap_or_default()
        };
        let read = match self.ask(&deed, call, told).await {
            Ok(answer) => answer.read.map(|read| read.read_id),
            // A read from before is still open.
            Err(status) if status.code() == Code::FailedPrecondition => self.in_hand().await,
            Err(_) => None,
        };
        let Some(read) = read else { return false };
        let Some(open) = self.open(&read).await else { return true };
        self.think().await;
        if self.rng.chance(self.returns) {
            self.give_back(&open).await;
        } else {
            self.sign(open).await;
        }
        true
    }

    /// A read that this reader still holds.
    async fn in_hand(&self) -> Option<String> {
        let request = ListWorklistRequest {
            reader_id: self.reader.clone(),
            states: vec![ReadState::Open.into()],
            page_size: 100,
            page_token: String::new(),
        };
        let list = self.client.clone().list_worklist(bounded(&request)).await.ok()?.into_inner();
        list.reads.into_iter().find(|read| read.holder_reader_id == self.reader).map(|read| read.read_id)
    }

    async fn open(&self, read: &str) -> Option<Read> {
        let request = OpenReadRequest {
            read_id: read.to_owned(),
            reader_id: self.reader.clone(),
            request_id: request_id(),
            reason: String::new(),
        };
        let deed = Deed::Open {
            read: read.to_owned(),
            reader: self.reader.clone(),
            request: request.request_id.clone(),
        };
        let call = || {
            let (mut client, request) = (self.client.clone(), bounded(&request));
            async move { client.open_read(request).await.map(tonic::Response::into_inner) }
        };
        self.ask(&deed, call, |read: &Read| read.open_token.clone()).await.ok()
    }

    async fn sign(&mut self, mut open: Read) {
        loop {
            let request = SignReadRequest {
                read_id: open.read_id.clone(),
                reader_id: self.reader.clone(),
                open_token: open.open_token.clone(),
                findings: "Synthetic findings.".to_owned(),
                impression: format!("Synthetic impression of {}.", self.reader),
                request_id: request_id(),
                studies: open.studies.clone(),
                as_of: false,
                ..Default::default()
            };
            let deed = Deed::Sign {
                read: open.read_id.clone(),
                reader: self.reader.clone(),
                request: request.request_id.clone(),
            };
            let call = || {
                let (mut client, request) = (self.client.clone(), bounded(&request));
                async move { client.sign_read(request).await.map(tonic::Response::into_inner) }
            };
            let told = |answer: &isocenter_wire::v1::SignReadResponse| {
                format!("{}/{}", answer.report_id, answer.version)
            };
            match self.ask(&deed, call, told).await {
                Err(status) if reason(&status).as_deref() == Some("NEW_IMAGES") => {
                    tokio::time::sleep(AGAIN).await;
                    match self.open(&open.read_id).await {
                        Some(again) => open = again,
                        None => return,
                    }
                    self.think().await;
                }
                Ok(_) | Err(_) => return,
            }
        }
    }

    async fn give_back(&self, open: &Read) {
        let request = ReturnReadRequest {
            read_id: open.read_id.clone(),
            reader_id: self.reader.clone(),
            open_token: open.open_token.clone(),
            reason: ReturnReason::Interrupted.into(),
            request_id: request_id(),
        };
        let deed = Deed::Return {
            read: open.read_id.clone(),
            reader: self.reader.clone(),
            request: request.request_id.clone(),
        };
        let call = || {
            let (mut client, request) = (self.client.clone(), bounded(&request));
            async move { client.return_read(request).await.map(tonic::Response::into_inner) }
        };
        // What was not given back is found in hand at the next turn.
        drop(self.ask(&deed, call, |_: &Read| String::new()).await);
    }

    async fn think(&mut self) {
        let time = self.rng.duration(Duration::from_millis(5)..Duration::from_millis(60));
        tokio::time::sleep(time).await;
    }

    /// Calls until there is an answer that repetition would not change, and writes down each answer.
    async fn ask<T, F, Fut>(&self, deed: &Deed, call: F, told: impl Fn(&T) -> String) -> Result<T, Status>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let mut attempt = 1;
        loop {
            let invoked = self.recorder.now();
            let answer = match tokio::time::timeout(CALL, call()).await {
                Ok(answer) => answer,
                Err(_) => Err(Status::deadline_exceeded("no answer in time")),
            };
            match answer {
                Ok(answer) => {
                    self.recorder.done(deed.clone(), invoked, Outcome::Ok(told(&answer)));
                    return Ok(answer);
                }
                Err(status) => {
                    let passing = is_passing(&status);
                    let why = format!("{:?} {}", status.code(), reason(&status).unwrap_or_default());
                    let outcome = if passing { Outcome::Unknown(why) } else { Outcome::Failed(why) };
                    self.recorder.done(deed.clone(), invoked, outcome);
                    attempt += 1;
                    if !passing || attempt > ATTEMPTS {
                        return Err(status);
                    }
                    tokio::time::sleep(random::jitter(AGAIN)).await;
                }
            }
        }
    }
}

fn request_id() -> String {
    random::uuid_v7().to_string()
}

fn bounded<M: Clone>(message: &M) -> Request<M> {
    let mut request = Request::new(message.clone());
    request.set_timeout(CALL);
    request
}

/// Whether the same request may be answered otherwise later, or was done and the answer lost.
fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Internal
        | Code::Cancelled => true,
        Code::Aborted => reason(status).as_deref() == Some("CONFLICT"),
        _ => false,
    }
}

fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}
