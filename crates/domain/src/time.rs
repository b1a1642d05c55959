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

    /// Whether a wait that began at this instant is over at `now`. An instant that is further ahead than the wait, and than
    /// `ahead`, was written by a clock that had jumped: it says nothing, and nobody waits for it to come true.
    #[must_use]
    pub fn is_over(self, wait: Duration, ahead: Duration, now: Self) -> bool {
        now >= self.plus(wait) || self > now.plus(wait.max(ahead))
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

    #[test]
    fn a_wait_is_over_in_time_or_where_it_began_too_far_ahead_to_be_believed() {
        let over = |since, wait, ahead| {
            Time(since).is_over(Duration::from_micros(wait), Duration::from_micros(ahead), Time(100))
        };
        for (wait, ahead, believed) in [(10, 0, 110), (10, 50, 150), (0, 50, 150)] {
            let last = 100 - i64::try_from(wait).unwrap();
            assert!(over(last, wait, ahead) && !over(last + 1, wait, ahead));
            assert!(!over(believed, wait, ahead) && over(believed + 1, wait, ahead));
        }
        assert!(over(100, 0, 0) && over(101, 0, 0));
    }
}
