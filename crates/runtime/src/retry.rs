//! The one retry schedule.

use std::time::Duration;

use isocenter_domain::Time;

use crate::random;

/// When to try again: after `first`, then each time twice as long up to `max`, each delay drawn from its upper half.
///
/// Pure: the draw follows from the attempt and the time, so the same log under the same clock gives the same times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The longest delay after the first failure.
    pub first: Duration,
    /// The longest delay ever.
    pub max: Duration,
    /// How long after the first attempt no further one is made; `None`: never gives up.
    pub give_up_after: Option<Duration>,
}

impl Schedule {
    /// A schedule that never gives up.
    #[must_use]
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, give_up_after: None }
    }

    /// The same schedule, given up `after` the first attempt.
    #[must_use]
    pub const fn give_up_after(self, after: Duration) -> Self {
        Self { give_up_after: Some(after), ..self }
    }

    /// The delay after failure number `attempt` (from 1) before its jitter.
    #[must_use]
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let doubled = 2_u32.checked_pow(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(doubled).min(self.max)
    }

    /// When to try again after failure number `attempt` (from 1), which happened at `now`.
    #[must_use]
    pub fn next(&self, attempt: u32, now: Time) -> Time {
        // The finalizer of SplitMix64: neighbouring times give unrelated draws.
        let mut draw = now.0.cast_unsigned() ^ (u64::from(attempt) << 56);
        draw = (draw ^ (draw >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        draw = (draw ^ (draw >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        now.plus(random::spread(self.ceiling(attempt), draw ^ (draw >> 31)))
    }

    /// Whether to give up at `now` what was first tried at `started`.
    #[must_use]
    pub fn gives_up(&self, started: Time, now: Time) -> bool {
        self.give_up_after.is_some_and(|after| now.since(started) >= after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_lie_in_their_upper_half() {
        let schedule = Schedule::new(Duration::from_secs(5), Duration::from_secs(300));
        let ceilings: Vec<u64> = (1..9).map(|n| schedule.ceiling(n).as_secs()).collect();
        assert_eq!(ceilings, [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(schedule.ceiling(u32::MAX), schedule.max);
        for attempt in 1..50 {
            let now = Time(i64::from(attempt) * 1_000_003);
            let delay = schedule.next(attempt, now).since(now);
            let ceiling = schedule.ceiling(attempt);
            assert!(delay >= ceiling / 2 && delay <= ceiling, "{attempt}: {delay:?}");
            assert_eq!(schedule.next(attempt, now), schedule.next(attempt, now));
        }
        assert_ne!(schedule.next(1, Time(1)).since(Time(1)), schedule.next(1, Time(2)).since(Time(2)));
    }

    #[test]
    fn giving_up_is_measured_from_the_first_attempt() {
        let schedule = Schedule::new(Duration::from_secs(1), Duration::from_secs(1));
        assert!(!schedule.gives_up(Time::ZERO, Time(i64::MAX)));
        let schedule = schedule.give_up_after(Duration::from_secs(60));
        assert!(!schedule.gives_up(Time(0), Time(59_999_999)));
        assert!(schedule.gives_up(Time(0), Time(60_000_000)));
    }
}
