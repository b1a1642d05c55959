//! What an operator may set for this role: nothing. What routing decides by is the network's policy and its registry,
//! which are changed while it runs.

use serde::{Deserialize, Serialize};

/// The section of this role: empty, and refused with anything in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_nothing_to_set() {
        assert_eq!(serde_saphyr::from_str::<Config>("{}").unwrap(), Config {});
        assert!(serde_saphyr::from_str::<Config>("{policy: default.yaml}").is_err());
    }
}
