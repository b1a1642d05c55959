//! Pixels, manifests, report bodies, AI results, policy texts, the journal and closed studies' heads: objects that are
//! created once, never changed, and durable when the call that made them returns `Ok`.
//!
//! Objects lie in a folder. What is promised about them is judged in `tests/power_cut.rs` by recording this crate's
//! system calls and losing everything unsynced after each.

mod error;
mod folder;
pub mod path;

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream, stream::BoxStream};
use isocenter_domain::refs::Digest;
use object_store::{GetOptions, ObjectStore as _, ObjectStoreExt as _, PutMode, local::LocalFileSystem};

pub use crate::{
    error::Error,
    path::{BlobPath, Prefix},
};
use crate::{error::io_of, folder::Folder};

/// The most bytes [`Blobs::get`] reads: manifests, reports, journal pieces and all but the largest instances.
pub const GET_LIMIT: u64 = 256 << 20;

/// The bytes of a piece of [`Blobs::stream`]: large enough that opening the file for each costs little, small enough
/// that a thousand streams fit in memory.
pub const CHUNK: u64 = 1 << 20;

/// Whether a call made the object or found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It was not there.
    Created,
    /// It was there, with the same content.
    Existed,
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub path: BlobPath,
    /// Its size in bytes.
    pub size: u64,
}

/// A place for objects. Cloning gives another handle to the same place.
///
/// Objects are create-only: an existing one is never overwritten, so a reader never sees half of one, and two writers
/// of the same name either agree or one of them is told. Several processes may use one folder at once.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Arc<LocalFileSystem>,
    folder: Arc<Folder>,
}

impl Blobs {
    /// Opens the folder at `location` (a path, or `file://` and a path), creating it where it is absent, and tries
    /// that a file can be made, synced and linked there. Blocks: call it at start.
    ///
    /// # Errors
    /// [`Error::Location`] for what is not a folder's path, [`Error::Folder`] for a folder that cannot be used.
    pub fn open(location: &str) -> Result<Self, Error> {
        let path = location.strip_prefix("file://").unwrap_or(location);
        if path.is_empty() {
            return Err(Error::Location("the location is empty; give the path of a folder"));
        }
        if path.contains("://") {
            return Err(Error::Location("the location is not a folder; give a path, or file:// and a path"));
        }
        let folder = Folder::open(PathBuf::from(path))?;
        let store = LocalFileSystem::new_with_prefix(folder.root())
            .map_err(|e| Error::Folder { folder: folder.root().into(), doing: "opened", source: io_of(&e) })?
            .with_fsync(true);
        Ok(Self { store: Arc::new(store), folder: Arc::new(folder) })
    }

