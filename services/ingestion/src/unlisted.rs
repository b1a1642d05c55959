//! Instances that lie in blobs and that no segment lists: what a node put there, and was lost before it listed it.

use std::io::Cursor;

use futures::StreamExt as _;
use isocenter_blobs::{BlobPath, Blobs, path};
use isocenter_dimse::part10::{self, FileMeta, Header, InspectError};
use isocenter_domain::{document::Images, id::InstanceUid, key::StudyKey, refs::Digest};

use crate::{
    Error,
    mover::blocking,
    plan::{self, File, Known},
};

/// The study's instances in blobs of which `listed` says nothing. One at a time is held in memory, so that an object beyond
/// the limit of what is read whole is passed over; so is one that is not what its name says. Both are logged.
pub(crate) async fn find(
    blobs: &Blobs,
    study: &StudyKey,
    listed: &Images,
    authority: &str,
) -> Result<Images, Error> {
    let mut known = Known::default();
    known.learn(listed);
    let mut found = Images::default();
    let mut count = 0_u64;
    let mut entries = blobs.list(&path::instances_of(&study.tenant, &study.study));
    while let Some(entry) = entries.next().await {
        let path = entry?.path;
        let Some((uid, sha256)) = named(&path) else { continue };
        if known.lists(&uid, &sha256) {
            continue;
        }
        let bytes = match blobs.get_checked(&path, &sha256).await {
            Ok(bytes) => bytes,
            Err(error @ (isocenter_blobs::Error::TooLarge { .. } | isocenter_blobs::Error::Corrupt(_))) => {
                tracing::error!(%error, "an instance that no node lists is passed over");
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        let read = blocking(move || read(&bytes, sha256)).await?;
        let (header, file) = match read {
            Ok((header, file)) if header.study == study.study && header.instance == uid => (header, file),
            Ok(_) => continue,
            Err(error) => {
                tracing::error!(%error, "an instance that no node lists cannot be read");
                continue;
            }
        };
        let images = plan::images_of(header, file, authority);
        known.learn(&images);
        found.merge(images);
        count += 1;
    }
    if count > 0 {
        tracing::warn!(instances = count, "instances that no node lists were found in blobs");
    }
    Ok(found)
}

/// What the path of an instance says: its UID and the hash of its file.
fn named(path: &BlobPath) -> Option<(InstanceUid, Digest)> {
    let [.., uid, file] = path.as_str().split('/').collect::<Vec<_>>()[..] else { return None };
    Some((uid.parse().ok()?, file.strip_suffix(".dcm")?.parse().ok()?))
}

fn read(bytes: &[u8], sha256: Digest) -> Result<(Header, File), InspectError> {
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let header = part10::inspect_reader(Cursor::new(bytes), Some(size))?;
    let meta = FileMeta::read(&mut &*bytes)?;
    let data_set =
        usize::try_from(meta.data_set_offset).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
    Ok((header, File { size, sha256, data_set: Digest::of(data_set) }))
}
