//! Tasks that end in a stated way.
//!
//! Every task of a process belongs to one [`Tasks`] and is either *essential* (the process has no purpose without it:
//! its error or panic begins the shutdown) or *background* (its panic is logged and counted, the rest goes on). There
//! is no third kind, and no task outlives [`Tasks::drain`].

use std::{
    any::Any,
    error::Error as StdError,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

/// A boxed error of any crate.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// A group of tasks. Cloning gives another handle to the same group.
///
/// Dropping the handles ends nothing: only [`Tasks::drain`] does.
#[derive(Clone)]
pub struct Tasks {
    trackers: Vec<TaskTracker>,
    token: CancellationToken,
    abort: CancellationToken,
    process: Arc<Process>,
}

/// What all groups of one process share.
struct Process {
    token: CancellationToken,
    abort: CancellationToken,
    failure: Mutex<Option<Arc<Failure>>>,
    panics: AtomicU64,
}

/// Why an essential task ended the process.
#[derive(Debug, thiserror::Error)]
#[error("essential task {task} {}", match .source { None => "panicked", Some(_) => "failed" })]
pub struct Failure {
    /// The name the task was spawned with.
    pub task: &'static str,
    /// Its error; `None` where it panicked (the panic's own message was printed when it happened).
    #[source]
    pub source: Option<BoxError>,
}

/// How a drain went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every task ended by itself before the deadline.
    Clean,
    /// This many tasks were aborted at the deadline.
    Aborted(usize),
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("running", &self.len()).finish_non_exhaustive()
    }
}

impl Tasks {
    /// The root group of a process.
    #[must_use]
    pub fn new() -> Self {
        let (token, abort) = (CancellationToken::new(), CancellationToken::new());
        let process = Process {
            token: token.clone(),
            abort: abort.clone(),
            failure: Mutex::default(),
            panics: AtomicU64::new(0),
        };
        Self { trackers: vec![TaskTracker::new()], token, abort, process: Arc::new(process) }
    }

    /// A group inside this one: it is cancelled, aborted and waited for with this one, and can be drained alone
    /// before. The failure of an essential task in it still begins the shutdown of the whole process.
    #[must_use]
    pub fn child(&self) -> Self {
        let mut trackers = self.trackers.clone();
        trackers.push(TaskTracker::new());
        Self {
            trackers,
            token: self.token.child_token(),
            abort: self.abort.child_token(),
            process: Arc::clone(&self.process),
        }
    }

    /// Cancelled when this group must end. A task watches it and finishes what it has begun; one that cannot wait for
    /// anything but the outside may simply stop.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Begins the shutdown of the whole process. Returns at once.
    pub fn shut_down(&self) {
        self.process.token.cancel();
    }

