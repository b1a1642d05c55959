//! Keys and ranges of keys.

use std::{fmt, str::FromStr, sync::Arc};

use crate::Error;

/// The longest key, in bytes. Keys reach logs and metrics, and etcd keeps all of them in memory.
pub const MAX_KEY_BYTES: usize = 512;

/// A key: segments of printable ASCII without spaces, separated by `/`. Never holds a patient's identity. Cheap to
/// clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// Checks a key.
    ///
    /// # Errors
    /// [`Error::InvalidKey`] where the key is empty, longer than [`MAX_KEY_BYTES`], has an empty segment, or a byte
    /// outside `!` to `~`.
    pub fn new(key: impl AsRef<str>) -> Result<Self, Error> {
        let key = key.as_ref();
        check_bytes(key)?;
        // Each key that is read comes through here: a look at each pair of bytes is the fastest way to find an empty segment.
        let bytes = key.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        if ends.iter().any(|end| end.is_none_or(|byte| *byte == b'/'))
            || bytes.windows(2).any(|pair| pair == b"//")
        {
            return Err(Error::InvalidKey { why: "it is empty or has an empty segment" });
        }
        Ok(Self(key.into()))
    }

    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key's segments.
    pub fn segments(&self) -> std::str::Split<'_, char> {
        self.0.split('/')
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Key {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        Self::new(s)
    }
}

impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The beginning of keys, usually ending in `/`. The empty prefix begins every key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(String);

impl Prefix {
    /// Checks a prefix.
    ///
    /// # Errors
    /// [`Error::InvalidKey`] where the prefix is longer than [`MAX_KEY_BYTES`] or has a byte outside `!` to `~`.
    pub fn new(prefix: impl Into<String>) -> Result<Self, Error> {
        let prefix = prefix.into();
        check_bytes(&prefix)?;
        Ok(Self(prefix))
    }

    /// The prefix's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Key> for Prefix {
    fn from(key: Key) -> Self {
        Self(key.0.to_string())
    }
}

fn check_bytes(s: &str) -> Result<(), Error> {
    if s.len() > MAX_KEY_BYTES {
        return Err(Error::InvalidKey { why: "it is longer than 512 bytes" });
    }
    if !s.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Error::InvalidKey { why: "it has a byte that is not printable ASCII" });
    }
    Ok(())
}

/// A set of keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Range {
    /// One key.
    Key(Key),
    /// Every key that begins so.
    Prefix(Prefix),
    /// Every key between two bounds.
    Span(Span),
}

/// Every key `k` with `from <= k < to`, as bytes compare; never an empty interval, which etcd refuses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    from: Prefix,
    to: Prefix,
}

impl Range {
    /// The range of one key.
    #[must_use]
    pub fn key(key: &Key) -> Self {
        Self::Key(key.clone())
    }

    /// The range of a prefix.
    ///
    /// # Errors
    /// As [`Prefix::new`].
    pub fn prefix(prefix: impl Into<String>) -> Result<Self, Error> {
        Prefix::new(prefix).map(Self::Prefix)
    }

    /// The keys `k` with `from <= k < to`.
    ///
    /// # Errors
    /// As [`Prefix::new`], and where `to` is not after `from`.
    pub fn span(from: impl Into<String>, to: impl Into<String>) -> Result<Self, Error> {
        let (from, to) = (Prefix::new(from)?, Prefix::new(to)?);
        if to <= from {
            return Err(Error::InvalidKey { why: "the end of the span is not after its beginning" });
        }
        Ok(Self::Span(Span { from, to }))
    }

    /// Every key of the store.
    #[must_use]
    pub fn all() -> Self {
        Self::Prefix(Prefix::default())
    }

    /// Whether a key belongs to the range.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        match self {
            Self::Key(k) => k == key,
            Self::Prefix(p) => key.0.starts_with(&p.0),
            Self::Span(Span { from, to }) => *from.0 <= *key.0 && *key.0 < *to.0,
        }
    }

    /// The first key that may belong, and the first key after it that does not (`None`: the range has no end).
    pub(crate) fn bounds(&self) -> (String, Option<String>) {
        match self {
            // A key's successor in byte order is the key with a zero byte appended.
            Self::Key(k) => (k.0.to_string(), Some(format!("{}\0", k.0))),
            Self::Prefix(p) => (p.0.clone(), prefix_end(&p.0)),
            Self::Span(Span { from, to }) => (from.0.clone(), Some(to.0.clone())),
        }
    }
}

/// The first string after everything that begins with `prefix`: the last byte plus one. Printable ASCII ends at `~`,
/// so that the sum is always ASCII too.
fn prefix_end(prefix: &str) -> Option<String> {
    let (last, head) = prefix.as_bytes().split_last()?;
    let mut end = String::from_utf8_lossy(head).into_owned();
    end.push(char::from(last + 1));
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_no_empty_segment_space_or_control_byte() {
        for bad in ["", "/a", "a/", "a//b", "a b", "a\n", "ä", &"x".repeat(513)] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "study/0f/t/1.2.3", "~/!", &"x".repeat(512)] {
            assert!(Key::new(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn bounds_agree_with_contains() {
        let keys = ["a", "a/b", "a/b/c", "a~", "a~/x", "b", "~", "~/z"].map(|k| Key::new(k).unwrap());
        let ranges = ["", "a", "a/", "a/b", "a~", "~"].map(|p| Range::prefix(p).unwrap());
        for range in ranges.iter().chain(&[Range::key(&keys[1])]) {
            let (from, to) = range.bounds();
            for key in &keys {
                let inside = *from <= *key.0 && to.as_ref().is_none_or(|to| *key.0 < **to);
                assert_eq!(inside, range.contains(key), "{range:?} {key}");
            }
        }
    }
}
