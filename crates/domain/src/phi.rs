//! Patient identity, marked so that it cannot be printed by accident.

use std::fmt;

/// A value that identifies a patient. `Debug` and `Display` print `[phi]`; the value is had only by [`Phi::reveal`].
///
/// PHI lives in blobs and records (SQL) only; never in keys, store values, logs, metrics or traces.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Phi<T>(T);

impl<T> Phi<T> {
    /// Marks `value` as patient identity.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, for the edge that must write it into a message or a file.
    pub const fn reveal(&self) -> &T {
        &self.0
    }

    /// The value itself, consuming the mark.
    pub fn into_revealed(self) -> T {
        self.0
    }
}

impl<T> fmt::Debug for Phi<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[phi]")
    }
}

impl<T> fmt::Display for Phi<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[phi]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phi_never_prints_its_value() {
        let name = Phi::new("DOE^JANE".to_owned());
        assert_eq!(format!("{name} {name:?} {:?}", Some(&name)), "[phi] [phi] Some([phi])");
    }
}
