//! What the embedded store acknowledged is found again, whatever happened to the machine.

mod common;

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use common::{embedded, key};
use futures::future::join_all;
use isocenter_runtime::fs::Fs;
use isocenter_store::{
    Error, Kv, Op, Page, Range, Revision, Txn,
    embedded::{Embedded, EmbeddedOptions},
    list_all,
};
use isocenter_testkit::{NoSyncFs, PowerCutFs};
use tempfile::TempDir;

const DIR: &str = "/data/store";

async fn open(fs: Arc<dyn Fs>) -> Result<Embedded, Error> {
    let mut options = EmbeddedOptions::new(DIR).over(fs);
    // Small enough that the workload makes new generations of its files by itself, too.
    options.log_bytes = 1500;
    Embedded::open(options).await
}

/// What was acknowledged: each key's value and revision, and the newest revision.
#[derive(Debug, Default)]
struct Acknowledged {
    keys: BTreeMap<String, (String, Revision)>,
    newest: Revision,
    compacted: Revision,
}

/// Writes until something fails: alone, at once, with leases, with compactions.
async fn workload(fs: Arc<dyn Fs>) -> Acknowledged {
    let mut acked = Acknowledged::default();
    let Ok(store) = open(fs).await else { return acked };
    for round in 0..8 {
        let writes = (0..3).map(|i| {
            let (store, k, value) = (&store, format!("k/{}", (round + i) % 5), format!("{round}-{i}"));
            async move {
                let put = Op::put(&key(&*k), value.clone());
                store.txn(Txn::always(vec![put])).await.map(|a| (k, value, a.revision))
            }
        });
        let mut failed = false;
        for answer in join_all(writes).await {
            match answer {
                Ok((k, value, revision)) => {
                    let entry = acked.keys.entry(k).or_default();
                    if revision > entry.1 {
                        *entry = (value, revision);
                    }
                    acked.newest = acked.newest.max(revision);
                }
                Err(_) => failed = true,
            }
        }
        if failed || store.grant(Duration::from_secs(60)).await.is_err() {
            break;
        }
        if round % 3 == 2 {
            if store.compact(acked.newest).await.is_err() {
                break;
            }
            acked.compacted = acked.newest;
        }
    }
    store.close().await;
    acked
}

/// Whether everything acknowledged is in the store that the next start finds, and whether that store works.
async fn check(fs: Arc<dyn Fs>, acked: &Acknowledged) -> Result<(), String> {
    let store = open(fs).await.map_err(|e| format!("does not open: {e}"))?;
    let found = list_all(&store, &Range::all()).await.map_err(|e| e.to_string())?;
    if found.revision < acked.newest {
        return Err(format!("is at revision {} after {} was acknowledged", found.revision, acked.newest));
    }
    for (k, (value, revision)) in &acked.keys {
        let found = store.get(&key(&**k)).await.map_err(|e| e.to_string())?;
        // A later write that was not acknowledged may be there all the same.
        let kept = found.as_ref().is_some_and(|f| {
            f.mod_revision > *revision || (f.mod_revision == *revision && f.value == value.as_bytes())
        });
        if !kept {
            return Err(format!("{k} is {found:?} after {value} at {revision} was acknowledged"));
        }
    }
    let from = acked.compacted.next().max(Revision(2));
    // A later compaction that was not acknowledged may have been done all the same.
    let kept = !matches!(store.watch(&Range::all(), from).await, Err(Error::Compacted { .. }));
    if kept && from <= found.revision {
        let events = common::history(&store, &Range::all(), from, found.revision).await;
        if events.len() as u64 != found.revision.0 - from.0 + 1 {
            return Err("the history has a gap".to_owned());
        }
    }
    let next = store.txn(Txn::always(vec![Op::put(&key("after"), "x")])).await.map_err(|e| e.to_string())?;
    if next.revision != found.revision.next() {
        return Err("the revisions do not go on".to_owned());
    }
    store.close().await;
    Ok(())
}

#[tokio::test]
async fn a_power_cut_at_every_operation_loses_nothing_acknowledged() {
    let disk = PowerCutFs::new();
    let acked = workload(disk.shared()).await;
    assert_eq!(acked.keys.len(), 5);
    let ops = disk.ops();
    assert!(ops > 60, "{ops}");
    for op in 1..=ops {
        for seed in 0..3 {
            let disk = PowerCutFs::new();
            disk.cut_at(op);
            let acked = workload(disk.shared()).await;
            let seed = op * 1000 + seed;
            let disk = disk.cut(seed);
            check(disk.shared(), &acked).await.unwrap_or_else(|e| panic!("op {op}, seed {seed}: {e}"));
        }
    }
}

