//! The calls of this process: those under way, and what was heard and is not yet in the task's record.

use std::{collections::BTreeMap, sync::Arc};

use isocenter_domain::{Time, key::AiTaskKey};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::plan::Heard;

/// Calls by task; as many as services take at once, and those whose answers the store does not take at the moment.
#[derive(Clone, Default)]
pub(crate) struct Calls(Arc<Mutex<BTreeMap<AiTaskKey, Call>>>);

enum Call {
    Running { attempt: u32, stop: CancellationToken },
    Over(Arc<Over>),
}

/// A call that has ended.
#[derive(Debug)]
pub(crate) struct Over {
    /// Which.
    pub attempt: u32,
    /// When.
    pub at: Time,
    /// How.
    pub heard: Heard,
}

impl Calls {
    /// A call begins. Its token is cancelled when nobody waits for it any more.
    pub fn begin(&self, key: &AiTaskKey, attempt: u32) -> CancellationToken {
        let stop = CancellationToken::new();
        let call = Call::Running { attempt, stop: stop.clone() };
        if let Some(Call::Running { stop: before, .. }) = self.0.lock().insert(key.clone(), call) {
            before.cancel();
        }
        stop
    }

    /// The call ended; forgotten where nobody waits for it any more.
    pub fn end(&self, key: &AiTaskKey, over: Over) {
        let mut calls = self.0.lock();
        if matches!(calls.get(key), Some(Call::Running { attempt, .. }) if *attempt == over.attempt) {
            calls.insert(key.clone(), Call::Over(Arc::new(over)));
        }
    }

    /// The call ended and what was heard is recorded.
    pub fn done(&self, key: &AiTaskKey, attempt: u32) {
        let mut calls = self.0.lock();
        if matches!(calls.get(key), Some(Call::Running { attempt: running, .. }) if *running == attempt) {
            calls.remove(key);
        }
    }

    /// Whether a call is under way.
    pub fn running(&self, key: &AiTaskKey) -> bool {
        matches!(self.0.lock().get(key), Some(Call::Running { .. }))
    }

    /// What was heard and is to be recorded.
    pub fn over(&self, key: &AiTaskKey) -> Option<Arc<Over>> {
        match self.0.lock().get(key) {
            Some(Call::Over(over)) => Some(Arc::clone(over)),
            Some(Call::Running { .. }) | None => None,
        }
    }

    /// Nobody waits for the task any more: a call under way is dropped, what was heard is forgotten.
    pub fn drop(&self, key: &AiTaskKey) {
        if let Some(Call::Running { stop, .. }) = self.0.lock().remove(key) {
            stop.cancel();
        }
    }
}
