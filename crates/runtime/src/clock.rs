//! Time, passed in.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use isocenter_domain::Time;
use parking_lot::Mutex;

/// Where the time comes from. Records use [`Clock::now`]; leases and back-off use [`Clock::monotonic`].
pub trait Clock: Send + Sync + 'static {
    /// The wall clock, UTC.
    fn now(&self) -> Time;
    /// A clock that never goes back.
    fn monotonic(&self) -> Instant;
}

/// The machine's own clocks.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

#[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clocks")]
impl Clock for SystemClock {
    fn now(&self) -> Time {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Time::ZERO.plus(since)
    }

    fn monotonic(&self) -> Instant {
        Instant::now()
    }
}

/// The machine's clock, shared.
#[must_use]
pub fn system() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// A clock that goes only where it is told, and, if made so, with tokio's paused time. Clones are the same clock.
///
/// Time in tests is virtual: this clock decides what a record says, tokio's decides which timer fires.
/// [`TestClock::paused`] keeps the two together.
#[derive(Debug, Clone)]
pub struct TestClock(Arc<TestTime>);

#[derive(Debug)]
struct TestTime {
    start: Instant,
    set: Mutex<(Time, Duration)>,
    tokio: Option<tokio::time::Instant>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "the origin of a virtual clock; nothing is decided by its value"
)]
impl TestClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn new(now: Time) -> Self {
        Self(Arc::new(TestTime {
            start: Instant::now(),
            set: Mutex::new((now, Duration::ZERO)),
            tokio: None,
        }))
    }

    /// A clock that shows `now` and advances with tokio's clock: with its paused time in a
    /// `#[tokio::test(start_paused = true)]`, where it must be made.
    #[must_use]
    pub fn paused(now: Time) -> Self {
        let tokio = Some(tokio::time::Instant::now());
        Self(Arc::new(TestTime { start: Instant::now(), set: Mutex::new((now, Duration::ZERO)), tokio }))
    }

    /// The same clock, as what takes a clock wants it.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn Clock> {
        Arc::new(self.clone())
    }

    /// Moves both clocks ahead by `d`. Timers of tokio do not notice: `tokio::time::advance` moves those.
    pub fn advance(&self, d: Duration) {
        let mut set = self.0.set.lock();
        set.0 = set.0.plus(d);
        set.1 = set.1.saturating_add(d);
    }

    /// Sets the wall clock, back or ahead, as an operator or NTP may; the monotonic one stays.
    pub fn set(&self, now: Time) {
        let elapsed = self.elapsed();
        self.0.set.lock().0 = now.minus(elapsed);
    }

    fn elapsed(&self) -> Duration {
        self.0.tokio.map_or(Duration::ZERO, |start| tokio::time::Instant::now().duration_since(start))
    }
}

impl Clock for TestClock {
    fn now(&self) -> Time {
        let elapsed = self.elapsed();
        self.0.set.lock().0.plus(elapsed)
    }

    fn monotonic(&self) -> Instant {
        let elapsed = self.elapsed();
        self.0.start + self.0.set.lock().1 + elapsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_clock_goes_where_it_is_told() {
        let clock = TestClock::new(Time(5));
        let before = clock.monotonic();
        clock.advance(Duration::from_micros(3));
        assert_eq!(clock.now(), Time(8));
        clock.set(Time(1));
        assert_eq!(clock.now(), Time(1));
        assert_eq!(clock.monotonic() - before, Duration::from_micros(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_follows_tokio() {
        let clock = TestClock::paused(Time::ZERO);
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(clock.now(), Time::ZERO.plus(Duration::from_secs(7)));
        clock.set(Time(3));
        assert_eq!(clock.now(), Time(3));
    }
}
