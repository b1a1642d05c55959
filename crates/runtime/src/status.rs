//! The one table from error kinds to gRPC status.

use std::time::Duration;

use isocenter_domain::{Kind, Kinded};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::task::chain;

/// The `domain` of every `google.rpc.ErrorInfo` of this program.
pub const DOMAIN: &str = "isocenter";

/// What a caller is told about an error: code, message, and `google.rpc` details.
#[derive(Clone, Debug)]
pub struct Answer {
    code: Code,
    message: String,
    reason: String,
    retry: Option<Duration>,
    fields: Vec<(String, String)>,
}

/// The gRPC code of a kind, and the reason given where the error has no better one.
#[must_use]
pub const fn code(kind: Kind) -> (Code, &'static str) {
    match kind {
        Kind::NotFound => (Code::NotFound, "NOT_FOUND"),
        Kind::Conflict => (Code::Aborted, "CONFLICT"),
        Kind::AlreadyExists => (Code::AlreadyExists, "ALREADY_EXISTS"),
        Kind::FailedPrecondition => (Code::FailedPrecondition, "FAILED_PRECONDITION"),
        Kind::Invalid => (Code::InvalidArgument, "INVALID"),
        Kind::Unauthenticated => (Code::Unauthenticated, "UNAUTHENTICATED"),
        Kind::PermissionDenied => (Code::PermissionDenied, "PERMISSION_DENIED"),
        Kind::Exhausted => (Code::ResourceExhausted, "EXHAUSTED"),
        Kind::Unavailable => (Code::Unavailable, "UNAVAILABLE"),
        Kind::Unknown => (Code::Unknown, "UNKNOWN"),
        Kind::DeadlineExceeded => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
        Kind::DataLoss => (Code::DataLoss, "DATA_LOSS"),
        Kind::Internal => (Code::Internal, "INTERNAL"),
    }
}

/// The status of an error. Defects and unreadable data are logged with their causes and told without them.
#[must_use]
pub fn status<E: Kinded + 'static>(error: &E) -> Status {
    Answer::of(error).status()
}

impl Answer {
    /// The answer to an error; see [`status`].
    #[must_use]
    pub fn of<E: Kinded + 'static>(error: &E) -> Self {
        let kind = error.kind();
        let (code, reason) = code(kind);
        let message = match kind {
            Kind::Internal | Kind::DataLoss => {
                tracing::error!(code = reason, error = %chain(error), "call failed");
                "the server failed; its log says why".to_owned()
            }
            Kind::NotFound
            | Kind::Conflict
            | Kind::AlreadyExists
            | Kind::FailedPrecondition
            | Kind::Invalid
            | Kind::Unauthenticated
            | Kind::PermissionDenied
            | Kind::Exhausted
            | Kind::Unavailable
            | Kind::Unknown
            | Kind::DeadlineExceeded => error.to_string(),
        };
        let retry = match kind {
            // The answer is unknown: a retry is safe only with the same request id, so that none is suggested.
            Kind::Unknown => None,
            // Somebody else was first; there is nothing to wait for.
            Kind::Conflict => Some(Duration::from_millis(50)),
            _ if error.is_retryable() => Some(Duration::from_secs(1)),
            _ => None,
        };
        Self { code, message, reason: reason.to_owned(), retry, fields: Vec::new() }
    }

    /// An answer that a request is wrong in one field: `path` as the proto spells it, such as `case.members[2]`.
    #[must_use]
    pub fn invalid(path: impl Into<String>, why: impl Into<String>) -> Self {
        let (code, reason) = code(Kind::Invalid);
        let (path, why) = (path.into(), why.into());
        let message = format!("{path}: {why}");
        Self { code, message, reason: reason.to_owned(), retry: None, fields: vec![(path, why)] }
    }

    /// Replaces the reason: upper snake case, such as `NEW_IMAGES`. Callers branch on it.
    #[must_use]
    pub fn reason(self, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..self }
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(self, delay: Duration) -> Self {
        Self { retry: Some(delay), ..self }
    }

    /// Names a field that is wrong, and how.
    #[must_use]
    pub fn field(mut self, path: impl Into<String>, why: impl Into<String>) -> Self {
        self.fields.push((path.into(), why.into()));
        self
    }

    /// The status, with `ErrorInfo`, and with `RetryInfo` and `BadRequest` where there is something to say.
    #[must_use]
    pub fn status(self) -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason, DOMAIN, std::collections::HashMap::new());
        if let Some(delay) = self.retry {
            details.set_retry_info(Some(delay));
        }
        for (path, why) in self.fields {
            details.add_bad_request_violation(path, why);
        }
        Status::with_error_details(self.code, self.message, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("secret detail")]
    struct Failed(Kind);
    impl Kinded for Failed {
        fn kind(&self) -> Kind {
            self.0
        }
    }

    #[test]
    fn retryable_errors_say_when_and_all_say_why() {
        let status = status(&Failed(Kind::Unavailable));
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "secret detail"));
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_secs(1)));
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("UNAVAILABLE", "isocenter"));
        let denied = super::status(&Failed(Kind::PermissionDenied));
        assert!(denied.get_details_retry_info().is_none());
    }

    #[test]
    fn defects_do_not_leak() {
        for kind in [Kind::Internal, Kind::DataLoss] {
            let status = status(&Failed(kind));
            assert!(!status.message().contains("secret"));
        }
    }

    #[test]
    fn fields_and_reasons_arrive() {
        let status = Answer::invalid("study.uid", "is empty").field("tenant", "is unknown").status();
        let fields = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(fields.iter().map(|f| f.field.as_str()).collect::<Vec<_>>(), ["study.uid", "tenant"]);
        let status = Answer::of(&Failed(Kind::FailedPrecondition)).reason("NEW_IMAGES").status();
        assert_eq!(status.get_details_error_info().unwrap().reason, "NEW_IMAGES");
    }
}
