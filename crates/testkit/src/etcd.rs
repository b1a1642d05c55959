//! Real etcd servers, each in a folder of its own, gone when dropped and when the test's process dies.

use std::{net::TcpListener, path::Path, process::Command};

use tempfile::TempDir;

use crate::guarded::{Guarded, Says, Starting};

/// A signal to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Freezes it: connections stay open and nothing answers.
    Stop,
    /// Thaws it.
    Cont,
    /// Ends it at once.
    Kill,
}

impl Signal {
    /// As `kill` takes it.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::Stop => "-STOP",
            Self::Cont => "-CONT",
            Self::Kill => "-KILL",
        }
    }
}

/// One running etcd process.
#[derive(Debug)]
struct Process {
    guarded: Guarded,
    client: String,
}

impl Process {
    fn spawn(args: &[String]) -> Starting {
        let found = Command::new("etcd").arg("--version").output();
        assert!(
            found.is_ok_and(|out| out.status.success()),
            "the program etcd is missing: install the package etcd-server (Debian: apt-get install etcd-server)"
        );
        let command: Vec<_> = std::iter::once("etcd".to_owned()).chain(args.iter().cloned()).collect();
        Starting::spawn("etcd", "-KILL", &command)
    }

    /// Reads the log until the server serves.
    fn ready(starting: Starting) -> Self {
        let serves = |line: &str| match line.contains("serving client traffic") {
            true => Says::Serves,
            false => Says::Nothing,
        };
        let (guarded, line) = starting.ready(serves);
        Self { guarded, client: address(&line).expect("the line names the address") }
    }

    fn signal(&self, signal: Signal) {
        self.guarded.send(signal.flag());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::Kill);
        self.guarded.end();
    }
}

/// The value of `"address"` in a line of etcd's structured log.
fn address(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("\"address\":\"")?;
    rest.split_once('"').map(|(address, _)| address.to_owned())
}

fn common(data: &TempDir) -> Vec<String> {
    let dir = data.path().join("data").display().to_string();
    let fixed = ["--logger", "zap", "--log-outputs", "stderr", "--log-level", "info"];
    let fast = ["--heartbeat-interval", "50", "--election-timeout", "500", "--snapshot-count", "10000"];
    let progress = ["--experimental-watch-progress-notify-interval", "1s"];
    let mut args = vec!["--data-dir".to_owned(), dir];
    args.extend(fixed.iter().chain(&fast).chain(&progress).map(|s| (*s).to_owned()));
    args
}

/// One etcd server on a port of its own choice.
#[derive(Debug)]
pub struct EtcdServer {
    process: Process,
    _data: TempDir,
}

impl EtcdServer {
    /// Starts a server and waits until it serves.
    ///
    /// # Panics
    /// Where the program is missing or does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further arguments.
    ///
    /// # Panics
    /// Where the program is missing or does not start.
    #[must_use]
    pub fn start_with(more: &[&str]) -> Self {
        let data = TempDir::new().expect("a temporary folder");
        let mut args = common(&data);
        for (flag, url) in [
            ("--listen-client-urls", "http://127.0.0.1:0"),
            ("--advertise-client-urls", "http://127.0.0.1:0"),
            ("--listen-peer-urls", "http://127.0.0.1:0"),
        ] {
            args.extend([flag.to_owned(), url.to_owned()]);
        }
        args.extend(more.iter().map(|s| (*s).to_owned()));
        let process = Process::ready(Process::spawn(&args));
        Self { process, _data: data }
    }

    /// Where it serves: `host:port`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.process.client.clone()
    }

    /// Signals the server.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }
}

/// The data of a cluster of one at some moment.
#[derive(Debug)]
pub struct Snapshot(TempDir);

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder for a copy");
    for entry in std::fs::read_dir(from).expect("a folder to copy") {
        let entry = entry.expect("an entry of the folder");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a file's type").is_dir() {
            copy_all(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("a copy of a file");
        }
    }
}

/// Several etcd servers that form one cluster. Their ports are reserved when the cluster starts and kept over restarts.
#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    args: Vec<String>,
    client: String,
    process: Option<Process>,
    data: TempDir,
}

