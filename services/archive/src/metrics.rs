//! What is counted, under `isocenter_archive_…`.

use isocenter_reconcile::Hooks;
use isocenter_runtime::metrics::{HistogramVec, IntCounter, IntCounterVec, IntGauge, Metrics as Registry};

/// The metrics of this role.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Events waiting to be journaled.
    pub outbox_depth: IntGauge,
    /// Age of the oldest of them.
    pub outbox_oldest: IntGauge,
    /// Journal objects written.
    pub journal_objects: IntCounter,
    /// Their bytes.
    pub journal_bytes: IntCounter,
    /// Events journaled.
    pub journal_events: IntCounter,
    /// Journal objects not yet in the records.
    pub unapplied: IntGauge,
    /// Whether the records serve.
    pub serving: IntGauge,
    /// Since when they do not.
    pub down_since: IntGauge,
    /// Two different changes under one counter: an alarm.
    pub forks: IntCounter,
    /// Events and values left alone because they cannot be understood.
    pub undecodable: IntCounter,
    /// Closes and reopens by result.
    pub cycles: IntCounterVec,
    /// Times of the drain's steps.
    pub steps: HistogramVec,
    /// Those of the runners.
    pub hooks: Hooks,
}

impl Metrics {
    pub fn new(registry: &Registry) -> Self {
        let scope = registry.scoped("archive");
        Self {
            outbox_depth: scope.gauge("outbox_depth", "Events waiting to be journaled; counted up to 10000."),
            outbox_oldest: scope.gauge("outbox_oldest_seconds", "Age of the oldest event not yet journaled."),
            journal_objects: scope.counter("journal_objects_total", "Journal objects written."),
            journal_bytes: scope.counter("journal_bytes_total", "Bytes of journal objects written."),
            journal_events: scope.counter("journal_events_total", "Events journaled."),
            unapplied: scope
                .gauge("journal_unapplied_objects", "Journal objects that the records lack, as last seen."),
            serving: scope.gauge("records_up", "1 while the records database serves, 0 while it does not."),
            down_since: scope.gauge(
                "records_down_since_seconds",
                "Unix time since when the records database does not serve; 0 while it does.",
            ),
            forks: scope.counter(
                "forks_total",
                "Different changes found under one counter of one record. Each is an alarm.",
            ),
            undecodable: scope.counter(
                "undecodable_total",
                "Times an event or value was left alone because it cannot be understood.",
            ),
            cycles: scope.counter_vec("cycles_total", "Studies closed and reopened.", &["result"]),
            steps: scope.histogram_vec(
                "step_seconds",
                "Steps of the way from the outbox to the records: journal, apply, note, delete.",
                &["step"],
            ),
            hooks: Hooks::new(&scope),
        }
    }
}
