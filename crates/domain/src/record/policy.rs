//! Which policy text is active. Owner: routing. The text is in blobs.

use super::Record;
use crate::{key::PolicyKey, refs::Digest, time::Time};

/// The active version of a named policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivePolicy {
    /// The text, by hash.
    pub text: Digest,
    /// Who activated it.
    pub applied_by: String,
    /// When.
    pub applied_at: Time,
}

impl Record for ActivePolicy {
    type Key = PolicyKey;
}
