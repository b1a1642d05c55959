//! The bytes of the files, read together.

use std::{fs, path::Path};

use sha2::{Digest as _, Sha256};

use super::{Files, TlsError};

/// What lay in the files when they were read.
pub(super) struct Contents {
    pub cert: Vec<u8>,
    pub key: Vec<u8>,
    pub client_ca: Vec<u8>,
    pub crl: Option<Vec<u8>>,
    pub server_ca: Option<Vec<u8>>,
}

impl Contents {
    /// Reads them all. Blocks.
    pub fn read(files: &Files) -> Result<Self, TlsError> {
        Ok(Self {
            cert: needed("cert", &files.cert)?,
            key: needed("key", &files.key)?,
            client_ca: needed("client_ca", &files.client_ca)?,
            crl: optional("crl", &files.crl)?,
            server_ca: optional("server_ca", &files.server_ca)?,
        })
    }

    pub fn digest(&self) -> [u8; 32] {
        digest(&[
            Some(&self.cert),
            Some(&self.key),
            Some(&self.client_ca),
            self.crl.as_ref(),
            self.server_ca.as_ref(),
        ])
    }

    /// Of what decides which callers are believed.
    pub fn trust(&self) -> [u8; 32] {
        digest(&[Some(&self.client_ca), self.crl.as_ref()])
    }
}

/// Over each part with its length before it, so that no two lists of parts run together.
fn digest(parts: &[Option<&Vec<u8>>]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        let length = part.map_or(u64::MAX, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        hash.update(length.to_be_bytes());
        hash.update(part.map_or(&[][..], Vec::as_slice));
    }
    hash.finalize().into()
}

pub(super) fn needed(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    optional(key, path)?.ok_or(TlsError::Missing(key))
}

pub(super) fn optional(key: &'static str, path: &Path) -> Result<Option<Vec<u8>>, TlsError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let read = fs::read(path).map(Some);
    read.map_err(|source| TlsError::Unreadable { key, path: path.to_owned(), source })
}
