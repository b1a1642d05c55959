//! Several hosts on one machine: a network namespace each, on one bridge, with routes that lose packets on demand.
//!
//! Needs root and `ip` (Debian: iproute2).

use std::{
    fmt,
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

/// Names of namespaces and bridges begin so; the maker's process id follows, so that what a killed one left is known.
/// With a process id of seven digits, and two each for the network and the host, an interface has the 15 bytes allowed.
const NAME: &str = "ib";

/// Networks made by this process, so that each gets a subnet of its own.
static MADE: AtomicU8 = AtomicU8::new(0);

/// Who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// A host of the network, from 0.
    Inside(usize),
    /// The machine itself, on the bridge.
    Outside,
}

/// Some hosts on one bridge. Dropping it removes them.
pub struct Network {
    name: String,
    subnet: [u8; 2],
    hosts: usize,
    cuts: Vec<(Host, Host)>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("name", &self.name).field("cuts", &self.cuts).finish_non_exhaustive()
    }
}

/// Whether this machine lets us make namespaces.
#[must_use]
pub fn is_allowed() -> bool {
    let name = format!("{NAME}{}-probe", std::process::id());
    let allowed = ip(&format!("netns add {name}")).is_ok();
    drop(ip(&format!("netns del {name}")));
    allowed
}

impl Network {
    /// Makes `hosts` hosts that reach one another and the machine itself.
    ///
    /// # Errors
    /// What `ip` says, where it is missing or refuses.
    pub fn new(hosts: usize) -> Result<Self, String> {
        sweep();
        let (process, nth) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let network = Self {
            name: format!("{NAME}{process}-{nth}"),
            subnet: subnet(process, nth),
            hosts,
            cuts: Vec::new(),
        };
        let bridge = &network.name;
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add {}/24 dev {bridge}", network.address(Host::Outside)))?;
        ip(&format!("link set {bridge} up"))?;
        for host in 0..hosts {
            let (space, inner, outer) = (network.space(host), "eth0", format!("{bridge}v{host}"));
            ip(&format!("netns add {space}"))?;
            ip(&format!("link add {outer} type veth peer name {inner} netns {space}"))?;
            ip(&format!("link set {outer} master {bridge} up"))?;
            ip(&format!("-n {space} addr add {}/24 dev {inner}", network.address(Host::Inside(host))))?;
            ip(&format!("-n {space} link set {inner} up"))?;
            ip(&format!("-n {space} link set lo up"))?;
        }
        Ok(network)
    }

    fn space(&self, host: usize) -> String {
        format!("{}-{host}", self.name)
    }

    /// A host's address.
    #[must_use]
    pub fn address(&self, host: Host) -> Ipv4Addr {
        let last = match host {
            Host::Outside => 1,
            Host::Inside(n) => 10 + u8::try_from(n).expect("a network has a few hosts"),
        };
        let [second, third] = self.subnet;
        Ipv4Addr::new(10, second, third, last)
    }

    /// What to put before a command so that it runs on a host; it becomes the command by exec, so that its id is the command's.
    #[must_use]
    pub fn enter(&self, host: usize) -> Vec<String> {
        ["ip", "netns", "exec"].map(str::to_owned).into_iter().chain([self.space(host)]).collect()
    }

    /// From now on no packet of `from` reaches `to`; the other way is not touched.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn cut(&mut self, from: Host, to: Host) -> Result<(), String> {
        if !self.cuts.contains(&(from, to)) {
            self.route("add", from, to)?;
            self.cuts.push((from, to));
        }
        Ok(())
    }

    /// No packet passes between two hosts, either way.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn part(&mut self, one: Host, other: Host) -> Result<(), String> {
        self.cut(one, other)?;
        self.cut(other, one)
    }

    /// Everybody reaches everybody again.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn heal(&mut self) -> Result<(), String> {
        for (from, to) in std::mem::take(&mut self.cuts) {
            self.route("del", from, to)?;
        }
        Ok(())
    }

    /// Every host, the machine itself last.
    #[must_use]
    pub fn hosts(&self) -> Vec<Host> {
        (0..self.hosts).map(Host::Inside).chain([Host::Outside]).collect()
    }

    fn route(&self, verb: &str, from: Host, to: Host) -> Result<(), String> {
        let route = format!("route {verb} blackhole {}/32", self.address(to));
        match from {
            Host::Outside => ip(&route),
            Host::Inside(host) => ip(&format!("-n {} {route}", self.space(host))),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A host of the machine that stays blackholed would reach the next network of this subnet.
        drop(self.heal());
        for host in 0..self.hosts {
            drop(ip(&format!("netns del {}", self.space(host))));
        }
        drop(ip(&format!("link del {}", self.name)));
    }
}

