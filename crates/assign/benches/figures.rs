//! `cargo bench -p isocenter-assign --bench figures`: the distribution of one decision's time, how time and memory grow
//! with the queue, and what losing many readers at once costs. Other numbers of reads that wait may be named: `-- 5000`.
#![expect(clippy::print_stdout, reason = "the figures are what it is for")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod network;

use std::{
    fs,
    time::{Duration, Instant},
};

use isocenter_assign::{Idle, Item, choose_idle, shortage};
use network::Network;
use rustix::time::{ClockId, clock_gettime};

const READERS: usize = 1_000;
const SEED: u64 = 1;

fn main() {
    // Under `cargo test` a benchmark only has to be there.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    machine();
    println!("{READERS} readers, 90 sites, 16 exams, 3 classes; seed {SEED}");
    println!("a decision: pick for a random reader and take the read out; after it one arrives");
    println!("cpu: the time of this thread alone, which other load on the machine lengthens less\n");
    println!(
        "   waiting  decisions  cpu p50 us  cpu p99 us  wall p50 us  wall p99 us  decisions/cpu s  \
         insert cpu p99 us    MB  bytes/read"
    );
    let named: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if named.is_empty() { vec![1_000, 10_000, 100_000, 1_000_000] } else { named };
    sizes.into_iter().for_each(curve);
    println!();
    rehome();
    idle();
    forecast();
}

fn machine() {
    let first = |path: &str, key: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or("unknown").to_owned();
        line.split_once(": ").map_or(line.clone(), |(_, value)| value.to_owned())
    };
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("machine: {}, {cores} cores, load {}", first("/proc/cpuinfo", "model name"), load.trim());
    println!("command: cargo bench -p isocenter-assign --bench figures");
}

/// Resident memory in bytes.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// The time that this thread was on a processor.
fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(now).expect("a thread's time is not negative")
}

fn curve(waiting: usize) {
    let mut network = Network::new(SEED, READERS);
    let before = resident();
    let mut queue = network.queue(waiting);
    let memory = resident().saturating_sub(before);
    let decisions = if waiting > 100_000 { 5_000 } else { 50_000 };
    network.foresee(decisions);
    let (mut taken, mut walls, mut inserted) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..decisions {
        let reader = usize::try_from(network.draws.below(READERS as u64)).expect("below the readers");
        network.now = network.now.plus(Duration::from_millis(100));
        let (wall, start) = (Instant::now(), cpu());
        let read = network.decide(&mut queue, reader);
        taken.push(cpu() - start);
        walls.push(wall.elapsed());
        if read.is_some() {
            let arrival = network.arrival(0);
            let start = cpu();
            assert!(queue.insert(arrival).is_none(), "an arrival is new");
            inserted.push(cpu() - start);
        }
    }
    let rate = decisions as f64 / taken.iter().chain(&inserted).sum::<Duration>().as_secs_f64();
    for times in [&mut taken, &mut walls, &mut inserted] {
        times.sort_unstable();
    }
    println!(
        "{waiting:>10} {decisions:>10} {:>11.1} {:>11.1} {:>12.1} {:>12.1} {rate:>16.0} {:>18.1} {:>5} {:>11}",
        micros(&taken, 50),
        micros(&taken, 99),
        micros(&walls, 50),
        micros(&walls, 99),
        micros(&inserted, 99),
        memory >> 20,
        memory / waiting as u64,
    );
}

fn micros(sorted: &[Duration], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or_default().as_secs_f64() * 1e6
}

/// 200 readers vanish: what they held goes back at its original age, and others are given it.
fn rehome() {
    let mut network = Network::new(SEED, READERS);
    let mut queue = network.queue(10_000);
    let held: Vec<Item> = (0..200).filter_map(|reader| network.decide(&mut queue, reader)).collect();
    let lost = held.len();
    let start = Instant::now();
    for item in held {
        assert!(queue.insert(item).is_none(), "what is held does not wait");
    }
    let given = (200..400).filter_map(|reader| network.decide(&mut queue, reader)).count();
    let took = start.elapsed();
    println!("200 readers lost: {lost} reads returned and {given} handed out anew in {took:.1?}");
}

/// An arrival while everybody is idle.
fn idle() {
    let mut network = Network::new(SEED, READERS);
    let since = network.now;
    let idle: Vec<Idle> =
        network.readers.iter().map(|reader| Idle { reader: reader.clone(), since }).collect();
    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..2_000 {
        let item = network.arrival(0);
        let start = Instant::now();
        assert!(choose_idle(&item, &idle, network.now).is_some(), "somebody may have it");
        took.push(start.elapsed());
    }
    took.sort_unstable();
    println!("an arrival, {READERS} idle: p50 {:.1} us, p99 {:.1} us", micros(&took, 50), micros(&took, 99));
}

/// The slow loop.
fn forecast() {
    let mut network = Network::new(SEED, READERS);
    let queue = network.queue(10_000);
    let hour = Duration::from_secs(3600);
    let supply: Vec<_> = network
        .readers
        .iter()
        .map(|reader| shortage::Supply { reader: reader.clone(), on_duty: vec![hour / 4; 16] })
        .collect();
    let horizon = shortage::Horizon { from: network.now, step: hour / 4, steps: 16 };
    let start = Instant::now();
    let demands = shortage::waiting(queue.items(), network.now);
    let outlook = shortage::outlook(&demands, &supply, &horizon);
    let took = start.elapsed();
    println!(
        "outlook over 4 hours, 10000 waiting: {took:.1?}; {} demands, {} forecasts, {} shortages",
        demands.len(),
        outlook.forecasts.len(),
        outlook.shortages.len()
    );
}
