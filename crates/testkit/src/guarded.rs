//! A server's process, gone when dropped and when the process that started it ends, however that ends.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    time::Duration,
};

/// How long a server may take to serve; a cold start needs about a second on an idle machine, recovery more.
const START: Duration = Duration::from_secs(60);

/// Starts the server beside a reader of our end of a pipe: when we end, the pipe closes and the shell ends the server with the
/// signal that is its first argument. The first line it prints is the server's process id. A command that becomes another by
/// exec keeps that id.
const GUARD: &str =
    r#"end=$1; shift; "$@" & pid=$!; echo "pid $pid"; cat >/dev/null; kill "$end" $pid; wait $pid"#;

/// A process that was started and does not serve yet.
#[derive(Debug)]
pub(crate) struct Starting {
    name: &'static str,
    guard: Child,
    lines: Receiver<String>,
}

/// What a line of a server's log says of its start.
#[derive(Debug)]
pub(crate) enum Says {
    /// Nothing about it.
    Nothing,
    /// It serves.
    Serves,
    /// It will never serve.
    Failed,
}

/// A server that serves.
#[derive(Debug)]
pub(crate) struct Guarded {
    guard: Child,
    pid: u32,
}

impl Starting {
    /// Runs `command`, whose process is ended by `end`, a signal as `kill` takes it, when this process ends.
    ///
    /// # Panics
    /// Where there is no shell.
    pub fn spawn(name: &'static str, end: &str, command: &[String]) -> Self {
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, &format!("{name}-guard"), end])
            .args(command)
            // A server of another account could not stay in a folder that is ours alone.
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell starts");
        // Room for every line of a start, so that the readers are never held up; later lines are dropped when full.
        let (sender, lines) = sync_channel(1024);
        let out = guard.stdout.take().expect("stdout is piped");
        let err = guard.stderr.take().expect("stderr is piped");
        let also = sender.clone();
        std::thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).for_each(|line| drop(also.try_send(line)));
        });
        std::thread::spawn(move || {
            BufReader::new(err).lines().map_while(Result::ok).for_each(|line| drop(sender.try_send(line)));
        });
        Self { name, guard, lines }
    }

    /// Reads the log until `says` finds in it that the server serves. Answers that line too.
    ///
    /// # Panics
    /// Where the server does not come to serve, with what it said.
    pub fn ready(mut self, says: impl Fn(&str) -> Says) -> (Guarded, String) {
        let (mut pid, mut serving, mut seen) = (None, None, Vec::new());
        loop {
            let failed = match self.lines.recv_timeout(START) {
                Ok(line) => {
                    if let Some(id) = line.strip_prefix("pid ") {
                        pid = id.trim().parse().ok();
                    }
                    let said = says(&line);
                    seen.push(line.clone());
                    match said {
                        Says::Nothing => false,
                        Says::Serves => {
                            serving = Some(line);
                            false
                        }
                        Says::Failed => true,
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => true,
            };
            if failed {
                drop(self.guard.kill());
                panic!("{} did not start; it said:\n{}", self.name, seen.join("\n"));
            }
            if let (Some(pid), Some(line)) = (pid, &serving) {
                return (Guarded { guard: self.guard, pid }, line.clone());
            }
        }
    }
}

impl Guarded {
    /// The server's own process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends the server a signal, as `kill` takes it. One that is gone already has got what was wanted.
    pub fn send(&self, signal: &str) {
        signal_to(signal, &[self.pid.to_string()]);
    }

    /// Ends the server as it would be if we ended, and waits until it is gone.
    pub fn end(&mut self) {
        drop(self.guard.stdin.take());
        drop(self.guard.wait());
    }
}

pub(crate) fn signal_to(signal: &str, processes: &[String]) {
    drop(Command::new("kill").arg(signal).args(processes).stderr(Stdio::null()).status());
}
