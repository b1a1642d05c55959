//! The completion of studies: level-triggered by studies and intakes, the same on every ingestion node.
//!
//! Any node may complete any study, two at once too: the manifest's name is claimed by the first to write it, and the record
//! by compare-and-swap.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use futures::{StreamExt as _, stream::BoxStream};
use isocenter_blobs::{Blobs, path};
use isocenter_domain::{
    Kind, Kinded as _, Time,
    document::{Images, Instance, Manifest, Segment},
    id::NodeId,
    key::{self, IntakeKey, RegistryItem, RegistryKey, StudyKey},
    record::{
        intake::Intake,
        registry::Entry,
        study::{Doubt, Evidence, Study, StudyEffect, StudyEvent, StudyState},
    },
    refs::{Digest, Ref},
};
use isocenter_reconcile::{Failed, KeySource, Outcome, Reconciler};
use isocenter_runtime::{
    secret::Secret,
    telemetry::trace::{joined, send_root},
};
use isocenter_store::{
    Revision,
    table::{Cause, Change, Mirrors, Stored, TableError, Tables, owner_range},
};
use isocenter_wire::document::Stored as _;
use parking_lot::Mutex;
use tracing::Instrument as _;

use crate::{
    Error,
    config::Assembly,
    intake::{ATTEMPTS, ROLE},
    metrics::Meters,
    plan::{self, Completion, Merged},
    sites, unlisted,
};

/// Studies remembered as compared with their segments: each some 200 bytes. Beyond it they are compared once more.
const REMEMBERED: usize = 65_536;

/// Completes studies.
#[derive(Debug)]
pub(crate) struct Completer {
    pub tables: Tables,
    pub mirrors: Mirrors,
    pub blobs: Blobs,
    pub secret: Secret,
    pub assembly: Assembly,
    pub meters: Meters,
    /// The segments with which a complete study was found to have nothing new.
    pub compared: Mutex<HashMap<StudyKey, Digest>>,
}

/// Why a study's next revision is made.
struct Ending {
    evidence: Evidence,
    doubt: Option<Doubt>,
    cause: Cause,
    /// Intakes of nodes for which nobody waits any longer.
    released: Vec<Stored<Intake>>,
}

/// The intakes of a study, and the revision they were listed at.
struct Listed {
    intakes: Vec<(NodeId, Intake)>,
    /// Whether one was written after the study.
    changed: bool,
    /// Whether one was made before the study's record.
    older: bool,
    at: Revision,
}

#[async_trait::async_trait]
impl Reconciler for Completer {
    type Key = StudyKey;

    async fn reconcile(&self, key: &StudyKey) -> Result<Outcome, Failed> {
        // Most wakes are of studies that are complete and have nothing new; the cache is enough to tell.
        let Some(cached) = self.mirrors.of::<Study>().get(key) else { return Ok(Outcome::Done) };
        let intakes = self.mirrors.of::<Intake>().of(&intakes_of(key));
        let listed = Listed::new(&cached, intakes.iter().map(|i| &**i), Revision(0));
        if !matches!(cached.record.state, StudyState::Receiving) && !self.worth_comparing(&cached, &listed) {
            return Ok(Outcome::Done);
        }
        let span = joined(tracing::info_span!("assemble study"), &cached.head.trace);
        self.look(key).instrument(span).await.map_err(Into::into)
    }
}

impl Completer {
    async fn look(&self, key: &StudyKey) -> Result<Outcome, Error> {
        sites::known(&self.mirrors).await?;
        let Some(study) = self.tables.load::<Study>(key).await? else { return Ok(Outcome::Done) };
        let (intakes, at) = self.tables.list::<Intake>(&intakes_of(key)).await?;
        let listed = Listed::new(&study, intakes.iter(), at);
        let now = self.tables.clock().now();
        match &study.record.state {
            StudyState::Closed => Ok(Outcome::Done),
            StudyState::Complete { .. } if !self.worth_comparing(&study, &listed) => Ok(Outcome::Done),
            StudyState::Complete { .. } => self.compare(&study, &listed).await,
            StudyState::Receiving => {
                let (quiet, bound) = self.times(key, &study.record);
                match plan::complete(&study.record, &listed.intakes, now, quiet, bound) {
                    Completion::Wait(None) => Ok(Outcome::Done),
                    Completion::Wait(Some(until)) => Ok(Outcome::At(until)),
                    Completion::Complete { evidence, doubt } => {
                        let ending =
                            Ending { evidence, doubt, cause: Cause::role(ROLE), released: Vec::new() };
                        match self.complete(&study, &listed, ending).await {
                            Ok(_) | Err(Error::NothingInBlobs) => Ok(Outcome::Done),
                            Err(e) => Err(e),
                        }
                    }
                }
            }
        }
    }

