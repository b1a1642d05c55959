//! Time, passed in.

use std::{sync::Arc, time::Instant};

use isocenter_domain::Time;

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
