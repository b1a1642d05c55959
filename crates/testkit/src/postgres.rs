//! A real PostgreSQL server, in a folder of its own, gone when dropped and when the test's process dies.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{
    Signal,
    guarded::{Guarded, Says, Starting, signal_to},
};

/// The unprivileged account that Debian's package makes: PostgreSQL refuses to run as root.
const ACCOUNT: &str = "postgres";

/// Where Debian puts the programs of each major version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// What every server here runs with. A killed process loses nothing that it has handed to the kernel, so that `fsync` says
/// nothing to a test that kills processes, and costs it most of its time.
const SETTINGS: [&str; 7] = [
    "fsync=off",
    "full_page_writes=off",
    "shared_buffers=16MB",
    "lc_messages=C",
    "log_destination=stderr",
    "logging_collector=off",
    "unix_socket_permissions=0777",
];

/// One PostgreSQL server. It serves on a Unix socket in its own folder, and on TCP where it was started so. The user is
/// `postgres`; no password is asked for.
#[derive(Debug)]
pub struct PostgresServer {
    folder: TempDir,
    arguments: Vec<String>,
    address: Option<String>,
    process: Option<Process>,
}

/// The server and the processes that it makes.
#[derive(Debug)]
struct Process(Guarded);

impl PostgresServer {
    /// Starts a server on a Unix socket and waits until it serves.
    ///
    /// # Panics
    /// Where the program is missing or does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further settings, `name=value` each, such as `max_connections=20`.
    ///
    /// # Panics
    /// Where the program is missing or does not start.
    #[must_use]
    pub fn start_with(settings: &[&str]) -> Self {
        Self::prepare(None, settings)
    }

    /// Starts a server that serves on TCP too, at `host` and a port of its own, kept over restarts.
    ///
    /// # Panics
    /// Where the program is missing or does not start, or where nothing can listen at `host`.
    #[must_use]
    pub fn start_tcp(host: &str, settings: &[&str]) -> Self {
        Self::prepare(Some(host), settings)
    }

    fn prepare(host: Option<&str>, settings: &[&str]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let data = folder.path().join("data");
        copy(&template(), &data);
        let mut all: Vec<String> = SETTINGS.iter().chain(settings).map(|s| (*s).to_owned()).collect();
        all.push(format!("unix_socket_directories={}", folder.path().display()));
        let address = host.map(|host| {
            // Free when it was asked for; the server takes it at once.
            let port = TcpListener::bind((host, 0)).and_then(|held| held.local_addr());
            format!("{host}:{}", port.expect("a free port").port())
        });
        match address.as_deref().and_then(|address| address.rsplit_once(':')) {
            Some((host, port)) => {
                all.extend([format!("listen_addresses={host}"), format!("port={port}")]);
            }
            None => all.push("listen_addresses=".to_owned()),
        }
        if let Some((user, group)) = account() {
            let owned = std::os::unix::fs::chown(folder.path(), Some(user), Some(group));
            owned.expect("root may give a folder away");
        }
        let mut arguments = unprivileged("postgres");
        arguments.extend(["-D".to_owned(), data.display().to_string()]);
        arguments.extend(all.into_iter().flat_map(|setting| ["-c".to_owned(), setting]));
        let mut server = Self { folder, arguments, address, process: None };
        server.restart();
        server
    }

    /// The database every server has, as `isocenter --records` takes it.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Makes a database and returns its address.
    ///
    /// # Panics
    /// Where it exists already, or the server does not answer.
    #[must_use]
    pub fn database(&self, name: &str) -> String {
        self.psql("postgres", &format!("CREATE DATABASE {name}"));
        self.url_of(name)
    }

    /// The address of a database, over TCP where the server serves there.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        match &self.address {
            Some(address) => format!("postgres://postgres@{address}/{database}"),
            None => format!("postgres:///{database}?host={}&user=postgres", self.folder.path().display()),
        }
    }

    /// Where it serves on TCP, `host:port`; `None` where it serves on its Unix socket alone.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    /// The folder of its socket, its data in `data`, and whatever a test puts there before a restart.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What `psql` prints for a statement: a line per row, its columns with `|` between them.
    ///
    /// # Panics
    /// Where the statement fails.
    #[must_use]
    pub fn query(&self, database: &str, sql: &str) -> Vec<String> {
        self.psql(database, sql).lines().map(ToOwned::to_owned).collect()
    }

    fn psql(&self, database: &str, sql: &str) -> String {
        let port = self.address.as_deref().and_then(|address| address.rsplit_once(':'));
        let out = Command::new(program("psql"))
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                "postgres",
                "-d",
                database,
                "-c",
                sql,
            ])
            .args(["-p", port.map_or("5432", |(_, port)| port)])
            .arg("-h")
            .arg(self.folder.path())
            .output()
            .expect("psql starts");
        assert!(out.status.success(), "{sql}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("psql prints UTF-8")
    }

    /// Signals the server and each of its processes; one that is down is left alone.
    pub fn signal(&self, signal: Signal) {
        let Some(process) = &self.process else { return };
        process.signal_all(signal.flag());
    }

    /// Ends every process of the server at once, in whatever it is doing; the data stay.
    pub fn kill(&mut self) {
        self.signal(Signal::Kill);
        self.process = None;
    }

    /// Shuts the server down: what is not committed is rolled back, connections are closed.
    pub fn stop(&mut self) {
        if let Some(process) = &mut self.process {
            process.0.send("-INT");
            process.0.end();
        }
        self.process = None;
    }

    /// Starts a server that was killed or stopped and waits until it serves; one that runs is stopped first.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn restart(&mut self) {
        self.stop();
        self.process = Some(Process::start(&self.arguments));
    }
}

