//! The calls: who may make them, what their fields mean, and what they are answered.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use isocenter_domain::{
    access::{Action, Principal, Role, authorize},
    id::{ReadId, ReaderId},
    key::{CaseKey, ReadKey},
    record::read::{ReadKind, ReturnReason},
};
use isocenter_runtime::{
    nodes::Nodes,
    principal::principal,
    status::{Answer, status},
};
use isocenter_store::table::Cause;
use isocenter_wire::{
    Malformed, duration, std_duration, time,
    v1::{self, reader_assignment_server::ReaderAssignment},
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    calls,
    desk::Desk,
    error::Error,
    forward::{self, Forward},
    hold::Ask,
    list::{Filter, Page},
    offer::Offers,
    plan::sign::Signature,
    session::Workstation,
    sign::Deed,
    transfer::By,
    view::case_key,
    watch::{self, WATCHERS},
};

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
    watchers: Arc<Semaphore>,
}

impl Rpc {
    pub fn new(desk: Arc<Desk>, nodes: Nodes) -> Self {
        Self {
            offers: Offers::new(Arc::clone(&desk)),
            forward: Forward::new(nodes),
            watchers: Arc::new(Semaphore::new(WATCHERS)),
            desk,
        }
    }

    /// The desk, once it knows what there is: before that it would say of a reader that nobody knows him, and of a queue that
    /// it is empty. The server's timeout bounds the wait.
    async fn desk(&self) -> &Arc<Desk> {
        self.desk.board.filled.wait().await;
        &self.desk
    }
}