    /// Why the process is shutting down, if an essential task is the reason: the first such failure.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<Failure>> {
        self.process.failure.lock().clone()
    }

    /// How many tasks of this process have panicked, of either kind.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.process.panics.load(Ordering::Relaxed)
    }

    /// How many tasks of this group, its own groups included, are running.
    #[must_use]
    pub fn len(&self) -> usize {
        self.own().len()
    }

    /// Whether no task of this group is running.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.own().is_empty()
    }

    /// Spawns a task the process cannot be without. Its error or panic is logged, kept for [`Tasks::failure`], and
    /// begins the shutdown of the whole process. Ending with `Ok` ends the task alone.
    pub fn essential<F, E>(&self, name: &'static str, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let process = Arc::clone(&self.process);
        self.spawn(async move {
            let source = match AssertUnwindSafe(future).catch_unwind().await {
                Ok(Ok(())) => return,
                Ok(Err(e)) => Some(e.into()),
                Err(panic) => {
                    process.count_panic(name, &*panic);
                    None
                }
            };
            let failure = Failure { task: name, source };
            tracing::error!(task = name, error = %chain(&failure), "essential task ended; shutting down");
            process.failure.lock().get_or_insert_with(|| Arc::new(failure));
            process.token.cancel();
        });
    }

    /// Spawns a task whose panic is logged and counted and stops nobody else. It handles its own errors.
    pub fn background<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let process = Arc::clone(&self.process);
        self.spawn(async move {
            if let Err(panic) = AssertUnwindSafe(future).catch_unwind().await {
                process.count_panic(name, &*panic);
            }
        });
    }

    /// Cancels the group, waits for its tasks up to `deadline`, then aborts those still running: each is dropped at
    /// its next await. Tasks that block a thread cannot be aborted; nothing here waits for them.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        self.token.cancel();
        self.own().close();
        let clean = tokio::select! {
            biased;
            () = self.own().wait() => true,
            () = self.abort.cancelled() => false,
            () = tokio::time::sleep(deadline) => false,
        };
        if clean {
            return Drained::Clean;
        }
        let left = self.own().len();
        self.abort.cancel();
        Drained::Aborted(left)
    }

    /// Aborts every task of the process at its next await, without the wait that [`Tasks::drain`] grants.
    pub fn abort_now(&self) {
        self.process.token.cancel();
        self.process.abort.cancel();
    }

    /// Spawns the one task that outlives a drain: the wait for a second signal.
    pub(crate) fn detached(&self, future: impl Future<Output = ()> + Send + 'static) {
        let abort = self.process.abort.clone();
        launch(async move {
            tokio::select! { () = abort.cancelled() => {}, () = future => {} }
        });
    }

    fn own(&self) -> &TaskTracker {
        self.trackers.last().expect("a group is made with its own tracker last")
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let held: Vec<TaskTrackerToken> = self.trackers.iter().map(TaskTracker::token).collect();
        let abort = self.abort.clone();
        launch(async move {
            // Held to the end, so that every group around the task waits for it.
            let held = held;
            tokio::select! {
                biased;
                () = abort.cancelled() => {}
                () = future => {}
            }
            drop(held);
        });
    }
}

/// The one place that spawns. A task answers through its tokens and the shared failure; nobody joins its handle.
fn launch(future: impl Future<Output = ()> + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "every caller states what the task's end means")]
    drop(tokio::spawn(future));
}

impl Process {
    fn count_panic(&self, task: &'static str, panic: &(dyn Any + Send)) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!(task, message = panic_text(panic), "task panicked");
    }
}

/// What a panic said, where it said text.
#[must_use]
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("not text")
}

/// An error and its sources, joined by `: `, for the one place that logs it.
#[must_use]
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[tokio::test]
    async fn an_essential_error_begins_the_shutdown_of_the_whole_process() {
        let tasks = Tasks::new();
        let (a, b) = (tasks.child(), tasks.child());
        let token = b.token();
        b.background("waits", async move { token.cancelled().await });
        a.essential("listener", async { Err(io::Error::other("address in use")) });

        tasks.token().cancelled().await;

        assert_eq!(tasks.drain(Duration::from_secs(5)).await, Drained::Clean);
        let failure = tasks.failure().unwrap();
        assert_eq!(chain(&*failure), "essential task listener failed: address in use");
    }

    #[tokio::test]
    async fn a_background_panic_is_counted_and_stops_nobody() {
        let tasks = Tasks::new();
        tasks.background("falls", async { panic!("on purpose") });
        while tasks.panics() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!tasks.token().is_cancelled());
        assert!(tasks.failure().is_none());
    }

    #[tokio::test]
    async fn an_essential_panic_is_a_failure() {
        let tasks = Tasks::new();
        tasks.essential("falls", async {
            panic!("on purpose");
            #[expect(unreachable_code, reason = "names the error type")]
            Ok::<(), io::Error>(())
        });
        tasks.token().cancelled().await;
        assert_eq!(tasks.failure().unwrap().to_string(), "essential task falls panicked");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_is_aborted_at_the_deadline() {
        let tasks = Tasks::new();
        let child = tasks.child();
        child.background("stuck", std::future::pending());
        let token = tasks.token();
        tasks.background("ends", async move { token.cancelled().await });
        assert_eq!(tasks.drain(Duration::from_secs(25)).await, Drained::Aborted(1));
        while !tasks.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_drains_alone() {
        let tasks = Tasks::new();
        let child = tasks.child();
        let token = child.token();
        child.background("ends", async move { token.cancelled().await });
        assert_eq!(child.drain(Duration::from_secs(1)).await, Drained::Clean);
        assert!(!tasks.token().is_cancelled());
    }
}