    /// Ends the waiting for a study, because `cause` says so: complete with what is in blobs, and settled for every node.
    /// Answers the revision of the store that shows it. Done before, it changes nothing.
    pub(crate) async fn release(&self, key: &StudyKey, cause: &Cause) -> Result<Revision, Error> {
        let mut attempt = 1;
        loop {
            match self.try_release(key, cause.clone()).await {
                Err(Error::Table(TableError::Conflict)) if attempt < ATTEMPTS => attempt += 1,
                answer => return answer,
            }
        }
    }

    async fn try_release(&self, key: &StudyKey, cause: Cause) -> Result<Revision, Error> {
        let Some(study) = self.tables.load::<Study>(key).await? else { return Err(Error::NoSuchStudy) };
        let (intakes, at) = self.tables.list::<Intake>(&intakes_of(key)).await?;
        let listed = Listed::new(&study, intakes.iter(), at);
        let released: Vec<_> = intakes.into_iter().filter(|intake| !intake.record.settled()).collect();
        match &study.record.state {
            StudyState::Closed => Err(Error::NoSuchStudy),
            StudyState::Complete { .. } if released.is_empty() => Ok(study.mod_revision),
            StudyState::Complete { .. } => {
                let mut change = self.tables.change(cause);
                settle_all(&mut change, &released);
                Ok(change.commit().await?)
            }
            StudyState::Receiving => {
                let doubt = plan::doubt(&listed.intakes);
                let ending = Ending { evidence: Evidence::Released, doubt, cause, released };
                self.complete(&study, &listed, ending).await
            }
        }
    }

    /// The quiet period and the bound on assembly of the study's site.
    fn times(&self, key: &StudyKey, study: &Study) -> (Duration, Duration) {
        let site = RegistryKey { tenant: key.tenant.clone(), item: RegistryItem::Site(study.site.clone()) };
        let entry = self.mirrors.of::<Entry>().get(&site);
        let site = match entry.as_deref().map(|stored| &stored.record) {
            Some(Entry::Site(site)) => Some(site),
            _ => None,
        };
        let quiet = site.and_then(|site| site.quiet_period).unwrap_or(self.assembly.quiet_period.0);
        (quiet, site.and_then(|site| site.max_assembly).unwrap_or(self.assembly.max_assembly.0))
    }

    fn worth_comparing(&self, study: &Stored<Study>, listed: &Listed) -> bool {
        plan::suspicious(&study.record, &listed.intakes, listed.changed, listed.older)
            && self.compared.lock().get(&study.key) != Some(&fingerprint(&study.record, listed))
    }

    fn remember(&self, study: &StudyKey, fingerprint: Digest) {
        let mut compared = self.compared.lock();
        if compared.len() >= REMEMBERED {
            compared.clear();
        }
        compared.insert(study.clone(), fingerprint);
    }

    /// A complete study whose segments may list more than its revision: if they do, it is received anew.
    async fn compare(&self, study: &Stored<Study>, listed: &Listed) -> Result<Outcome, Error> {
        let previous = self.previous(study).await?;
        let merged =
            plan::merge(previous.as_ref().map(|(m, _)| &m.images), self.segments(study, listed).await?);
        if !merged.news {
            self.remember(&study.key, fingerprint(&study.record, listed));
            return Ok(Outcome::Done);
        }
        let mut change = self.tables.change(Cause::role(ROLE));
        let (next, _) = study.record.clone().transition(StudyEvent::Received, change.now())?;
        change.update(study, &next, StudyEvent::Received.name());
        change.commit().await?;
        tracing::info!(revision = study.record.revision, "images arrived after the study was complete");
        Ok(Outcome::At(self.tables.clock().now()))
    }

    async fn complete(
        &self,
        study: &Stored<Study>,
        listed: &Listed,
        ending: Ending,
    ) -> Result<Revision, Error> {
        let Ending { evidence, doubt, cause, released } = ending;
        let merged = self.merged(study, listed, doubt.as_ref()).await?;
        let before = study.record.revision;
        if before == 0 && merged.images.instances().next().is_none() && merged.images.quarantined.is_empty() {
            return Err(Error::NothingInBlobs);
        }
        let mut change = self.tables.change(cause);
        let now = change.now();
        let event = if merged.news || before == 0 {
            let (manifest, digest) = self.manifest(study, merged, now).await?;
            let facts = self.facts(study, &manifest.images);
            StudyEvent::Completed { evidence, doubt: doubt.clone(), manifest: digest, facts }
        } else {
            StudyEvent::NothingNew
        };
        let name = event.name();
        let (next, effects) = study.record.clone().transition(event, now)?;
        change.none_newer(intakes_of(&study.key), listed.at);
        change.update(study, &next, name);
        settle_all(&mut change, &released);
        let at = change.commit().await?;
        self.tell(study, &next, evidence, doubt.is_some(), now, &effects);
        Ok(at)
    }

