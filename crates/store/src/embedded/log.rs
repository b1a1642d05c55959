//! The embedded store's files: a snapshot and, beside it, the log of what came after.
//!
//! One batch of changes is one frame, written with one call and synced before the next is begun. Hence only the last
//! frame of the log can be torn by a power cut; a broken frame with an intact one after it was acknowledged once, and
//! is refused instead of dropped.
//!
//! Snapshot and log share a generation number. A new generation is made in this order: its log (empty, synced, name
//! synced), then its snapshot under a temporary name (synced), renamed, name synced. So a snapshot's presence means
//! that its log was there too, and until the last step the old generation is complete.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use bytes::{Buf as _, BufMut as _, Bytes};
use isocenter_runtime::{
    fs::{Fs, FsFile},
    random,
};

use super::{
    codec,
    state::{Record, State},
};
use crate::Error;

const LOG_MAGIC: &[u8; 8] = b"ISOCLOG1";
const SNAPSHOT_MAGIC: &[u8; 8] = b"ISOCSNP1";
const FRAME_MAGIC: u32 = 0x464F_5349;
/// Magic, generation, cluster id, CRC.
const LOG_HEADER: usize = 8 + 8 + 8 + 4;
/// Magic, sequence, length, CRC of these.
const FRAME_HEADER: usize = 4 + 8 + 4 + 4;
const CRC: usize = 4;

/// The open log, positioned after its last frame.
#[derive(Debug)]
pub(super) struct Log {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    cluster_id: u64,
    generation: u64,
    file: Box<dyn FsFile>,
    next_frame: u64,
    bytes: u64,
    snapshot_bytes: u64,
}

impl Log {
    /// Opens the folder's store, or makes an empty one.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, now: Instant) -> Result<(Self, State), Error> {
        fs.create_dir_all(dir).map_err(Error::io("creating", dir))?;
        let found = Found::in_dir(&*fs, dir)?;
        let Some(generation) = found.snapshots.last().copied() else {
            return Self::create(fs, dir, &found);
        };
        let (cluster_id, snapshot_bytes, mut state) = read_snapshot(&*fs, dir, generation, now)?;
        let path = log_path(dir, generation);
        if fs.len(&path).map_err(Error::io("reading", &path))?.is_none() {
            return Err(corrupt(path, 0, "the log that belongs to the snapshot is missing"));
        }
        let bytes = Bytes::from(fs.read(&path).map_err(Error::io("reading", &path))?);
        let whole = scan(&path, &bytes, generation, cluster_id, |record| state.replay(record, now))?;
        if whole.end < bytes.len() {
            tracing::warn!(
                file = %path.display(),
                offset = whole.end,
                bytes = bytes.len() - whole.end,
                "cut a torn frame off the end of the log; it was never acknowledged"
            );
            fs.truncate(&path, whole.end as u64).map_err(Error::io("truncating", &path))?;
        }
        found.remove_all_but(&*fs, dir, generation)?;
        let file = fs.append(&path).map_err(Error::io("opening", &path))?;
        let log = Self {
            fs,
            dir: dir.to_owned(),
            cluster_id,
            generation,
            file,
            next_frame: whole.next_frame,
            bytes: whole.end as u64,
            snapshot_bytes,
        };
        Ok((log, state))
    }

    fn create(fs: Arc<dyn Fs>, dir: &Path, found: &Found) -> Result<(Self, State), Error> {
        for generation in &found.logs {
            let path = log_path(dir, *generation);
            // A log is written to only after its snapshot exists. Without one, it can be no more than a header.
            if fs.len(&path).map_err(Error::io("reading", &path))?.unwrap_or(0) > LOG_HEADER as u64 {
                return Err(corrupt(path, 0, "the snapshot that belongs to the log is missing"));
            }
        }
        found.remove_all_but(&*fs, dir, 0)?;
        let mut id = [0; 8];
        random::fill(&mut id);
        let cluster_id = u64::from_le_bytes(id);
        let state = State::new();
        let (file, snapshot_bytes) = new_generation(&*fs, dir, 1, cluster_id, &state)
            .map_err(Error::io("creating a store in", dir))?;
        let log = Self {
            fs,
            dir: dir.to_owned(),
            cluster_id,
            generation: 1,
            file,
            next_frame: 1,
            bytes: LOG_HEADER as u64,
            snapshot_bytes,
        };
        Ok((log, state))
    }

    pub fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// The length of the log in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The length of the snapshot in bytes.
    pub fn snapshot_bytes(&self) -> u64 {
        self.snapshot_bytes
    }

    /// Appends one frame and makes it durable.
    pub fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(FRAME_HEADER + payload.len() + CRC);
        frame.put_u32_le(FRAME_MAGIC);
        frame.put_u64_le(self.next_frame);
        frame.put_u32_le(u32::try_from(payload.len()).map_err(io::Error::other)?);
        let crc = self.salted_crc(&frame);
        frame.put_u32_le(crc);
        frame.put_slice(payload);
        let crc = self.salted_crc(payload);
        frame.put_u32_le(crc);
        self.file.write_all(&frame)?;
        self.file.sync()?;
        self.next_frame += 1;
        self.bytes += frame.len() as u64;
        Ok(())
    }

    /// Begins a new generation from the state as it is; everything appended before must be in it.
    pub fn rotate(&mut self, state: &State) -> io::Result<()> {
        let next = self.generation + 1;
        let (file, snapshot_bytes) = new_generation(&*self.fs, &self.dir, next, self.cluster_id, state)?;
        let old = self.generation;
        self.file = file;
        self.generation = next;
        self.next_frame = 1;
        self.bytes = LOG_HEADER as u64;
        self.snapshot_bytes = snapshot_bytes;
        // Not synced: an old generation that comes back after a power cut is removed at the next open.
        self.fs.remove(&snapshot_path(&self.dir, old))?;
        self.fs.remove(&log_path(&self.dir, old))
    }

    fn salted_crc(&self, bytes: &[u8]) -> u32 {
        salted_crc(self.generation, self.cluster_id, bytes)
    }
}

