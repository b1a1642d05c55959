//! What every process needs beside its job: configuration, telemetry, shutdown, readiness, the clock, the file
//! seam, the principal, the tower stacks and the table from error kinds to gRPC status.
//!
//! This is the one crate where the wall clock, randomness and `tokio::spawn` live.

pub mod clock;
pub mod config;
pub mod fs;
pub mod metrics;
pub mod nodes;
pub mod principal;
pub mod random;
pub mod readiness;
pub mod retry;
pub mod secret;
pub mod server;
pub mod shutdown;
pub mod status;
pub mod task;
pub mod telemetry;
pub mod tls;
