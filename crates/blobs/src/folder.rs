//! What the folder needs beyond `object_store`: durable parent folders, adoption of local files, durable deletion,
//! and listings in order.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::{StreamExt as _, stream, stream::BoxStream};
use isocenter_runtime::random;
use object_store::{ListResult, ObjectStore as _, local::LocalFileSystem};
use parking_lot::Mutex;

use crate::{
    BlobPath, Entry, Error, Prefix, Put,
    error::{io_of, is_full},
};

/// How many folders are remembered as durable. Each costs some 150 bytes; where the memory is full it starts anew, and
/// each folder is synced once more.
const REMEMBERED: usize = 65_536;

/// The bytes compared or copied at once.
const BUFFER: usize = 1 << 20;

/// The folder of a [`crate::Blobs`].
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    /// Folders whose own name this process has synced. A folder that merely exists may have been made an instant ago
    /// by a writer that has not synced it yet, or never will.
    durable: Mutex<HashSet<PathBuf>>,
}

impl Folder {
    /// Makes the folder durably and tries that files can be made, synced and linked in it.
    pub(crate) fn open(root: PathBuf) -> Result<Self, Error> {
        let failed = |doing| {
            let folder = root.clone();
            move |source| Error::Folder { folder, doing, source }
        };
        isocenter_runtime::fs::os().create_dir_all(&root).map_err(failed("created"))?;
        let absolute = root.canonicalize().map_err(failed("opened"))?;
        // The suffix is that of a staged upload: listings pass it over.
        let (a, b) = (staged(&absolute.join("probe")), staged(&absolute.join("probe")));
        let probe = File::create_new(&a).and_then(|f| f.sync_all()).and_then(|()| fs::hard_link(&a, &b));
        for file in [&a, &b] {
            match fs::remove_file(file) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("cleaned")(e)),
                Ok(()) | Err(_) => {}
            }
        }
        probe
            .and_then(|()| sync_dir(&absolute))
            .map_err(failed("written to, with files synced and linked"))?;
        Ok(Self { root: absolute, durable: Mutex::default() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Runs `work`, which blocks, off the async threads.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        path: &BlobPath,
        work: impl FnOnce(&Self, &BlobPath) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (folder, name) = (Arc::clone(self), path.clone());
        match tokio::task::spawn_blocking(move || work(&folder, &name)).await {
            Ok(result) => result,
            Err(e) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => {
                    Err(self.failed(path, "worked on: the process ends", io::ErrorKind::Interrupted.into()))
                }
            },
        }
    }

    /// The error for `source`: a full disk is named as such.
    pub(crate) fn failed(&self, path: &BlobPath, doing: &'static str, source: io::Error) -> Error {
        // A folder that was made durable may have been taken away since: the next call makes all of them anew.
        if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
            self.durable.lock().clear();
        }
        if is_full(&source) {
            return Error::Full { folder: self.root.clone(), source };
        }
        Error::Io { path: path.clone(), doing, source }
    }

    /// Makes the folder an object lies in, and its ancestors below the root, each durably.
    pub(crate) fn make_parent(&self, path: &BlobPath) -> Result<(), Error> {
        let file = self.file(path);
        let parent = file.parent().unwrap_or(&self.root);
        self.make_durable(parent).map_err(|e| self.failed(path, "given a folder", e))
    }

    fn make_durable(&self, dir: &Path) -> io::Result<()> {
        if dir == self.root || self.durable.lock().contains(dir) {
            return Ok(());
        }
        let parent = dir.parent().unwrap_or(&self.root);
        self.make_durable(parent)?;
        match fs::create_dir(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            Ok(()) | Err(_) => {}
        }
        sync_dir(parent)?;
        let mut durable = self.durable.lock();
        if durable.len() >= REMEMBERED {
            durable.clear();
        }
        durable.insert(dir.to_owned());
        Ok(())
    }

    /// Makes an object that is there durable, whoever made it.
    pub(crate) fn sync(&self, path: &BlobPath) -> Result<(), Error> {
        self.make_parent(path)?;
        self.sync_file(path).map_err(|e| self.failed(path, "synced", e))
    }

    fn sync_file(&self, path: &BlobPath) -> io::Result<()> {
        let file = self.file(path);
        File::open(&file)?.sync_all()?;
        sync_dir(file.parent().unwrap_or(&self.root))
    }

    /// See [`crate::Blobs::adopt`].
    pub(crate) fn adopt(&self, local: &Path, path: &BlobPath) -> Result<Put, Error> {
        self.make_parent(path)?;
        let target = self.file(path);
        // The content first: a durable name of content that is not would be a broken object after a power cut.
        let source = File::open(local)
            .map_err(|e| self.failed(path, "adopted: the local file cannot be opened", e))?;
        source.sync_all().map_err(|e| self.failed(path, "adopted: the local file cannot be synced", e))?;
        let linked = match fs::hard_link(local, &target) {
            Err(e) if needs_copy(&e) => self.copy(local, &target),
            other => other,
        };
        match linked {
            Ok(()) => {
                sync_dir(target.parent().unwrap_or(&self.root))
                    .map_err(|e| self.failed(path, "synced", e))?;
                Ok(Put::Created)
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if !same_content(local, &target).map_err(|e| self.failed(path, "compared", e))? {
                    return Err(Error::AlreadyExists(path.clone()));
                }
                self.sync(path)?;
                Ok(Put::Existed)
            }
            Err(e) => Err(self.failed(path, "adopted", e)),
        }
    }

    /// A synced copy beside the target, published by a link: the target appears whole or not at all.
    fn copy(&self, local: &Path, target: &Path) -> io::Result<()> {
        if target.exists() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let staging = staged(target);
        let copied = (|| {
            let mut to = File::create_new(&staging)?;
            io::copy(&mut File::open(local)?, &mut to)?;
            to.sync_all()?;
            fs::hard_link(&staging, target)
        })();
        let removed = fs::remove_file(&staging);
        copied.and(removed)
    }

    /// See [`crate::Blobs::delete`].
    pub(crate) fn delete(&self, path: &BlobPath) -> Result<bool, Error> {
        let file = self.file(path);
        match fs::remove_file(&file) {
            Ok(()) => {
                sync_dir(file.parent().unwrap_or(&self.root)).map_err(|e| self.failed(path, "deleted", e))?;
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.failed(path, "deleted", e)),
        }
    }

    fn file(&self, path: &BlobPath) -> PathBuf {
        self.root.join(path.as_str())
    }
}

