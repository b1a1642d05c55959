//! What the tests stand on: the binary, a server of it in a folder of its own, and a network around it.

mod bench;
mod binary;
mod files;
mod http;
mod python;
mod relay;
mod server;

use std::time::Duration;

pub use bench::{Bench, registry};
pub use binary::{Ran, isocenter, program};
pub use files::{data_sets, files_below, pydicom_folder};
pub use http::{get, metric};
pub use python::{fixture, python};
pub use relay::Relay;
pub use server::{Server, exited};

/// How long a test waits for what should take a second or two: long, because other tests share the machine, and because
/// nobody waits for it unless the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the tests' own tenant is called: the one that callers on loopback have by default.
pub const TENANT: &str = "default";
