//! What an operator may set: the section `ai` of the configuration.

use std::time::Duration;

use isocenter_runtime::{config::Period, retry::Schedule};
use serde::{Deserialize, Serialize};

use crate::{Error, plan::breaker::Tolerance};

/// The section `ai`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How often a service is called for one task before the task fails; calls whose dispatcher died are not failures.
    pub max_attempts: u32,
    /// How long a dispatcher's claim on a task holds: after it another one may call the service, and the token for pixels
    /// is dead. A service fetches pixels first, so that this need not be as long as an analysis.
    pub claim: Period,
    /// The longest wait after a first failed call; each further one doubles it.
    pub first_retry: Period,
    /// The longest wait between two calls.
    pub max_retry: Period,
    /// How long what a service says of itself is believed before it is asked again.
    pub describe: Period,
    /// When a service that keeps failing is left alone. Each process judges for itself.
    pub breaker: Breaker,
}

/// The section `ai.breaker`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// How many failed calls in a row open it.
    pub failures: u32,
    /// How long no call is made then; after that one call shows whether the service is well.
    pub open: Period,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 5, open: Period(Duration::from_secs(30)) }
    }
}

impl Default for Config {
    fn default() -> Self {
        let seconds = |s| Period(Duration::from_secs(s));
        Self {
            max_attempts: 3,
            claim: seconds(2 * 60),
            first_retry: seconds(1),
            max_retry: seconds(30),
            describe: seconds(5 * 60),
            breaker: Breaker::default(),
        }
    }
}

impl Config {
    /// Checks what the types cannot.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |field, why| Err(Error::Config { field, why });
        if self.max_attempts == 0 {
            return wrong("max_attempts", "is zero: no service would ever be called");
        }
        if self.claim.0.is_zero() {
            return wrong("claim", "is zero: no token for pixels would ever be valid");
        }
        if self.first_retry.0.is_zero() {
            return wrong("first_retry", "is zero: a service that fails would be called without pause");
        }
        if self.first_retry > self.max_retry {
            return wrong("first_retry", "is longer than max_retry");
        }
        if self.describe.0.is_zero() {
            return wrong("describe", "is zero: services would be asked without pause");
        }
        if self.breaker.failures == 0 {
            return wrong("breaker.failures", "is zero: no service would ever be called");
        }
        if self.breaker.open.0.is_zero() {
            return wrong("breaker.open", "is zero: a service that fails would be called without pause");
        }
        Ok(())
    }

    pub(crate) const fn tolerance(&self) -> Tolerance {
        Tolerance { failures: self.breaker.failures, open: self.breaker.open.0 }
    }

    /// When a call that failed is made again.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        Schedule::new(self.first_retry.0, self.max_retry.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_makes_sense_and_what_does_not_is_named() {
        assert!(Config::default().check().is_ok());
        let zero = Period(Duration::ZERO);
        for (config, message) in [
            (Config { max_attempts: 0, ..Config::default() }, "ai.max_attempts is zero"),
            (Config { claim: zero, ..Config::default() }, "ai.claim is zero"),
            (Config { first_retry: zero, ..Config::default() }, "ai.first_retry is zero"),
            (Config { max_retry: zero, ..Config::default() }, "ai.first_retry is longer"),
            (Config { describe: zero, ..Config::default() }, "ai.describe is zero"),
            (
                Config { breaker: Breaker { failures: 0, ..Breaker::default() }, ..Config::default() },
                "ai.breaker.failures is zero",
            ),
            (
                Config { breaker: Breaker { open: zero, ..Breaker::default() }, ..Config::default() },
                "ai.breaker.open is zero",
            ),
        ] {
            let refused = config.check().unwrap_err().to_string();
            assert!(refused.starts_with(message), "{refused}");
        }
    }
}
