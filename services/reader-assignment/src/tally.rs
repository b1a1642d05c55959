//! What is counted of the ways in which reads leave the ordinary course.

use isocenter_domain::record::read::{Conclusion, Insufficiency, ReadKind, SuspendReason};
use isocenter_runtime::metrics::{IntCounter, IntCounterVec, Metrics};

/// Counters.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    by_name: IntCounter,
    suspended: IntCounterVec,
    transferred: IntCounter,
    asked: IntCounterVec,
    concluded: IntCounterVec,
    insufficient: IntCounterVec,
}

impl Tally {
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            by_name: metrics.counter("opened_by_name_total", "Reads taken out of the queue by their name."),
            suspended: metrics.counter_vec("suspended_total", "Reads set aside, by reason.", &["reason"]),
            transferred: metrics.counter("transferred_total", "Reads handed to another reader."),
            asked: metrics.counter_vec(
                "asked_total",
                "Second opinions and consultations asked for.",
                &["kind"],
            ),
            concluded: metrics.counter_vec(
                "concluded_total",
                "Reads signed, by kind and what was concluded beside the text: a change's grade, agreement, how blinded \
                 reads compare, a review's score; preliminary; or nothing.",
                &["kind", "conclusion"],
            ),
            insufficient: metrics.counter_vec(
                "non_diagnostic_total",
                "Reads whose images did not allow a report, by reason.",
                &["reason"],
            ),
        }
    }

    pub fn opened_by_name(&self) {
        self.by_name.inc();
    }

    pub fn suspended(&self, reason: SuspendReason) {
        self.suspended.with_label_values(&[reason.name()]).inc();
    }

    pub fn transferred(&self) {
        self.transferred.inc();
    }

    pub fn asked(&self, kind: ReadKind) {
        self.asked.with_label_values(&[kind.name()]).inc();
    }

    pub fn preliminary(&self, kind: ReadKind) {
        self.concluded.with_label_values(&[kind.name(), "preliminary"]).inc();
    }

    pub fn concluded(&self, kind: ReadKind, conclusion: Option<&Conclusion>) {
        let conclusion = conclusion.map_or("none", Conclusion::name);
        self.concluded.with_label_values(&[kind.name(), conclusion]).inc();
    }

    pub fn non_diagnostic(&self, reason: Insufficiency) {
        self.insufficient.with_label_values(&[reason.name()]).inc();
    }
}
