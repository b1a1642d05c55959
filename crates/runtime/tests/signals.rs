//! Shutdown by signal, on a process of its own.

use std::{
    env,
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    process::Command,
};

use isocenter_runtime::{shutdown, task::Tasks};

const CHILD: &str = "ISOCENTER_SIGNALS_CHILD";

#[test]
fn the_first_signal_begins_the_shutdown_and_the_second_ends_the_process() {
    if let Some(pipe) = env::var_os(CHILD) {
        return wait_for_signals(OpenOptions::new().write(true).open(pipe).unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "the_first_signal_begins_the_shutdown_and_the_second_ends_the_process"])
        .env(CHILD, &pipe)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(File::open(&pipe).unwrap()).lines();
    let mut hear = || said.next().unwrap().unwrap();
    let signal = |name: &str| Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert_eq!(hear(), "ready");
    assert!(signal("-TERM").success());
    assert_eq!(hear(), "stopping");
    assert!(signal("-INT").success());
    assert_eq!(child.wait().unwrap().code(), Some(128 + 2));
}

/// The child: a process whose shutdown never ends.
fn wait_for_signals(mut out: File) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tasks = Tasks::new();
        shutdown::signals(&tasks).unwrap();
        writeln!(out, "ready").unwrap();
        tasks.token().cancelled().await;
        writeln!(out, "stopping").unwrap();
        std::future::pending::<()>().await;
    });
}
