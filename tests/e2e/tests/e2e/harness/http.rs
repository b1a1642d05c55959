//! What a process tells over HTTP.

use std::{net::SocketAddr, time::Duration};

use isocenter_testkit::http_get;

/// Longer than this for an answer, and it is none: for a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(10);

/// The status and the body that `path` answers; `None` where nobody answers.
pub async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    http_get(address, path, PATIENCE).await
}

/// The value of a sample of `/metrics`, named with its labels as it is written there.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}
