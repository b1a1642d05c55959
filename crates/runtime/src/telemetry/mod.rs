//! Logs to standard error, spans to a collector.

pub mod testing;
pub mod trace;

use std::{io::IsTerminal as _, str::FromStr, time::Duration};

use isocenter_domain::{Kind, Kinded};
use opentelemetry::{global, trace::TracerProvider as _};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::LevelFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{config::Malformed, task::BoxError, telemetry::trace::StudyIds};

/// What the transport libraries say is left out: it is not about studies, and exporting a span makes them speak again.
const QUIET: &str = "h2=off,hyper=off,hyper_util=off,tonic=off,tower=off";

/// The instrumentation scope of every span.
const SCOPE: &str = "isocenter";

/// The form of logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

impl FromStr for Format {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(Malformed::new("not a log format: write json or text")),
        }
    }
}

/// What to log and where spans go.
#[derive(Clone, Debug)]
pub struct Options {
    /// The form of logs.
    pub format: Format,
    /// The lowest level, such as `info`, or directives, such as `info,isocenter_store=debug`.
    pub level: String,
    /// The collector's address for OTLP over gRPC, such as `http://collector:4317`; `None`: spans go nowhere.
    pub otlp: Option<String>,
    /// The name of this process's role in traces.
    pub service: String,
}

/// Telemetry that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is not one.
    #[error(
        "telemetry.level {level:?} is not a level such as info, nor one with directives such as info,isocenter_store=debug"
    )]
    Level {
        /// What was given.
        level: String,
        /// Where it goes wrong.
        #[source]
        source: BoxError,
    },
    /// The collector's address cannot be used.
    #[error("telemetry.otlp {url:?} cannot be used")]
    Otlp {
        /// What was given.
        url: String,
        /// Why not.
        #[source]
        source: BoxError,
    },
    /// Telemetry was set up before in this process.
    #[error("telemetry is set up already")]
    Already,
}

impl Kinded for TelemetryError {
    fn kind(&self) -> Kind {
        match self {
            Self::Level { .. } | Self::Otlp { .. } => Kind::Invalid,
            Self::Already => Kind::Internal,
        }
    }
}

/// Keeps telemetry alive; [`Telemetry::shutdown`] sends what is left.
#[derive(Debug)]
#[must_use = "spans not yet sent are lost without a shutdown"]
pub struct Telemetry(Option<SdkTracerProvider>);

/// Sets up logs and spans for this process, once. Call it within the tokio runtime that stays.
///
/// # Errors
/// [`TelemetryError`]; a collector that does not answer is none: spans wait in a bounded queue and are then dropped.
pub fn init(options: Options) -> Result<Telemetry, TelemetryError> {
    let filter = filter(&options.level)
        .map_err(|source| TelemetryError::Level { level: options.level.clone(), source })?;
    let provider = options.otlp.map(|url| provider(url, options.service)).transpose()?;
    let spans = provider.as_ref().map(|p| tracing_opentelemetry::layer().with_tracer(p.tracer(SCOPE)));
    let base = tracing_subscriber::registry().with(spans).with(filter);
    base.with(logs(options.format)).try_init().map_err(|_| TelemetryError::Already)?;
    if let Some(provider) = &provider {
        global::set_tracer_provider(provider.clone());
    }
    Ok(Telemetry(provider))
}

/// The directives of `level`, the first of which must be a level: the library takes a word it does not know for the name
/// of a module, and would then log nothing.
fn filter(level: &str) -> Result<EnvFilter, BoxError> {
    let first = level.split(',').next().unwrap_or_default();
    first.parse::<LevelFilter>()?;
    Ok(EnvFilter::try_new(format!("{level},{QUIET}"))?)
}

fn logs<S>(format: Format) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        Format::Json => layer.json().flatten_event(true).with_span_list(false).boxed(),
        Format::Text => layer.with_ansi(std::io::stderr().is_terminal()).boxed(),
    }
}

fn provider(url: String, service: String) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&url)
        .with_timeout(Duration::from_secs(5))
        .build()
        .map_err(|e| TelemetryError::Otlp { url, source: Box::new(e) })?;
    let resource = Resource::builder().with_service_name(service).build();
    let builder = SdkTracerProvider::builder().with_id_generator(StudyIds::default());
    Ok(builder.with_resource(resource).with_batch_exporter(exporter).build())
}

impl Telemetry {
    /// Sends the spans still held, within `deadline`; what is not sent by then is dropped. Blocks: the last thing a
    /// process does.
    pub fn shutdown(self, deadline: Duration) {
        if let Some(Err(e)) = self.0.map(|provider| provider.shutdown_with_timeout(deadline)) {
            tracing::warn!(error = %e, "spans not yet sent are dropped");
        }
    }
}

/// A subscriber whose spans go to `provider`: for tests.
fn test_subscriber(provider: &SdkTracerProvider) -> impl tracing::Subscriber + Send + Sync + use<> {
    Registry::default().with(tracing_opentelemetry::layer().with_tracer(provider.tracer(SCOPE)))
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Span as _, Tracer as _};

    use super::*;
    use crate::clock::{Clock as _, SystemClock};

    #[test]
    fn a_wrong_level_is_named() {
        let options =
            Options { format: Format::Json, level: "loud".into(), otlp: None, service: "test".into() };
        let error = init(options).unwrap_err();
        assert!(error.to_string().starts_with("telemetry.level \"loud\""), "{error}");
        assert_eq!("text".parse(), Ok(Format::Text));
        assert!("xml".parse::<Format>().is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_does_not_answer_does_not_hold_up_the_end() {
        // A listener that accepts nothing: connecting succeeds, answers never come.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let provider = provider(url, "test".into()).unwrap();
        provider.tracer(SCOPE).start("span").end();
        let began = SystemClock.monotonic();
        tokio::task::spawn_blocking(|| Telemetry(Some(provider)).shutdown(Duration::from_millis(300)))
            .await
            .unwrap();
        assert!(SystemClock.monotonic() - began < Duration::from_secs(3));
    }
}
