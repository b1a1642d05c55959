//! `isocenter serve` as a process.

use std::{
    fs::OpenOptions,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use isocenter_testkit::wait_for;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
};
use tonic::transport::{Channel, Endpoint};

use super::{PATIENCE, Ran, get, isocenter, program};

/// A running server. Dropped, it is killed; where a test panics it first shows the end of its log.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Held open, so that the server could still write.
    _stdout: BufReader<ChildStdout>,
    log: PathBuf,
    /// DICOM.
    pub dicom: SocketAddr,
    /// DICOM over TLS, where it was asked for.
    pub dicom_tls: Option<SocketAddr>,
    /// gRPC and `/metrics`.
    pub listen: SocketAddr,
    /// Probes.
    pub health: SocketAddr,
}

/// `serve` and the flags that put everything into `folder`, on free ports, quick to assemble; `more` comes last and wins.
fn serve_arguments(folder: &Path, more: &[&str]) -> Vec<String> {
    let at = |name: &str| folder.join(name).display().to_string();
    let own = [
        ("store", format!("embedded:{}", at("store"))),
        ("records", format!("sqlite:{}", at("records.db"))),
        ("blobs", at("blobs")),
        ("spool", at("spool")),
        ("secret_file", at("key")),
        ("dicom.listen", "127.0.0.1:0".to_owned()),
        ("listen", "127.0.0.1:0".to_owned()),
        ("health", "127.0.0.1:0".to_owned()),
        ("study.quiet_period", "1s".to_owned()),
        ("dicom.min_free", "1MiB".to_owned()),
        ("archive.settle", "1s".to_owned()),
        ("delivery.first_retry", "200ms".to_owned()),
        ("delivery.max_retry", "1s".to_owned()),
        ("delivery.hl7_ack_timeout", "2s".to_owned()),
    ];
    let overridden = |key: &str| more.iter().any(|flag| flag.strip_prefix("--") == Some(key));
    let own = own.into_iter().filter(|(key, _)| !overridden(key));
    let own = own.flat_map(|(key, value)| [format!("--{key}"), value]);
    let first = ["serve", "--print-addresses"].map(str::to_owned);
    first.into_iter().chain(own).chain(more.iter().map(|flag| (*flag).to_owned())).collect()
}

impl Server {
    /// Starts a server in `folder`; returns when it listens everywhere.
    ///
    /// # Panics
    /// If it does not get so far.
    pub async fn spawn(folder: &Path, more: &[&str]) -> Self {
        let log = folder.join("server.log");
        let stderr = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new(isocenter());
        command
            .args(serve_arguments(folder, more))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, stdout.read_line(&mut line)).await;
        let addresses = serde_json::from_str::<serde_json::Value>(&line);
        let Ok(addresses) = addresses else { panic!("{read:?}, {line:?}, no addresses:\n{}", tail(&log)) };
        let address = |name: &str| addresses[name].as_str().unwrap().parse().unwrap();
        let (dicom, listen, health) = (address("dicom"), address("listen"), address("health"));
        let dicom_tls = addresses["dicom_tls"].as_str().map(|address| address.parse().unwrap());
        Self { child, _stdout: stdout, log, dicom, dicom_tls, listen, health }
    }

    /// As [`Server::spawn`]; returns when the server says that it is ready.
    pub async fn start(folder: &Path, more: &[&str]) -> Self {
        let server = Self::spawn(folder, more).await;
        let health = server.health;
        let ready = || async move { get(health, "/healthz").await.is_some_and(|(status, _)| status == 200) };
        wait_for("the server to be ready", PATIENCE, ready).await;
        server
    }

    /// Ends it as a power cut would end the process, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Asks it to end; its exit code.
    pub async fn terminate(&mut self) -> i32 {
        self.ask_to_end().await;
        self.ended().await
    }

    /// Asks it to end.
    pub async fn ask_to_end(&self) {
        let id = self.child.id().expect("the server has not been waited for").to_string();
        program("kill", ["-TERM", &id]).await.succeeded();
    }

    /// Waits until it has ended; its exit code.
    pub async fn ended(&mut self) -> i32 {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("the server ends when it is asked to").unwrap().code().unwrap_or(-1)
    }

    /// A connection for clients.
    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(self.url()).unwrap().connect_lazy()
    }

    /// The address of its gRPC services.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Where DICOM peers connect to.
    pub fn dicom(&self) -> String {
        self.dicom.to_string()
    }

    /// Everything that it has written to stderr, earlier servers of the folder included.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// `/metrics`.
    pub async fn metrics(&self) -> String {
        let (status, text) = get(self.listen, "/metrics").await.expect("the server answers");
        assert_eq!(status, 200, "{text}");
        text
    }

    /// Runs a command of the same binary against this server.
    pub async fn cli(&self, arguments: &[&str]) -> Ran {
        let server = ["--server".to_owned(), self.url()];
        let arguments = arguments.iter().map(|argument| (*argument).to_owned());
        program(isocenter(), arguments.chain(server)).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            use std::io::Write as _;
            // Nothing more can be done where the test's stderr is closed.
            drop(writeln!(std::io::stderr(), "{} ended with:\n{}", self.log.display(), tail(&self.log)));
        }
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// What a server says that is expected to end by itself.
pub async fn exited(folder: &Path, more: &[&str]) -> Ran {
    let ended =
        tokio::time::timeout(Duration::from_secs(30), program(isocenter(), serve_arguments(folder, more)));
    ended.await.expect("the server refuses to start")
}
