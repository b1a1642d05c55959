//! The runner: takes keys that are due and has them reconciled, a bounded number at a time.

use std::{
    hash::{DefaultHasher, Hasher as _},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures::FutureExt as _;
use isocenter_domain::Kind;
use isocenter_runtime::{
    metrics::{HistogramVec, IntCounterVec, IntGaugeVec, Metrics},
    retry::Schedule,
    task::panic_text,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Failed, Key, Outcome, Queue, Reconciler};

/// The longest sleep: after it the clock is read again, since somebody may have set it, and the gauges are made fresh.
const LONGEST_SLEEP: Duration = Duration::from_secs(15);

/// How a runner works.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The runner's name, for logs and as the label `reconciler` of its metrics.
    pub name: &'static str,
    /// How many keys are reconciled at a time, at most.
    pub concurrency: usize,
    /// The deadline of one run: one that passes it is dropped at its next await and counts as failed.
    pub deadline: Duration,
    /// When a failed key is tried again. It is never given up here: a record that is, says so itself.
    pub retry: Schedule,
}

impl Options {
    /// 16 at a time, a minute each, retried after half a second to a minute.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            concurrency: 16,
            deadline: Duration::from_secs(60),
            retry: Schedule::new(Duration::from_millis(500), Duration::from_secs(60)),
        }
    }
}

/// The metrics of all runners of a service, each under its own `reconciler` label.
#[derive(Clone, Debug)]
pub struct Hooks {
    depth: IntGaugeVec,
    held: IntGaugeVec,
    oldest: IntGaugeVec,
    runs: IntCounterVec,
    seconds: HistogramVec,
}

impl Hooks {
    /// Registers them; once for each service, in its own scope.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let metrics = metrics.scoped("reconcile");
        let label = &["reconciler"];
        Self {
            depth: metrics.gauge_vec("depth", "Keys due and not running.", label),
            held: metrics.gauge_vec("held", "Keys due, running, or waiting for their time.", label),
            oldest: metrics.gauge_vec("oldest_seconds", "How long the oldest due key has waited.", label),
            runs: metrics.counter_vec("runs_total", "Runs by result.", &["reconciler", "result"]),
            seconds: metrics.histogram_vec("run_seconds", "How long runs took.", label),
        }
    }
}

/// Works off one queue.
#[derive(Clone, Debug)]
pub struct Runner {
    options: Options,
    hooks: Hooks,
}

/// How a run ended.
type Ended<K> = (K, Result<Outcome, Trouble>);

/// Why a run came to nothing.
enum Trouble {
    Failed(Failed),
    Late,
    Panicked(String),
}

impl Runner {
    /// A runner.
    #[must_use]
    pub const fn new(options: Options, hooks: Hooks) -> Self {
        Self { options, hooks }
    }

    /// Reconciles what is due until `ended`, then waits for the running keys. A queue has one runner. Spawn it with
    /// [`isocenter_runtime::task::Tasks::background`]; dropping it aborts the runs.
    pub async fn run<K: Key>(
        self,
        queue: Queue<K>,
        reconciler: Arc<dyn Reconciler<Key = K>>,
        ended: CancellationToken,
    ) {
        let mut running: JoinSet<Ended<K>> = JoinSet::new();
        let mut observed = None;
        loop {
            while !ended.is_cancelled() && running.len() < self.options.concurrency {
                let Some(key) = queue.take() else { break };
                running.spawn(self.clone().reconcile(
                    Arc::clone(&reconciler),
                    key,
                    Arc::clone(queue.clock()),
                ));
            }
            if ended.is_cancelled() && running.is_empty() {
                return;
            }
            // Counting walks over the due keys: often enough is once a second.
            let now = queue.clock().monotonic();
            if observed.is_none_or(|at| now.saturating_duration_since(at) >= Duration::from_secs(1)) {
                self.observe(&queue);
                observed = Some(now);
            }
            let full = running.len() >= self.options.concurrency;
            let sleep = queue
                .next_in()
                .filter(|_| !full && !ended.is_cancelled())
                .unwrap_or(LONGEST_SLEEP)
                .min(LONGEST_SLEEP);
            tokio::select! {
                Some(joined) = running.join_next() => self.settle(&queue, joined),
                () = queue.changed(), if !full => {}
                () = ended.cancelled(), if !ended.is_cancelled() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    async fn reconcile<K: Key>(
        self,
        reconciler: Arc<dyn Reconciler<Key = K>>,
        key: K,
        clock: Arc<dyn isocenter_runtime::clock::Clock>,
    ) -> Ended<K> {
        let began = clock.monotonic();
        let run = AssertUnwindSafe(reconciler.reconcile(&key)).catch_unwind();
        let result = match tokio::time::timeout(self.options.deadline, run).await {
            Ok(Ok(Ok(outcome))) => Ok(outcome),
            Ok(Ok(Err(failed))) => Err(Trouble::Failed(failed)),
            Ok(Err(panic)) => Err(Trouble::Panicked(panic_text(&*panic).to_owned())),
            Err(_) => Err(Trouble::Late),
        };
        let took = clock.monotonic().saturating_duration_since(began);
        self.hooks.seconds.with_label_values(&[self.options.name]).observe(took.as_secs_f64());
        (key, result)
    }

    fn settle<K: Key>(&self, queue: &Queue<K>, joined: Result<Ended<K>, tokio::task::JoinError>) {
        // Runs catch their panics and are aborted only with the runner itself, so that joining cannot fail.
        let Ok((key, result)) = joined else { return };
        let reconciler = self.options.name;
        let id = key_hash(&key);
        let label = match result {
            Ok(outcome) => {
                let again = match outcome {
                    Outcome::Done => None,
                    Outcome::At(at) => Some(at),
                };
                queue.finish(key, again);
                "ok"
            }
            Err(trouble) => {
                let failures = queue.fail(key, &self.options.retry);
                match trouble {
                    // Somebody else was first: the ordinary fate of a compare-and-swap.
                    Trouble::Failed(e) if e.kind() == Kind::Conflict => {
                        tracing::debug!(reconciler, key = id, failures, error = %e, "run lost to another writer");
                        "conflict"
                    }
                    Trouble::Failed(e) => {
                        tracing::warn!(reconciler, key = id, failures, error = %e, "run failed");
                        "failed"
                    }
                    Trouble::Late => {
                        tracing::warn!(reconciler, key = id, failures, "run passed its deadline");
                        "late"
                    }
                    Trouble::Panicked(message) => {
                        tracing::error!(reconciler, key = id, failures, message, "run panicked");
                        "panicked"
                    }
                }
            }
        };
        self.hooks.runs.with_label_values(&[reconciler, label]).inc();
    }

    fn observe<K: Key>(&self, queue: &Queue<K>) {
        let label = &[self.options.name];
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.hooks.depth.with_label_values(label).set(gauge(queue.depth()));
        self.hooks.held.with_label_values(label).set(gauge(queue.len()));
        let oldest = i64::try_from(queue.oldest().as_secs()).unwrap_or(i64::MAX);
        self.hooks.oldest.with_label_values(label).set(oldest);
    }
}

/// Names a key in a log, which may not carry the ids in it: the same key has the same name within one build.
fn key_hash<K: Key>(key: &K) -> String {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
