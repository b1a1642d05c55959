//! What a file of `ready/` is, told by its path alone, so that a restart finds everything without another file.
//!
//! `ready/{tenant}/{site}/{AE title, base32}/{study}_{instance}_{sha256, base32}_{data set's sha256, base32}.dcm`
//!
//! An AE title may hold characters that no path may; base32 keeps the name below the 255 bytes of a file name.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use data_encoding::{BASE32_NOPAD, Encoding};
use isocenter_domain::{
    id::{AeTitle, InstanceUid, SiteId},
    key::StudyKey,
    refs::Digest,
};

const TEXT: Encoding = BASE32_NOPAD;

/// Who sent an instance: where its study belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The site whose device called.
    pub site: SiteId,
    /// The AE title it called from.
    pub calling: AeTitle,
}

/// A whole, durable instance in the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Where it lies.
    pub path: PathBuf,
    /// The study it belongs to.
    pub study: StudyKey,
    /// Who sent it.
    pub origin: Origin,
    /// SOP Instance UID (0008,0018).
    pub instance: InstanceUid,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// SHA-256 of the data set.
    pub data_set: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// When it was acknowledged, by the monotonic clock; `None` where it was found at a restart.
    pub received: Option<Instant>,
    /// Whether this process has put it into blobs, where it is durable under its hash.
    pub adopted: bool,
}

/// The folder and the name, below `ready/`.
pub(super) fn place(
    study: &StudyKey,
    origin: &Origin,
    instance: &InstanceUid,
    sha256: &Digest,
    data_set: &Digest,
) -> (PathBuf, String) {
    let folder = [study.tenant.as_str(), origin.site.as_str(), &encode(origin.calling.as_str().as_bytes())]
        .iter()
        .collect();
    let name = format!("{}_{instance}_{}_{}.dcm", study.study, encode(&sha256.0), encode(&data_set.0));
    (folder, name)
}

/// Reads a path below `ready`; `None` where it is not one this program wrote.
pub(super) fn parse(ready: &Path, path: &Path, size: u64) -> Option<Ready> {
    let inside: Vec<&str> =
        path.strip_prefix(ready).ok()?.iter().map(|part| part.to_str()).collect::<Option<_>>()?;
    let [tenant, site, calling, name] = inside.as_slice() else { return None };
    let parts: Vec<&str> = name.strip_suffix(".dcm")?.split('_').collect();
    let [study, instance, sha256, data_set] = parts.as_slice() else { return None };
    let calling = String::from_utf8(decode(calling)?).ok()?;
    Some(Ready {
        path: path.to_owned(),
        study: StudyKey { tenant: tenant.parse().ok()?, study: study.parse().ok()? },
        origin: Origin { site: site.parse().ok()?, calling: calling.parse().ok()? },
        instance: instance.parse().ok()?,
        sha256: Digest(decode(sha256)?.try_into().ok()?),
        data_set: Digest(decode(data_set)?.try_into().ok()?),
        size,
        received: None,
        adopted: false,
    })
}

fn encode(bytes: &[u8]) -> String {
    TEXT.encode(bytes).to_ascii_lowercase()
}

fn decode(text: &str) -> Option<Vec<u8>> {
    TEXT.decode(text.to_ascii_uppercase().as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_what_the_file_is_and_fits_a_file_name() {
        let uid = format!("1.{}", "9".repeat(62));
        let study = StudyKey { tenant: "net".parse().unwrap(), study: uid.parse().unwrap() };
        let origin = Origin { site: "north".parse().unwrap(), calling: "CT/1 ../_x".parse().unwrap() };
        let (sha, data) = (Digest::of(b"file"), Digest::of(b"data"));
        let (folder, name) = place(&study, &origin, &uid.parse().unwrap(), &sha, &data);
        assert!(name.len() <= 255, "{}", name.len());
        let path = Path::new("/s/ready").join(&folder).join(&name);
        let read = parse(Path::new("/s/ready"), &path, 7).unwrap();
        assert_eq!((&read.study, &read.origin), (&study, &origin));
        assert_eq!(
            (read.instance.as_str(), read.sha256, read.data_set, read.size),
            (uid.as_str(), sha, data, 7)
        );
        for other in ["ready/net/x.dcm", "ready/net/north/aa/1_2_3_4.dcm", "elsewhere/a/b/c/d"] {
            assert!(parse(Path::new("/s/ready"), &Path::new("/s").join(other), 0).is_none(), "{other}");
        }
    }
}
