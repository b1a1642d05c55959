//! The simulator: the engine's own code before the queues of theory and before whole networks.
//!
//! [`queue`] is judged by closed forms, [`day`] by paired comparison with other ways of assigning. Everything is drawn from a
//! seed that is passed in; nothing reads a clock.

pub mod day;
pub mod queue;
pub mod random;
pub mod report;
pub mod stats;

/// The engine's parameters as they are tuned: those of the live service.
#[must_use]
pub fn params() -> isocenter_assign::Params {
    isocenter_assign::Params::default()
}
