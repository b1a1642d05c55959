//! Whole networks over days: arrivals, AI, readers on shift, and a policy that assigns. The engine is one of the policies.

pub mod scenario;
mod text;
