//! Metrics, in the text format of Prometheus.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use parking_lot::Mutex;
pub use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use prometheus::{HistogramOpts, Opts, Registry, TextEncoder, core::Collector};

/// Upper bounds in seconds, from a cached answer to a study's assembly: 1 ms to half an hour.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0, 1_800.0];

/// The metrics of a process. Clones share the registry; [`Metrics::scoped`] names a part.
///
/// A name that is registered twice, or that is none to Prometheus, is a defect and panics where it is registered.
/// Labels have few values, none of them from outside: never an id, never patient identity.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    prefix: String,
    /// What each registered name is for, also of those that have no sample yet.
    described: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty registry; names begin with `isocenter_`.
    #[must_use]
    pub fn new() -> Self {
        Self { registry: Registry::new(), prefix: "isocenter".to_owned(), described: Arc::default() }
    }

    /// The same registry; names begin with `{prefix}_{part}_`.
    #[must_use]
    pub fn scoped(&self, part: &str) -> Self {
        Self { prefix: format!("{}_{part}", self.prefix), ..self.clone() }
    }

    /// Counters; `name` ends in `_total`.
    #[must_use]
    pub fn counter_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(self.opts(name, help), labels))
    }

    /// A counter without labels; `name` ends in `_total`.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::with_opts(self.opts(name, help)))
    }

    /// Gauges.
    #[must_use]
    pub fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(self.opts(name, help), labels))
    }

    /// A gauge without labels.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::with_opts(self.opts(name, help)))
    }

    /// Histograms of durations; `name` ends in `_seconds`.
    #[must_use]
    pub fn histogram_vec(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let opts = HistogramOpts::from(self.opts(name, help)).buckets(SECONDS.to_vec());
        self.register(HistogramVec::new(opts, labels))
    }

    /// Everything registered, as `/metrics` answers it. What has no sample yet, since none of its labels' values has come
    /// up, is named by its help alone: an alert on it can be told from an alert on a name that is misspelt.
    ///
    /// # Errors
    /// Only where a metric cannot be written as text, which is a defect of it.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let gathered = self.registry.gather();
        let mut text = TextEncoder::new().encode_to_string(&gathered)?;
        for (name, help) in &*self.described.lock() {
            if gathered.iter().all(|family| family.name() != name) {
                writeln!(text, "# HELP {name} {help}").expect("a string takes what is written to it");
            }
        }
        Ok(text)
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(format!("{}_{name}", self.prefix), help)
    }

    fn register<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = made.expect("metric names and labels are constants that Prometheus accepts");
        let described = collector.desc().into_iter().map(|desc| (desc.fq_name.clone(), desc.help.clone()));
        self.described.lock().extend(described);
        self.registry.register(Box::new(collector.clone())).expect("each metric is registered once");
        collector
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_rendered_under_its_full_name() {
        let metrics = Metrics::new();
        let seen =
            metrics.scoped("ingestion").counter_vec("instances_total", "Instances received.", &["result"]);
        seen.with_label_values(&["stored"]).inc_by(3);
        metrics.histogram_vec("rpc_seconds", "Calls.", &["method"]).with_label_values(&["Get"]).observe(0.2);
        let text = metrics.render().unwrap();
        assert!(text.contains("isocenter_ingestion_instances_total{result=\"stored\"} 3"), "{text}");
        assert!(text.contains("isocenter_rpc_seconds_bucket{method=\"Get\",le=\"0.25\"} 1"), "{text}");
    }

    #[test]
    fn what_has_no_sample_yet_is_named() {
        let metrics = Metrics::new();
        let calls = metrics.scoped("ai").counter_vec("calls_total", "Calls.", &["outcome"]);
        let help = "# HELP isocenter_ai_calls_total Calls.\n";
        assert_eq!(metrics.render().unwrap(), help);
        calls.with_label_values(&["answered"]).inc();
        assert_eq!(metrics.render().unwrap().matches(help).count(), 1);
    }

    #[test]
    #[should_panic(expected = "registered once")]
    fn one_name_twice_is_a_defect() {
        let metrics = Metrics::new();
        drop((metrics.gauge("depth", "Depth."), metrics.gauge("depth", "Depth.")));
    }
}
