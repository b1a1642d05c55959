//! What a power cut leaves.
//!
//! A child process makes objects and acknowledges each in a file. `strace` records its system calls. They are replayed
//! here one by one on a model of a file system that keeps, when the power goes, nothing but what was synced: after
//! every call, each object acknowledged so far must be durable, from the folder's root down to its last byte, and no
//! name of an object may stand for content that is not. Where `strace` is not installed the test fails: it is part of
//! what is needed to build here, as `cargo` is.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;
use isocenter_blobs::{BlobPath, Blobs, Put, path};
use isocenter_domain::{
    Time,
    id::{InstanceUid, StudyUid, TenantId},
    refs::Digest,
};

const FOLDER: &str = "ISOCENTER_POWER_CUT_FOLDER";

/// The study whose objects another writer made without a sync.
const OTHERS: &str = "1.2.77";

/// The calls that change what a disk holds, or say that it must.
const CALLS: &str = "openat,mkdir,mkdirat,link,linkat,rename,renameat,renameat2,unlink,unlinkat,fsync,fdatasync,write,copy_file_range,sendfile";

#[test]
fn what_is_acknowledged_is_durable_and_no_object_is_ever_half() {
    if let Some(folder) = env::var_os(FOLDER) {
        return make_objects(Path::new(&folder));
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().canonicalize().unwrap();
    let calls = record(&folder);
    let acknowledged = judge(&folder, calls.iter().map(String::as_str)).unwrap();
    assert_eq!(acknowledged, 8);

    // The judge can tell: the same calls without any kind of sync do not pass.
    let is_sync = |call: &str| call.contains("fsync(") || call.contains("fdatasync(");
    assert!(judge(&folder, calls.iter().map(String::as_str).filter(|c| !is_sync(c))).is_err());
    let syncs: Vec<usize> = (0..calls.len()).filter(|i| is_sync(&calls[*i])).collect();
    let needed = syncs.iter().filter(|skip| {
        let kept = calls.iter().enumerate().filter(|(i, _)| i != *skip).map(|(_, c)| c.as_str());
        judge(&folder, kept).is_err()
    });
    assert!(needed.count() >= 8, "at least each object has a sync that nothing else makes good");
}

/// The child: objects made in every way there is, acknowledged one by one.
fn make_objects(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut acks = fs::File::create(folder.join("acks")).unwrap();
    let mut ack = |path: &BlobPath| acks.write_all(path.as_str().as_bytes()).unwrap();
    let tenant = TenantId::new("t").unwrap();
    let (one, two) = (StudyUid::new("1.1").unwrap(), StudyUid::new(OTHERS).unwrap());
    runtime.block_on(async {
        let blobs = Blobs::open(folder.join("blobs").to_str().unwrap()).unwrap();
        for revision in [1, 2] {
            let name = path::manifest(&tenant, &one, revision);
            assert_eq!(blobs.put_new(&name, Bytes::from_static(b"list")).await.unwrap(), Put::Created);
            ack(&name);
        }
        let name = path::journal(3, Time(5), 7);
        assert_eq!(blobs.put_new(&name, Bytes::from_static(b"events")).await.unwrap(), Put::Created);
        ack(&name);

        let spooled = folder.join("spooled");
        for (content, sop) in [("pixels", "1.9"), ("more pixels", "1.10")] {
            fs::write(&spooled, content).unwrap();
            let name = path::instance(
                &tenant,
                &one,
                &InstanceUid::new(sop).unwrap(),
                &Digest::of(content.as_bytes()),
            );
            assert_eq!(blobs.adopt(&spooled, &name).await.unwrap(), Put::Created);
            ack(&name);
            fs::remove_file(&spooled).unwrap();
        }

        // On another file system where there is one: copied, not linked.
        let shm = Path::new("/dev/shm");
        let elsewhere =
            if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir_in(folder) }.unwrap();
        let far = elsewhere.path().join("spooled");
        fs::write(&far, b"far").unwrap();
        let name = path::instance(&tenant, &one, &InstanceUid::new("1.11").unwrap(), &Digest::of(b"far"));
        assert_eq!(blobs.adopt(&far, &name).await.unwrap(), Put::Created);
        ack(&name);

        // Somebody else made these an instant ago, and the power may go before they sync anything.
        let (put, adopted) = (path::manifest(&tenant, &two, 1), path::head(&tenant, &two, 1));
        for name in [&put, &adopted] {
            let file = folder.join("blobs").join(name.as_str());
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file.with_extension("part#1"), b"theirs").unwrap();
            fs::rename(file.with_extension("part#1"), &file).unwrap();
        }
        assert_eq!(blobs.put_new(&put, Bytes::from_static(b"theirs")).await.unwrap(), Put::Existed);
        ack(&put);
        fs::write(&spooled, b"theirs").unwrap();
        assert_eq!(blobs.adopt(&spooled, &adopted).await.unwrap(), Put::Existed);
        ack(&adopted);
    });
}

