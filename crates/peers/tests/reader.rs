//! The scripted reader against a server that follows a script of its own.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use isocenter_domain::id::ReaderId;
use isocenter_peers::{
    LOOPBACK,
    reader::{Reader, ReaderConfig},
};
use isocenter_runtime::task::{Drained, Tasks};
use isocenter_wire::v1::{
    self, ExplainReadRequest, ExplainReadResponse, ListWorklistRequest, ListWorklistResponse,
    NextReadRequest, NextReadResponse, OpenReadRequest, Read, ReassignReadRequest, ReturnReadRequest,
    ReturnReason, SetPresenceRequest, SetPresenceResponse, SignReadRequest, SignReadResponse, StudyRevision,
    reader_assignment_server::{ReaderAssignment, ReaderAssignmentServer},
};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_stream::{StreamExt as _, wrappers::TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Far more than anything here needs; only a test that fails waits for it.
const WAIT: Duration = Duration::from_secs(20);

/// What the server will say, and what it was asked.
#[derive(Default)]
struct Script {
    present: bool,
    /// Reads to offer, by id.
    queue: VecDeque<String>,
    /// A read held from before the reader started.
    held: Option<String>,
    revision: u32,
    /// Answers to SignRead before it succeeds.
    refusals: VecDeque<Status>,
    signs: Vec<SignReadRequest>,
    returns: Vec<ReturnReadRequest>,
}

#[derive(Clone, Default)]
struct Server(Arc<Mutex<Script>>);

fn with_reason(code: Code, reason: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "isocenter", std::collections::HashMap::new());
    Status::with_error_details(code, "as the script says", details)
}

impl Server {
    fn read(&self, id: &str) -> Read {
        let study =
            StudyRevision { study_instance_uid: "2.25.1".to_owned(), revision: self.0.lock().revision };
        Read {
            read_id: id.to_owned(),
            studies: vec![study],
            modalities: vec!["CT".to_owned()],
            holder_reader_id: "anna".to_owned(),
            open_token: format!("token of {id}"),
            ..Read::default()
        }
    }

    async fn start(&self, tasks: &Tasks) -> String {
        let listener = TcpListener::bind(LOOPBACK).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (service, stop) = (ReaderAssignmentServer::new(self.clone()), tasks.token());
        tasks.background("server", async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned())
                .await
                .unwrap();
        });
        format!("http://{address}")
    }
}

#[tonic::async_trait]
impl ReaderAssignment for Server {
    type SetPresenceStream =
        std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<SetPresenceResponse, Status>> + Send>>;