    /// Creates the object, durably: after `Ok` it survives a power cut, also where it [existed](Put::Existed).
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] where the object is there with other content; [`Error::Full`]; [`Error::Io`]. After an
    /// error the object may or may not be there; the same call may be made again.
    pub async fn put_new(&self, path: &BlobPath, bytes: Bytes) -> Result<Put, Error> {
        self.folder.blocking(path, Folder::make_parent).await?;
        let put = self.store.put_opts(&location(path), bytes.clone().into(), PutMode::Create.into()).await;
        match put {
            Ok(_) => Ok(Put::Created),
            Err(object_store::Error::AlreadyExists { .. }) => {
                if self.size(path).await? != len(&bytes) || self.get(path).await? != bytes {
                    return Err(Error::AlreadyExists(path.clone()));
                }
                // Its writer may not have reached its own sync, or may never reach it.
                self.folder.blocking(path, Folder::sync).await?;
                Ok(Put::Existed)
            }
            Err(e) => Err(self.folder.failed(path, "written", io_of(&e))),
        }
    }

    /// Makes the object of a local file, durably: a hard link where both lie on one file system, else a synced copy.
    /// The local file stays, and must not be written again: it may be the same file. Remove it after `Ok`, not before.
    /// Doing it again changes nothing.
    ///
    /// # Errors
    /// As [`Blobs::put_new`]. A local file that is not there is [`Error::Io`].
    pub async fn adopt(&self, local_file: &Path, path: &BlobPath) -> Result<Put, Error> {
        let local = local_file.to_owned();
        self.folder.blocking(path, move |folder, path| folder.adopt(&local, path)).await
    }

    /// [`Blobs::adopt`] for callers off the async threads. Blocks.
    ///
    /// # Errors
    /// As [`Blobs::adopt`].
    pub fn adopt_blocking(&self, local_file: &Path, path: &BlobPath) -> Result<Put, Error> {
        self.folder.adopt(local_file, path)
    }

    /// The whole object, of at most [`GET_LIMIT`] bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::TooLarge`], [`Error::Io`].
    pub async fn get(&self, path: &BlobPath) -> Result<Bytes, Error> {
        let found = self.store.get(&location(path)).await.map_err(|e| self.unread(path, &e))?;
        let size = found.meta.size;
        if size > GET_LIMIT {
            return Err(Error::TooLarge { path: path.clone(), size, limit: GET_LIMIT });
        }
        found.bytes().await.map_err(|e| self.unread(path, &e))
    }

    /// [`Blobs::get`] of an object whose SHA-256 is known.
    ///
    /// # Errors
    /// As [`Blobs::get`]; [`Error::Corrupt`] where the content is another.
    pub async fn get_checked(&self, path: &BlobPath, digest: &Digest) -> Result<Bytes, Error> {
        let bytes = self.get(path).await?;
        if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(Error::Corrupt(path.clone())) }
    }

    /// The bytes of `range`, cut at the object's end; empty where the range begins there or after.
    ///
    /// # Errors
    /// As [`Blobs::get`]; the limit applies to the range.
    pub async fn get_range(&self, path: &BlobPath, range: Range<u64>) -> Result<Bytes, Error> {
        let end = range.end.min(self.size(path).await?);
        if range.start >= end {
            return Ok(Bytes::new());
        }
        let size = end - range.start;
        if size > GET_LIMIT {
            return Err(Error::TooLarge { path: path.clone(), size, limit: GET_LIMIT });
        }
        self.store.get_range(&location(path), range.start..end).await.map_err(|e| self.unread(path, &e))
    }

    /// The object in pieces of [`CHUNK`] bytes, the last one shorter. One piece is held at a time.
    ///
    /// # Errors
    /// An item of the stream is [`Error::NotFound`] or [`Error::Io`]; nothing follows it.
    #[must_use]
    pub fn stream(&self, path: &BlobPath) -> BoxStream<'static, Result<Bytes, Error>> {
        let (blobs, path) = (self.clone(), path.clone());
        let pieces = stream::try_unfold((blobs, path, 0_u64, None), |(blobs, path, at, size)| async move {
            let size = match size {
                Some(size) => size,
                None => blobs.size(&path).await?,
            };
            if at >= size {
                return Ok(None);
            }
            let piece = blobs.get_range(&path, at..(at + CHUNK).min(size)).await?;
            let next = at + len(&piece);
            Ok(Some((piece, (blobs, path, next, Some(size)))))
        });
        pieces.boxed()
    }

    /// The object's size in bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`].
    pub async fn size(&self, path: &BlobPath) -> Result<u64, Error> {
        let options = GetOptions::new().with_head(true);
        let found = self.store.get_opts(&location(path), options).await.map_err(|e| self.unread(path, &e))?;
        Ok(found.meta.size)
    }

    /// Whether the object is there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn exists(&self, path: &BlobPath) -> Result<bool, Error> {
        match self.size(path).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound(_)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The objects under `prefix`, in the byte order of their names; none where there is no such prefix. What is
    /// created or deleted meanwhile may or may not be among them. Memory: the names of the folders on the way to the
    /// object at hand, some 100 bytes each.
    ///
    /// # Errors
    /// An item of the stream is [`Error::List`]; nothing follows it.
    #[must_use]
    pub fn list(&self, prefix: &Prefix) -> BoxStream<'static, Result<Entry, Error>> {
        folder::list(Arc::clone(&self.store), prefix.clone(), None)
    }

    /// As [`Blobs::list`], but only those that come after the name `after`: a listing goes on where it was broken off, and
    /// costs what is left of it.
    #[must_use]
    pub fn list_after(&self, prefix: &Prefix, after: &BlobPath) -> BoxStream<'static, Result<Entry, Error>> {
        folder::list(Arc::clone(&self.store), prefix.clone(), Some(after.clone()))
    }

    /// The object under `prefix` whose name is the last in byte order, such as a study's newest manifest or head.
    ///
    /// # Errors
    /// [`Error::List`].
    pub async fn last(&self, prefix: &Prefix) -> Result<Option<Entry>, Error> {
        let mut last = None;
        let mut entries = self.list(prefix);
        while let Some(entry) = entries.next().await {
            last = Some(entry?);
        }
        Ok(last)
    }

    /// Deletes the object, durably; `false` where there was none.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn delete(&self, path: &BlobPath) -> Result<bool, Error> {
        self.folder.blocking(path, Folder::delete).await
    }

    fn unread(&self, path: &BlobPath, error: &object_store::Error) -> Error {
        match error {
            object_store::Error::NotFound { .. } => Error::NotFound(path.clone()),
            other => match io_of(other) {
                // A component of the name is a file, or the object vanished between opening and reading.
                e if e.kind() == io::ErrorKind::NotFound => Error::NotFound(path.clone()),
                source => Error::Io { path: path.clone(), doing: "read", source },
            },
        }
    }
}

/// The name as `object_store` has it: [`BlobPath`] holds none of the characters it would escape.
fn location(path: &BlobPath) -> object_store::path::Path {
    object_store::path::Path::from(path.as_str())
}

fn len(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
