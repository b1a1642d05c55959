//! One trace for each study.
//!
//! A study's record holds a `traceparent` (W3C Trace Context §3.2), made when its first image arrives. Every role's
//! work on the study is a span below it. The root span itself is sent when the study is complete, with the ids the
//! record has held all along; what happens later is still its child, or links to it where it has a parent of its own.

use std::{
    cell::Cell,
    time::{Duration, SystemTime},
};

use http::HeaderMap;
use isocenter_domain::Time;
use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId, global,
    trace::{Span as _, SpanBuilder, SpanContext, TraceContextExt as _, TraceState, Tracer as _},
};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use tonic::metadata::MetadataMap;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::random;

/// The header, and the metadata key, that carries a trace from process to process.
pub const HEADER: &str = "traceparent";

/// A new trace's `traceparent`: random ids, sampled.
#[must_use]
pub fn new_trace() -> String {
    let (mut trace, mut span) = ([0; 16], [0; 8]);
    random::fill(&mut trace);
    random::fill(&mut span);
    // All-zero ids are invalid by the standard.
    (trace[0], span[0]) = (trace[0] | 1, span[0] | 1);
    format!("00-{}-{}-01", TraceId::from_bytes(trace), SpanId::from_bytes(span))
}

/// Reads a `traceparent` of version 00 or later; `None` where it is none.
fn parse(traceparent: &str) -> Option<SpanContext> {
    let parts: Vec<&str> = traceparent.trim().split('-').collect();
    let [version, trace, span, flags, more @ ..] = parts.as_slice() else { return None };
    let known = *version == "00" && more.is_empty();
    let later = version.len() == 2 && *version != "00" && *version != "ff";
    if !(known || later) || trace.len() != 32 || span.len() != 16 || flags.len() != 2 {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let context = SpanContext::new(trace, span, flags, true, TraceState::default());
    context.is_valid().then_some(context)
}

fn text(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8())
}

/// Makes `span`, which was not entered yet, a child of the span that `traceparent` names. Text that is no
/// `traceparent` changes nothing: telemetry never fails work.
#[must_use]
pub fn joined(span: Span, traceparent: &str) -> Span {
    if let Some(parent) = parse(traceparent) {
        // Refused for a span that was entered already, which is then without this parent.
        drop(span.set_parent(Context::new().with_remote_span_context(parent)));
    }
    span
}

/// Links `span` to the span that `traceparent` names: it was caused by it, and has another parent or none.
pub fn link(span: &Span, traceparent: &str) {
    if let Some(other) = parse(traceparent) {
        span.add_link(other);
    }
}

/// The `traceparent` of `span`; `None` where spans are not recorded.
#[must_use]
pub fn of(span: &Span) -> Option<String> {
    let context = span.context();
    let span = context.span();
    span.span_context().is_valid().then(|| text(span.span_context()))
}

/// Puts the current span into a call to another process.
pub fn inject(metadata: &mut MetadataMap) {
    if let Some(value) = of(&Span::current()).and_then(|text| text.parse().ok()) {
        metadata.insert(HEADER, value);
    }
}

/// Puts the current span into the headers of a call that is passed on; leaves what they say where there is none.
pub(crate) fn inject_headers(headers: &mut HeaderMap) {
    if let Some(value) = of(&Span::current()).and_then(|text| text.parse().ok()) {
        headers.insert(HEADER, value);
    }
}

/// Sends the root span of the trace that `traceparent` names: its ids are those in it. Once for each study; `began`
/// and `ended` are the record's times.
pub fn send_root(
    traceparent: &str,
    name: &'static str,
    began: Time,
    ended: Time,
    attributes: &[(&'static str, String)],
) {
    let Some(context) = parse(traceparent) else { return };
    let attributes: Vec<_> =
        attributes.iter().map(|(key, value)| KeyValue::new(*key, value.clone())).collect();
    let builder =
        SpanBuilder::from_name(name).with_start_time(system_time(began)).with_attributes(attributes);
    NEXT.set((Some(context.trace_id()), Some(context.span_id())));
    let mut span = global::tracer(super::SCOPE).build_with_context(builder, &Context::new());
    NEXT.set((None, None));
    span.end_with_timestamp(system_time(ended));
}

fn system_time(at: Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(at.0).unwrap_or(0))
}

thread_local! {
    /// The ids of the root span under construction: set and cleared within one call of [`send_root`], which does not
    /// await. The library has no other way to give a span its id.
    static NEXT: Cell<(Option<TraceId>, Option<SpanId>)> = const { Cell::new((None, None)) };
}

/// Random ids, but those of a study's record for its root span.
#[derive(Debug, Default)]
pub(crate) struct StudyIds(RandomIdGenerator);

impl IdGenerator for StudyIds {
    fn new_trace_id(&self) -> TraceId {
        NEXT.get().0.unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        NEXT.get().1.unwrap_or_else(|| self.0.new_span_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::testing::TestSpans;

    #[test]
    fn all_work_on_a_study_is_one_trace() {
        let spans = TestSpans::install();
        let study = new_trace();
        let store = joined(tracing::info_span!("store instance"), &study);
        let inner = store.in_scope(|| {
            let mut metadata = MetadataMap::new();
            inject(&mut metadata);
            metadata.get(HEADER).unwrap().to_str().unwrap().to_owned()
        });
        drop(store);
        drop(joined(tracing::info_span!("remote"), &inner));
        send_root(&study, "study", Time(1_000_000), Time(3_000_000), &[("evidence", "quiet".into())]);
        let other = new_trace();
        let late = joined(tracing::info_span!("deliver"), &other);
        link(&late, &study);
        drop(late);

        let seen = spans.of(&study);
        let find = |name: &str| seen.iter().find(|s| s.name == name).unwrap();
        assert_eq!(seen.len(), 3, "{seen:?}");
        let root = find("study");
        assert_eq!((root.traceparent.as_str(), root.parent.as_deref()), (study.as_str(), None));
        assert_eq!(root.took, Duration::from_secs(2));
        assert_eq!(root.attributes["evidence"], "quiet");
        assert_eq!(find("store instance").parent.as_deref(), Some(&study[36..52]));
        assert_eq!(find("remote").parent.as_deref(), Some(&inner[36..52]));
        assert_eq!(spans.of(&other)[0].links, [study]);
    }

    #[test]
    fn what_is_no_traceparent_is_passed_over() {
        for bad in ["", "00", "00-0-0-01", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
        assert!(parse("00-00000000000000000000000000000000-b7ad6b7169203331-01").is_none());
        assert!(parse("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later").is_some());
        assert_eq!(text(&parse(&new_trace()).unwrap()).len(), 55);
    }
}
