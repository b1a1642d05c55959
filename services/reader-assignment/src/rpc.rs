//! The calls: who may make them, what their fields mean, and what they are answered.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use isocenter_domain::{
    Phi,
    access::{Action, Principal, authorize},
    document::ReportBody,
    id::{ReadId, ReaderId},
    key::ReadKey,
    record::{read::ReturnReason, report::StudyRevision},
};
use isocenter_runtime::{
    nodes::Nodes,
    principal::principal,
    status::{Answer, status},
};
use isocenter_store::table::Cause;
use isocenter_wire::{
    Malformed,
    document::Stored as _,
    duration,
    v1::{self, reader_assignment_server::ReaderAssignment},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    desk::Desk,
    error::Error,
    forward::{self, Forward},
    hold::Ask,
    list::Filter,
    offer::Offers,
    plan::sign::Signature,
    session::Workstation,
};

/// The longest text of a report, findings and impression together.
const MAX_TEXT: usize = 256 * 1024;

/// The longest request id: it is kept in the record.
const MAX_REQUEST_ID: usize = 64;

/// The longest reason of a reassignment: it is kept in an event.
const MAX_REASON: usize = 512;

/// Members of a page where the caller names no number, and the most there are.
const PAGE: (usize, usize) = (100, 1000);

/// Answers of one presence stream that wait for a slow workstation; the rest is dropped, since each replaces the last.
const ANSWERS: usize = 4;

/// When a reader for whom nothing waits should ask again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Rpc {
    desk: Arc<Desk>,
    offers: Offers,
    forward: Forward,
}

impl Rpc {
    pub fn new(desk: Arc<Desk>, nodes: Nodes) -> Self {
        Self { offers: Offers::new(Arc::clone(&desk)), forward: Forward::new(nodes), desk }
    }
}

type PresenceAnswers = Pin<Box<dyn Stream<Item = Result<v1::SetPresenceResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ReaderAssignment for Rpc {
    type SetPresenceStream = PresenceAnswers;

    async fn set_presence(
        &self,
        request: Request<Streaming<v1::SetPresenceRequest>>,
    ) -> Result<Response<PresenceAnswers>, Status> {
        let principal = principal(&request)?;
        let mut signs = request.into_inner();
        // Streams have no deadline of the server's; this is theirs.
        let first = tokio::time::timeout(self.desk.config.presence.0, signs.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no sign of life came in time"))??;
        let first = first.ok_or_else(|| Answer::invalid("reader_id", "no sign of life came").status())?;
        let reader = reader(&principal, &first.reader_id)?;
        let named = first.reader_id;
        let rest = signs.map(move |sign| match sign {
            Ok(sign) if sign.reader_id == named => Ok(sign.accepting),
            Ok(_) => Err(Answer::invalid("reader_id", "differs from that of the stream").status()),
            Err(e) => Err(e),
        });
        let (answers, answered) = mpsc::channel(ANSWERS);
        let desk = Arc::clone(&self.desk);
        let workstation = Workstation::new(desk, principal.tenant, reader, first.accepting);
        self.desk.tasks.background("presence", workstation.run(rest, answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(answered))))
    }

    async fn next_read(
        &self,
        request: Request<v1::NextReadRequest>,
    ) -> Result<Response<v1::NextReadResponse>, Status> {
        let principal = principal(&request)?;
        let reader = reader(&principal, &request.get_ref().reader_id)?;
        request_id(&request.get_ref().request_id)?;
        if self.desk.leadership.fence().is_none() {
            if forward::was_forwarded(&request) {
                return Err(Error::NoLeader.status());
            }
            let leader = self.desk.leadership.address().ok_or(Error::NoLeader).map_err(|e| e.status())?;
            self.desk.meters.forwarded();
            return self.forward.next_read(&leader, &principal, request.get_ref()).await;
        }
        let next = self.offers.next(principal.tenant, reader, principal.subject).await;
        let read = next.map_err(|e| e.status())?;
        let retry_after = read.is_none().then(|| duration(ASK_AGAIN));
        Ok(Response::new(v1::NextReadResponse { read, retry_after }))
    }

    async fn open_read(&self, request: Request<v1::OpenReadRequest>) -> Result<Response<v1::Read>, Status> {
        let principal = principal(&request)?;
        let request = request.into_inner();
        let ask = ask(&principal, &request.read_id, &request.reader_id, &request.request_id)?;
        self.desk.open(&ask).await.map(Response::new).map_err(|e| e.status())
    }

    async fn return_read(
        &self,
        request: Request<v1::ReturnReadRequest>,
    ) -> Result<Response<v1::Read>, Status> {
        let principal = principal(&request)?;
        let request = request.into_inner();
        let ask = ask(&principal, &request.read_id, &request.reader_id, &request.request_id)?;
        let reason = match request.reason() {
            v1::ReturnReason::NotCompetent => ReturnReason::NotCompetent,
            v1::ReturnReason::Conflict => ReturnReason::Conflict,
            v1::ReturnReason::ImagesInsufficient => ReturnReason::ImagesInsufficient,
            v1::ReturnReason::Interrupted => ReturnReason::Interrupted,
            v1::ReturnReason::Unspecified => {
                return Err(Answer::invalid("reason", "is not one of the reasons to return a read").status());
            }
        };
        let token = Some(request.open_token).filter(|token| !token.is_empty());
        self.desk.give_back(&ask, token, reason).await.map(Response::new).map_err(|e| e.status())
    }

    async fn sign_read(
        &self,
        request: Request<v1::SignReadRequest>,
    ) -> Result<Response<v1::SignReadResponse>, Status> {
        let principal = principal(&request)?;
        let request = request.into_inner();
        let ask = ask(&principal, &request.read_id, &request.reader_id, &request.request_id)?;
        let body = body(request.findings, request.impression)?;
        let signature = Signature {
            reader: ask.reader.clone(),
            token: request.open_token,
            studies: studies(&request.studies).map_err(|e| Error::from(e).status())?,
            as_of: request.as_of,
        };
        self.desk.sign(&ask, &signature, body).await.map(Response::new).map_err(|e| e.status())
    }

    async fn reassign_read(
        &self,
        request: Request<v1::ReassignReadRequest>,
    ) -> Result<Response<v1::Read>, Status> {
        let principal = principal(&request)?;
        authorize(&principal, &Action::Operate, &principal.tenant).map_err(|denied| status(&denied))?;
        let request = request.into_inner();
        request_id(&request.request_id)?;
        let reason = request.reason.trim();
        if reason.is_empty() || reason.len() > MAX_REASON {
            return Err(Answer::invalid("reason", "is empty or longer than 512 bytes").status());
        }
        let key = read_key(&principal, &request.read_id)?;
        let cause = Cause::request(&request.request_id, &principal.subject).because(reason);
        self.desk.reassign(&key, &cause).await.map(Response::new).map_err(|e| e.status())
    }

    async fn list_worklist(
        &self,
        request: Request<v1::ListWorklistRequest>,
    ) -> Result<Response<v1::ListWorklistResponse>, Status> {
        let principal = principal(&request)?;
        authorize(&principal, &Action::SeeQueue, &principal.tenant).map_err(|denied| status(&denied))?;
        let request = request.into_inner();
        let states: Vec<_> = request.states().collect();
        if states.contains(&v1::ReadState::Unspecified) {
            return Err(Answer::invalid("states", "names a state that is none").status());
        }
        let reader = match request.reader_id.as_str() {
            "" => None,
            text => Some(
                text.parse::<ReaderId>().map_err(|e| Answer::invalid("reader_id", e.to_string()).status())?,
            ),
        };
        let page_size = match usize::try_from(request.page_size) {
            Ok(0) => PAGE.0,
            Ok(size) if size <= PAGE.1 => size,
            Ok(_) | Err(_) => return Err(Answer::invalid("page_size", "is not 0 to 1000").status()),
        };
        let filter = Filter { reader, states, page_size, page_token: request.page_token };
        self.desk.worklist(&principal.tenant, &filter).map(Response::new).map_err(|e| e.status())
    }

    async fn explain_read(
        &self,
        request: Request<v1::ExplainReadRequest>,
    ) -> Result<Response<v1::ExplainReadResponse>, Status> {
        let principal = principal(&request)?;
        authorize(&principal, &Action::SeeQueue, &principal.tenant).map_err(|denied| status(&denied))?;
        let key = read_key(&principal, &request.get_ref().read_id)?;
        self.desk.explain(&key).await.map(Response::new).map_err(|e| e.status())
    }
}

