//! Studies of which only a segment in blobs tells: the store was put back to a moment before they came, or has lost it.
//!
//! A segment is written after the intake record that it belongs to, so that one without its record was known once. This node
//! looks through its own, at its start and once a day, and makes the records again: create-only, so that whatever else made
//! them stays as it is. A study that was closed has a head and is the archive's.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt as _;
use isocenter_blobs::{BlobPath, path};
use isocenter_dimse::part10::{FileMeta, MAX_META};
use isocenter_domain::{
    Kinded as _,
    document::{Images, Manifest, Segment},
    key::{IntakeKey, StudyKey},
    record::{
        intake::Intake,
        study::{Study, StudyEvent},
    },
    refs::Digest,
};
use isocenter_reconcile::Queue;
use isocenter_runtime::{task::chain, telemetry::trace::new_trace};
use isocenter_store::table::{Cause, Mirrors, Stored};
use isocenter_wire::document::Stored as _;
use parking_lot::Mutex;

use crate::{
    Error,
    intake::{Intakes, Listed, ROLE},
    mover::put_segment,
    plan,
    sites::{self, NoSite, Sites},
    spool::Origin,
};

/// Between two looks through all segments. What a store loses it loses before a start of this process, which looks too.
const LOOK: Duration = Duration::from_secs(24 * 3600);

/// Between two tries of a look that failed, or that found more than is remembered.
const AGAIN: Duration = Duration::from_secs(60);

/// Studies that one look remembers, at some hundred bytes each; the others are found by the next.
const MOST: usize = 10_000;

/// What is found and made good of this node's segments.
#[derive(Debug)]
pub(crate) struct Adopter {
    pub intakes: Intakes,
    pub mirrors: Mirrors,
    pub sites: Sites,
    /// What the last look found, until the mover has made it good: it works on a study once at a time, so that the segment of
    /// images that arrive meanwhile is not written beside this.
    found: Mutex<BTreeMap<StudyKey, Vec<Digest>>>,
}

impl Adopter {
    pub(crate) fn new(intakes: Intakes, mirrors: Mirrors, sites: Sites) -> Self {
        Self { intakes, mirrors, sites, found: Mutex::default() }
    }