type WorklistAnswers = Pin<Box<dyn Stream<Item = watch::Answer> + Send>>;

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
        let reason = match request.reason.as_str() {
            "" => None,
            text => Some(reason(text)?),
        };
        self.desk().await.open(&ask, reason).await.map(Response::new).map_err(|e| e.status())
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
        let has_findings = !request.findings.trim().is_empty();
        let said = calls::said(&request, has_findings)?;
        let body = calls::body(request.findings, request.impression)?;
        let signature = Signature {
            reader: ask.reader.clone(),
            token: request.open_token,
            studies: calls::studies(&request.studies).map_err(|e| Error::from(e).status())?,
            as_of: request.as_of,
        };
        let deed = Deed::Report(said);
        self.desk.sign(&ask, &signature, &deed, body).await.map(Response::new).map_err(|e| e.status())
    }

    async fn declare_non_diagnostic(
        &self,
        request: Request<v1::DeclareNonDiagnosticRequest>,
    ) -> Result<Response<v1::SignReadResponse>, Status> {
        let principal = principal(&request)?;
        let request = request.into_inner();
        let ask = ask(&principal, &request.read_id, &request.reader_id, &request.request_id)?;
        let (reason, repeat) = (calls::insufficiency(request.reason())?, request.repeat);
        let body = calls::notice(reason, repeat, request.comment)?;
        let signature = Signature {
            reader: ask.reader.clone(),
            token: request.open_token,
            studies: calls::studies(&request.studies).map_err(|e| Error::from(e).status())?,
            as_of: false,
        };
        let deed = Deed::NonDiagnostic { reason, repeat };
        self.desk.sign(&ask, &signature, &deed, body).await.map(Response::new).map_err(|e| e.status())
    }

    async fn suspend_read(
        &self,
        request: Request<v1::SuspendReadRequest>,
    ) -> Result<Response<v1::Read>, Status> {
        let principal = principal(&request)?;
        let request = request.into_inner();
        let ask = ask(&principal, &request.read_id, &request.reader_id, &request.request_id)?;
        let reason = calls::suspend_reason(request.reason())?;
        let bound = request.bound.as_ref().map(|bound| std_duration(bound, "bound")).transpose();
        let bound = calls::bound(bound.map_err(|e| Error::from(e).status())?)?;
        let suspended = self.desk.suspend(&ask, &request.open_token, reason, bound).await;
        suspended.map(Response::new).map_err(|e| e.status())
    }

    async fn transfer_read(
        &self,
        request: Request<v1::TransferReadRequest>,
    ) -> Result<Response<v1::Read>, Status> {
        let principal = principal(&request)?;
        let request = request.into_inner();
        let by = if request.reader_id.is_empty() {
            operator(&principal)?;
            By::Lead(None)
        } else if request.open_token.is_empty() && operator(&principal).is_ok() {
            By::Lead(Some(holder(&request.reader_id)?))
        } else {
            By::Holder(reader(&principal, &request.reader_id)?, request.open_token)
        };
        request_id(&request.request_id)?;
        let key = read_key(&principal, &request.read_id)?;
        let to: ReaderId = request
            .to_reader_id
            .parse()
            .map_err(|e| Error::from(Malformed::at("to_reader_id")(e)).status())?;
        let why = format!("to {to}: {}", reason(&request.reason)?);
        let cause = Cause::request(&request.request_id, &principal.subject).because(why);
        self.desk.transfer(&key, &by, &to, &cause).await.map(Response::new).map_err(|e| e.status())
    }

    async fn request_second_opinion(
        &self,
        request: Request<v1::RequestSecondOpinionRequest>,
    ) -> Result<Response<v1::Read>, Status> {
        let principal = asking(&request)?;
        let request = request.into_inner();
        let key = read_key(&principal, &request.read_id)?;
        let due = request.due_at.as_ref().map(|due| time(due, "due_at")).transpose();
        let due = due.map_err(|e| Error::from(e).status())?;
        let question = calls::question(&principal, request.question, due, &request.request_id)?;
        let kind = ReadKind::SecondOpinion { of: key.read.n };
        self.desk.ask(&case_key(&key), kind, &question).await.map(Response::new).map_err(|e| e.status())
    }

    async fn request_consultation(
        &self,
        request: Request<v1::RequestConsultationRequest>,
    ) -> Result<Response<v1::Read>, Status> {
        let principal = asking(&request)?;
        let request = request.into_inner();
        let case = request.case_id.parse().map_err(|e| Error::from(Malformed::at("case_id")(e)).status())?;
        let case = CaseKey { tenant: principal.tenant.clone(), case };
        let due = request.due_at.as_ref().map(|due| time(due, "due_at")).transpose();
        let due = due.map_err(|e| Error::from(e).status())?;
        let question = calls::question(&principal, request.question, due, &request.request_id)?;
        let asked = self.desk.ask(&case, ReadKind::Consultation, &question).await;
        asked.map(Response::new).map_err(|e| e.status())
    }

    async fn cancel_read(
        &self,
        request: Request<v1::CancelReadRequest>,
    ) -> Result<Response<v1::Read>, Status> {
        let principal = principal(&request)?;
        operator(&principal)?;
        let request = request.into_inner();
        request_id(&request.request_id)?;
        let key = read_key(&principal, &request.read_id)?;
        let cause = Cause::request(&request.request_id, &principal.subject).because(reason(&request.reason)?);
        self.desk.cancel(&key, &cause).await.map(Response::new).map_err(|e| e.status())
    }

    async fn reassign_read(
        &self,
        request: Request<v1::ReassignReadRequest>,
    ) -> Result<Response<v1::Read>, Status> {
        let principal = principal(&request)?;
        operator(&principal)?;
        let request = request.into_inner();
        request_id(&request.request_id)?;
        let reason = reason(&request.reason)?;
        let (key, from) = (read_key(&principal, &request.read_id)?, holder(&request.reader_id)?);
        let cause = Cause::request(&request.request_id, &principal.subject).because(reason);
        self.desk.reassign(&key, &from, &cause).await.map(Response::new).map_err(|e| e.status())
    }

    async fn get_outlook(
        &self,
        request: Request<v1::GetOutlookRequest>,
    ) -> Result<Response<v1::GetOutlookResponse>, Status> {
        let principal = principal(&request)?;
        operator(&principal)?;
        Ok(Response::new(self.desk().await.predicted(&principal.tenant)))
    }

    async fn list_worklist(
        &self,
        request: Request<v1::ListWorklistRequest>,
    ) -> Result<Response<v1::ListWorklistResponse>, Status> {
        let principal = principal(&request)?;
        let request = request.into_inner();
        let filter = filter(&principal, request.states(), &request.reader_id)?;
        let size = match usize::try_from(request.page_size) {
            Ok(0) => PAGE.0,
            Ok(size) if size <= PAGE.1 => size,
            Ok(_) | Err(_) => return Err(Answer::invalid("page_size", "is not 0 to 1000").status()),
        };
        let page = Page { size, token: request.page_token };
        self.desk()
            .await
            .worklist(&principal.tenant, &filter, &page)
            .map(Response::new)
            .map_err(|e| e.status())
    }

    type WatchWorklistStream = WorklistAnswers;

    async fn watch_worklist(
        &self,
        request: Request<v1::WatchWorklistRequest>,
    ) -> Result<Response<WorklistAnswers>, Status> {
        let principal = principal(&request)?;
        let request = request.into_inner();
        let filter = filter(&principal, request.states(), &request.reader_id)?;
        let place = Arc::clone(&self.watchers).try_acquire_owned().map_err(|_| Error::Busy.status())?;
        let answers = self.desk().await.watch(principal.tenant, filter, place).map_err(|e| e.status())?;
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn explain_read(
        &self,
        request: Request<v1::ExplainReadRequest>,
    ) -> Result<Response<v1::ExplainReadResponse>, Status> {
        let principal = principal(&request)?;
        authorize(&principal, &Action::SeeQueue, &principal.tenant).map_err(|denied| status(&denied))?;
        let key = read_key(&principal, &request.get_ref().read_id)?;
        self.desk().await.explain(&key, himself(&principal)).await.map(Response::new).map_err(|e| e.status())
    }
}

