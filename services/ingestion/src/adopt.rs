//! Images of which only a segment in blobs tells: the store was put back to a moment before they came, or has lost them.
//!
//! A segment is written after the intake record that it belongs to, so that one without its record was known once. This node
//! looks through its own, at its start and once a day, and makes the records again: create-only, so that whatever else made
//! them stays as it is. A study that was closed has a head and is the archive's: what it lacks is told by an intake alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use isocenter_blobs::{BlobPath, Prefix, path};
use isocenter_dimse::part10::{FileMeta, MAX_META};
use isocenter_domain::{
    Kinded as _,
    document::{Head, Images, Manifest, Segment},
    key::{IntakeKey, StudyKey, text},
    record::{
        intake::Intake,
        study::{Study, StudyEvent},
    },
    refs::Digest,
};
use isocenter_reconcile::Queue;
use isocenter_runtime::{retry::Schedule, task::chain, telemetry::trace::new_trace};
use isocenter_store::table::{Cause, Mirrors, Stored};
use isocenter_wire::{document::Stored as _, record as wire};
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
const AGAIN: Schedule = Schedule::new(Duration::from_secs(60), Duration::from_secs(3600));

/// A look that failed so often in a row, which takes some seven hours, begins anew.
const TRIES: u32 = 12;

/// Studies that one look remembers, at some hundred bytes each; the others are found by the next.
const MOST: usize = 10_000;

/// How far a look has come, so that it goes on where it was stopped.
#[derive(Debug, Default)]
struct Walk {
    /// The last segment that needs no more looking at.
    after: Option<BlobPath>,
    /// Those that could not be looked at, for when all others were; at most [`MOST`].
    failed: BTreeSet<StudyKey>,
    /// Failures since something could be looked at.
    failures: u32,
    /// Whether closed studies are looked at too: a head is read for each. What the store has lost of them it lost before a start
    /// of this process, so that the first look is enough.
    closed: bool,
}

