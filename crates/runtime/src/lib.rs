//! What every process needs beside its job: configuration, telemetry, shutdown, readiness, the clock, the file
//! seam, the principal, the tower stacks and the table from error kinds to gRPC status.
//!
//! This is the one crate where the wall clock, randomness and `tokio::spawn` live.

pub mod clock;
pub mod fs;
pub mod random;
pub mod shutdown;
pub mod task;
