//! Spans kept in memory, so that a test can ask what was traced.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, OnceLock},
    time::Duration,
};

use opentelemetry::{SpanId, global};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use parking_lot::Mutex;

use crate::telemetry::trace::StudyIds;

/// How many spans are kept; the oldest go first. Far more than one test process makes.
const KEPT: usize = 100_000;

/// A span that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its name.
    pub name: String,
    /// Its own `traceparent`.
    pub traceparent: String,
    /// Its parent's span id, 16 hexadecimal digits.
    pub parent: Option<String>,
    /// The `traceparent`s it links to.
    pub links: Vec<String>,
    /// Its attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// How long it took.
    pub took: Duration,
}

/// The spans of this test process. A span is there the moment it ends.
#[derive(Clone, Debug, Default)]
pub struct TestSpans(Arc<Mutex<VecDeque<SpanData>>>);

impl TestSpans {
    /// Has every span of the process kept from now on; calls after the first give the same. Tests that run beside one
    /// another ask for their own trace. Where the process already has another subscriber, nothing is kept.
    #[must_use]
    pub fn install() -> Self {
        static INSTALLED: OnceLock<TestSpans> = OnceLock::new();
        let spans = INSTALLED.get_or_init(|| {
            let spans = Self::default();
            let builder = SdkTracerProvider::builder().with_id_generator(StudyIds::default());
            let provider = builder.with_simple_exporter(spans.clone()).build();
            // A process with a subscriber of its own keeps it.
            drop(tracing::subscriber::set_global_default(super::test_subscriber(&provider)));
            global::set_tracer_provider(provider);
            spans
        });
        spans.clone()
    }

    /// The ended spans of the trace that `traceparent` names, in the order of their ends.
    #[must_use]
    pub fn of(&self, traceparent: &str) -> Vec<Finished> {
        let trace = traceparent.split('-').nth(1).unwrap_or_default().to_owned();
        let spans = self.0.lock();
        spans.iter().filter(|s| s.span_context.trace_id().to_string() == trace).map(finished).collect()
    }
}

fn finished(span: &SpanData) -> Finished {
    let text = |c: &opentelemetry::trace::SpanContext| {
        format!("00-{}-{}-{:02x}", c.trace_id(), c.span_id(), c.trace_flags().to_u8())
    };
    Finished {
        name: span.name.to_string(),
        traceparent: text(&span.span_context),
        parent: (span.parent_span_id != SpanId::INVALID).then(|| span.parent_span_id.to_string()),
        links: span.links.iter().map(|link| text(&link.span_context)).collect(),
        attributes: span.attributes.iter().map(|kv| (kv.key.to_string(), kv.value.to_string())).collect(),
        took: span.end_time.duration_since(span.start_time).unwrap_or_default(),
    }
}

impl SpanExporter for TestSpans {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let mut spans = self.0.lock();
        spans.extend(batch);
        let over = spans.len().saturating_sub(KEPT);
        spans.drain(..over);
        Ok(())
    }
}