/// CRC-32 that also covers which file the bytes belong to, so that a frame of another log never looks like one of this.
fn salted_crc(generation: u64, cluster_id: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&generation.to_le_bytes());
    hasher.update(&cluster_id.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

fn log_path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("{generation:020}.log"))
}

fn snapshot_path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("{generation:020}.snapshot"))
}

fn corrupt(file: PathBuf, offset: usize, why: &'static str) -> Error {
    Error::Corrupt { file, offset: offset as u64, why }
}

fn new_generation(
    fs: &dyn Fs,
    dir: &Path,
    generation: u64,
    cluster_id: u64,
    state: &State,
) -> io::Result<(Box<dyn FsFile>, u64)> {
    let mut header = LOG_MAGIC.to_vec();
    header.put_u64_le(generation);
    header.put_u64_le(cluster_id);
    header.put_u32_le(crc32fast::hash(&header));
    let mut log = fs.create_new(&log_path(dir, generation))?;
    log.write_all(&header)?;
    log.sync()?;
    fs.sync_dir(dir)?;

    let body = codec::snapshot(&state.parts());
    let mut bytes = SNAPSHOT_MAGIC.to_vec();
    bytes.put_u64_le(generation);
    bytes.put_u64_le(cluster_id);
    bytes.put_u64_le(body.len() as u64);
    bytes.put_u32_le(salted_crc(generation, cluster_id, &body));
    bytes.put_slice(&body);
    let target = snapshot_path(dir, generation);
    let temporary = target.with_extension("tmp");
    let mut file = fs.create_new(&temporary)?;
    file.write_all(&bytes)?;
    file.sync()?;
    fs.rename(&temporary, &target)?;
    fs.sync_dir(dir)?;
    Ok((log, bytes.len() as u64))
}

fn read_snapshot(fs: &dyn Fs, dir: &Path, generation: u64, now: Instant) -> Result<(u64, u64, State), Error> {
    let path = snapshot_path(dir, generation);
    let all = Bytes::from(fs.read(&path).map_err(Error::io("reading", &path))?);
    let parse = || {
        let mut b = all.clone();
        let magic = b.try_get_u64_le().ok()?;
        let (stated, cluster_id) = (b.try_get_u64_le().ok()?, b.try_get_u64_le().ok()?);
        let (len, crc) = (b.try_get_u64_le().ok()?, b.try_get_u32_le().ok()?);
        let intact = magic == u64::from_le_bytes(*SNAPSHOT_MAGIC)
            && stated == generation
            && len == b.remaining() as u64
            && crc == salted_crc(generation, cluster_id, &b);
        Some((cluster_id, codec::read_snapshot(intact.then_some(b)?)?))
    };
    let (cluster_id, snap) =
        parse().ok_or_else(|| corrupt(path, 0, "the snapshot's checksum or structure is wrong"))?;
    let codec::Snapshot { revision, compacted, next_lease, leases, chains } = snap;
    let state = State::restore(revision, compacted, next_lease, &leases, chains, now);
    Ok((cluster_id, all.len() as u64, state))
}

