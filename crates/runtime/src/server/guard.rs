//! What every call passes before its handler: a span, a principal, the bound on calls, the timeout, and an answer even
//! where the handler panics.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use futures::FutureExt as _;
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use isocenter_domain::{
    Kind, Kinded,
    access::{Principal, Role},
};
use tokio::sync::Semaphore;
use tonic::Code;
use tracing::{Instrument as _, Span, field};

use crate::{
    clock::{Clock as _, SystemClock},
    metrics::{HistogramVec, IntCounterVec, Metrics},
    nodes::ON_BEHALF_OF,
    principal::{Anonymous, Caller},
    server::{Options, limits::Shares},
    status::Answer,
    task::panic_text,
    telemetry::trace,
};

/// What the guard needs.
pub(super) struct Guard {
    in_flight: Semaphore,
    callers: Arc<Shares<String>>,
    timeout: Duration,
    streaming: &'static [&'static str],
    calls: IntCounterVec,
    seconds: HistogramVec,
}

/// Why a call came to no answer of its handler.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("too many calls are under way; try again")]
    Overloaded,
    #[error("too many calls of this caller are under way; try again")]
    Greedy,
    #[error(transparent)]
    Anonymous(#[from] Anonymous),
    #[error("the call passed its deadline")]
    Late,
    #[error("the handler panicked")]
    Panicked,
}

impl Kinded for Refused {
    fn kind(&self) -> Kind {
        match self {
            Self::Overloaded | Self::Greedy => Kind::Exhausted,
            Self::Anonymous(e) => e.kind(),
            Self::Late => Kind::DeadlineExceeded,
            Self::Panicked => Kind::Internal,
        }
    }
}

impl Refused {
    fn answer(&self, grpc: bool) -> Response {
        if grpc {
            return Answer::of(self).status().into_http();
        }
        let code = match self {
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Greedy => StatusCode::TOO_MANY_REQUESTS,
            Self::Anonymous(_) => StatusCode::UNAUTHORIZED,
            Self::Late => StatusCode::GATEWAY_TIMEOUT,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (code, format!("{self}\n")).into_response()
    }
}

impl Guard {
    pub(super) fn new(options: &Options, metrics: &Metrics) -> Self {
        Self {
            in_flight: Semaphore::new(options.max_in_flight),
            callers: Shares::new(options.limits.calls_per_caller),
            timeout: options.timeout,
            streaming: options.streaming,
            calls: metrics.counter_vec(
                "calls_total",
                "Calls answered, by method and code.",
                &["method", "code"],
            ),
            seconds: metrics.histogram_vec(
                "call_seconds",
                "How long calls took to their answer.",
                &["method"],
            ),
        }
    }

    /// How long the call may take: the server's bound or the caller's, whichever is shorter.
    fn deadline(&self, path: &str, headers: &HeaderMap) -> Option<Duration> {
        let asked = headers.get("grpc-timeout").and_then(|v| v.to_str().ok()).and_then(grpc_timeout);
        let own = (!self.streaming.contains(&path)).then_some(self.timeout);
        match (asked, own) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    async fn answer(&self, mut request: Request, next: Next, grpc: bool) -> Response {
        let principal = match identify(&mut request) {
            Ok(principal) => principal,
            Err(anonymous) => return Refused::from(anonymous).answer(grpc),
        };
        Span::current().record("enduser.id", &principal.subject);
        // On a plaintext loopback everybody is one caller, who is bounded as all are.
        let own = (principal.role != Role::Developer).then(|| self.callers.take(&principal.subject));
        if let Some(None) = own {
            return Refused::Greedy.answer(grpc);
        }
        request.extensions_mut().insert(principal);
        // Refused at once rather than queued: the caller has other servers, and a queue here would have no owner.
        let Ok(_permit) = self.in_flight.try_acquire() else { return Refused::Overloaded.answer(grpc) };
        let deadline = self.deadline(request.uri().path(), request.headers());
        let run = AssertUnwindSafe(next.run(request)).catch_unwind();
        let result = match deadline {
            Some(deadline) => tokio::time::timeout(deadline, run).await,
            None => Ok(run.await),
        };
        match result {
            Ok(Ok(response)) => response,
            Ok(Err(panic)) => {
                tracing::error!(message = panic_text(&*panic), "handler panicked");
                Refused::Panicked.answer(grpc)
            }
            Err(_) => Refused::Late.answer(grpc),
        }
    }
}

/// The middleware.
pub(super) async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let began = SystemClock.monotonic();
    let grpc = is_grpc(request.headers());
    // A gRPC path is a method's name; an HTTP path may hold a Study Instance UID, its route does not.
    let route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let method = if grpc { request.uri().path().to_owned() } else { route.unwrap_or_default() };
    let span = span(&method, grpc, request.headers());
    let response = guard.answer(request, next, grpc).instrument(span.clone()).await;

    let code = code(&response, grpc);
    span.record("code", &code);
    // Names that are nobody's method come from outside and are without number.
    let unknown = code == "404" || code == i32::from(Code::Unimplemented).to_string();
    let method = if unknown { "unknown" } else { &method };
    guard.calls.with_label_values(&[method, &code]).inc();
    let took = SystemClock.monotonic().saturating_duration_since(began);
    guard.seconds.with_label_values(&[method]).observe(took.as_secs_f64());
    response
}

/// Who calls. What the headers claim is gone afterwards, so that no handler believes it.
fn identify(request: &mut Request) -> Result<Principal, Anonymous> {
    let caller = request.extensions_mut().remove::<Caller>().ok_or(Anonymous::Unserved)?;
    let principal = caller.identify(request.headers(), SystemClock.now())?;
    request.headers_mut().remove(ON_BEHALF_OF);
    Ok(principal)
}

/// Whether a call is gRPC, of the web too.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let content = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    content.is_some_and(|c| c.starts_with("application/grpc"))
}

fn span(method: &str, grpc: bool, headers: &HeaderMap) -> Span {
    let system = if grpc { "grpc" } else { "http" };
    let span = tracing::info_span!(
        "call",
        otel.name = method,
        otel.kind = "server",
        rpc.system = system,
        enduser.id = field::Empty,
        code = field::Empty
    );
    match headers.get(trace::HEADER).and_then(|v| v.to_str().ok()) {
        Some(parent) => trace::joined(span, parent),
        None => span,
    }
}

/// The gRPC status code of an answer known without its trailers (0: it streams or succeeded), or the HTTP status.
fn code(response: &Response, grpc: bool) -> String {
    if !grpc {
        return response.status().as_u16().to_string();
    }
    let status = response.headers().get("grpc-status").and_then(|v| v.to_str().ok());
    status.unwrap_or("0").to_owned()
}

/// Reads a `grpc-timeout`: at most 8 digits and a unit (gRPC over HTTP/2, Requests).
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_standard_writes_them() {
        assert_eq!(grpc_timeout("1S"), Some(Duration::from_secs(1)));
        assert_eq!(grpc_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        assert_eq!(grpc_timeout("250m"), Some(Duration::from_millis(250)));
        for bad in ["", "S", "1", "1x", "123456789S", "-1S", "é"] {
            assert_eq!(grpc_timeout(bad), None, "{bad}");
        }
    }
}
