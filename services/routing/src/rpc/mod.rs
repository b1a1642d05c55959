//! `isocenter.v1.Routing` and `isocenter.v1.Registry`.

mod entry;
mod explain;
mod reader;
pub(crate) mod registry;
pub(crate) mod routing;

use isocenter_domain::{
    Kind,
    access::{Action, Principal},
    id::{Id, IdKind},
};
use isocenter_runtime::{
    principal::{authorized, principal},
    status::Answer,
};
use tonic::{Request, Status};

/// The longest request id. It is kept in the record.
const REQUEST_ID_LIMIT: usize = 128;
/// How often a change is decided again after losing to another one.
const TRIES: usize = 5;

/// The caller, who acts in their own tenant only.
fn allowed<T>(request: &Request<T>, action: &Action) -> Result<Principal, Status> {
    let tenant = principal(request)?.tenant;
    authorized(request, action, &tenant)
}

/// An identifier of a request's field.
fn id<K: IdKind>(text: &str, field: &str) -> Result<Id<K>, Status> {
    Id::new(text).map_err(|e| Answer::invalid(field, e.to_string()).status())
}

fn request_id(text: &str) -> Result<(), Status> {
    if text.is_empty() || text.len() > REQUEST_ID_LIMIT {
        return Err(Answer::invalid("request_id", "has 1 to 128 characters").status());
    }
    Ok(())
}

/// Whether a change that failed so is worth deciding again: somebody else was first, or the answer was lost.
const fn lost(kind: Kind) -> bool {
    matches!(kind, Kind::Conflict | Kind::Unknown)
}
