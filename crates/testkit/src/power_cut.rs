//! A file layer in memory that knows what would survive a power cut, and takes the rest away.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use isocenter_runtime::{
    fs::{Fs, FsFile},
    random::Seeded,
};
use parking_lot::Mutex;

/// A machine's disk with its cache. Handles share the machine.
///
/// The contract is that of [`Fs`], read by a lawyer: of what was not synced any part may be there after
/// [`PowerCutFs::cut`], in files any prefix with a hole in it, among names any subset. A sync that fails loses what it
/// was to keep, and later syncs of that file lie, as those of Linux do.
#[derive(Clone, Debug)]
pub struct PowerCutFs {
    machine: Arc<Mutex<Machine>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Dir,
    File(usize),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    data: Vec<u8>,
    /// This many bytes survive.
    synced: usize,
    /// A sync failed: nothing further survives.
    broken: bool,
}

#[derive(Clone, Debug)]
enum NameOp {
    Add(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

#[derive(Debug, Default)]
struct Machine {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    /// Changes of names that are not durable yet, in order, with the folder that must be synced for them.
    unsynced: Vec<(PathBuf, NameOp)>,
    ops: u64,
    cut_at: Option<u64>,
    fail_at: Option<u64>,
    full: bool,
    off: bool,
}

impl Default for PowerCutFs {
    fn default() -> Self {
        Self::new()
    }
}

impl PowerCutFs {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self { machine: Arc::default() }
    }

    /// This file layer as the product takes it.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn Fs> {
        Arc::new(self.clone())
    }

    /// How many operations that change something were made: creations, writes, syncs, renames, removals.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.machine.lock().ops
    }

    /// Switches the machine off in the middle of operation `op` (counted from 1): a write is begun, everything else
    /// is not, and every later call fails.
    pub fn cut_at(&self, op: u64) {
        self.machine.lock().cut_at = Some(op);
    }

    /// Makes operation `op` (counted from 1) fail, once.
    pub fn fail_at(&self, op: u64) {
        self.machine.lock().fail_at = Some(op);
    }

    /// Whether the disk is full: writes then keep half of what they were given and fail.
    pub fn set_full(&self, full: bool) {
        self.machine.lock().full = full;
    }

    /// Switches the machine off and answers the disk that the next start finds.
    #[must_use]
    pub fn cut(&self, seed: u64) -> Self {
        let mut rng = Seeded::new(seed);
        let mut machine = self.machine.lock();
        machine.off = true;
        let mut names = machine.durable.clone();
        for (_, op) in &machine.unsynced {
            if rng.chance(0.5) {
                apply(&mut names, op);
            }
        }
        let inodes = machine.inodes.iter().map(|inode| survivor(inode, &mut rng)).collect();
        let next = Machine { inodes, durable: names.clone(), names, ..Machine::default() };
        Self { machine: Arc::new(Mutex::new(next)) }
    }
}

/// What is left of a file: what was synced, then any prefix of the rest, sometimes with a hole of zeros in it.
fn survivor(inode: &Inode, rng: &mut Seeded) -> Inode {
    let (synced, len) = (inode.synced as u64, inode.data.len() as u64);
    let kept = if rng.chance(0.2) { len } else { rng.range(synced..len + 1) };
    let mut data = inode.data[..kept as usize].to_vec();
    if kept > synced && rng.chance(0.3) {
        let from = rng.range(synced..kept) as usize;
        let to = rng.range(from as u64..kept + 1) as usize;
        data[from..to].fill(0);
    }
    Inode { synced: data.len(), data, broken: false }
}

fn apply(names: &mut BTreeMap<PathBuf, Node>, op: &NameOp) {
    match op {
        NameOp::Add(path, node) => drop(names.insert(path.clone(), *node)),
        NameOp::Remove(path) => drop(names.remove(path)),
        NameOp::Rename(from, to, node) => {
            names.remove(from);
            names.insert(to.clone(), *node);
        }
    }
}

impl Machine {
    /// Counts an operation that changes something. `Ok(true)`: the power goes while it is being done.
    fn step(&mut self) -> io::Result<bool> {
        self.on()?;
        self.ops += 1;
        if self.fail_at == Some(self.ops) {
            return Err(io::Error::other("injected failure"));
        }
        if self.cut_at == Some(self.ops) {
            self.off = true;
            return Ok(true);
        }
        Ok(false)
    }

    /// An operation that is either done or not.
    fn whole_step(&mut self) -> io::Result<()> {
        if self.step()? { Err(dead()) } else { Ok(()) }
    }

    fn on(&self) -> io::Result<()> {
        if self.off { Err(dead()) } else { Ok(()) }
    }