    async fn set_presence(
        &self,
        request: Request<Streaming<SetPresenceRequest>>,
    ) -> Result<Response<Self::SetPresenceStream>, Status> {
        let script = Arc::clone(&self.0);
        let answers = request.into_inner().map(move |sign| {
            script.lock().present = sign?.accepting;
            Ok(SetPresenceResponse::default())
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn next_read(&self, _: Request<NextReadRequest>) -> Result<Response<NextReadResponse>, Status> {
        let script = self.0.lock();
        if !script.present || script.held.is_some() {
            return Err(Status::failed_precondition("not present, or a read is open"));
        }
        let next = script.queue.front().cloned();
        drop(script);
        Ok(Response::new(NextReadResponse { read: next.map(|id| self.read(&id)), retry_after: None }))
    }

    async fn open_read(&self, request: Request<OpenReadRequest>) -> Result<Response<Read>, Status> {
        let id = request.into_inner().read_id;
        let mut script = self.0.lock();
        if id == "taken" {
            script.queue.retain(|q| *q != id);
            return Err(Status::failed_precondition("another holds it"));
        }
        script.queue.retain(|q| *q != id);
        script.held = Some(id.clone());
        drop(script);
        Ok(Response::new(self.read(&id)))
    }

    async fn return_read(&self, request: Request<ReturnReadRequest>) -> Result<Response<Read>, Status> {
        let mut script = self.0.lock();
        script.held = None;
        script.returns.push(request.into_inner());
        Ok(Response::new(Read::default()))
    }

    async fn sign_read(
        &self,
        request: Request<SignReadRequest>,
    ) -> Result<Response<SignReadResponse>, Status> {
        let request = request.into_inner();
        let mut script = self.0.lock();
        script.signs.push(request);
        match script.refusals.pop_front() {
            Some(status) => {
                if status.code() == Code::FailedPrecondition {
                    script.revision += 1;
                }
                if status.code() == Code::Aborted {
                    script.held = None;
                }
                Err(status)
            }
            None => {
                script.held = None;
                Ok(Response::new(SignReadResponse::default()))
            }
        }
    }

    async fn reassign_read(&self, _: Request<ReassignReadRequest>) -> Result<Response<Read>, Status> {
        Err(Status::unimplemented("a reader does not reassign"))
    }

    async fn get_outlook(
        &self,
        _: Request<v1::GetOutlookRequest>,
    ) -> Result<Response<v1::GetOutlookResponse>, Status> {
        Err(Status::unimplemented("a reader does not ask what is predicted"))
    }

    async fn suspend_read(&self, _: Request<v1::SuspendReadRequest>) -> Result<Response<Read>, Status> {
        Err(Status::unimplemented("this reader sets nothing aside"))
    }

    async fn transfer_read(&self, _: Request<v1::TransferReadRequest>) -> Result<Response<Read>, Status> {
        Err(Status::unimplemented("this reader hands nothing on"))
    }

    async fn declare_non_diagnostic(
        &self,
        _: Request<v1::DeclareNonDiagnosticRequest>,
    ) -> Result<Response<SignReadResponse>, Status> {
        Err(Status::unimplemented("this reader finds every image good enough"))
    }

    async fn request_second_opinion(
        &self,
        _: Request<v1::RequestSecondOpinionRequest>,
    ) -> Result<Response<Read>, Status> {
        Err(Status::unimplemented("this reader asks nobody"))
    }

    async fn request_consultation(
        &self,
        _: Request<v1::RequestConsultationRequest>,
    ) -> Result<Response<Read>, Status> {
        Err(Status::unimplemented("this reader asks nobody"))
    }

    async fn cancel_read(&self, _: Request<v1::CancelReadRequest>) -> Result<Response<Read>, Status> {
        Err(Status::unimplemented("a reader does not cancel"))
    }

    type WatchWorklistStream =
        std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::WatchWorklistResponse, Status>> + Send>>;

    async fn watch_worklist(
        &self,
        _: Request<v1::WatchWorklistRequest>,
    ) -> Result<Response<Self::WatchWorklistStream>, Status> {
        Err(Status::unimplemented("this reader does not watch"))
    }

    async fn list_worklist(
        &self,
        _: Request<ListWorklistRequest>,
    ) -> Result<Response<ListWorklistResponse>, Status> {
        let held = self.0.lock().held.clone();
        let reads = held.into_iter().map(|id| self.read(&id)).collect();
        Ok(Response::new(ListWorklistResponse { reads, next_page_token: String::new() }))
    }

    async fn explain_read(
        &self,
        _: Request<ExplainReadRequest>,
    ) -> Result<Response<ExplainReadResponse>, Status> {
        Err(Status::unimplemented("a reader does not ask why"))
    }
}

fn config(server: String) -> ReaderConfig {
    let think = Duration::from_millis(1)..Duration::from_millis(2);
    ReaderConfig { think, ..ReaderConfig::new(ReaderId::new("anna").unwrap(), server, 3) }
}

#[tokio::test]
async fn a_read_whose_images_changed_is_looked_at_again_and_a_lost_answer_repeats_the_request() {
    let (tasks, server) = (Tasks::new(), Server::default());
    {
        let mut script = server.0.lock();
        script.revision = 1;
        script.queue = ["one".to_owned(), "taken".to_owned(), "two".to_owned()].into();
        script.refusals =
            [Status::unavailable("gone"), with_reason(Code::FailedPrecondition, "NEW_IMAGES")].into();
    }
    let reader = Reader::start(config(server.start(&tasks).await), &tasks).unwrap();
    let counts = tokio::time::timeout(WAIT, reader.until(|c| c.signed == 2)).await.unwrap();
    assert_eq!((counts.opened, counts.resumed, counts.lost, counts.errors), (2, 1, 1, 0), "{counts:?}");

    let signs = std::mem::take(&mut server.0.lock().signs);
    assert_eq!(signs.len(), 4);
    assert_eq!(signs[0], signs[1], "the answer was lost: the same request again");
    assert_ne!(signs[1].request_id, signs[2].request_id, "another text is another request");
    assert_eq!((signs[1].studies[0].revision, signs[2].studies[0].revision), (1, 2));
    assert!(signs.iter().all(|s| s.open_token == format!("token of {}", s.read_id)));
    assert!(signs.iter().all(|s| !s.impression.is_empty() && s.findings.starts_with("SYNTHETIC")));
    assert_eq!(tasks.drain(WAIT).await, Drained::Clean);
}

#[tokio::test]
async fn a_reader_told_to_gives_back_with_a_reason() {
    let (tasks, server) = (Tasks::new(), Server::default());
    server.0.lock().queue = ["one".to_owned(), "two".to_owned()].into();
    let config = ReaderConfig { return_share: 1.0, ..config(server.start(&tasks).await) };
    let reader = Reader::start(config, &tasks).unwrap();
    tokio::time::timeout(WAIT, reader.until(|c| c.returned == 2)).await.unwrap();
    let returns = std::mem::take(&mut server.0.lock().returns);
    assert!(returns.iter().all(|r| r.reason() != ReturnReason::Unspecified && !r.open_token.is_empty()));
}

#[tokio::test]
async fn a_read_held_from_before_a_restart_is_taken_up_and_a_stale_token_ends_it() {
    let (tasks, server) = (Tasks::new(), Server::default());
    {
        let mut script = server.0.lock();
        script.held = Some("old".to_owned());
        script.queue = ["new".to_owned()].into();
        script.refusals = [with_reason(Code::Aborted, "STALE_TOKEN")].into();
    }
    let reader = Reader::start(config(server.start(&tasks).await), &tasks).unwrap();
    let counts = tokio::time::timeout(WAIT, reader.until(|c| c.signed == 1)).await.unwrap();
    assert_eq!((counts.resumed, counts.opened, counts.lost, counts.errors), (1, 1, 1, 0), "{counts:?}");
    let read_ids: Vec<_> = server.0.lock().signs.iter().map(|s| s.read_id.clone()).collect();
    assert_eq!(read_ids, ["old", "new"]);
}