#[tokio::test]
async fn a_power_cut_during_recovery_loses_nothing_acknowledged() {
    for seed in 0..40 {
        let mut disk = PowerCutFs::new();
        disk.cut_at(15 + seed);
        let acked = workload(disk.shared()).await;
        for again in 1..5 {
            disk = disk.cut(seed * 100 + again);
            disk.cut_at(again);
            drop(open(disk.shared()).await);
        }
        let disk = disk.cut(seed);
        check(disk.shared(), &acked).await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

/// The check above can fail: over a file layer that does not sync, it does.
#[tokio::test]
async fn a_build_without_fsync_is_found_out() {
    let mut found_out = 0;
    for seed in 0..20 {
        let disk = PowerCutFs::new();
        disk.cut_at(20 + seed);
        let acked = workload(Arc::new(NoSyncFs(disk.shared()))).await;
        found_out += u32::from(check(disk.cut(seed).shared(), &acked).await.is_err());
    }
    assert!(found_out > 10, "{found_out} of 20");
}

#[tokio::test]
async fn a_failed_write_or_sync_ends_all_acknowledgement() {
    let disk = PowerCutFs::new();
    workload(disk.shared()).await;
    for op in 1..=disk.ops() {
        let disk = PowerCutFs::new();
        disk.fail_at(op);
        let acked = workload(disk.shared()).await;
        check(disk.cut(op).shared(), &acked).await.unwrap_or_else(|e| panic!("op {op}: {e}"));
    }
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_answered_until_reopened() {
    let disk = PowerCutFs::new();
    let store = open(disk.shared()).await.unwrap();
    common::put(&store, "a", "1").await;
    // The next write is one operation, its sync the one after.
    disk.fail_at(disk.ops() + 2);
    let put = || store.txn(Txn::always(vec![Op::put(&key("a"), "2")]));
    assert!(put().await.unwrap_err().is_ambiguous());
    assert!(matches!(put().await, Err(Error::Poisoned { .. })));
    assert!(matches!(store.get(&key("a")).await, Err(Error::Poisoned { .. })));
    assert!(matches!(store.grant(Duration::from_secs(1)).await, Err(Error::Poisoned { .. })));
}

#[tokio::test]
async fn a_full_disk_refuses_and_a_reopened_store_goes_on() {
    let disk = PowerCutFs::new();
    let store = open(disk.shared()).await.unwrap();
    let first = common::put(&store, "a", "1").await;
    disk.set_full(true);
    let full = store.txn(Txn::always(vec![Op::put(&key("a"), "2")])).await;
    assert!(full.unwrap_err().is_ambiguous());
    store.close().await;
    disk.set_full(false);
    let store = open(disk.shared()).await.unwrap();
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().mod_revision, first);
    assert_eq!(common::put(&store, "a", "3").await, first.next());
}

/// A log of ten commits: its snapshot, its bytes.
async fn sample() -> (Vec<u8>, Vec<u8>) {
    let disk = PowerCutFs::new();
    let store = Embedded::open(EmbeddedOptions::new(DIR).over(disk.shared())).await.unwrap();
    for i in 0..10 {
        common::put(&store, &format!("k/{i}"), format!("value {i}")).await;
    }
    store.close().await;
    let read = |name: &str| disk.read(&Path::new(DIR).join(name)).unwrap();
    (read("00000000000000000001.snapshot"), read("00000000000000000001.log"))
}

async fn open_files(snapshot: &[u8], log: &[u8]) -> Result<Embedded, Error> {
    let disk = PowerCutFs::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    for (name, bytes) in [("00000000000000000001.snapshot", snapshot), ("00000000000000000001.log", log)] {
        disk.create_new(&Path::new(DIR).join(name)).unwrap().write_all(bytes).unwrap();
    }
    Embedded::open(EmbeddedOptions::new(DIR).over(disk.shared())).await
}

const LOG_HEADER: usize = 28;

/// Where each frame begins, from the frames' own lengths, and where the last one ends.
fn frames(log: &[u8]) -> Vec<usize> {
    let mut starts = vec![LOG_HEADER];
    while let Some(at) = starts.last().copied().filter(|at| *at < log.len()) {
        let len = u32::from_le_bytes(log[at + 12..at + 16].try_into().unwrap());
        starts.push(at + 20 + len as usize + 4);
    }
    starts
}

#[tokio::test]
async fn a_log_cut_at_every_byte_opens_with_its_whole_commits() {
    let (snapshot, log) = sample().await;
    let starts = frames(&log);
    assert_eq!(starts.len(), 11);
    for len in LOG_HEADER..=log.len() {
        let whole = starts.iter().filter(|end| **end <= len).count() - 1;
        let store = open_files(&snapshot, &log[..len]).await.unwrap_or_else(|e| panic!("cut at {len}: {e}"));
        let found = store.list(&Range::all(), Page::default()).await.unwrap();
        assert_eq!((found.items.len(), found.revision.0), (whole, 1 + whole as u64), "cut at {len}");
        assert_eq!(common::put(&store, "next", "x").await, found.revision.next());
    }
}

#[tokio::test]
async fn a_damaged_byte_before_the_last_commit_is_refused_with_its_place() {
    let (snapshot, log) = sample().await;
    let starts = frames(&log);
    let last = starts[starts.len() - 2];
    for at in 0..log.len() {
        let mut damaged = log.clone();
        damaged[at] ^= 0x40;
        match open_files(&snapshot, &damaged).await {
            Err(Error::Corrupt { file, offset, .. }) if at < last => {
                let start = starts.iter().rev().find(|s| **s <= at).copied().unwrap_or(0);
                assert_eq!(offset, start as u64, "damage at {at}");
                assert!(file.ends_with("00000000000000000001.log"));
            }
            // In the last commit, damage and a torn write look the same.
            Ok(store) if at >= last => {
                assert_eq!(store.status().await.unwrap().revision, Revision(10), "damage at {at}");
            }
            other => panic!("damage at {at}: {other:?}"),
        }
    }
    for at in 0..snapshot.len() {
        let mut damaged = snapshot.clone();
        damaged[at] ^= 0x40;
        let refused = open_files(&damaged, &log).await;
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "damage at {at}: {refused:?}");
    }
}

#[tokio::test]
async fn a_missing_snapshot_or_log_is_refused() {
    let (snapshot, log) = sample().await;
    for name in ["00000000000000000001.snapshot", "00000000000000000001.log"] {
        let disk = PowerCutFs::new();
        disk.create_dir_all(Path::new(DIR)).unwrap();
        let bytes = if name.ends_with("log") { &log } else { &snapshot };
        disk.create_new(&Path::new(DIR).join(name)).unwrap().write_all(bytes).unwrap();
        let refused = Embedded::open(EmbeddedOptions::new(DIR).over(disk.shared())).await;
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "only {name}: {refused:?}");
    }
}