/// How far a log goes up to its end or its torn tail.
struct Whole {
    end: usize,
    next_frame: u64,
}

/// Replays each record of a log.
fn scan(
    path: &Path,
    bytes: &Bytes,
    generation: u64,
    cluster_id: u64,
    mut replay: impl FnMut(&Record) -> bool,
) -> Result<Whole, Error> {
    let mut header = bytes.get(..LOG_HEADER).unwrap_or_default();
    let stated_crc = header.len() == LOG_HEADER && {
        let (head, mut crc) = header.split_at(LOG_HEADER - CRC);
        crc32fast::hash(head) == crc.get_u32_le()
    };
    if !stated_crc {
        return Err(corrupt(path.to_owned(), 0, "the log's header is damaged"));
    }
    let magic = header.get_u64_le();
    if magic != u64::from_le_bytes(*LOG_MAGIC)
        || header.get_u64_le() != generation
        || header.get_u64_le() != cluster_id
    {
        return Err(corrupt(path.to_owned(), 0, "the log does not belong to its snapshot"));
    }
    let mut whole = Whole { end: LOG_HEADER, next_frame: 1 };
    while let Some((sequence, payload, len)) = frame(&bytes[whole.end..], generation, cluster_id) {
        if sequence != whole.next_frame {
            return Err(corrupt(path.to_owned(), whole.end, "a frame is missing before this one"));
        }
        let records = codec::records(bytes.slice_ref(payload))
            .ok_or_else(|| corrupt(path.to_owned(), whole.end, "the frame's content is not understood"))?;
        if !records.iter().all(&mut replay) {
            let why = "the frame does not follow on the one before it";
            return Err(corrupt(path.to_owned(), whole.end, why));
        }
        whole.end += len;
        whole.next_frame += 1;
    }
    let rest = &bytes[whole.end..];
    let acknowledged = (1..rest.len()).any(|skip| {
        rest[skip..].starts_with(&FRAME_MAGIC.to_le_bytes())
            && frame(&rest[skip..], generation, cluster_id).is_some_and(|(seq, _, _)| seq > whole.next_frame)
    });
    if acknowledged {
        return Err(corrupt(path.to_owned(), whole.end, "a damaged frame has an intact one after it"));
    }
    Ok(whole)
}

/// The frame at the beginning of `bytes`, if it is whole: its sequence, its payload, its length in all.
fn frame(bytes: &[u8], generation: u64, cluster_id: u64) -> Option<(u64, &[u8], usize)> {
    let (head, rest) = bytes.split_at_checked(FRAME_HEADER)?;
    let mut b = head;
    let (magic, sequence, len, crc) = (b.get_u32_le(), b.get_u64_le(), b.get_u32_le(), b.get_u32_le());
    if magic != FRAME_MAGIC || crc != salted_crc(generation, cluster_id, &head[..FRAME_HEADER - CRC]) {
        return None;
    }
    let len = usize::try_from(len).ok()?;
    let (payload, mut tail) = rest.split_at_checked(len)?;
    (tail.len() >= CRC && tail.get_u32_le() == salted_crc(generation, cluster_id, payload)).then_some((
        sequence,
        payload,
        FRAME_HEADER + len + CRC,
    ))
}

/// The generations present in a folder, ascending.
struct Found {
    snapshots: Vec<u64>,
    logs: Vec<u64>,
    temporary: Vec<PathBuf>,
}

impl Found {
    fn in_dir(fs: &dyn Fs, dir: &Path) -> Result<Self, Error> {
        let mut found = Self { snapshots: Vec::new(), logs: Vec::new(), temporary: Vec::new() };
        for path in fs.list(dir).map_err(Error::io("listing", dir))? {
            let stem = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok());
            match (path.extension().and_then(|e| e.to_str()), stem) {
                (Some("snapshot"), Some(generation)) => found.snapshots.push(generation),
                (Some("log"), Some(generation)) => found.logs.push(generation),
                (Some("tmp"), Some(_)) => found.temporary.push(path),
                _ => {}
            }
        }
        Ok(found)
    }

    fn remove_all_but(&self, fs: &dyn Fs, dir: &Path, keep: u64) -> Result<(), Error> {
        let old = |generations: &[u64], path: fn(&Path, u64) -> PathBuf| {
            generations.iter().filter(|g| **g != keep).map(|g| path(dir, *g)).collect::<Vec<_>>()
        };
        let stale = [old(&self.snapshots, snapshot_path), old(&self.logs, log_path), self.temporary.clone()];
        for path in stale.concat() {
            fs.remove(&path).map_err(Error::io("removing", &path))?;
        }
        Ok(())
    }
}
