//! Digests by which two files are told equal.

use std::{
    fs::File,
    io::{BufReader, Read as _},
    path::Path,
};

use isocenter_domain::refs::Digest;
use sha2::{Digest as _, Sha256};

use super::{FileMeta, InspectError};

/// What a file is, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// SHA-256 of the whole file.
    pub file: Digest,
    /// SHA-256 of the data set alone. Two files of the same transfer syntax and data set digest hold the same object,
    /// whoever wrote their meta information.
    pub data_set: Digest,
    /// The length of the whole file in bytes.
    pub file_len: u64,
    /// The File Meta Information, which tells the transfer syntax and where the data set begins.
    pub meta: FileMeta,
}

/// Reads a Part 10 file once, from end to end, and digests it. Blocks.
///
/// # Errors
/// [`InspectError`] where the file cannot be read or its meta information is not valid. The data set is not looked into.
pub fn dataset_digest(path: &Path) -> Result<Digests, InspectError> {
    // The meta information takes few bytes: reading them twice costs less than carrying them over.
    let meta = FileMeta::read(&mut BufReader::new(File::open(path).map_err(InspectError::Io)?))?;
    let mut source = File::open(path).map_err(InspectError::Io)?;
    let mut head = vec![0; usize::try_from(meta.data_set_offset).expect("at most MAX_META")];
    source.read_exact(&mut head).map_err(InspectError::Io)?;
    let mut file = Sha256::new_with_prefix(&head);
    let mut data_set = Sha256::new();
    let mut file_len = meta.data_set_offset;
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let n = source.read(&mut buffer).map_err(InspectError::Io)?;
        if n == 0 {
            break;
        }
        file.update(&buffer[..n]);
        data_set.update(&buffer[..n]);
        file_len += n as u64;
    }
    let (file, data_set) = (Digest(file.finalize().into()), Digest(data_set.finalize().into()));
    Ok(Digests { file, data_set, file_len, meta })
}
