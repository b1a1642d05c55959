//! One instance being received: a file that is not yet anything, and becomes one instance or nothing.

use std::{
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use isocenter_dimse::{
    StoreRequest,
    part10::{self, Header, InspectError},
};
use isocenter_domain::{id::TenantId, key::StudyKey, refs::Digest};
use isocenter_runtime::fs::{Fs, FsFile};
use sha2::{Digest as _, Sha256};

use super::{Inner, Origin, Ready, SpoolError, name};

/// Bytes gathered before they are written: few calls to the file system, little memory for each association.
const BUFFER: usize = 256 * 1024;

/// The start of the file that is kept in memory to be inspected: real headers end well before. A longer one is read back.
const HEAD: usize = 256 * 1024;

/// An instance being received. Dropped before [`Incoming::finish`] returned `Ok`, it leaves no file.
///
/// Every method but [`Incoming::gather`] blocks.
#[derive(Debug)]
pub(crate) struct Incoming {
    spool: Arc<Inner>,
    file: Box<dyn FsFile>,
    tenant: TenantId,
    origin: Origin,
    request: StoreRequest,
    buffer: Vec<u8>,
    head: Vec<u8>,
    /// Of the whole file, and of the data set alone.
    hashes: (Sha256, Sha256),
    len: u64,
    /// Where the file lies now; removed there unless it is kept.
    leftover: Leftover,
}

/// Removes a file when dropped.
#[derive(Debug)]
struct Leftover {
    fs: Arc<dyn Fs>,
    path: Option<PathBuf>,
}

impl Drop for Leftover {
    fn drop(&mut self) {
        // One unlink, also where a cancelled task drops this on an async thread. What cannot be removed is in
        // `incoming/`, which the next start empties.
        if let Some(path) = self.path.take()
            && let Err(error) = self.fs.remove(&path)
        {
            tracing::warn!(%error, "cannot remove an abandoned file of the spool");
        }
    }
}

impl Incoming {
    pub(super) fn create(
        spool: Arc<Inner>,
        path: PathBuf,
        tenant: TenantId,
        origin: Origin,
        request: StoreRequest,
    ) -> Result<Self, SpoolError> {
        let file = spool.fs.create_new(&path).map_err(SpoolError::io("created"))?;
        let leftover = Leftover { fs: Arc::clone(&spool.fs), path: Some(path) };
        let header = part10::header(
            &request.sop_class,
            &request.sop_instance,
            &request.transfer_syntax,
            &request.calling,
        );
        let mut incoming = Self {
            spool,
            file,
            tenant,
            origin,
            request,
            buffer: Vec::with_capacity(BUFFER),
            head: Vec::new(),
            hashes: (Sha256::new_with_prefix(&header), Sha256::new()),
            len: 0,
            leftover,
        };
        incoming.put(&header)?;
        Ok(incoming)
    }

    /// Takes bytes of the data set into memory; `true`: [`Incoming::flush`] before the next ones. Does not block.
    pub(crate) fn gather(&mut self, data: &[u8]) -> bool {
        self.buffer.extend_from_slice(data);
        self.buffer.len() >= BUFFER
    }

    /// Writes what was gathered.
    pub(crate) fn flush(&mut self) -> Result<(), SpoolError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.hashes.0.update(&buffer);
        self.hashes.1.update(&buffer);
        let written = self.put(&buffer);
        buffer.clear();
        self.buffer = buffer;
        written
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        let room = HEAD.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        self.len += bytes.len() as u64;
        self.file.write_all(bytes).map_err(SpoolError::io("written"))
    }

    /// Checks the whole instance and makes it durable under its name in `ready/`: content synced, then renamed, then the
    /// folder synced.
    pub(crate) fn finish(mut self) -> Result<(Ready, Header), SpoolError> {
        self.flush()?;
        let header = self.inspect()?;
        let study = StudyKey { tenant: self.tenant.clone(), study: header.study.clone() };
        let (file, data_set) = std::mem::take(&mut self.hashes);
        let (sha256, data_set) = (Digest(file.finalize().into()), Digest(data_set.finalize().into()));
        let (folder, name) = name::place(&study, &self.origin, &header.instance, &sha256, &data_set);
        let folder = self.spool.ready.join(folder);
        let path = folder.join(name);
        self.file.sync().map_err(SpoolError::io("synced"))?;
        self.spool.make_durable(&folder)?;
        let from = self.leftover.path.clone().unwrap_or_default();
        self.spool.fs.rename(&from, &path).map_err(SpoolError::io("renamed"))?;
        self.leftover.path = Some(path.clone());
        self.spool.fs.sync_dir(&folder).map_err(SpoolError::io("synced with its folder"))?;
        self.leftover.path = None;
        let ready = Ready {
            path,
            study,
            origin: self.origin.clone(),
            instance: header.instance.clone(),
            sha256,
            data_set,
            size: self.len,
            received: None,
            adopted: false,
        };
        Ok((ready, header))
    }

    /// Reads the header and holds it against the command.
    fn inspect(&self) -> Result<Header, SpoolError> {
        let source = HeadThenFile {
            head: &self.head,
            whole: self.head.len() as u64 == self.len,
            at: 0,
            fs: &*self.spool.fs,
            path: self.leftover.path.as_deref().unwrap_or(Path::new("")),
            rest: None,
        };
        let header = part10::inspect_reader(BufReader::new(source), Some(self.len)).map_err(|e| match e {
            InspectError::Io(source) => SpoolError::Io { doing: "read back", source },
            InspectError::Mismatch(tag) => SpoolError::Mismatch(tag),
            e => SpoolError::Undecodable(e),
        })?;
        // UIDs become components of paths, where a leading dot has a meaning of its own.
        let uids = [header.study.as_str(), header.series.as_str(), header.instance.as_str()];
        if uids.iter().any(|uid| uid.starts_with('.')) {
            return Err(SpoolError::DottedUid);
        }
        debug_assert_eq!(
            header.instance, self.request.sop_instance,
            "the meta information is of the command"
        );
        Ok(header)
    }
}

/// The file being received, read from its start: from memory as far as that goes, then from the disk.
struct HeadThenFile<'a> {
    head: &'a [u8],
    whole: bool,
    at: usize,
    fs: &'a dyn Fs,
    path: &'a Path,
    rest: Option<io::Cursor<Vec<u8>>>,
}

impl Read for HeadThenFile<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut head = &self.head[self.at..];
        if !head.is_empty() {
            let n = head.read(out)?;
            self.at += n;
            return Ok(n);
        }
        if self.whole {
            return Ok(0);
        }
        if self.rest.is_none() {
            let mut rest = io::Cursor::new(self.fs.read(self.path)?);
            rest.consume(self.head.len());
            self.rest = Some(rest);
        }
        self.rest.as_mut().map_or(Ok(0), |rest| rest.read(out))
    }
}
