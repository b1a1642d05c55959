//! What an operator may set: the section `delivery` of the configuration.

use std::time::Duration;

use isocenter_runtime::{config::Period, retry::Schedule};
use serde::{Deserialize, Serialize};

use crate::Error;

/// The section `delivery`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long connecting, and how long the answer to a message, may take; each.
    pub hl7_ack_timeout: Period,
    /// How long a report that its receiver fetched may stay unacknowledged before it is handed out again.
    pub acknowledge_within: Period,
    /// The longest wait after a first attempt that was not accepted; each further one doubles it.
    pub first_retry: Period,
    /// The longest wait between two attempts.
    pub max_retry: Period,
    /// A delivery that is not accepted this long after it was made is counted as overdue, for somebody to be paged.
    pub page_after: Period,
    /// After this long without being accepted a delivery becomes a dead letter.
    pub dead_letter_after: Period,
}

impl Default for Config {
    fn default() -> Self {
        let seconds = |s| Period(Duration::from_secs(s));
        Self {
            hl7_ack_timeout: seconds(10),
            acknowledge_within: seconds(60),
            first_retry: seconds(5),
            max_retry: seconds(5 * 60),
            page_after: seconds(15 * 60),
            dead_letter_after: seconds(72 * 60 * 60),
        }
    }
}

impl Config {
    /// Checks what the types cannot.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |field, why| Err(Error::Config { field, why });
        if self.hl7_ack_timeout.0.is_zero() {
            return wrong("hl7_ack_timeout", "is zero: nothing could be answered in time");
        }
        if self.acknowledge_within.0.is_zero() {
            return wrong("acknowledge_within", "is zero: no report could be acknowledged in time");
        }
        if self.first_retry.0.is_zero() {
            return wrong("first_retry", "is zero: a receiver that refuses would be asked without pause");
        }
        if self.first_retry > self.max_retry {
            return wrong("first_retry", "is longer than max_retry");
        }
        Ok(())
    }

    /// When what was not accepted is sent again, and when it is given up.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        Schedule::new(self.first_retry.0, self.max_retry.0).give_up_after(self.dead_letter_after.0)
    }

    /// How long an attempt may take, from its claim on: connecting, the answer, and the application's answer after a
    /// commit answer.
    #[must_use]
    pub fn attempt(&self) -> Duration {
        self.hl7_ack_timeout.0.saturating_mul(3)
    }

    /// How long a claim holds: longer than an attempt, so that a sender has closed its connection before anybody else
    /// may send, also where two machines' clocks differ by an ack timeout.
    #[must_use]
    pub fn claim(&self) -> Duration {
        self.hl7_ack_timeout.0.saturating_mul(4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_section_is_the_default_and_a_wrong_one_names_the_field() {
        let read = |text: &str| serde_saphyr::from_str::<Config>(text);
        assert_eq!(read("{}").unwrap(), Config::default());
        let given = read("{hl7_ack_timeout: 1s, first_retry: 2s, max_retry: 1m}").unwrap();
        assert_eq!((given.claim(), given.attempt()), (Duration::from_secs(4), Duration::from_secs(3)));
        assert!(given.check().is_ok());
        assert!(read("{retries: 3}").is_err());
        for (text, message) in [
            ("{hl7_ack_timeout: 0}", "delivery.hl7_ack_timeout is zero: nothing could be answered in time"),
            (
                "{acknowledge_within: 0}",
                "delivery.acknowledge_within is zero: no report could be acknowledged in time",
            ),
            ("{first_retry: 1h}", "delivery.first_retry is longer than max_retry"),
        ] {
            assert_eq!(read(text).unwrap().check().unwrap_err().to_string(), message);
        }
    }
}