#[tokio::test]
async fn a_folder_in_use_is_refused_by_name_until_it_is_closed() {
    let dir = TempDir::new().unwrap();
    let store = embedded(&dir).await;
    let second = Embedded::open(EmbeddedOptions::new(dir.path())).await.unwrap_err();
    assert!(matches!(second, Error::Locked { .. }));
    assert!(second.to_string().contains(&dir.path().display().to_string()), "{second}");
    store.close().await;
    embedded(&dir).await;
}

const CHILD: &str = "ISOCENTER_STORE_CHILD";

/// Run as the test, it starts itself as a child that writes, and kills it; run as the child, it writes.
#[tokio::test]
async fn a_killed_process_loses_nothing_it_acknowledged() {
    if let Ok(dir) = std::env::var(CHILD) {
        return write_for_ever(&dir).await;
    }
    let dir = TempDir::new().unwrap();
    let mut expected = BTreeMap::new();
    for kill_after in [1, 57, 300] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_killed_process_loses_nothing_it_acknowledged", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut acked = 0;
        for line in lines {
            let Some((k, revision)) = line.split_once("acked ").and_then(|(_, rest)| rest.split_once(' '))
            else {
                continue;
            };
            expected.insert(k.to_owned(), Revision(revision.parse().unwrap()));
            acked += 1;
            if acked == kill_after {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acked >= kill_after);
        let store = embedded(&dir).await;
        for (k, revision) in &expected {
            let found = store.get(&key(&**k)).await.unwrap();
            assert!(
                found.as_ref().is_some_and(|f| f.mod_revision >= *revision),
                "{k} at {revision}: {found:?}"
            );
        }
        store.close().await;
    }
}

async fn write_for_ever(dir: &str) {
    let store = Embedded::open(EmbeddedOptions::new(dir)).await.unwrap();
    for round in 0_u64.. {
        let puts = (0..8).map(|i| {
            let (store, k) = (&store, format!("k/{}", (round * 8 + i) % 50));
            async move {
                let revision = common::put(store, &k, vec![1; 500]).await;
                // One call per line, so that lines of a killed process are whole.
                let line = format!("acked {k} {revision}\n");
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                std::io::stdout().lock().flush().unwrap();
            }
        });
        join_all(puts).await;
        if round % 20 == 19 {
            let at = common::revision(&store).await;
            store.compact(at).await.unwrap();
        }
    }
}