/// Runs this very test as the child and returns its calls, each on one line, in the order of their ends.
fn record(folder: &Path) -> Vec<String> {
    let trace = folder.join("trace");
    let status = Command::new("strace")
        .args(["-f", "-y", "-s", "4096", "-e", &format!("trace={CALLS}"), "-o"])
        .arg(&trace)
        .arg(env::current_exe().unwrap())
        .args(["--exact", "what_is_acknowledged_is_durable_and_no_object_is_ever_half"])
        .env(FOLDER, folder)
        .output()
        .expect("strace is installed: apt-get install strace");
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
    let mut begun = BTreeMap::<String, String>::new();
    let mut calls = Vec::new();
    for line in fs::read_to_string(&trace).unwrap().lines() {
        let (pid, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        if let Some(start) = call.strip_suffix(" <unfinished ...>") {
            begun.insert(pid.to_owned(), start.to_owned());
        } else if let Some((_, end)) = call.split_once(" resumed>") {
            let start = begun.remove(pid).unwrap();
            calls.push(format!("{start}{end}"));
        } else {
            calls.push(call.to_owned());
        }
    }
    calls
}

/// A file system that forgets.
#[derive(Default)]
struct Disk {
    /// What a reader sees: each name and the file, by number, it stands for. Folders are files without content.
    seen: BTreeMap<PathBuf, usize>,
    /// What is left when the power goes.
    durable: BTreeMap<PathBuf, usize>,
    /// Files with content that was not synced.
    dirty: BTreeSet<usize>,
    files: usize,
}

/// Replays `calls`; the number of objects acknowledged, or what the power cut broke.
fn judge<'a>(folder: &Path, calls: impl Iterator<Item = &'a str>) -> Result<usize, String> {
    let (blobs, acks) = (folder.join("blobs"), folder.join("acks"));
    let (mut disk, mut acknowledged) = (Disk::default(), BTreeSet::new());
    for call in calls {
        let Some((name, rest)) = call.split_once('(') else { continue };
        let ok = !rest.contains(") = -1 ");
        let (paths, files) = (quoted(rest), files(rest));
        match (name, files.as_slice(), paths.as_slice()) {
            _ if !ok => {}
            ("openat", _, [path]) if rest.contains("O_CREAT") => disk.create(path, rest.contains("O_TRUNC")),
            ("mkdir" | "mkdirat", _, [path]) => disk.create(path, false),
            ("link" | "linkat", _, [from, to]) => disk.link(from, to),
            ("rename" | "renameat" | "renameat2", _, [from, to]) => {
                disk.link(from, to);
                disk.seen.remove(from);
            }
            ("unlink" | "unlinkat", _, [path]) => drop(disk.seen.remove(path)),
            ("write", [to], [text]) if *to == acks => drop(acknowledged.insert(blobs.join(text))),
            ("write" | "copy_file_range" | "sendfile", files, _) => {
                files.iter().for_each(|file| disk.write(file))
            }
            ("fsync" | "fdatasync", [file], _) => disk.sync(file),
            _ => {}
        }
        disk.check(&blobs, &acknowledged).map_err(|what| format!("after {call}: {what}"))?;
    }
    Ok(acknowledged.len())
}

/// The quoted strings of a call.
fn quoted(call: &str) -> Vec<PathBuf> {
    call.split('"').skip(1).step_by(2).map(PathBuf::from).collect()
}

/// The files that a call's descriptors stand for; those of a copy are all taken for written.
fn files(call: &str) -> Vec<PathBuf> {
    let arguments = call.rsplit_once(") = ").map_or(call, |(arguments, _)| arguments);
    let outside_quotes = arguments.split('"').step_by(2);
    outside_quotes
        .flat_map(|text| text.split('<').skip(1))
        .filter_map(|t| Some(t.split_once('>')?.0.into()))
        .collect()
}

impl Disk {
    fn create(&mut self, path: &Path, truncate: bool) {
        if let Some(file) = self.seen.get(path) {
            if truncate {
                self.dirty.insert(*file);
            }
            return;
        }
        self.files += 1;
        self.seen.insert(path.to_owned(), self.files);
    }

    fn link(&mut self, from: &Path, to: &Path) {
        if let Some(file) = self.seen.get(from).copied() {
            self.seen.insert(to.to_owned(), file);
        }
    }

    fn write(&mut self, path: &Path) {
        if let Some(file) = self.seen.get(path) {
            self.dirty.insert(*file);
        }
    }

    /// Of a file: its content. Of a folder: the names in it, those removed included.
    fn sync(&mut self, path: &Path) {
        if let Some(file) = self.seen.get(path) {
            self.dirty.remove(file);
        }
        self.durable.retain(|name, _| name.parent() != Some(path));
        let names = self.seen.iter().filter(|(name, _)| name.parent() == Some(path));
        self.durable.extend(names.map(|(name, file)| (name.clone(), *file)));
    }

    fn check(&self, blobs: &Path, acknowledged: &BTreeSet<PathBuf>) -> Result<(), String> {
        for object in acknowledged {
            let names = object.ancestors().take_while(|name| name.starts_with(blobs));
            if let Some(lost) = names.into_iter().find(|name| !self.durable.contains_key(*name)) {
                return Err(format!("{} was acknowledged and {} is lost", object.display(), lost.display()));
            }
            if self.dirty.contains(&self.durable[object]) {
                return Err(format!("{} was acknowledged and its content is lost", object.display()));
            }
        }
        // A disk may keep a name early. That of an object, staging names and the other writer's aside, must then be whole.
        let ours = |name: &str| !name.contains('#') && !name.contains(OTHERS);
        let half = self.seen.iter().find(|(name, file)| {
            name.starts_with(blobs) && self.dirty.contains(file) && name.to_str().is_some_and(ours)
        });
        half.map_or(Ok(()), |(name, _)| Err(format!("{} is half", name.display())))
    }
}
