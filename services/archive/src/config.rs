//! What an operator may set: the section `archive` of the configuration.

use std::time::Duration;

use isocenter_runtime::config::Period;
use serde::{Deserialize, Serialize};

use crate::Error;

/// The section `archive`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long after a journal object the next one of the same shard is written. The first event of a quiet shard is
    /// journaled at once.
    pub journal_interval: Period,
    /// How long nothing about a delivered case may have changed before it is closed.
    pub close_after: Period,
    /// The same for a study that nobody reads.
    pub close_unread_after: Period,
    /// A study that is received for longer than this is listed as overdue; a site's own bound wins. Ingestion's setting,
    /// which the process copies here.
    #[serde(skip)]
    pub max_assembly: Period,
    /// A report that is not accepted for longer than this is listed as overdue. Report delivery's setting, which the process
    /// copies here.
    #[serde(skip)]
    pub page_after: Period,
    /// What changed within this time is under way and not yet compared with what should follow from it.
    pub settle: Period,
}

impl Default for Config {
    fn default() -> Self {
        let seconds = |s| Period(Duration::from_secs(s));
        Self {
            journal_interval: seconds(1),
            close_after: seconds(60 * 60),
            close_unread_after: seconds(60 * 60),
            max_assembly: seconds(30 * 60),
            page_after: seconds(15 * 60),
            settle: seconds(10),
        }
    }
}

impl Config {
    /// Checks what the types cannot.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.journal_interval.0 > Duration::from_secs(60) {
            let why = "is longer than a minute: the records would lag behind what happens";
            return Err(Error::Config { field: "journal_interval", why });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_section_is_the_default_and_a_wrong_one_names_the_field() {
        let read = |text: &str| serde_saphyr::from_str::<Config>(text);
        assert_eq!(read("{}").unwrap(), Config::default());
        assert!(Config::default().check().is_ok());
        assert!(read("{close: 1h}").is_err());
        let slow = read("{journal_interval: 1h}").unwrap().check().unwrap_err().to_string();
        assert!(slow.starts_with("archive.journal_interval is longer"), "{slow}");
    }
}
