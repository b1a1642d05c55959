//! The vocabulary and the rules of Isocenter: typed ids, records, their lives, and who may do what.
//!
//! Everything here is pure: no I/O, no clock, no randomness. A caller passes the time in; the same inputs give
//! the same outputs for ever, which is what makes decisions replayable.

pub mod access;
pub mod document;
pub mod error;
pub mod id;
pub mod key;
pub mod phi;
pub mod record;
pub mod refs;
pub mod stage;
pub mod states;
pub mod time;

pub use error::{Kind, Kinded};
pub use phi::Phi;
pub use time::Time;
