//! Whole networks over days: arrivals, AI, readers on shift, and a policy that assigns. The engine is one of the policies.

mod check;
pub mod scenario;
mod text;
mod workload;

pub use workload::{Reader, Study, Workload};
