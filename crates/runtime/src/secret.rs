//! The network's secret, and what is made of it: references that say nothing without it, and tokens that nobody else can
//! make.

use std::{fmt, io, path::Path};

use hmac::{Hmac, KeyInit, Mac};
use isocenter_domain::refs::Ref;
use sha2::Sha256;

/// 32 bytes, the same on every node of a network. Never printed.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// The secret with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret in `path`, 32 raw bytes; makes one there, readable by its owner alone, where there is none.
    ///
    /// # Errors
    /// Where the file cannot be read or written, or is not 32 bytes long.
    pub fn load_or_create(path: &Path) -> io::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => bytes.try_into().map(Self).map_err(|bytes: Vec<u8>| {
                let why = format!("{} has {} bytes; a secret has 32", path.display(), bytes.len());
                io::Error::new(io::ErrorKind::InvalidData, why)
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::create(path),
            Err(e) => Err(e),
        }
    }

    fn create(path: &Path) -> io::Result<Self> {
        use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
        let mut bytes = [0; 32];
        crate::random::fill(&mut bytes);
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        if let Some(folder) = path.parent() {
            std::fs::File::open(folder)?.sync_all()?;
        }
        Ok(Self(bytes))
    }

    /// The reference of `parts` for `purpose`: 128 bits of HMAC-SHA-256 over both, each with its length before it, so that
    /// no two lists of parts run together.
    #[must_use]
    pub fn reference(&self, purpose: &str, parts: &[&str]) -> Ref {
        let tag = self.tag(purpose, parts);
        let mut half = [0; 16];
        half.copy_from_slice(&tag[..16]);
        Ref(half)
    }

    /// Whether `claimed` is the reference of `parts` for `purpose`; takes the same time whatever differs.
    #[must_use]
    pub fn verifies(&self, purpose: &str, parts: &[&str], claimed: Ref) -> bool {
        let ours = self.reference(purpose, parts);
        ours.0.iter().zip(claimed.0).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
    }

    fn tag(&self, purpose: &str, parts: &[&str]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        for part in std::iter::once(&purpose).chain(parts) {
            mac.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_depend_on_secret_purpose_and_where_parts_end() {
        let secret = Secret::new([7; 32]);
        let reference = secret.reference("patient", &["a", "bc"]);
        assert_eq!(reference, secret.reference("patient", &["a", "bc"]));
        assert_ne!(reference, secret.reference("patient", &["ab", "c"]));
        assert_ne!(reference, secret.reference("accession", &["a", "bc"]));
        assert_ne!(reference, Secret::new([8; 32]).reference("patient", &["a", "bc"]));
        assert!(secret.verifies("patient", &["a", "bc"], reference));
        assert!(!secret.verifies("patient", &["a", "bd"], reference));
        assert_eq!(format!("{secret:?}"), "Secret");
    }

    #[test]
    fn a_secret_is_made_once_and_a_short_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.key");
        let made = Secret::load_or_create(&path).unwrap();
        assert_eq!(made.0, Secret::load_or_create(&path).unwrap().0);
        std::fs::write(&path, b"short").unwrap();
        assert!(
            Secret::load_or_create(&path).unwrap_err().to_string().ends_with("has 5 bytes; a secret has 32")
        );
    }
}
