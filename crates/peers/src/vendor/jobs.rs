//! The analyses under way and lately done, by request id.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use isocenter_wire::v1::AnalyzeResponse;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Answers kept for repeated requests, oldest dropped first. A retry comes within minutes; a vendor answers a few
/// hundred studies in that time.
const ANSWERS_KEPT: usize = 1024;

/// How one analysis ended.
pub(super) type Outcome = Result<AnalyzeResponse, Status>;

/// One analysis; everybody who asked for it waits for the same outcome.
pub(super) struct Job {
    /// Stops it.
    pub cancel: CancellationToken,
    /// `None` until it has ended.
    pub outcome: watch::Sender<Option<Outcome>>,
}

/// What a request id leads to.
pub(super) enum Admission {
    /// Its first call: do the work.
    Begin(Arc<Job>),
    /// Somebody does it or has done it.
    Join(Arc<Job>),
    /// Too many at once.
    Busy,
}

/// Bounded by the concurrency that was promised, and by [`ANSWERS_KEPT`].
#[derive(Default)]
pub(super) struct Jobs {
    running: HashMap<String, Arc<Job>>,
    answered: HashMap<String, Arc<Job>>,
    order: VecDeque<String>,
}

impl Jobs {
    pub fn admit(&mut self, request_id: &str, limit: u32, stop: &CancellationToken) -> Admission {
        if let Some(job) = self.running.get(request_id).or_else(|| self.answered.get(request_id)) {
            return Admission::Join(Arc::clone(job));
        }
        if self.running.len() >= limit as usize {
            return Admission::Busy;
        }
        let job = Arc::new(Job { cancel: stop.child_token(), outcome: watch::Sender::new(None) });
        self.running.insert(request_id.to_owned(), Arc::clone(&job));
        Admission::Begin(job)
    }

    /// Ends a job. Answers are kept; a failure is forgotten, so that the same request may be tried again.
    pub fn finish(&mut self, request_id: &str, outcome: Outcome) {
        let Some(job) = self.running.remove(request_id) else { return };
        if outcome.is_ok() {
            if self.order.len() == ANSWERS_KEPT
                && let Some(oldest) = self.order.pop_front()
            {
                self.answered.remove(&oldest);
            }
            self.order.push_back(request_id.to_owned());
            self.answered.insert(request_id.to_owned(), Arc::clone(&job));
        }
        job.outcome.send_replace(Some(outcome));
    }

    /// The job of a request that is under way.
    pub fn running(&self, request_id: &str) -> Option<Arc<Job>> {
        self.running.get(request_id).cloned()
    }
}
