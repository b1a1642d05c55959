//! What is counted, under `isocenter_ai_dispatch_…`. The label `service` holds ids of the registry, which are few and
//! chosen by operators.

use isocenter_domain::id::AiServiceId;
use isocenter_reconcile::Hooks;
use isocenter_runtime::metrics::{HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Metrics as Registry};

use crate::plan::breaker::Standing;

/// The metrics of this role.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Tasks that came to their end, by service and outcome.
    pub tasks: IntCounterVec,
    /// From the call to the answer or to giving up on one, by service.
    pub answers: HistogramVec,
    /// Calls under way from this process, by service.
    pub in_flight: IntGaugeVec,
    /// Whether the breaker of a service is open here: 1, or 0.
    open: IntGaugeVec,
    /// Calls, by service and how they ended.
    pub calls: IntCounterVec,
    /// Instances sent to services.
    pub instances: IntCounter,
    /// Requests for pixels that were refused.
    pub refused: IntCounter,
    /// Those of the runners.
    pub hooks: Hooks,
}

impl Metrics {
    pub fn new(registry: &Registry) -> Self {
        let scope = registry.scoped("ai_dispatch");
        let both = &["service", "outcome"];
        Self {
            tasks: scope.counter_vec("tasks_total", "Tasks that came to their end, by state.", both),
            answers: scope.histogram_vec(
                "answer_seconds",
                "From a call to its answer or to giving up.",
                &["service"],
            ),
            open: scope.gauge_vec("breaker_open", "Whether a service is left alone: 1, or 0.", &["service"]),
            in_flight: scope.gauge_vec("in_flight", "Calls under way.", &["service"]),
            calls: scope.counter_vec(
                "calls_total",
                "Calls by end: answered, declined, busy, unavailable, invalid-answer, error, timed-out, dropped.",
                both,
            ),
            instances: scope.counter("instances_sent_total", "Instances sent to services."),
            refused: scope.counter("fetches_refused_total", "Requests for pixels that were refused."),
            hooks: Hooks::new(&scope),
        }
    }

    /// Notes where the breaker of a service stands.
    pub fn tell(&self, service: &AiServiceId, standing: Standing) {
        let open = match standing {
            Standing::Ready => 0,
            Standing::Open { .. } | Standing::Probing => 1,
        };
        self.open.with_label_values(&[service.as_str()]).set(open);
    }
}
