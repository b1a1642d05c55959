//! The spool: instances between their acknowledgement and blobs, durable over `kill -9` and power cuts.
//!
//! ```text
//! {spool}/node                    this node's id, a UUID
//! {spool}/sites                   whose devices these are, for a start while the store is away: see `sites.rs`
//! {spool}/incoming/{uuid}         being received; emptied at every start
//! {spool}/ready/…                 whole, checked, durable: see `spool/name.rs`
//! ```
//! A file is written in `incoming/`, synced, renamed into `ready/`, and its folder synced; only then is it acknowledged. All
//! access goes through [`Fs`], so that a test can take away what was not synced. Every call blocks.

mod incoming;
mod name;

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use isocenter_dimse::{
    StoreRequest,
    part10::{InspectError, Tag},
};
use isocenter_domain::{
    Kind, Kinded,
    id::{InvalidId, NodeId, TenantId},
};
use isocenter_runtime::{fs::Fs, random};
use parking_lot::Mutex;

pub(crate) use incoming::Incoming;
pub use name::{Origin, Ready};

/// Why the spool did not take an instance, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The disk is full, or has less free space than it must keep.
    #[error("the spool's disk is full")]
    Full(#[source] Option<io::Error>),
    /// The file system failed.
    #[error("a file of the spool cannot be {doing}")]
    Io {
        /// What was tried, as a participle.
        doing: &'static str,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The data set is cut short, or its header cannot be read.
    #[error("the data set cannot be understood")]
    Undecodable(#[source] InspectError),
    /// The data set says otherwise than the command it came with.
    #[error("({:04X},{:04X}) differs from the command", .0.group(), .0.element())]
    Mismatch(Tag),
    /// A UID begins with a dot.
    #[error("a UID begins with a dot")]
    DottedUid,
    /// `node` in the spool does not hold an id.
    #[error(
        "the file node in the spool does not hold this node's id; restore it, or start with an empty spool"
    )]
    Node(#[source] InvalidId),
}

impl SpoolError {
    fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(Some(source)),
            _ => Self::Io { doing, source },
        }
    }
}

impl Kinded for SpoolError {
    fn kind(&self) -> Kind {
        match self {
            Self::Full(_) => Kind::Exhausted,
            Self::Io { .. } => Kind::Unavailable,
            Self::Undecodable(_) | Self::Mismatch(_) | Self::DottedUid => Kind::Invalid,
            Self::Node(_) => Kind::DataLoss,
        }
    }
}

/// A node's spool. Clones are the same. One process may use a folder at a time.
#[derive(Clone, Debug)]
pub struct Spool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fs: Arc<dyn Fs>,
    root: PathBuf,
    incoming: PathBuf,
    ready: PathBuf,
    node: NodeId,
    min_free: u64,
    /// Folders whose names this process has synced. One that merely exists may have been made by a process that was
    /// killed before its own sync. As many as there are tenants, sites and AE titles.
    durable: Mutex<HashSet<PathBuf>>,
}

impl Spool {
    /// Opens the spool in the folder `root`, and makes it and its node id where there are none.
    ///
    /// # Errors
    /// [`SpoolError`], where the folder cannot be used or its id is damaged.
    pub fn open(fs: Arc<dyn Fs>, root: &Path, min_free: u64) -> Result<Self, SpoolError> {
        let (incoming, ready) = (root.join("incoming"), root.join("ready"));
        for folder in [&incoming, &ready] {
            fs.create_dir_all(folder).map_err(SpoolError::io("given a folder"))?;
        }
        let node = node_id(&*fs, root)?;
        // After the id, whose own sync of the folder also keeps the names of the two above.
        fs.sync_dir(root).map_err(SpoolError::io("synced"))?;
        let root = root.to_owned();
        Ok(Self(Arc::new(Inner { fs, root, incoming, ready, node, min_free, durable: Mutex::default() })))
    }

