//! The reader's day: next, open, think, sign.

use std::time::Duration;

use isocenter_runtime::{
    random::{self, Seeded},
    retry::Schedule,
    task::chain,
};
use isocenter_wire::v1::{
    Agreement, ListWorklistRequest, NextReadRequest, NextReadResponse, OpenReadRequest, Read, ReadKind,
    ReadState, ReportChange, ReturnReadRequest, ReturnReason, ReviewScore, SignReadRequest,
};
use tonic::{Code, IntoRequest as _, Request, Response, Status};
use tonic_types::StatusExt as _;

use super::{Shared, text};

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Between repetitions of a call, and between looks at a study that is still arriving.
const REPEAT: Schedule = Schedule::new(Duration::from_millis(200), Duration::from_secs(5));
/// Calls of one request before the reader turns to something else: some two minutes.
const ATTEMPTS: u32 = 30;
/// Looks at a study whose images keep coming, before the read is given back.
const LOOKS: u32 = 30;
/// What the server's `retry_after` is held to: a reader neither hammers nor falls asleep.
const IDLE: std::ops::RangeInclusive<Duration> = Duration::from_millis(20)..=Duration::from_secs(5);

/// Reads, for ever.
pub(super) async fn run(shared: &Shared, rng: Seeded) {
    let mut workstation = Workstation { shared, rng };
    let mut present = shared.present.subscribe();
    loop {
        // The sender lives as long as this task.
        if present.wait_for(|present| *present).await.is_err() {
            return;
        }
        let pause = workstation.turn().await;
        tokio::time::sleep(pause).await;
    }
}

struct Workstation<'a> {
    shared: &'a Shared,
    rng: Seeded,
}

/// What becomes of a signature.
enum Signature {
    Done,
    NewImages,
    Lost,
    Failed,
}

impl Workstation<'_> {
    /// One round; returns the pause before the next.
    async fn turn(&mut self) -> Duration {
        match self.next().await {
            Ok(NextReadResponse { read: Some(read), .. }) => {
                if let Some(open) = self.open(&read.read_id).await {
                    self.shared.count(|c| c.opened += 1);
                    self.read(open).await;
                }
                Duration::ZERO
            }
            Ok(NextReadResponse { read: None, retry_after }) => {
                self.shared.count(|c| c.idle += 1);
                let wish = retry_after.and_then(|d| Duration::try_from(d).ok()).unwrap_or(*IDLE.end());
                wish.clamp(*IDLE.start(), *IDLE.end())
            }
            // Not present any more, or a read from before a restart is still open.
            Err(status) if status.code() == Code::FailedPrecondition => {
                if self.resume().await {
                    Duration::ZERO
                } else {
                    REPEAT.first
                }
            }
            Err(status) => {
                self.failed("NextRead", &status);
                REPEAT.first
            }
        }
    }

    async fn next(&self) -> Result<NextReadResponse, Status> {
        let request =
            NextReadRequest { reader_id: self.shared.config.reader_id.to_string(), request_id: request_id() };
        repeat(|| async { self.shared.client.clone().next_read(bounded(&request)).await }).await
    }

    /// Opens a read, or takes it up again; `None` where it is not to be had.
    async fn open(&self, read_id: &str) -> Option<Read> {
        let request = OpenReadRequest {
            read_id: read_id.to_owned(),
            reader_id: self.shared.config.reader_id.to_string(),
            request_id: request_id(),
            reason: String::new(),
        };
        match repeat(|| async { self.shared.client.clone().open_read(bounded(&request)).await }).await {
            Ok(read) => Some(read),
            Err(status) if is_lost(&status) => {
                self.shared.count(|c| c.lost += 1);
                None
            }
            Err(status) => {
                self.failed("OpenRead", &status);
                None
            }
        }
    }

    /// Takes up a read that this reader still holds; false where it holds none.
    async fn resume(&mut self) -> bool {
        let request = ListWorklistRequest {
            reader_id: self.shared.config.reader_id.to_string(),
            states: vec![ReadState::Open.into()],
            page_size: 100,
            page_token: String::new(),
        };
        let listed =
            repeat(|| async { self.shared.client.clone().list_worklist(bounded(&request)).await }).await;
        let mine = match listed {
            Ok(list) => list.reads.into_iter().find(|r| r.holder_reader_id == request.reader_id),
            Err(status) => {
                self.failed("ListWorklist", &status);
                None
            }
        };
        let Some(mine) = mine else { return false };
        if let Some(open) = self.open(&mine.read_id).await {
            self.shared.count(|c| c.resumed += 1);
            self.read(open).await;
        }
        true
    }

    /// Thinks, then signs or gives back.
    async fn read(&mut self, mut open: Read) {
        if self.rng.chance(self.shared.config.return_share) {
            self.think().await;
            let reasons =
                [ReturnReason::NotCompetent, ReturnReason::Conflict, ReturnReason::ImagesInsufficient];
            let reason = self.rng.pick(&reasons).copied().unwrap_or(ReturnReason::Interrupted);
            return self.give_back(&open, reason).await;
        }
        for look in 1..=LOOKS {
            self.think().await;
            match self.sign(&open).await {
                Signature::Done => return self.shared.count(|c| c.signed += 1),
                Signature::Lost => return self.shared.count(|c| c.lost += 1),
                Signature::Failed => return,
                Signature::NewImages => {}
            }
            // The newer images may still be on their way: the first look comes at once, the next ones later.
            if look > 1 {
                tokio::time::sleep(random::jitter(REPEAT.ceiling(look))).await;
            }
            match self.open(&open.read_id).await {
                Some(again) => open = again,
                None => return,
            }
            self.shared.count(|c| c.resumed += 1);
        }
        self.give_back(&open, ReturnReason::Interrupted).await;
    }

    async fn think(&mut self) {
        let time = self.rng.duration(self.shared.config.think.clone());
        tokio::time::sleep(time).await;
    }

    async fn sign(&mut self, open: &Read) -> Signature {
        let report = text::report(open, &mut self.rng);
        let request = SignReadRequest {
            read_id: open.read_id.clone(),
            reader_id: self.shared.config.reader_id.to_string(),
            open_token: open.open_token.clone(),
            findings: report.findings,
            impression: report.impression,
            request_id: request_id(),
            studies: open.studies.clone(),
            as_of: false,
            ..concluded(open)
        };
        match repeat(|| async { self.shared.client.clone().sign_read(bounded(&request)).await }).await {
            Ok(_) => Signature::Done,
            Err(status) if reason(&status).as_deref() == Some("NEW_IMAGES") => Signature::NewImages,
            Err(status) if is_lost(&status) => Signature::Lost,
            Err(status) => {
                self.failed("SignRead", &status);
                Signature::Failed
            }
        }
    }

    async fn give_back(&self, open: &Read, why: ReturnReason) {
        let request = ReturnReadRequest {
            read_id: open.read_id.clone(),
            reader_id: self.shared.config.reader_id.to_string(),
            open_token: open.open_token.clone(),
            reason: why.into(),
            request_id: request_id(),
        };
        match repeat(|| async { self.shared.client.clone().return_read(bounded(&request)).await }).await {
            Ok(_) => self.shared.count(|c| c.returned += 1),
            Err(status) if is_lost(&status) => self.shared.count(|c| c.lost += 1),
            Err(status) => self.failed("ReturnRead", &status),
        }
    }

    fn failed(&self, call: &'static str, status: &Status) {
        self.shared.count(|c| c.errors += 1);
        let reader = self.shared.config.reader_id.as_str();
        tracing::warn!(reader, call, code = ?status.code(), error = %chain(status), "scripted reader: call failed");
    }
}

