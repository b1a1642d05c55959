//! The seam between the spool, the embedded store's log, and the file system.
//!
//! Everything whose durability is promised goes through [`Fs`], so that a test can put a file layer underneath that
//! drops what was not synced, as a power cut does. All calls block; callers run them off the async threads.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A folder tree whose writes are durable only once synced.
///
/// The contract is POSIX's, read strictly: file content is durable after [`FsFile::sync`]; a created, renamed or removed
/// name is durable only after [`Fs::sync_dir`] of its folder.
pub trait Fs: Send + Sync + fmt::Debug + 'static {
    /// Creates a file for writing; an existing one is an error.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FsFile>>;
    /// Opens a file for appending, creating it where absent.
    fn append(&self, path: &Path) -> io::Result<Box<dyn FsFile>>;
    /// The whole content of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// The length of a file in bytes; `None` where there is none.
    fn len(&self, path: &Path) -> io::Result<Option<u64>>;
    /// Cuts a file to `len` bytes.
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()>;
    /// Renames a file, replacing the target.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Creates a folder and its parents, and syncs each parent that gained a name.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The paths in a folder, sorted; empty where there is no such folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// A file open for writing.
pub trait FsFile: Send + fmt::Debug {
    /// Writes all of `data` at the end.
    fn write_all(&mut self, data: &[u8]) -> io::Result<()>;
    /// Makes everything written so far durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// The machine's file system.
#[derive(Debug, Default, Clone, Copy)]
pub struct OsFs;

/// The machine's file system, shared.
#[must_use]
pub fn os() -> Arc<dyn Fs> {
    Arc::new(OsFs)
}

impl Fs for OsFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        Ok(Box::new(OsFile(fs::File::options().write(true).create_new(true).open(path)?)))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        Ok(Box::new(OsFile(fs::File::options().append(true).create(true).open(path)?)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn len(&self, path: &Path) -> io::Result<Option<u64>> {
        match fs::metadata(path) {
            Ok(meta) => Ok(Some(meta.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let file = fs::File::options().write(true).open(path)?;
        file.set_len(len)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
            self.create_dir_all(parent)?;
        }
        match fs::create_dir(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            Ok(()) | Err(_) => {}
        }
        // A folder that is there already may have been made by a process that died before this.
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut paths = entries.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }
}

#[derive(Debug)]
struct OsFile(fs::File);

impl FsFile for OsFile {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut self.0, data)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}
