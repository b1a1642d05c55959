//! The peers of a network, for the demo and for networks' own integration tests: whoever sends studies, analyses
//! them, reads them and takes the reports.
//!
//! Everything here speaks the same protocols as the real peer would, on its own port, and knows nothing of Isocenter's
//! store or services.

pub mod directory;
pub mod sample;
pub mod study;
pub mod synthetic;
