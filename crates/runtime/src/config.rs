//! Configuration: plain data from a YAML file, with durations and sizes as people write them.
//!
//! The order flag, environment, file, default is the binary's; this module reads the file.

use std::{fmt, fs, io, path::Path, str::FromStr, time::Duration};

use isocenter_domain::{Kind, Kinded};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: cannot be read")]
    Unreadable {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file says something that is not a configuration; `detail` has line, column and the lines around.
    #[error("{path}: {detail}")]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong and where.
        detail: String,
    },
}

impl Kinded for ConfigError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unreadable { .. } | Self::Invalid { .. } => Kind::Invalid,
        }
    }
}

/// Reads a YAML file into `T`, which refuses unknown keys by `#[serde(deny_unknown_fields)]`. An empty file is `T` of
/// an empty mapping.
///
/// # Errors
/// [`ConfigError`], with line and column.
pub fn load_yaml<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let name = path.display().to_string();
    let text =
        fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: name.clone(), source })?;
    let blank = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    let parsed = serde_saphyr::from_str(if blank { "{}" } else { &text });
    parsed.map_err(|e| ConfigError::Invalid { path: name, detail: e.to_string() })
}

/// Text that is not a duration or a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

impl Malformed {
    /// With the sentence that says what was wanted.
    pub(crate) const fn new(wanted: &'static str) -> Self {
        Self(wanted)
    }
}

/// A duration written as whole numbers with units `ms`, `s`, `m`, `h`, `d`, largest first: `10s`, `5m`, `1h30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// A size in bytes written as a whole number and `B`, `KiB`, `MiB`, `GiB` or `TiB`: `128KiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Milliseconds of each unit, largest first.
const PERIODS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Bytes of each unit, largest first.
const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// The number and the unit at the start of `text`, and what follows.
fn quantity(text: &str) -> Option<(u64, &str, &str)> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, rest) = text.split_at(unit);
    let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    Some((number.parse().ok()?, unit, rest))
}

impl FromStr for Period {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        const WANTED: Malformed =
            Malformed("not a duration: write whole numbers with ms, s, m, h or d, such as 10s or 1h30m");
        let (mut rest, mut millis, mut last) = (text.trim(), 0_u64, u64::MAX);
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        loop {
            let (number, unit, after) = quantity(rest).ok_or(WANTED)?;
            let (_, size) = PERIODS.iter().find(|(name, _)| *name == unit).ok_or(WANTED)?;
            if *size >= last {
                return Err(WANTED);
            }
            let part = number.checked_mul(*size).ok_or(WANTED)?;
            millis = millis.checked_add(part).ok_or(WANTED)?;
            (rest, last) = (after, *size);
            if rest.is_empty() {
                return Ok(Self(Duration::from_millis(millis)));
            }
        }
    }
}

impl FromStr for Size {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        const WANTED: Malformed =
            Malformed("not a size: write a whole number with B, KiB, MiB, GiB or TiB, such as 128KiB");
        let (number, unit, rest) = quantity(text.trim()).ok_or(WANTED)?;
        let (_, size) = SIZES.iter().find(|(name, _)| *name == unit).ok_or(WANTED)?;
        let bytes = number.checked_mul(*size).ok_or(WANTED)?;
        if rest.is_empty() { Ok(Self(bytes)) } else { Err(WANTED) }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, size) in PERIODS {
            if left >= size {
                write!(f, "{}{unit}", left / size)?;
                left %= size;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = SIZES.iter().find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size));
        let (unit, size) = whole.unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / size)
    }
}

impl From<Period> for Duration {
    fn from(period: Period) -> Self {
        period.0
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_and_written_back() {
        for text in ["10s", "5m", "1d", "1h30m", "250ms", "1m1s1ms", "0s"] {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), text);
        }
        assert_eq!("24h".parse::<Period>().unwrap().0, Duration::from_secs(86_400));
        for text in ["128KiB", "5GiB", "1000B", "0B"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        for bad in ["", "10", "s", "10 s", "-1s", "1s1m", "1s1s", "1.5h", "99999999999999999999s", "ms1"] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
        for bad in ["", "10", "KiB", "1KB", "1MiB1KiB", "18446744073709551615KiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Sample {
        quiet: Period,
        pdu: Size,
    }
    impl Default for Sample {
        fn default() -> Self {
            Self { quiet: Period(Duration::from_secs(10)), pdu: Size(1) }
        }
    }

    fn load(text: &str) -> Result<Sample, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        fs::write(&path, text).unwrap();
        load_yaml(&path)
    }

    #[test]
    fn a_file_is_read_over_the_defaults() {
        assert_eq!(load("pdu: 128KiB\n").unwrap(), Sample { pdu: Size(131_072), ..Sample::default() });
        assert_eq!(load("# nothing yet\n").unwrap(), Sample::default());
    }

    #[test]
    fn errors_name_file_line_and_column() {
        let unknown = load("quiet: 5s\nquite: 5s\n").unwrap_err().to_string();
        assert!(
            unknown.contains("config.yaml") && unknown.contains("quite") && unknown.contains("line 2"),
            "{unknown}"
        );
        let malformed = load("quiet: 5s\npdu: 12 potatoes\n").unwrap_err().to_string();
        assert!(malformed.contains("line 2") && malformed.contains("not a size"), "{malformed}");
        assert!(matches!(
            load_yaml::<Sample>(Path::new("/nonexistent")),
            Err(ConfigError::Unreadable { .. })
        ));
    }
}
