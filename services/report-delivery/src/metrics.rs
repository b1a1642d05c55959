//! What is counted, under `isocenter_report_delivery_…`.

use std::collections::BTreeMap;

use isocenter_domain::{
    Time,
    record::delivery::{Delivery, DeliveryState},
};
use isocenter_reconcile::Hooks;
use isocenter_runtime::metrics::{
    HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Metrics as Registry,
};

use crate::{Config, plan};

/// The states whose number and age are shown; what is accepted is history.
const SHOWN: [&str; 4] = ["pending", "sent", "retrying", "dead-letter"];

/// The metrics of this role.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Attempts, by how each ended.
    pub outcomes: IntCounterVec,
    /// From the claim to the answer or its absence, by how the attempt ended.
    pub answers: HistogramVec,
    /// Deliveries made for signed reports.
    pub made: IntCounter,
    depth: IntGaugeVec,
    oldest: IntGaugeVec,
    overdue: IntGauge,
    /// Streams on which receivers fetch their reports.
    pub watches: IntGauge,
    /// Those of the runners.
    pub hooks: Hooks,
}

impl Metrics {
    pub fn new(registry: &Registry) -> Self {
        let scope = registry.scoped("report_delivery");
        let state = &["state"];
        Self {
            outcomes: scope.counter_vec(
                "attempts_total",
                "Attempts by outcome: accepted, retry, dead-letter, lapsed, overtaken.",
                &["outcome"],
            ),
            answers: scope.histogram_vec(
                "ack_seconds",
                "From the claim to the answer, or to giving up on one.",
                &["outcome"],
            ),
            made: scope.counter("made_total", "Deliveries made for signed reports."),
            depth: scope.gauge_vec("deliveries", "Deliveries that are not accepted yet, by state.", state),
            oldest: scope.gauge_vec(
                "oldest_seconds",
                "How long the oldest delivery of a state has existed.",
                state,
            ),
            overdue: scope.gauge(
                "overdue",
                "Deliveries not accepted after page_after, dead letters included: somebody has to look.",
            ),
            watches: scope.gauge("watches", "Streams on which receivers fetch their reports."),
            hooks: Hooks::new(&scope),
        }
    }

    /// Sets the gauges to what `deliveries` are now.
    pub fn observe<'a>(&self, deliveries: impl Iterator<Item = &'a Delivery>, config: &Config, now: Time) {
        let mut states: BTreeMap<&str, (i64, u64)> = SHOWN.map(|state| (state, (0, 0))).into();
        let mut overdue = 0;
        for delivery in deliveries.filter(|d| !d.settled()) {
            let (count, oldest) = states.entry(delivery.state.name()).or_default();
            *count += 1;
            *oldest = (*oldest).max(now.since(delivery.since).as_secs());
            overdue += i64::from(plan::overdue(delivery, config.page_after.0, now));
        }
        for (state, (count, oldest)) in states {
            self.depth.with_label_values(&[state]).set(count);
            self.oldest.with_label_values(&[state]).set(i64::try_from(oldest).unwrap_or(i64::MAX));
        }
        self.overdue.set(overdue);
    }

    /// The outcome of an attempt as a label.
    pub const fn outcome(after: &DeliveryState) -> &'static str {
        match after {
            DeliveryState::ApplicationAccepted { .. } | DeliveryState::Viewed { .. } => "accepted",
            DeliveryState::Superseded { .. } => "superseded",
            DeliveryState::DeadLetter { .. } => "dead-letter",
            DeliveryState::Pending | DeliveryState::Sent { .. } | DeliveryState::Retrying { .. } => "retry",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use isocenter_domain::{record::report::ReportKind, refs::Ref};

    use super::*;

    #[test]
    fn what_is_not_accepted_is_shown_by_state_with_its_age_and_as_overdue() {
        let delivery = |state, since| Delivery {
            state,
            message_id: "id".into(),
            kind: ReportKind::Final,
            accession: Ref([0; 16]),
            signed_at: Time(0),
            attempts: 0,
            since: Time(0).plus(Duration::from_secs(since)),
        };
        let all = [
            delivery(DeliveryState::Pending, 990),
            delivery(DeliveryState::DeadLetter { reason: String::new(), at: Time(0) }, 0),
            delivery(DeliveryState::ApplicationAccepted { at: Time(0) }, 0),
        ];
        let registry = Registry::new();
        let now = Time(0).plus(Duration::from_secs(1_000));
        Metrics::new(&registry).observe(all.iter(), &Config::default(), now);
        let text = registry.render().unwrap();
        for line in [
            r#"_deliveries{state="pending"} 1"#,
            r#"_deliveries{state="retrying"} 0"#,
            r#"_oldest_seconds{state="pending"} 10"#,
            r#"_oldest_seconds{state="dead-letter"} 1000"#,
            "_overdue 1",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