    /// This node's id, the same for the life of the folder.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.0.node
    }

    /// What an earlier process left: removes what it had not finished, and answers what it had made durable, whether it
    /// came to acknowledge it or not. Call it once, before anything is received.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn recover(&self) -> Result<Vec<Ready>, SpoolError> {
        let Inner { fs, incoming, ready, .. } = &*self.0;
        for leftover in fs.list(incoming).map_err(SpoolError::io("listed"))? {
            fs.remove(&leftover).map_err(SpoolError::io("removed"))?;
        }
        let mut folders = vec![ready.clone()];
        for _ in ["tenant", "site", "AE title"] {
            let mut deeper = Vec::new();
            for folder in &folders {
                match fs.list(folder) {
                    Ok(found) => deeper.extend(found),
                    Err(e) if e.kind() == io::ErrorKind::NotADirectory => stray(),
                    Err(e) => return Err(SpoolError::io("listed")(e)),
                }
            }
            folders = deeper;
        }
        let mut found = Vec::new();
        for folder in folders {
            let inside = match fs.list(&folder) {
                Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                    stray();
                    continue;
                }
                listed => listed.map_err(SpoolError::io("listed"))?,
            };
            for path in inside {
                let size = fs.len(&path).map_err(SpoolError::io("measured"))?.unwrap_or_default();
                match name::parse(ready, &path, size) {
                    Some(file) => found.push(file),
                    None => stray(),
                }
            }
        }
        Ok(found)
    }

    /// The sites that were remembered; empty where none were.
    pub(crate) fn sites(&self) -> Result<Vec<u8>, SpoolError> {
        match self.0.fs.read(&self.0.root.join("sites")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read.map_err(SpoolError::io("read")),
        }
    }

    /// Remembers the sites, durably.
    pub(crate) fn remember_sites(&self, content: &[u8]) -> Result<(), SpoolError> {
        replace(&*self.0.fs, &self.0.root, "sites", content)
    }

    /// Begins to receive an instance.
    pub(crate) fn begin(
        &self,
        tenant: TenantId,
        origin: Origin,
        request: StoreRequest,
    ) -> Result<Incoming, SpoolError> {
        self.0.check_space()?;
        let path = self.0.incoming.join(random::uuid_v7().to_string());
        Incoming::create(Arc::clone(&self.0), path, tenant, origin, request)
    }

    /// Removes an instance that is in blobs and listed. Not synced: after a power cut it may be there again, and is then
    /// found to be a repeat.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), SpoolError> {
        match self.0.fs.remove(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(SpoolError::io("removed")(e)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl Inner {
    fn check_space(&self) -> Result<(), SpoolError> {
        if self.min_free == 0 {
            return Ok(());
        }
        let stat = rustix::fs::statvfs(&self.root).map_err(|e| SpoolError::io("measured")(e.into()))?;
        if stat.f_bavail.saturating_mul(stat.f_frsize) < self.min_free {
            return Err(SpoolError::Full(None));
        }
        Ok(())
    }

    /// Makes a folder below `ready/` and each folder on the way there durable.
    fn make_durable(&self, folder: &Path) -> Result<(), SpoolError> {
        let mut durable = self.durable.lock();
        if durable.contains(folder) {
            return Ok(());
        }
        self.fs.create_dir_all(folder).map_err(SpoolError::io("given a folder"))?;
        for parent in folder.ancestors().skip(1).take_while(|parent| parent.starts_with(&self.ready)) {
            self.fs.sync_dir(parent).map_err(SpoolError::io("synced with its folder"))?;
        }
        durable.insert(folder.to_owned());
        Ok(())
    }
}

fn stray() {
    tracing::warn!("the spool holds a file that is not its own; it is left alone");
}

/// The id of the node whose spool the folder `root` is, made there where there is none. The folder must exist.
///
/// # Errors
/// [`SpoolError`] where the id cannot be read or made.
pub fn node_id(fs: &dyn Fs, root: &Path) -> Result<NodeId, SpoolError> {
    let path = root.join("node");
    match fs.read(&path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            return NodeId::new(text.trim()).map_err(SpoolError::Node);
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(SpoolError::io("read")(e)),
    }
    let text = random::uuid_v7().to_string();
    replace(fs, root, "node", text.as_bytes())?;
    NodeId::new(&text).map_err(SpoolError::Node)
}

/// Writes a whole small file of the spool, durably: it is the old one or the new one.
fn replace(fs: &dyn Fs, root: &Path, name: &str, content: &[u8]) -> Result<(), SpoolError> {
    let new = root.join(format!("{name}.new"));
    match fs.remove(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(SpoolError::io("removed")(e)),
        Ok(()) | Err(_) => {}
    }
    let mut file = fs.create_new(&new).map_err(SpoolError::io("created"))?;
    file.write_all(content).and_then(|()| file.sync()).map_err(SpoolError::io("written"))?;
    fs.rename(&new, &root.join(name)).map_err(SpoolError::io("renamed"))?;
    fs.sync_dir(root).map_err(SpoolError::io("synced"))
}

#[cfg(test)]
mod tests;