    fn file(&self, path: &Path) -> io::Result<usize> {
        match self.names.get(path) {
            Some(Node::File(inode)) => Ok(*inode),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn name(&mut self, path: &Path, op: NameOp) -> io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        if !dir.as_os_str().is_empty() && dir != Path::new("/") && self.names.get(&dir) != Some(&Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        apply(&mut self.names, &op);
        self.unsynced.push((dir, op));
        Ok(())
    }
}

fn dead() -> io::Error {
    io::Error::other("the power is off")
}

impl PowerCutFs {
    fn handle(&self, inode: usize) -> Box<dyn FsFile> {
        Box::new(File { machine: Arc::clone(&self.machine), inode })
    }
}

impl Fs for PowerCutFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        let mut m = self.machine.lock();
        m.whole_step()?;
        if m.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = m.inodes.len();
        m.name(path, NameOp::Add(path.to_owned(), Node::File(inode)))?;
        m.inodes.push(Inode::default());
        Ok(self.handle(inode))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        let found = {
            let m = self.machine.lock();
            m.on()?;
            m.file(path)
        };
        match found {
            Ok(inode) => Ok(self.handle(inode)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.create_new(path),
            Err(e) => Err(e),
        }
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let m = self.machine.lock();
        m.on()?;
        Ok(m.inodes[m.file(path)?].data.clone())
    }

    fn len(&self, path: &Path) -> io::Result<Option<u64>> {
        let m = self.machine.lock();
        m.on()?;
        match m.names.get(path) {
            None => Ok(None),
            Some(_) => Ok(Some(m.inodes[m.file(path)?].data.len() as u64)),
        }
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut m = self.machine.lock();
        m.whole_step()?;
        let inode = m.file(path)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let inode = &mut m.inodes[inode];
        inode.data.resize(len, 0);
        inode.synced = len;
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut m = self.machine.lock();
        m.whole_step()?;
        let node = *m.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        m.name(to, NameOp::Rename(from.to_owned(), to.to_owned(), node))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut m = self.machine.lock();
        m.whole_step()?;
        m.file(path)?;
        m.name(path, NameOp::Remove(path.to_owned()))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut m = self.machine.lock();
        m.on()?;
        let missing: Vec<_> = path.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
        for dir in missing.into_iter().rev() {
            if !m.names.contains_key(dir) {
                m.whole_step()?;
                m.names.insert(dir.to_owned(), Node::Dir);
                m.durable.insert(dir.to_owned(), Node::Dir);
            }
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let m = self.machine.lock();
        m.on()?;
        Ok(m.names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut m = self.machine.lock();
        m.whole_step()?;
        let (now, later) = std::mem::take(&mut m.unsynced).into_iter().partition(|(d, _)| d == dir);
        m.unsynced = later;
        let now: Vec<(PathBuf, NameOp)> = now;
        for (_, op) in now {
            apply(&mut m.durable, &op);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct File {
    machine: Arc<Mutex<Machine>>,
    inode: usize,
}

impl FsFile for File {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        let mut m = self.machine.lock();
        let cut = m.step()?;
        let kept = if m.full { &data[..data.len() / 2] } else { data };
        let full = m.full;
        m.inodes[self.inode].data.extend_from_slice(kept);
        match (cut, full) {
            (true, _) => Err(dead()),
            (false, true) => Err(io::ErrorKind::StorageFull.into()),
            (false, false) => Ok(()),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut m = self.machine.lock();
        let result = m.whole_step();
        let inode = &mut m.inodes[self.inode];
        match result {
            Ok(()) if !inode.broken => inode.synced = inode.data.len(),
            Ok(()) => {}
            Err(_) => inode.broken = true,
        }
        result
    }
}

/// A file layer that claims to sync and does not: what a build without fsync would be. A durability test must fail
/// over it.
#[derive(Clone, Debug)]
pub struct NoSyncFs(pub Arc<dyn Fs>);

impl Fs for NoSyncFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        Ok(Box::new(NoSyncFile(self.0.create_new(path)?)))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        Ok(Box::new(NoSyncFile(self.0.append(path)?)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.read(path)
    }

    fn len(&self, path: &Path) -> io::Result<Option<u64>> {
        self.0.len(path)
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        self.0.truncate(path, len)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir_all(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
}

#[derive(Debug)]
struct NoSyncFile(Box<dyn FsFile>);

impl FsFile for NoSyncFile {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.write_all(data)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(disk: &PowerCutFs) -> Vec<PathBuf> {
        disk.list(Path::new("/d")).unwrap()
    }

    /// A disk with a synced file `a` under a synced name, to which `tail` was written and not synced, and an unsynced
    /// name `b`.
    fn disk(tail: &[u8]) -> PowerCutFs {
        let disk = PowerCutFs::new();
        disk.create_dir_all(Path::new("/d")).unwrap();
        let mut a = disk.create_new(Path::new("/d/a")).unwrap();
        a.write_all(b"kept").unwrap();
        a.sync().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        a.write_all(tail).unwrap();
        disk.create_new(Path::new("/d/b")).unwrap().sync().unwrap();
        disk
    }

    #[test]
    fn what_is_synced_survives_and_nothing_else_is_promised() {
        let (mut lengths, mut both) = (std::collections::BTreeSet::new(), 0);
        for seed in 0..200 {
            let after = disk(b"perhaps").cut(seed);
            let a = after.read(Path::new("/d/a")).unwrap();
            assert!(a.starts_with(b"kept"), "seed {seed}");
            lengths.insert(a.len());
            both += names(&after).len() - 1;
        }
        assert_eq!(lengths, (4..=11).collect(), "torn at any byte");
        assert!((50..150).contains(&both), "a synced file needs its name synced too: {both} of 200");
    }

    #[test]
    fn a_failed_sync_is_not_made_good_by_a_later_one() {
        let disk = disk(b"");
        let mut a = disk.append(Path::new("/d/a")).unwrap();
        a.write_all(b"lost").unwrap();
        disk.fail_at(disk.ops() + 1);
        assert!(a.sync().is_err());
        a.sync().unwrap();
        let survivors = (0..50).map(|seed| disk.cut(seed).read(Path::new("/d/a")).unwrap().len());
        assert!(survivors.min() < Some(8));
    }

    #[test]
    fn after_the_cut_nothing_works_and_a_rename_is_whole() {
        for seed in 0..50 {
            let disk = disk(b"");
            disk.rename(Path::new("/d/a"), Path::new("/d/c")).unwrap();
            disk.cut_at(disk.ops() + 1);
            assert!(disk.sync_dir(Path::new("/d")).is_err() && disk.read(Path::new("/d/c")).is_err());
            let after = disk.cut(seed);
            let kept = names(&after).iter().filter(|name| !name.ends_with("b")).count();
            assert_eq!(kept, 1, "seed {seed}");
        }
    }
}