    /// The last revision and what the nodes list. Where a node is in doubt, what lies in blobs without being listed too:
    /// a node that answers only for what is there may be lost before it lists it.
    async fn merged(
        &self,
        study: &Stored<Study>,
        listed: &Listed,
        doubt: Option<&Doubt>,
    ) -> Result<Merged, Error> {
        let previous = self.previous(study).await?;
        let segments = self.segments(study, listed).await?;
        let merged = plan::merge(previous.as_ref().map(|(m, _)| &m.images), segments);
        let Some(doubt) = doubt else { return Ok(merged) };
        let authority = sites::authority(&self.mirrors, &study.key.tenant, &study.record.site);
        let unlisted = unlisted::find(&self.blobs, &study.key, &merged.images, &authority).await?;
        let segment = Segment { study: study.key.study.clone(), node: doubt.node.clone(), images: unlisted };
        let Merged { images, news, mut contradicting } = plan::merge(Some(&merged.images), vec![segment]);
        contradicting.extend(merged.contradicting);
        Ok(Merged { images, news: news || merged.news, contradicting })
    }

    /// Puts the next revision's manifest. Where an attempt that was cut short has put one before, that is the revision: its
    /// images were whole then, and what came since makes the next one.
    async fn manifest(
        &self,
        study: &Stored<Study>,
        merged: Merged,
        now: Time,
    ) -> Result<(Manifest, Digest), Error> {
        self.put_aside(&study.key, &merged.contradicting).await?;
        let revision = study.record.revision + 1;
        let path = path::manifest(&study.key.tenant, &study.key.study, revision);
        let manifest = Manifest {
            study: study.key.study.clone(),
            revision,
            site: study.record.site.clone(),
            complete_at: now,
            images: merged.images,
        };
        let bytes = manifest.encode();
        let digest = Digest::of(&bytes);
        match self.blobs.put_new(&path, bytes.into()).await {
            Ok(_) => Ok((manifest, digest)),
            Err(e) if e.kind() == Kind::AlreadyExists => {
                let bytes = self.blobs.get(&path).await?;
                Ok((decode_manifest(&bytes)?, Digest::of(&bytes)))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Copies to quarantine what one node's segment lists against another's.
    async fn put_aside(&self, key: &StudyKey, contradicting: &[Instance]) -> Result<(), Error> {
        for instance in contradicting {
            let (tenant, study, uid) = (&key.tenant, &key.study, &instance.instance);
            let from = path::instance(tenant, study, uid, &instance.sha256);
            match self.blobs.get(&from).await {
                Ok(bytes) => {
                    let to = path::quarantine(tenant, study, uid, &instance.sha256);
                    self.blobs.put_new(&to, bytes).await?;
                }
                // Nothing is lost: it stays where it is, and the manifest says by its hash which it is.
                Err(e @ isocenter_blobs::Error::TooLarge { .. }) => {
                    tracing::warn!(error = %e, "a contradicting instance is too large to be copied to quarantine");
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn facts(&self, study: &Stored<Study>, images: &Images) -> isocenter_domain::record::study::Facts {
        let tenant = study.key.tenant.as_str();
        let reference = |purpose, authority: &str, value: &str| -> Option<Ref> {
            (!value.is_empty()).then(|| self.secret.reference(purpose, &[tenant, authority, value]))
        };
        let patient = reference("patient", &images.patient.authority, images.patient.id.reveal());
        // An accession number means something only to who gave it: the site.
        let accession = reference("accession", study.record.site.as_str(), images.accession.reveal());
        images.facts(patient, accession)
    }

    async fn previous(&self, study: &Stored<Study>) -> Result<Option<(Manifest, Digest)>, Error> {
        let Some(digest) = study.record.manifest else { return Ok(None) };
        let path = path::manifest(&study.key.tenant, &study.key.study, study.record.revision);
        let bytes = self.blobs.get_checked(&path, &digest).await?;
        Ok(Some((decode_manifest(&bytes)?, digest)))
    }

    async fn segments(&self, study: &Stored<Study>, listed: &Listed) -> Result<Vec<Segment>, Error> {
        let mut segments = Vec::new();
        for (node, intake) in &listed.intakes {
            let Some(digest) = intake.segment else { continue };
            let path = path::segment(&study.key.tenant, &study.key.study, node, &digest);
            let bytes = self.blobs.get_checked(&path, &digest).await?;
            segments.push(
                Segment::decode(&bytes).map_err(|source| Error::Document { what: "a segment", source })?,
            );
        }
        Ok(segments)
    }

    fn tell(
        &self,
        before: &Stored<Study>,
        study: &Study,
        evidence: Evidence,
        doubt: bool,
        now: Time,
        effects: &[StudyEffect],
    ) {
        let evidence = evidence_name(evidence);
        if study.revision > before.record.revision {
            self.meters.assembled(evidence, now.since(before.record.first_received_at));
        }
        let Study { revision, facts, .. } = study;
        tracing::info!(revision, instances = facts.instances, evidence, doubt, "study complete");
        if effects.contains(&StudyEffect::EndTrace) {
            let attributes = [("evidence", evidence.to_owned()), ("instances", facts.instances.to_string())];
            send_root(&before.head.trace, "study", before.head.created_at, now, &attributes);
        }
    }
}

impl Listed {
    fn new<'a>(
        study: &Stored<Study>,
        intakes: impl Iterator<Item = &'a Stored<Intake>>,
        at: Revision,
    ) -> Self {
        let mut listed = Self { intakes: Vec::new(), changed: false, older: false, at };
        for intake in intakes {
            listed.changed |= intake.mod_revision > study.mod_revision;
            listed.older |= intake.head.created_at < study.head.created_at;
            listed.intakes.push((intake.key.node.clone(), intake.record.clone()));
        }
        listed
    }
}

/// What a revision and its segments are called when they were compared.
fn fingerprint(study: &Study, listed: &Listed) -> Digest {
    let mut bytes = Vec::new();
    let segments = listed.intakes.iter().map(|(_, intake)| intake.segment);
    for digest in std::iter::once(study.manifest).chain(segments).flatten() {
        bytes.extend_from_slice(&digest.0);
    }
    Digest::of(&bytes)
}

fn settle_all(change: &mut Change<'_>, intakes: &[Stored<Intake>]) {
    for intake in intakes {
        change.update(intake, &intake.record.clone().released(), "released");
    }
}

fn decode_manifest(bytes: &[u8]) -> Result<Manifest, Error> {
    Manifest::decode(bytes).map_err(|source| Error::Document { what: "a manifest", source })
}

/// The range of a study's intakes.
pub(crate) fn intakes_of(key: &StudyKey) -> isocenter_store::Range {
    owner_range::<IntakeKey>(&key.tenant, key.study.as_str(), &[key.study.as_str()])
}

/// Evidence as metrics and the wire name it.
pub(crate) const fn evidence_name(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::QuietPeriod => "quiet-period",
        Evidence::AssemblyBound => "assembly-bound",
        Evidence::Released => "released",
    }
}

/// Studies by their own changes and by those of their intakes.
#[derive(Debug)]
pub(crate) struct Source(pub Mirrors);

#[async_trait::async_trait]
impl KeySource for Source {
    type Key = StudyKey;

    async fn list(&self) -> Result<Vec<StudyKey>, Failed> {
        let (studies, intakes) = (self.0.of::<Study>(), self.0.of::<Intake>());
        let mut keys: BTreeSet<StudyKey> = studies.all().iter().map(|study| study.key.clone()).collect();
        keys.extend(intakes.all().iter().map(|intake| study_of(&intake.key)));
        Ok(keys.into_iter().collect())
    }

    async fn changes(&self) -> Result<BoxStream<'static, StudyKey>, Failed> {
        let (studies, intakes) = (self.0.of::<Study>(), self.0.of::<Intake>());
        studies.synced().await;
        intakes.synced().await;
        let studies = studies.changes().map(Some).chain(ended());
        let intakes = intakes.changes().map(|key| Some(study_of(&key))).chain(ended());
        // When either ends, changes may have been missed: both end.
        let both = futures::stream::select(studies, intakes).take_while(|key| {
            let goes_on = key.is_some();
            async move { goes_on }
        });
        Ok(both.filter_map(|key| async move { key }).boxed())
    }

    fn shard(&self, key: &StudyKey) -> u8 {
        key::shard_of(key)
    }
}

fn ended() -> futures::stream::Once<futures::future::Ready<Option<StudyKey>>> {
    futures::stream::once(futures::future::ready(None))
}

fn study_of(key: &IntakeKey) -> StudyKey {
    StudyKey { tenant: key.tenant.clone(), study: key.study.clone() }
}