/// A study in whose segments this node has listed images that no intake in the mirrors names.
#[derive(Debug)]
struct Unnamed {
    study: StudyKey,
    digests: Vec<Digest>,
    last: BlobPath,
}

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
        let mut walk = Walk { closed: true, ..Walk::default() };
        loop {
            let pause = match self.look(&mut walk, &queue).await {
                Ok(true) => {
                    walk = Walk::default();
                    LOOK
                }
                Ok(false) => AGAIN.first,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "this node's segments could not be looked through");
                    walk.failures += 1;
                    if walk.failures > TRIES {
                        walk = Walk { closed: walk.closed, ..Walk::default() };
                    }
                    AGAIN.ceiling(walk.failures.max(1))
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether the look came to the end. The mirrors decide what is worth a second look, which is at the store.
    async fn look(&self, walk: &mut Walk, queue: &Queue<StudyKey>) -> Result<bool, Error> {
        let (studies, intakes) = (self.mirrors.of::<Study>(), self.mirrors.of::<Intake>());
        tokio::join!(studies.synced(), intakes.synced());
        let Some(all) = path::all("segment") else { return Ok(true) };
        let mut unnamed = self.unnamed(&all, walk.after.as_ref());
        while let Some(one) = unnamed.try_next().await? {
            match self.found(&one, walk.closed, queue).await {
                Ok(true) => walk.failures = 0,
                Ok(false) => return Ok(false),
                Err(e) => {
                    if walk.failed.len() < MOST {
                        walk.failed.insert(one.study);
                        walk.after = Some(one.last);
                    }
                    return Err(e);
                }
            }
            walk.after = Some(one.last);
        }
        let mut failure = None;
        for study in walk.failed.clone() {
            match self.look_at(&study, walk.closed, queue).await {
                Ok(true) => {
                    walk.failed.remove(&study);
                    walk.failures = 0;
                }
                Ok(false) => return Ok(false),
                Err(e) => failure = Some(e),
            }
        }
        failure.map_or(Ok(true), Err)
    }

    async fn look_at(&self, study: &StudyKey, closed: bool, queue: &Queue<StudyKey>) -> Result<bool, Error> {
        let mut unnamed = self.unnamed(&path::segments_of(&study.tenant, &study.study), None);
        match unnamed.try_next().await? {
            Some(one) => self.found(&one, closed, queue).await,
            None => Ok(true),
        }
    }

    /// The studies with segments of this node's below `prefix` that no intake in the mirror names, in their order.
    fn unnamed(
        &self,
        prefix: &Prefix,
        after: Option<&BlobPath>,
    ) -> BoxStream<'static, Result<Unnamed, Error>> {
        let blobs = &self.intakes.blobs;
        let entries = after.map_or_else(|| blobs.list(prefix), |after| blobs.list_after(prefix, after));
        let (intakes, node) = (self.mirrors.of::<Intake>(), self.intakes.node.clone());
        let state = (entries, intakes, node, None::<Unnamed>);
        let unnamed = stream::try_unfold(state, |(mut entries, intakes, node, mut at)| async move {
            while let Some(entry) = entries.try_next().await? {
                let Some((key, digest)) = named(&entry.path) else { continue };
                let named = |intake: Arc<Stored<Intake>>| intake.record.segment == Some(digest);
                if key.node != node || intakes.get(&key).is_some_and(named) {
                    continue;
                }
                let study = StudyKey { tenant: key.tenant, study: key.study };
                match &mut at {
                    // The segments of a node follow one another.
                    Some(same) if same.study == study => {
                        same.digests.push(digest);
                        same.last = entry.path;
                    }
                    Some(_) | None => {
                        let next = Unnamed { study, digests: vec![digest], last: entry.path };
                        if let Some(whole) = at.replace(next) {
                            return Ok(Some((whole, (entries, intakes, node, at))));
                        }
                    }
                }
            }
            Ok(at.take().map(|whole| (whole, (entries, intakes, node, at))))
        });
        unnamed.boxed()
    }

    /// Whether there is room for more.
    async fn found(&self, one: &Unnamed, closed: bool, queue: &Queue<StudyKey>) -> Result<bool, Error> {
        let Unnamed { study, digests, .. } = one;
        // Nearly every segment is of a study that is closed, which is told soonest by its head.
        if self.mirrors.of::<Study>().get(study).is_none() && self.intakes.was_closed(study).await? {
            let lacks = closed
                && match self.head(study).await {
                    Ok(head) => head.is_some_and(|head| !self.is_named(study, digests, &head)),
                    Err(e @ Error::Document { .. }) => {
                        tracing::error!(error = %chain(&e), "the head of a closed study cannot be used");
                        false
                    }
                    Err(e) => return Err(e),
                };
            if !lacks {
                return Ok(true);
            }
        }
        {
            let mut found = self.found.lock();
            if found.len() >= MOST {
                return Ok(false);
            }
            found.insert(study.clone(), digests.clone());
        }
        queue.wake(study.clone());
        Ok(true)
    }

    /// What was last written about a closed study.
    async fn head(&self, study: &StudyKey) -> Result<Option<Head>, Error> {
        let blobs = &self.intakes.blobs;
        let Some(last) = blobs.last(&path::heads_of(&study.tenant, &study.study)).await? else {
            return Ok(None);
        };
        let head = Head::decode(&blobs.get(&last.path).await?);
        Ok(Some(head.map_err(|source| Error::Document { what: "a head", source })?))
    }

    /// Whether the node's intake named these segments when the study was closed, which rested on their being merged.
    fn is_named(&self, study: &StudyKey, digests: &[Digest], head: &Head) -> bool {
        let key = text(&self.intakes.key(study));
        let intake = head.records.iter().find(|(record, _)| *record == key);
        let intake = intake.and_then(|(_, value)| wire::decode::<Intake>(value).ok());
        let segment = intake.and_then(|(_, intake)| intake.segment);
        digests.iter().all(|digest| segment == Some(*digest))
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
            Some(live) if !self.lacks(study, &live.record, &images).await? => return Ok(false),
            Some(live) => live.head.trace.clone(),
            // Of a closed one the archive makes the records again, when it sees the intake.
            None if let Some(head) = self.head(study).await? => {
                let closed = head.records.iter().find(|(record, _)| *record == text(study));
                let Some((_, value)) = closed else { return Ok(false) };
                let closed = wire::decode::<Study>(value);
                let (_, closed) =
                    closed.map_err(|source| Error::Document { what: "a record of a head", source })?;
                if !self.lacks(study, &closed, &images).await? {
                    return Ok(false);
                }
                String::new()
            }
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
    async fn lacks(&self, key: &StudyKey, study: &Study, images: &Images) -> Result<bool, Error> {
        let Some(digest) = study.manifest else { return Ok(true) };
        let path = path::manifest(&key.tenant, &key.study, study.revision);
        let bytes = self.intakes.blobs.get_checked(&path, &digest).await?;
        let manifest = Manifest::decode(&bytes);
        let manifest = manifest.map_err(|source| Error::Document { what: "a manifest", source })?;
        let segment = self.segment(key, images.clone());
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

#[cfg(test)]
mod tests {
    use isocenter_runtime::{clock, fs, metrics::Metrics, secret::Secret, task::Tasks};
    use isocenter_store::{
        embedded::{Embedded, EmbeddedOptions},
        table::Tables,
    };

    use super::*;
    use crate::{ledger::Ledger, metrics::Meters, spool::Spool};

    async fn adopter(folder: &std::path::Path) -> Adopter {
        let kv = Arc::new(Embedded::open(EmbeddedOptions::new(folder.join("store"))).await.unwrap());
        let cell = "cell".parse().unwrap();
        let tables = Tables::open(kv, clock::system(), cell, &Secret::new([1; 32])).await.unwrap();
        let mirrors = Mirrors::new(tables.clone(), &Tasks::new());
        let spool = Spool::open(fs::os(), &folder.join("spool"), 0).unwrap();
        let blobs = isocenter_blobs::Blobs::open(folder.join("blobs").to_str().unwrap()).unwrap();
        let ledger = Ledger::new(Meters::new(&Metrics::new()));
        let intakes = Intakes { tables, blobs, ledger, node: spool.node().clone() };
        let sites = Sites::open(mirrors.clone(), &spool).unwrap();
        Adopter::new(intakes, mirrors, sites)
    }

    fn study(n: usize) -> StudyKey {
        StudyKey { tenant: "t".parse().unwrap(), study: format!("1.2.{n}").parse().unwrap() }
    }

    /// The studies found so far.
    fn found(adopter: &Adopter) -> Vec<StudyKey> {
        adopter.found.lock().keys().cloned().collect()
    }

    #[tokio::test]
    async fn a_look_goes_on_behind_what_failed_and_comes_back_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let adopter = adopter(folder.path()).await;
        let mut paths = Vec::new();
        for n in 1..=5 {
            let StudyKey { tenant, study } = study(n);
            let path = path::segment(&tenant, &study, &adopter.intakes.node, &Digest::of(b"a segment"));
            adopter.intakes.blobs.put_new(&path, "a segment".into()).await.unwrap();
            paths.push(path);
        }
        // Heads of the second and the fourth cannot be looked for.
        std::fs::create_dir_all(folder.path().join("blobs/head/t")).unwrap();
        let loops = [2, 4].map(|n| folder.path().join(format!("blobs/head/t/1.2.{n}")));
        for path in &loops {
            std::os::unix::fs::symlink(path, path).unwrap();
        }
        let queue = Queue::new(clock::system());
        let mut walk = Walk::default();
        for (after, studies) in [(1, &[1][..]), (3, &[1, 3]), (4, &[1, 3, 5]), (4, &[1, 3, 5])] {
            adopter.look(&mut walk, &queue).await.unwrap_err();
            assert_eq!(walk.after.as_ref(), Some(&paths[after]));
            assert_eq!(found(&adopter), studies.iter().copied().map(study).collect::<Vec<_>>());
        }
        assert_eq!(walk.failed, [study(2), study(4)].into());
        std::fs::remove_file(&loops[0]).unwrap();
        adopter.look(&mut walk, &queue).await.unwrap_err();
        assert_eq!(walk.failed, [study(4)].into());
        std::fs::remove_file(&loops[1]).unwrap();
        assert!(adopter.look(&mut walk, &queue).await.unwrap());
        assert_eq!(found(&adopter), (1..=5).map(study).collect::<Vec<_>>());
    }
}
