//! What ingestion counts.

use std::time::Duration;

use isocenter_domain::stage::Stage;
use isocenter_runtime::metrics::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Metrics};

/// Ingestion's metrics; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Meters {
    instances: IntCounterVec,
    rejected: IntCounterVec,
    moved: IntCounterVec,
    pub bytes: IntCounter,
    pub spool_files: IntGauge,
    pub spool_bytes: IntGauge,
    stored_seconds: HistogramVec,
    assembled_seconds: HistogramVec,
    studies: IntGaugeVec,
    oldest: IntGaugeVec,
}

impl Meters {
    pub(crate) fn new(all: &Metrics) -> Self {
        let own = all.scoped("ingestion");
        Self {
            instances: own.counter_vec("instances_total", "C-STORE requests by answer.", &["outcome"]),
            rejected: own.counter_vec("rejected_total", "Associations rejected, by reason.", &["reason"]),
            moved: own.counter_vec(
                "moved_total",
                "Instances taken from the spool, by outcome.",
                &["outcome"],
            ),
            bytes: own.counter("bytes_total", "Bytes of Part 10 files acknowledged."),
            spool_files: own.gauge("spool_files", "Instances acknowledged and not yet in blobs."),
            spool_bytes: own.gauge("spool_bytes", "Bytes of those."),
            stored_seconds: own.histogram_vec("stored_seconds", "From acknowledgement to blobs.", &[]),
            assembled_seconds: own.histogram_vec(
                "assembled_seconds",
                "From an assembly's first image to its complete revision, by evidence.",
                &["evidence"],
            ),
            studies: all.gauge_vec("studies", "Live studies of the cell by stage.", &["stage"]),
            oldest: all.gauge_vec(
                "oldest_age_seconds",
                "Age of the oldest live study of a stage: since complete, before that since first received.",
                &["stage"],
            ),
        }
    }

    /// A C-STORE request was answered.
    pub(crate) fn answered(&self, outcome: &str) {
        self.instances.with_label_values(&[outcome]).inc();
    }

    /// An association was rejected.
    pub(crate) fn rejected(&self, reason: &str) {
        self.rejected.with_label_values(&[reason]).inc();
    }

    /// An instance left the spool.
    pub(crate) fn moved(&self, outcome: &str, took: Option<Duration>) {
        self.moved.with_label_values(&[outcome]).inc();
        if let Some(took) = took {
            self.stored_seconds.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
        }
    }

    /// A revision is complete.
    pub(crate) fn assembled(&self, evidence: &str, took: Duration) {
        self.assembled_seconds.with_label_values(&[evidence]).observe(took.as_secs_f64());
    }

    /// How many studies are in a stage, and how old the oldest of them is.
    pub(crate) fn stage(&self, stage: Stage, studies: usize, oldest: Duration) {
        let label = &[stage.name()];
        self.studies.with_label_values(label).set(i64::try_from(studies).unwrap_or(i64::MAX));
        self.oldest.with_label_values(label).set(i64::try_from(oldest.as_secs()).unwrap_or(i64::MAX));
    }
}