impl EtcdCluster {
    /// Starts `size` servers and waits until all serve.
    ///
    /// # Panics
    /// Where the program is missing or does not start.
    #[must_use]
    pub fn start(size: usize) -> Self {
        // All ports are held at once, so that they differ, and freed together before the servers take them.
        let held: Vec<_> =
            (0..2 * size).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let ports: Vec<_> = held.iter().map(|l| l.local_addr().expect("bound").port()).collect();
        drop(held);
        let (clients, peers) = ports.split_at(size);
        let initial: Vec<_> =
            peers.iter().enumerate().map(|(i, port)| format!("m{i}=http://127.0.0.1:{port}")).collect();
        let mut members = Vec::new();
        for (i, (client, peer)) in clients.iter().zip(peers).enumerate() {
            let data = TempDir::new().expect("a temporary folder");
            let mut args = common(&data);
            let (client, peer) = (format!("127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            for (flag, value) in [
                ("--name", format!("m{i}")),
                ("--listen-client-urls", format!("http://{client}")),
                ("--advertise-client-urls", format!("http://{client}")),
                ("--listen-peer-urls", peer.clone()),
                ("--initial-advertise-peer-urls", peer),
                ("--initial-cluster", initial.join(",")),
            ] {
                args.extend([flag.to_owned(), value]);
            }
            members.push(Member { args, client, process: None, data });
        }
        let starting: Vec<_> = members.iter().map(|m| Process::spawn(&m.args)).collect();
        for (member, starting) in members.iter_mut().zip(starting) {
            member.process = Some(Process::ready(starting));
        }
        Self { members }
    }

    /// Where the members serve: `host:port` each.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|m| m.client.clone()).collect()
    }

    /// Signals a member; one that is down is left alone.
    pub fn signal(&self, member: usize, signal: Signal) {
        if let Some(process) = &self.members[member].process {
            process.signal(signal);
        }
    }

    /// Ends a member at once; its data stay.
    pub fn kill(&mut self, member: usize) {
        self.members[member].process = None;
    }

    /// Puts another cluster of one in the place of this one: the same address, another identity, no data.
    ///
    /// # Panics
    /// Where this cluster has more than one member, or the new one does not start.
    pub fn replace(&mut self) {
        assert_eq!(self.members.len(), 1, "only a cluster of one is replaced");
        self.kill(0);
        let member = &mut self.members[0];
        member.args.extend(["--initial-cluster-token".to_owned(), "another".to_owned()]);
        // The last of two equal flags counts.
        let fresh = member.data.path().join("replaced").display().to_string();
        member.args.extend(["--data-dir".to_owned(), fresh]);
        self.restart(0);
    }

    /// A copy of all that the only member has, as of now: what a snapshot is, down to the identity of the cluster.
    ///
    /// # Panics
    /// Where this cluster has more than one member, or the copy cannot be made.
    pub fn snapshot(&mut self) -> Snapshot {
        assert_eq!(self.members.len(), 1, "only a cluster of one is copied");
        self.kill(0);
        let copy = TempDir::new().expect("a temporary folder");
        copy_all(&self.members[0].data.path().join("data"), copy.path());
        self.restart(0);
        Snapshot(copy)
    }

    /// Puts the only member back to what it was: everything since is gone, and its revisions are given again.
    ///
    /// # Panics
    /// Where the copy cannot be put back, or the member does not start.
    pub fn restore(&mut self, snapshot: &Snapshot) {
        self.kill(0);
        let data = self.members[0].data.path().join("data");
        std::fs::remove_dir_all(&data).expect("the member's folder");
        copy_all(snapshot.0.path(), &data);
        self.restart(0);
    }

    /// Starts a member anew, without data, that was removed from the cluster and added again under its peer's URL.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn renew(&mut self, member: usize) {
        self.kill(member);
        let fresh = self.members[member].data.path().join("renewed").display().to_string();
        // The last of two equal flags counts.
        let more = ["--data-dir", fresh.as_str(), "--initial-cluster-state", "existing"];
        self.members[member].args.extend(more.map(str::to_owned));
        self.restart(member);
    }

    /// Starts a member that was killed and waits until it serves.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn restart(&mut self, member: usize) {
        self.restart_all(&[member]);
    }

    /// Starts several members that were killed, together: without a quorum none serves alone.
    ///
    /// # Panics
    /// Where one does not start.
    pub fn restart_all(&mut self, members: &[usize]) {
        members.iter().for_each(|member| self.kill(*member));
        let starting: Vec<_> = members.iter().map(|m| (*m, Process::spawn(&self.members[*m].args))).collect();
        for (member, starting) in starting {
            self.members[member].process = Some(Process::ready(starting));
        }
    }
}
