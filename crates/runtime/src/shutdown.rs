//! Shutdown by signal.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::task::Tasks;

/// Lets SIGTERM and SIGINT begin the shutdown of the process that `tasks` belongs to. A second signal of either kind
/// ends the process at once, with exit code 128 + the signal's number: whatever is durable is found again on start.
///
/// # Errors
/// The operating system's, where the handlers cannot be installed.
pub fn signals(tasks: &Tasks) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shut = tasks.clone();
    tasks.detached(async move {
        let first = next(&mut terminate, &mut interrupt).await;
        tracing::info!(
            signal = first.as_raw_value(),
            "shutting down; a second signal ends the process at once"
        );
        shut.shut_down();
        let second = next(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal = second.as_raw_value(), "second signal; ending at once");
        std::process::exit(128 + second.as_raw_value());
    });
    Ok(())
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> SignalKind {
    tokio::select! {
        _ = terminate.recv() => SignalKind::terminate(),
        _ = interrupt.recv() => SignalKind::interrupt(),
    }
}