/// What a principal may see of the worklist, and asks for: a reader sees his own, whatever the request names.
fn filter(
    principal: &Principal,
    states: impl Iterator<Item = v1::ReadState>,
    reader_id: &str,
) -> Result<Filter, Status> {
    authorize(principal, &Action::SeeQueue, &principal.tenant).map_err(|denied| status(&denied))?;
    let states: Vec<_> = states.collect();
    if states.contains(&v1::ReadState::Unspecified) {
        return Err(Answer::invalid("states", "names a state that is none").status());
    }
    let named = match reader_id {
        "" => None,
        text => {
            Some(text.parse::<ReaderId>().map_err(|e| Answer::invalid("reader_id", e.to_string()).status())?)
        }
    };
    let reader = match (himself(principal), named) {
        (None, named) => named,
        (Some(own), None) => Some(own.clone()),
        (Some(own), Some(named)) => {
            let action = Action::ReadAs(named);
            authorize(principal, &action, &principal.tenant).map_err(|denied| status(&denied))?;
            Some(own.clone())
        }
    };
    Ok(Filter { reader, states })
}

/// The reader that a principal is; none: the principal is something else.
fn himself(principal: &Principal) -> Option<&ReaderId> {
    match &principal.role {
        Role::Reader(reader) => Some(reader),
        Role::Operator | Role::Vendor(_) | Role::Network | Role::Node | Role::Developer => None,
    }
}

fn operator(principal: &Principal) -> Result<(), Status> {
    authorize(principal, &Action::Operate, &principal.tenant).map_err(|denied| status(&denied))
}

/// Who asks for an opinion.
fn asking<T>(request: &Request<T>) -> Result<Principal, Status> {
    let principal = principal(request)?;
    authorize(&principal, &Action::Ask, &principal.tenant).map_err(|denied| status(&denied))?;
    Ok(principal)
}

/// Why somebody does what is out of the ordinary, for the event.
fn reason(text: &str) -> Result<&str, Status> {
    let reason = text.trim();
    if reason.is_empty() || reason.len() > MAX_REASON {
        return Err(Answer::invalid("reason", "is empty or longer than 512 bytes").status());
    }
    Ok(reason)
}

/// The reader that a principal acts as.
fn reader(principal: &Principal, text: &str) -> Result<ReaderId, Status> {
    let reader = holder(text)?;
    let action = Action::ReadAs(reader.clone());
    authorize(principal, &action, &principal.tenant).map_err(|denied| status(&denied))?;
    Ok(reader)
}

/// A reader whom the caller need not be.
fn holder(text: &str) -> Result<ReaderId, Status> {
    text.parse().map_err(|e| Error::from(Malformed::at("reader_id")(e)).status())
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

pub(crate) fn request_id(text: &str) -> Result<(), Status> {
    if !text.is_empty() && text.len() <= MAX_REQUEST_ID && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Answer::invalid("request_id", "is not 1 to 64 printable ASCII characters; take a UUID").status())
}
