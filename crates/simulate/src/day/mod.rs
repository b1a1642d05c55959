//! Whole networks over days: arrivals, AI, readers on shift, and a policy that assigns. The engine is one of the policies.

mod check;
mod compare;
mod metrics;
mod policy;
pub mod replay;
pub mod scenario;
pub mod skeleton;
mod text;
mod workload;
mod world;

pub use compare::{Comparison, Difference, Plan, PolicyResult, Weights, run};
pub(crate) use metrics::Charts;
pub use metrics::{ClassOutcome, Observed, Outcome, Spread, observe};
pub use policy::{Counts, Kind, UnknownPolicy};
pub use scenario::{Scenario, ScenarioError};
pub use workload::{Reader, Study, Workload};

#[cfg(test)]
mod tests;