    /// Looks at the start and once a day, for ever, and has the mover's `queue` wake what is found.
    pub(crate) async fn watch(self: Arc<Self>, queue: Queue<StudyKey>) {
        loop {
            let pause = match self.look(&queue).await {
                Ok(true) => LOOK,
                Ok(false) => AGAIN,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "this node's segments could not be looked through");
                    AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether the look came to the end. The mirrors decide what is worth a second look, which is at the store.
    async fn look(&self, queue: &Queue<StudyKey>) -> Result<bool, Error> {
        let (studies, intakes) = (self.mirrors.of::<Study>(), self.mirrors.of::<Intake>());
        tokio::join!(studies.synced(), intakes.synced());
        let Some(all) = path::all("segment") else { return Ok(true) };
        let mut entries = self.intakes.blobs.list(&all);
        let mut last: Option<(StudyKey, Vec<Digest>)> = None;
        while let Some(entry) = entries.next().await {
            let Some((key, digest)) = named(&entry?.path) else { continue };
            let named = |intake: Arc<Stored<Intake>>| intake.record.segment == Some(digest);
            if key.node != self.intakes.node || intakes.get(&key).is_some_and(named) {
                continue;
            }
            let study = StudyKey { tenant: key.tenant, study: key.study };
            match &mut last {
                // The segments of a node follow one another.
                Some((same, digests)) if *same == study => digests.push(digest),
                Some(_) | None => {
                    if !self.found(last.replace((study, vec![digest])), queue).await? {
                        return Ok(false);
                    }
                }
            }
        }
        self.found(last, queue).await
    }

    /// Whether there is room for more.
    async fn found(
        &self,
        found: Option<(StudyKey, Vec<Digest>)>,
        queue: &Queue<StudyKey>,
    ) -> Result<bool, Error> {
        let Some((study, digests)) = found else { return Ok(true) };
        // Nearly every segment is of a study that is closed, which is told soonest by its head.
        if self.mirrors.of::<Study>().get(&study).is_none() && self.intakes.was_closed(&study).await? {
            return Ok(true);
        }
        {
            let mut found = self.found.lock();
            if found.len() >= MOST {
                return Ok(false);
            }
            found.insert(study.clone(), digests);
        }
        queue.wake(study);
        Ok(true)
    }

    /// Makes the records of a study again, where a look found that they are missing and they still are.
    pub(crate) async fn make_good(&self, study: &StudyKey) -> Result<(), Error> {
        let Some(digests) = self.found.lock().get(study).cloned() else { return Ok(()) };
        match self.adopt(study, &digests).await {
            Ok(true) => tracing::warn!("images of which no record told are taken up again"),
            Ok(false) => {}
            // Another writer of the study was first; what it did not know of is looked for again.
            Err(e) if e.is_retryable() => return Err(e),
            // What cannot be read now cannot be read later. It must not hold up the images that still arrive.
            Err(e) => {
                tracing::error!(error = %chain(&e), "a segment of which no record tells cannot be used")
            }
        }
        self.found.lock().remove(study);
        Ok(())
    }

    async fn adopt(&self, study: &StudyKey, digests: &[Digest]) -> Result<bool, Error> {
        let tables = &self.intakes.tables;
        let key = self.intakes.key(study);
        let known = tables.load::<Intake>(&key).await?;
        let live = tables.load::<Study>(study).await?;
        let mut images = self.images(study, digests).await?;
        if let Some(known) = &known {
            // Made meanwhile, or put back as it was earlier: it may name a segment that was replaced, or none.
            let listed = match &known.record.segment {
                Some(named) => self.images(study, &[*named]).await?,
                None => Images::default(),
            };
            let all = plan::merge(Some(&listed), vec![self.segment(study, images)]);
            if !all.news {
                return Ok(false);
            }
            images = all.images;
        }
        let mut change =
            tables.change(Cause::role(ROLE).because("images of which no record told lie in blobs"));
        let trace = match &live {
            Some(live) if !self.lacks(live, &images).await? => return Ok(false),
            Some(live) => live.head.trace.clone(),
            None if self.intakes.was_closed(study).await? => return Ok(false),
            // Its own study comes with it, or is about to.
            None if known.is_some() => String::new(),
            None => {
                let Some(origin) = self.origin(study, &images).await? else { return Ok(false) };
                let trace = new_trace();
                let record = Study::receiving(origin.site, origin.calling, change.now());
                change.create(study, &record, StudyEvent::Received.name(), &trace);
                trace
            }
        };
        let Listed { segment, stored, bytes, quarantined } =
            put_segment(&self.intakes, study, images).await?;
        let last_at = change.now();
        let before = known.as_ref().map(|known| known.record.clone()).unwrap_or_default();
        let intake = Intake { stored, bytes, quarantined, last_at, segment: Some(segment), ..before };
        match &known {
            Some(known) => change.update(known, &intake, "counted"),
            None => change.create(&key, &intake, "opened", &trace),
        }
        change.commit().await?;
        Ok(true)
    }

    /// What the segments list together: a newer one lists what those before it did, which may not be gone yet.
    async fn images(&self, study: &StudyKey, digests: &[Digest]) -> Result<Images, Error> {
        let mut segments = Vec::new();
        for digest in digests {
            let path = path::segment(&study.tenant, &study.study, &self.intakes.node, digest);
            let bytes = match self.intakes.blobs.get_checked(&path, digest).await {
                Ok(bytes) => bytes,
                // One that was replaced is deleted; what it listed is in the one that replaced it.
                Err(isocenter_blobs::Error::NotFound(_)) => continue,
                Err(e) => return Err(e.into()),
            };
            let segment = Segment::decode(&bytes);
            segments.push(segment.map_err(|source| Error::Document { what: "a segment", source })?);
        }
        Ok(plan::merge(None, segments).images)
    }

    /// Whether the last revision of a study lacks some of these images.
    async fn lacks(&self, live: &Stored<Study>, images: &Images) -> Result<bool, Error> {
        let Some(digest) = live.record.manifest else { return Ok(true) };
        let StudyKey { tenant, study: uid } = &live.key;
        let path = path::manifest(tenant, uid, live.record.revision);
        let bytes = self.intakes.blobs.get_checked(&path, &digest).await?;
        let manifest = Manifest::decode(&bytes);
        let manifest = manifest.map_err(|source| Error::Document { what: "a manifest", source })?;
        let segment = self.segment(&live.key, images.clone());
        Ok(plan::merge(Some(&manifest.images), vec![segment]).news)
    }

    /// These images as a segment of this node's.
    fn segment(&self, study: &StudyKey, images: Images) -> Segment {
        Segment { study: study.study.clone(), node: self.intakes.node.clone(), images }
    }

    /// Who sent the study, as one of its files says, and whose device that is. `None` where nobody knows it: a site has to be
    /// put into the registry first, and `reconcile` lists the study until then.
    async fn origin(&self, study: &StudyKey, images: &Images) -> Result<Option<Origin>, Error> {
        sites::known(&self.mirrors).await?;
        let StudyKey { tenant, study: uid } = study;
        let held =
            images.instances().map(|(_, _, held)| path::instance(tenant, uid, &held.instance, &held.sha256));
        let aside = images.quarantined.iter().map(|q| path::quarantine(tenant, uid, &q.instance, &q.sha256));
        for path in held.chain(aside) {
            let head = match self.intakes.blobs.get_range(&path, 0..MAX_META).await {
                Ok(head) => head,
                Err(isocenter_blobs::Error::NotFound(_)) => continue,
                Err(e) => return Err(e.into()),
            };
            let Some(calling) = FileMeta::read(&mut &*head).ok().and_then(|meta| meta.source) else {
                continue;
            };
            match self.sites.find(&calling, Some(tenant)).await {
                Ok((_, origin)) => return Ok(Some(origin)),
                Err(NoSite::Unavailable) => return Err(Error::Registry),
                Err(NoSite::Unknown | NoSite::Ambiguous) => {}
            }
        }
        tracing::error!(
            "images of which no record tells are of a device that no site lists: they stay in blobs"
        );
        Ok(None)
    }
}

/// What the name of a segment says: whose intake it belongs to, and its digest.
fn named(path: &BlobPath) -> Option<(IntakeKey, Digest)> {
    let [_, tenant, study, node, digest] = path.as_str().split('/').collect::<Vec<_>>()[..] else {
        return None;
    };
    let (tenant, study, node) = (tenant.parse().ok()?, study.parse().ok()?, node.parse().ok()?);
    Some((IntakeKey { tenant, study, node }, digest.parse().ok()?))
}