/// The middle of the addresses 10.x.y.0/24 of a process's nth network, x from 128: two networks of one subnet would take
/// each other's packets, so it is the same again only 32,768 processes later, when [`sweep`] has removed what is left.
fn subnet(process: u32, nth: u8) -> [u8; 2] {
    let [.., high, low] = process.wrapping_add(u32::from(nth) * 8_209).to_be_bytes();
    [high | 128, low]
}

/// Removes the namespaces and bridges that a killed process has left.
fn sweep() {
    for (list, delete) in
        [(&["netns", "list"][..], "netns del"), (&["-br", "link", "show", "type", "bridge"], "link del")]
    {
        let Ok(listed) = Command::new("ip").args(list).output() else { return };
        for line in String::from_utf8_lossy(&listed.stdout).lines() {
            let name = line.split_whitespace().next().unwrap_or_default();
            let maker = name.strip_prefix(NAME).and_then(|rest| Some(rest.split_once('-')?.0));
            if maker
                .is_some_and(|maker| maker.parse::<u32>().is_ok() && !Path::new("/proc").join(maker).exists())
            {
                drop(ip(&format!("{delete} {name}")));
            }
        }
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let ran = Command::new("ip").args(arguments.split(' ')).stdin(Stdio::null()).output();
    let ran =
        ran.map_err(|e| format!("ip does not start ({e}): install iproute2 (apt-get install iproute2)"))?;
    if ran.status.success() {
        return Ok(());
    }
    Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&ran.stderr).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a connection is answered within `seconds`; one that is refused has reached its host.
    fn answers(network: &Network, from: usize, to: Host, seconds: u8) -> bool {
        let command = network.enter(from);
        let script = "import socket,sys\ns=socket.socket(); s.settimeout(int(sys.argv[2]))\n\
                      try: s.connect((sys.argv[1], 9))\n\
                      except ConnectionRefusedError: sys.exit(0)\nexcept OSError: sys.exit(1)";
        let ran = Command::new(&command[0])
            .args(&command[1..])
            .args(["python3", "-c", script, &network.address(to).to_string(), &seconds.to_string()])
            .status();
        ran.unwrap().success()
    }

    fn reaches(network: &Network, from: usize, to: Host) -> bool {
        answers(network, from, to, 30)
    }

    fn is_parted(network: &Network, from: usize, to: Host) -> bool {
        !answers(network, from, to, 1)
    }

    #[test]
    fn subnets_differ_among_processes_that_may_live_together() {
        let taken: Vec<_> =
            (30_000..38_000).flat_map(|process| (0..4).map(move |nth| subnet(process, nth))).collect();
        let distinct: std::collections::BTreeSet<_> = taken.iter().collect();
        assert_eq!(distinct.len(), taken.len());
    }

    #[test]
    fn the_bridge_of_a_killed_process_is_removed() {
        if !is_allowed() {
            // As below.
            return;
        }
        let mut maker = Command::new("true").spawn().unwrap();
        maker.wait().unwrap();
        let left = format!("{NAME}{}-0", maker.id());
        ip(&format!("link add {left} type bridge")).unwrap();
        let _network = Network::new(1).unwrap();
        assert!(!Path::new("/sys/class/net").join(left).exists());
    }

    #[test]
    fn hosts_are_parted_one_way_and_both_and_healed() {
        if !is_allowed() {
            // Where namespaces are not allowed there are none to test; the scenarios that need them say so by name.
            return;
        }
        let mut network = Network::new(2).unwrap();
        let (one, other) = (Host::Inside(0), Host::Inside(1));
        assert!(
            reaches(&network, 0, other) && reaches(&network, 1, one) && reaches(&network, 0, Host::Outside)
        );
        network.cut(one, other).unwrap();
        // Neither way is there a connection: the answers are lost, or the requests.
        assert!(is_parted(&network, 0, other) && is_parted(&network, 1, one));
        assert!(reaches(&network, 0, Host::Outside), "only what was cut is cut");
        network.heal().unwrap();
        assert!(reaches(&network, 0, other) && reaches(&network, 1, one));
    }
}
