//! Images of closed studies that came after the close, and of which the store has lost what it knew.

use std::collections::BTreeSet;

use futures::TryStreamExt as _;
use isocenter_blobs::{BlobPath, path};
use isocenter_domain::{
    document::{Head, Manifest, Segment},
    id::{StudyUid, TenantId},
    key::{StudyKey, text},
    record::{RecordKind, intake::Intake, study::Study},
    refs::Digest,
};
use isocenter_wire::{document::Stored as _, record as wire};

use super::{Compared, Comparer, Live, Remedy, Subject, kept::RESTORE};
use crate::{
    Error,
    item::kind,
    reconcile::{close::undecodable, reopen::last_head},
};

/// What helps: the node that has them in its segment tells of them when it starts.
const RESTART: Remedy = Remedy::Person("restart the nodes that receive, or have the images sent again");

impl Comparer {
    /// Every image that a segment of a closed study lists is in the study's last revision. Costs a head for each closed study;
    /// the segments that were merged when it was closed are named there, and not read.
    pub(super) async fn late(
        &self,
        tenant: &TenantId,
        live: &Live,
        compared: &mut Compared,
    ) -> Result<(), Error> {
        let received: BTreeSet<_> = live.intakes.iter().map(|intake| &intake.key.study).collect();
        let Some(all) = path::all_of("segment", tenant) else { return Ok(()) };
        let mut entries = self.blobs.list(&all);
        // The segments of a study follow one another.
        let mut last: Option<(StudyUid, Option<Head>)> = None;
        let mut told: Option<StudyUid> = None;
        while let Some(entry) = entries.try_next().await? {
            let Some((study, digest)) = named(&entry.path) else { continue };
            let skip = live.studies.contains_key(&study) || received.contains(&study);
            if skip || told.as_ref() == Some(&study) {
                continue;
            }
            let key = StudyKey { tenant: tenant.clone(), study };
            let known = match last.take() {
                Some((study, head)) if study == key.study => head,
                Some(_) | None => match last_head(&self.blobs, &key).await {
                    Ok(head) => head,
                    Err(e @ Error::Undecodable { .. }) => {
                        compared.differs(Subject::Study, text(&key), "a head", e.to_string(), RESTORE);
                        None
                    }
                    Err(e) => return Err(e),
                },
            };
            if let Some(head) = &known
                && !is_named(head, &digest)
                && self.lacks(&key, head, &entry.path, &digest).await?
                && !self.begins(&key).await?
            {
                let (expected, found) = ("every image in a revision", "a segment with others");
                compared.differs(Subject::Study, text(&key), expected, found, RESTART);
                told = Some(key.study.clone());
            }
            last = Some((key.study, known));
        }
        Ok(())
    }

    /// Whether the segment lists an image that the study had not when it was closed.
    async fn lacks(
        &self,
        key: &StudyKey,
        head: &Head,
        at: &BlobPath,
        digest: &Digest,
    ) -> Result<bool, Error> {
        let closed = head.records.iter().find(|(record, _)| *record == text(key));
        let closed = closed.map(|(_, value)| wire::decode::<Study>(value));
        let Some((_, study)) = closed.transpose().map_err(undecodable("a record of a head"))? else {
            return Ok(false);
        };
        let segment = match self.blobs.get_checked(at, digest).await {
            Ok(segment) => Segment::decode(&segment),
            // Replaced meanwhile.
            Err(isocenter_blobs::Error::NotFound(_)) => return Ok(false),
            Err(isocenter_blobs::Error::Corrupt(_)) => return Ok(true),
            Err(e) => return Err(e.into()),
        };
        // What it lists nobody can say.
        let Ok(segment) = segment else { return Ok(true) };
        let manifest = self.blobs.get(&path::manifest(&key.tenant, &key.study, study.revision)).await;
        let manifest = match manifest {
            Ok(manifest) => Manifest::decode(&manifest),
            Err(isocenter_blobs::Error::NotFound(_)) => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        // One that is damaged or not there is told already.
        let Ok(manifest) = manifest else { return Ok(false) };
        let mut listed = segment.images.instances();
        Ok(listed.any(|(_, _, instance)| manifest.images.find(&instance.instance).is_none()))
    }
}

/// Whether an intake named the segment when its study was closed, which rested on its being merged.
fn is_named(head: &Head, digest: &Digest) -> bool {
    let intakes = head.records.iter().filter(|(record, _)| kind(record) == Some(RecordKind::Intake));
    let mut intakes = intakes.filter_map(|(_, value)| wire::decode::<Intake>(value).ok());
    intakes.any(|(_, intake)| intake.segment.as_ref() == Some(digest))
}

/// The study and the digest that the name of a segment says.
fn named(path: &BlobPath) -> Option<(StudyUid, Digest)> {
    let [_, _, study, _, digest] = path.as_str().split('/').collect::<Vec<_>>()[..] else { return None };
    Some((study.parse().ok()?, digest.parse().ok()?))
}
