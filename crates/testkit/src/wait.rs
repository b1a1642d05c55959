//! Waiting for what a test expects, instead of for a time.

use std::{future::Future, time::Duration};

/// How often the predicate is asked: often enough that a test loses little, rarely enough to leave the machine alone.
const INTERVAL: Duration = Duration::from_millis(10);

/// Asks `ready` until it answers true.
///
/// # Panics
/// After `timeout`, naming `what` was waited for.
pub async fn wait_for<F>(what: &str, timeout: Duration, mut ready: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let waiting = async {
        while !ready().await {
            tokio::time::sleep(INTERVAL).await;
        }
    };
    if tokio::time::timeout(timeout, waiting).await.is_err() {
        panic!("waited {timeout:?} in vain for {what}");
    }
}
