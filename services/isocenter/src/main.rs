//! `isocenter`: every role, every operator's verb, and the demo, in one binary.

mod bench;
mod cli;
mod command;
mod config;
mod demo;
mod directory;
mod operations;
mod output;
mod serve;

use std::process::ExitCode;

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return output::refused(&anyhow::Error::new(e).context("cannot start the async runtime")),
    };
    let result = runtime.block_on(cli.run());
    // What is still blocked in a system call must not hold up the exit.
    runtime.shutdown_background();
    result.unwrap_or_else(|e| output::refused(&e))
}
