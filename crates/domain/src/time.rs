//! Instants as the records hold them.

use std::time::Duration;

/// An instant: microseconds since 1970-01-01T00:00:00Z, by our clock (never the modality's).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

impl Time {
    /// The epoch; also "never" where a record says so.
    pub const ZERO: Self = Self(0);

    /// The instant `d` later, saturating.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(micros(d)))
    }

    /// The instant `d` earlier, saturating.
    #[must_use]
    pub fn minus(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(micros(d)))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

fn micros(d: Duration) -> i64 {
    i64::try_from(d.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_and_never_goes_negative() {
        let t = Time(5);
        assert_eq!(t.plus(Duration::MAX), Time(i64::MAX));
        assert_eq!(t.since(Time(9)), Duration::ZERO);
        assert_eq!(Time(9).since(t), Duration::from_micros(4));
        assert_eq!(t.minus(Duration::from_micros(2)), Time(3));
    }
}
