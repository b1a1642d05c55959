//! What the process configuration says of this role.

use std::time::Duration;

use isocenter_runtime::config::Period;
use serde::{Deserialize, Serialize};

/// How long offers and presence last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long an offer stands before the read goes back to the queue.
    pub offer: Period,
    /// How long a reader counts as present after a sign of life. A workstation sends one at least every third of it.
    pub presence: Period,
}

impl Default for Config {
    fn default() -> Self {
        Self { offer: Period(Duration::from_secs(60)), presence: Period(Duration::from_secs(30)) }
    }
}