/// The reader that a principal acts as.
fn reader(principal: &Principal, text: &str) -> Result<ReaderId, Status> {
    let reader: ReaderId = text.parse().map_err(|e| Error::from(Malformed::at("reader_id")(e)).status())?;
    let action = Action::ReadAs(reader.clone());
    authorize(principal, &action, &principal.tenant).map_err(|denied| status(&denied))?;
    Ok(reader)
}

/// What a reader does to a read.
fn ask(principal: &Principal, read: &str, who: &str, request: &str) -> Result<Ask, Status> {
    let reader = reader(principal, who)?;
    let key = read_key(principal, read)?;
    request_id(request)?;
    Ok(Ask { key, reader, request_id: request.to_owned(), actor: principal.subject.clone() })
}

fn read_key(principal: &Principal, text: &str) -> Result<ReadKey, Status> {
    let read: ReadId = text.parse().map_err(|e| Error::from(Malformed::at("read_id")(e)).status())?;
    Ok(ReadKey { tenant: principal.tenant.clone(), read })
}

fn request_id(text: &str) -> Result<(), Status> {
    if !text.is_empty() && text.len() <= MAX_REQUEST_ID && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Answer::invalid("request_id", "is not 1 to 64 printable ASCII characters; take a UUID").status())
}

/// The stored form of a report's text.
fn body(findings: String, impression: String) -> Result<Bytes, Status> {
    if impression.trim().is_empty() {
        return Err(Answer::invalid("impression", "is empty").status());
    }
    if findings.len() + impression.len() > MAX_TEXT {
        return Err(Answer::invalid("findings", "is, with the impression, longer than 256 KiB").status());
    }
    let body = ReportBody { findings: Phi::new(findings), impression: Phi::new(impression) };
    Ok(body.encode().into())
}

fn studies(named: &[v1::StudyRevision]) -> Result<Vec<StudyRevision>, Malformed> {
    let one = |s: &v1::StudyRevision| {
        let study = s.study_instance_uid.parse().map_err(Malformed::at("studies.study_instance_uid"))?;
        Ok(StudyRevision { study, revision: s.revision })
    };
    named.iter().map(one).collect()
}