/// A name beside `target` that `object_store` takes for an unfinished upload and never lists.
fn staged(target: &Path) -> PathBuf {
    let mut bytes = [0; 8];
    random::fill(&mut bytes);
    let mut name = target.as_os_str().to_owned();
    name.push(format!("#{}", u64::from_le_bytes(bytes)));
    name.into()
}

/// Whether linking failed because these two places cannot share a file.
fn needs_copy(e: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    // PermissionDenied: kernels that protect hard links refuse to link a file of another user (EPERM).
    matches!(e.kind(), CrossesDevices | PermissionDenied | TooManyLinks | Unsupported)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    isocenter_runtime::fs::os().sync_dir(dir)
}

fn same_content(a: &Path, b: &Path) -> io::Result<bool> {
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    let (meta_a, meta_b) = (a.metadata()?, b.metadata()?);
    if (meta_a.dev(), meta_a.ino()) == (meta_b.dev(), meta_b.ino()) {
        return Ok(true);
    }
    if meta_a.len() != meta_b.len() {
        return Ok(false);
    }
    let mut left = meta_a.len();
    let (mut buf_a, mut buf_b) = (vec![0; BUFFER], vec![0; BUFFER]);
    while left > 0 {
        let n = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
        a.read_exact(&mut buf_a[..n])?;
        b.read_exact(&mut buf_b[..n])?;
        if buf_a[..n] != buf_b[..n] {
            return Ok(false);
        }
        left -= n as u64;
    }
    Ok(true)
}

/// What a listing has still to visit, the next of it last.
enum Pending {
    Folder(object_store::path::Path),
    Object(Entry),
}

/// See [`crate::Blobs::list_after`].
pub(crate) fn list(
    store: Arc<LocalFileSystem>,
    prefix: Prefix,
    after: Option<BlobPath>,
) -> BoxStream<'static, Result<Entry, Error>> {
    let start = vec![Pending::Folder(object_store::path::Path::from(prefix.as_str()))];
    let state = (store, prefix, after, start);
    let entries = stream::try_unfold(state, |(store, prefix, after, mut pending)| async move {
        loop {
            match pending.pop() {
                None => return Ok(None),
                Some(Pending::Object(entry)) => return Ok(Some((entry, (store, prefix, after, pending)))),
                Some(Pending::Folder(folder)) => {
                    let found = store.list_with_delimiter(Some(&folder)).await;
                    let found =
                        found.map_err(|e| Error::List { prefix: prefix.clone(), source: io_of(&e) })?;
                    pending.extend(in_order(found, after.as_ref()));
                }
            }
        }
    });
    entries.boxed()
}

/// One folder's content, last first, without what lies wholly before `after`. A sub-folder sorts by the names under it, which
/// go on with a `/`.
fn in_order(found: ListResult, after: Option<&BlobPath>) -> impl Iterator<Item = Pending> {
    let after = after.map(BlobPath::as_str).unwrap_or_default();
    let folders = found.common_prefixes.into_iter().filter_map(|folder| {
        let name = format!("{folder}/");
        (name.as_str() > after || after.starts_with(&name)).then_some((name, Pending::Folder(folder)))
    });
    let objects = found.objects.into_iter().filter_map(|meta| {
        // What has another name than an object's was not made here; it is nobody's object.
        let path = BlobPath::parse(meta.location.as_ref()).ok()?;
        let name = path.as_str().to_owned();
        (name.as_str() > after).then_some((name, Pending::Object(Entry { path, size: meta.size })))
    });
    let mut all: Vec<(String, Pending)> = folders.chain(objects).collect();
    all.sort_unstable_by(|a, b| b.0.cmp(&a.0));
    all.into_iter().map(|(_, pending)| pending)
}
