//! What every peer asked for and what it was told: invoked, and then ok, failed, or unknown.

use std::{sync::Arc, time::Duration};

use isocenter_runtime::clock::{self, Clock};
use parking_lot::Mutex;

/// What a peer asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// C-STORE of one instance.
    Store {
        /// Study Instance UID.
        study: String,
        /// SOP Instance UID.
        instance: String,
        /// SHA-256 of its data set, in hexadecimal digits.
        data_set: String,
    },
    /// NextRead.
    Next {
        /// The reader.
        reader: String,
        /// The request id, the same at each repetition.
        request: String,
    },
    /// OpenRead.
    Open {
        /// The read.
        read: String,
        /// The reader.
        reader: String,
        /// The request id.
        request: String,
    },
    /// ReturnRead.
    Return {
        /// The read.
        read: String,
        /// The reader.
        reader: String,
        /// The request id.
        request: String,
    },
    /// SignRead.
    Sign {
        /// The read.
        read: String,
        /// The reader.
        reader: String,
        /// The request id.
        request: String,
    },
}

/// What the peer was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done; what came with the answer: the read of NextRead, the token of OpenRead, `report id/version` of SignRead.
    Ok(String),
    /// It is not done, and never will be.
    Failed(String),
    /// It may be done, now or later.
    Unknown(String),
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// What.
    pub deed: Deed,
    /// When it was asked, since the run began.
    pub invoked: Duration,
    /// When the answer came, or was given up.
    pub returned: Duration,
    /// The answer.
    pub outcome: Outcome,
}

/// Keeps the operations of a run. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    begun: std::time::Instant,
    ops: Mutex<Vec<Op>>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("ops", &self.shared.ops.lock().len()).finish_non_exhaustive()
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder {
    /// The run begins now.
    #[must_use]
    pub fn new() -> Self {
        let clock = clock::system();
        let begun = clock.monotonic();
        Self { shared: Arc::new(Shared { clock, begun, ops: Mutex::default() }) }
    }

    /// The time since the run began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.shared.clock.monotonic().saturating_duration_since(self.shared.begun)
    }

    /// Writes down an operation that was asked at `invoked` and has its answer now.
    pub fn done(&self, deed: Deed, invoked: Duration, outcome: Outcome) {
        let op = Op { deed, invoked, returned: self.now(), outcome };
        self.shared.ops.lock().push(op);
    }

    /// Every operation so far, in the order of the answers.
    #[must_use]
    pub fn ops(&self) -> Vec<Op> {
        self.shared.ops.lock().clone()
    }
}
