//! The order of the queue and who may read what.
//!
//! Two questions are kept apart. *Who may* is answered by [`filter`]: hard filters, each with a name, never weighed
//! against urgency. *Who waits longest for their urgency* is answered by [`Queue`]: the front lane first, then the
//! virtual deadline. Nothing is bound early: a reader who asks gets the first read in order that they may have.
//! Pure: the time is passed in, and the same items, reader and time give the same answer for ever.

pub mod filter;
mod item;
mod order;
mod queue;
mod reader;

pub use filter::Rejection;
pub use item::{Item, Needs};
pub use order::{FRONT_LANE_PERCENT, Lane};
pub use queue::{Explanation, Parked, Queue, Term, Verdict};
pub use reader::{Holding, ReaderProfile, Sites, Skill};
