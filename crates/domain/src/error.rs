//! What an error means to a caller, whatever crate it came from.

/// The class of an error. `runtime` maps each to one gRPC status; nothing else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The named thing does not exist.
    NotFound,
    /// Somebody else changed the thing first; read it again and decide again.
    Conflict,
    /// The thing exists already, with other content.
    AlreadyExists,
    /// The thing is not in a state that allows this.
    FailedPrecondition,
    /// The request itself is wrong, whatever the state.
    Invalid,
    /// No principal.
    Unauthenticated,
    /// The principal may not do this.
    PermissionDenied,
    /// A bound is reached; trying later may help.
    Exhausted,
    /// A dependency does not answer; trying again may help.
    Unavailable,
    /// The answer is unknown: it may or may not have happened. Read before trying again.
    Unknown,
    /// The deadline passed.
    DeadlineExceeded,
    /// Stored data cannot be understood, or belongs to a newer level than this process.
    DataLoss,
    /// A defect in this program.
    Internal,
}

/// An error that says what it means to a caller.
pub trait Kinded: std::error::Error {
    /// The class of this error.
    fn kind(&self) -> Kind;

    /// Whether the same call may succeed later without anybody changing the request.
    fn is_retryable(&self) -> bool {
        match self.kind() {
            Kind::Conflict | Kind::Exhausted | Kind::Unavailable | Kind::Unknown | Kind::DeadlineExceeded => {
                true
            }
            Kind::NotFound
            | Kind::AlreadyExists
            | Kind::FailedPrecondition
            | Kind::Invalid
            | Kind::Unauthenticated
            | Kind::PermissionDenied
            | Kind::DataLoss
            | Kind::Internal => false,
        }
    }
}