impl Process {
    fn start(arguments: &[String]) -> Self {
        let says = |line: &str| {
            // Until it serves it refuses whoever connects, and says so.
            let early = line.contains("the database system is");
            let over = line.contains("database system is shut down") || line.contains("FATAL");
            match (line.contains("database system is ready to accept connections"), over && !early) {
                (true, _) => Says::Serves,
                (false, true) => Says::Failed,
                (false, false) => Says::Nothing,
            }
        };
        Self(Starting::spawn("postgres", "-QUIT", arguments).ready(says).0)
    }

    /// First the parent is frozen, so that it makes no further process and does not clean up after those that die.
    fn signal_all(&self, signal: &str) {
        self.0.send("-STOP");
        let children = format!("/proc/{0}/task/{0}/children", self.0.pid());
        let children = fs::read_to_string(children).unwrap_or_default();
        let mut all: Vec<String> = children.split_whitespace().map(ToOwned::to_owned).collect();
        all.push(self.0.pid().to_string());
        signal_to(signal, &all);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.send("-CONT");
        self.0.send("-QUIT");
        self.0.end();
    }
}

/// The ids of the account to run as; `None` where we are not root and run as ourselves.
fn account() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").expect("procfs is mounted").uid() != 0 {
        return None;
    }
    let accounts = fs::read_to_string("/etc/passwd").expect("a system has accounts");
    let line = accounts.lines().find(|line| line.split(':').next() == Some(ACCOUNT));
    let mut ids = line.into_iter().flat_map(|line| line.split(':').skip(2)).map(str::parse);
    match (ids.next(), ids.next()) {
        (Some(Ok(user)), Some(Ok(group))) => Some((user, group)),
        _ => panic!("the account {ACCOUNT} is missing: {}", missing()),
    }
}

fn missing() -> &'static str {
    "install the package postgresql (Debian: apt-get install postgresql)"
}

/// Debian's newest version, where it keeps several, else whatever the path has.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let programs = versions.filter_map(|version| {
        let number: u32 = version.file_name().to_str()?.parse().ok()?;
        let program = version.path().join("bin").join(name);
        program.exists().then_some((number, program))
    });
    programs.max().map_or_else(|| PathBuf::from(name), |(_, program)| program)
}

/// How to start a program so that it is not root.
fn unprivileged(name: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    if let Some((user, group)) = account() {
        let (user, group) = (format!("--reuid={user}"), format!("--regid={group}"));
        arguments.extend(["setpriv".to_owned(), user, group, "--clear-groups".to_owned()]);
    }
    arguments.push(program(name).display().to_string());
    arguments
}

/// A fresh database folder, made once per build folder: copying one takes a tenth of the time of making one.
fn template() -> PathBuf {
    let program = std::env::current_exe().expect("a test is a program");
    let home = program.ancestors().nth(2).expect("cargo runs tests from target/{profile}/deps").to_owned();
    let made = home.join("postgres-template");
    if made.exists() {
        return made;
    }
    let folder = TempDir::new().expect("a temporary folder");
    if let Some((user, group)) = account() {
        let owned = std::os::unix::fs::chown(folder.path(), Some(user), Some(group));
        owned.expect("root may give a folder away");
    }
    let data = folder.path().join("data");
    let arguments = unprivileged("initdb");
    let out = Command::new(&arguments[0])
        .args(&arguments[1..])
        .args([
            "-A",
            "trust",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
            "--wal-segsize=1",
            "-D",
        ])
        .arg(&data)
        .current_dir("/")
        .output()
        .unwrap_or_else(|e| panic!("initdb does not start ({e}): {}", missing()));
    assert!(out.status.success(), "initdb failed ({}): {}", missing(), String::from_utf8_lossy(&out.stderr));
    let access = fs::OpenOptions::new().append(true).open(data.join("pg_hba.conf"));
    access
        .and_then(|mut file| file.write_all(b"host all all all trust\n"))
        .expect("the new folder has a pg_hba.conf");
    // Several tests may do this at once: each makes its own, and the first rename counts.
    let own = home.join(format!("postgres-template.{}", std::process::id()));
    copy(&data, &own);
    if fs::rename(&own, &made).is_err() {
        drop(fs::remove_dir_all(&own));
    }
    assert!(made.exists(), "{} could not be made", made.display());
    made
}

/// Copies a folder with its owner and its permissions.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "{} was copied", from.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_outlives_a_kill_and_a_frozen_server_does_not_answer() {
        let mut server = PostgresServer::start_tcp("127.0.0.1", &["max_connections=20"]);
        assert!(server.database("records").starts_with("postgres://postgres@127.0.0.1:"));
        assert_eq!(server.query("records", "CREATE TABLE t (n BIGINT)"), Vec::<String>::new());
        assert_eq!(server.query("records", "INSERT INTO t VALUES (1), (2)"), Vec::<String>::new());
        let address = server.address().map(ToOwned::to_owned);
        server.kill();
        server.restart();
        assert_eq!(server.address().map(ToOwned::to_owned), address);
        assert_eq!(server.query("records", "SELECT n, n + 1 FROM t ORDER BY n"), ["1|2", "2|3"]);
        server.signal(Signal::Stop);
        server.signal(Signal::Cont);
        server.stop();
        server.restart();
        assert_eq!(server.query("postgres", "SHOW max_connections"), ["20"]);
    }
}
