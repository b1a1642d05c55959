//! The order of the queue and who may read what.
//!
//! Two questions are kept apart. *Who may* is answered by [`filter`]: hard filters, each with a name, never weighed
//! against urgency. *What matters most* is answered by [`Queue`]: how fast the cost of a read's delay rises for each
//! minute that reading it takes, with a front lane so that nothing starves. Nothing is bound early: a reader who asks
//! gets the first read in order that they may have.
//! Pure: the time is passed in, and the same items, pulls and times give the same answers for ever.

mod absurd;
pub mod estimate;
mod explain;
pub mod filter;
mod idle;
mod interned;
mod item;
mod measure;
pub mod next_up;
mod order;
pub mod overflow;
mod params;
mod queue;
mod reader;
pub mod shortage;

pub use absurd::Absurd;
pub use estimate::{Estimates, Exam, Observation, Prior};
pub use explain::{Explanation, Parked, Term, Verdict};
pub use filter::Rejection;
pub use idle::{Idle, choose_idle, flexibility};
pub use item::{Exclusion, Item, Needs, Urgency};
pub use measure::{Ppm, Work};
pub use order::{Index, Lane, Rank};
pub use params::{Params, Patience, Recall};
pub use queue::Queue;
pub use reader::{Capacity, Duty, Holding, Load, ReaderProfile, Sites, Skill};