/// Never repeated between processes: the server keeps the answer to a request id for ever.
fn request_id() -> String {
    random::uuid_v7().to_string()
}

fn bounded<M: Clone>(message: &M) -> Request<M> {
    let mut request = message.clone().into_request();
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Calls until there is an answer that repetition would not change. `call` sends the same request id each time.
async fn repeat<T, F, Fut>(call: F) -> Result<T, Status>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    let mut attempt = 1;
    loop {
        match call().await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) if attempt < ATTEMPTS && is_passing(&status) => {
                if attempt == 2 {
                    tracing::warn!(code = ?status.code(), error = status.message(), "call failed twice; repeating");
                }
                tokio::time::sleep(random::jitter(REPEAT.ceiling(attempt))).await;
                attempt += 1;
            }
            Err(status) => return Err(status),
        }
    }
}

/// Whether the same request may be answered otherwise later, or was answered and the answer lost.
fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Cancelled => true,
        // Somebody else changed a record at the same moment; a stale token is ABORTED with another reason.
        Code::Aborted => reason(status).as_deref() == Some("CONFLICT"),
        _ => false,
    }
}

/// Whether the read is no longer this reader's.
fn is_lost(status: &Status) -> bool {
    matches!(status.code(), Code::Aborted | Code::FailedPrecondition | Code::NotFound)
}

/// The reason of `google.rpc.ErrorInfo`.
fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

/// What a read asks to be concluded beside its text; this reader always agrees with everybody.
fn concluded(open: &Read) -> SignReadRequest {
    let earlier = !open.earlier_reports.is_empty();
    let mut request = SignReadRequest::default();
    match open.kind() {
        ReadKind::Primary if earlier => request.set_change(ReportChange::None),
        ReadKind::SecondOpinion if earlier => request.set_agreement(Agreement::Agrees),
        ReadKind::Blinded => "normal".clone_into(&mut request.assessment),
        ReadKind::Review => request.set_review_score(ReviewScore::ReviewScore1),
        ReadKind::Primary
        | ReadKind::SecondOpinion
        | ReadKind::Discrepancy
        | ReadKind::Arbitration
        | ReadKind::Consultation
        | ReadKind::Unspecified => {}
    }
    request
}
