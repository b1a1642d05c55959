//! The mover: takes instances from the spool into blobs, lists them in this node's segment, and only then lets them go.
//!
//! The order makes every crash harmless: the object, the segment that lists it, the intake record that names the segment,
//! the removal from the spool. Whatever is repeated after a restart finds itself done.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use isocenter_blobs::{BlobPath, path};
use isocenter_dimse::part10::{self, Header, InspectError};
use isocenter_domain::{
    document::{Images, Manifest, Quarantined, Segment},
    key::StudyKey,
    record::{intake::Intake, study::Study},
    refs::Digest,
};
use isocenter_reconcile::{Failed, Outcome, Reconciler};
use isocenter_runtime::{clock::Clock, telemetry::trace::joined};
use isocenter_store::table::Mirrors;
use isocenter_wire::document::Stored as _;
use tracing::Instrument as _;

use crate::{
    Error,
    adopt::Adopter,
    intake::{Intakes, Listed, Moved},
    metrics::Meters,
    plan::{self, Known, Place},
    sites,
    spool::{Ready, Spool},
};

/// Instances moved by one run: a bound on how long it takes, and on what a crash has done again.
const BATCH: usize = 256;

/// Bytes moved by one run, likewise: a copy to another file system takes seconds, not the minute after which a run counts as
/// failed and begins anew.
const BATCH_BYTES: u64 = 1 << 30;

/// Instances moved at once: the disk syncs several together in the time of one.
const AT_ONCE: usize = 8;

/// How long instances gather while an association that carries the study is open. The intake record is written as often.
pub(crate) const GATHER: Duration = Duration::from_secs(5);

/// How long after an association's end its study waits: devices that associate anew for each image make one batch then.
pub(crate) const LINGER: Duration = Duration::from_millis(200);

/// The mover of one node. Its queue gives it each study once at a time.
#[derive(Debug)]
pub(crate) struct Mover {
    pub spool: Spool,
    pub intakes: Intakes,
    pub mirrors: Mirrors,
    pub meters: Meters,
    pub adopter: Arc<Adopter>,
}

/// An instance and what is to be done with it.
struct Step {
    file: Ready,
    action: Action,
}

enum Action {
    Drop,
    List,
    Quarantine(&'static str),
}

#[async_trait::async_trait]
impl Reconciler for Mover {
    type Key = StudyKey;

    async fn reconcile(&self, study: &StudyKey) -> Result<Outcome, Failed> {
        self.adopter.make_good(study).await?;
        let ledger = &self.intakes.ledger;
        let batch = ledger.batch(study, BATCH, BATCH_BYTES);
        let full = batch.iter().map(|file| file.size).sum::<u64>() > BATCH_BYTES / 2;
        if batch.is_empty() {
            self.intakes.write(study, None).await?;
        } else {
            let trace =
                self.mirrors.of::<Study>().get(study).map(|s| s.head.trace.clone()).unwrap_or_default();
            let span = joined(tracing::info_span!("move instances", count = batch.len()), &trace);
            self.move_batch(study, batch).instrument(span).await?;
        }
        let now = self.clock().now();
        let Some(account) = ledger.settle(study).then(|| ledger.account(study)).flatten() else {
            return Ok(Outcome::Done);
        };
        Ok(match (account.pending, account.open) {
            (0, _) => Outcome::Done,
            // What did not fit into this run is already late.
            (pending, open) if pending >= BATCH || open == 0 || full => Outcome::At(now),
            _ => Outcome::At(now.plus(GATHER)),
        })
    }
}

impl Mover {
    fn clock(&self) -> &Arc<dyn Clock> {
        self.intakes.tables.clock()
    }

    async fn move_batch(&self, study: &StudyKey, batch: Vec<Ready>) -> Result<(), Error> {
        // After a restart the spool is known sooner than the registry, which names the authority of patient ids.
        sites::known(&self.mirrors).await?;
        let old = self.segment(study).await?;
        let mut known = Known::default();
        if let Some(manifest) = self.manifest(study).await? {
            known.learn(&manifest.images);
        }
        let (old_digest, mut images) = match old {
            Some((digest, segment)) => (Some(digest), segment.images),
            None => (None, Images::default()),
        };
        known.learn(&images);
        let (batch, headers) = inspect(batch, &known).await?;
        let steps = self.plan(study, batch, headers, known, &mut images);
        self.adopt(study, &steps).await?;
        let adds = steps.iter().any(|step| !matches!(step.action, Action::Drop));
        let listed = if adds { Some(put_segment(&self.intakes, study, images).await?) } else { None };
        let replaced = old_digest.filter(|old| listed.as_ref().is_some_and(|listed| listed.segment != *old));
        let moved = Moved { listed, files: steps.iter().map(|step| step.file.clone()).collect() };
        self.intakes.write(study, Some(&moved)).await?;
        self.let_go(study, &steps, replaced).await
    }

    /// Puts the instances into blobs.
    async fn adopt(&self, study: &StudyKey, steps: &[Step]) -> Result<(), Error> {
        let mut adoptions = Vec::new();
        for step in steps {
            if let Some(path) = object(study, step) {
                let (blobs, file) = (self.intakes.blobs.clone(), step.file.path.clone());
                adoptions.push(async move { blobs.adopt(&file, &path).await.map(drop) });
            }
        }
        Ok(stream::iter(adoptions).buffer_unordered(AT_ONCE).try_collect::<()>().await?)
    }

    /// Decides on each instance and lists it.
    fn plan(
        &self,
        study: &StudyKey,
        batch: Vec<Ready>,
        headers: Vec<Option<Result<Header, InspectError>>>,
        mut known: Known,
        images: &mut Images,
    ) -> Vec<Step> {
        let mut steps = Vec::with_capacity(batch.len());
        for (file, header) in batch.into_iter().zip(headers) {
            let aside = |why: &str| Images {
                quarantined: vec![Quarantined {
                    instance: file.instance.clone(),
                    sha256: file.sha256,
                    why: why.to_owned(),
                }],
                ..Images::default()
            };
            let (action, adds) = match header {
                None => (Action::Drop, None),
                Some(Err(error)) => {
                    tracing::error!(%error, "an instance of the spool can no longer be read as it was received");
                    (Action::Quarantine("damaged"), Some(aside("its header can no longer be read")))
                }
                Some(Ok(header)) => {
                    match known.place(&file.instance, &header.transfer_syntax, &file.data_set) {
                        Place::Repeat => (Action::Drop, None),
                        Place::Contradiction(why) => (Action::Quarantine("quarantined"), Some(aside(why))),
                        Place::New => {
                            let listed =
                                plan::File { size: file.size, sha256: file.sha256, data_set: file.data_set };
                            let authority = sites::authority(&self.mirrors, &study.tenant, &file.origin.site);
                            (Action::List, Some(plan::images_of(header, listed, &authority)))
                        }
                    }
                }
            };
            if let Some(adds) = adds {
                known.learn(&adds);
                images.merge(adds);
            }
            steps.push(Step { file, action });
        }
        steps
    }

    /// Removes the spool's copies, and the segment that the new one replaces. What fails here costs space only: a copy that
    /// is left is found to be a repeat at the next start.
    async fn let_go(&self, study: &StudyKey, steps: &[Step], old: Option<Digest>) -> Result<(), Error> {
        let now = self.clock().monotonic();
        for step in steps {
            let took = step.file.received.map(|at| now.saturating_duration_since(at));
            match &step.action {
                Action::Drop => self.meters.moved("repeated", None),
                Action::List => self.meters.moved("stored", took),
                Action::Quarantine(outcome) => self.meters.moved(outcome, took),
            }
        }
        let spool = self.spool.clone();
        let paths: Vec<_> = steps.iter().map(|step| step.file.path.clone()).collect();
        let removed = blocking(move || {
            for path in paths {
                if let Err(error) = spool.remove(&path) {
                    tracing::warn!(%error, "an instance that is in blobs cannot be removed from the spool");
                }
            }
        });
        removed.await?;
        if let Some(old) = old {
            let path = path::segment(&study.tenant, &study.study, &self.intakes.node, &old);
            if let Err(error) = self.intakes.blobs.delete(&path).await {
                tracing::warn!(%error, "a segment that is replaced cannot be removed");
            }
        }
        Ok(())
    }

    /// This node's segment so far.
    async fn segment(&self, study: &StudyKey) -> Result<Option<(Digest, Segment)>, Error> {
        let intake = self.intakes.tables.load::<Intake>(&self.intakes.key(study)).await?;
        let Some(digest) = intake.and_then(|intake| intake.record.segment) else { return Ok(None) };
        let path = path::segment(&study.tenant, &study.study, &self.intakes.node, &digest);
        let bytes = self.intakes.blobs.get_checked(&path, &digest).await?;
        let segment =
            Segment::decode(&bytes).map_err(|source| Error::Document { what: "a segment", source })?;
        Ok(Some((digest, segment)))
    }

    /// The study's last revision, also of one that was closed.
    async fn manifest(&self, study: &StudyKey) -> Result<Option<Manifest>, Error> {
        let live = self.intakes.tables.load::<Study>(study).await?;
        let blobs = &self.intakes.blobs;
        let path = match live {
            Some(live) if live.record.revision == 0 => None,
            Some(live) => Some(path::manifest(&study.tenant, &study.study, live.record.revision)),
            None => blobs.last(&path::manifests_of(&study.tenant, &study.study)).await?.map(|last| last.path),
        };
        let Some(path) = path else { return Ok(None) };
        let bytes = blobs.get(&path).await?;
        let manifest =
            Manifest::decode(&bytes).map_err(|source| Error::Document { what: "a manifest", source })?;
        Ok(Some(manifest))
    }
}

/// Writes this node's segment of a study.
pub(crate) async fn put_segment(
    intakes: &Intakes,
    study: &StudyKey,
    images: Images,
) -> Result<Listed, Error> {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (stored, quarantined) = (count(images.instances().count()), count(images.quarantined.len()));
    let bytes = images.instances().map(|(_, _, instance)| instance.size).sum();
    let document = Segment { study: study.study.clone(), node: intakes.node.clone(), images }.encode();
    let segment = Digest::of(&document);
    let path = path::segment(&study.tenant, &study.study, &intakes.node, &segment);
    intakes.blobs.put_new(&path, document.into()).await?;
    Ok(Listed { segment, stored, bytes, quarantined })
}

/// Where an instance has to be put; `None` where it is.
fn object(study: &StudyKey, step: &Step) -> Option<BlobPath> {
    let StudyKey { tenant, study } = study;
    let Ready { instance, sha256, .. } = &step.file;
    match step.action {
        Action::Drop => None,
        Action::List if step.file.adopted => None,
        Action::List => Some(path::instance(tenant, study, instance, sha256)),
        Action::Quarantine(_) => Some(path::quarantine(tenant, study, instance, sha256)),
    }
}

/// Reads the headers of those that are not listed as they are. One that cannot be read at all fails the batch, but for a
/// repeat that is gone: sent again while its first copy was let go, it lay under the same name, and its data set is in blobs.
async fn inspect(
    batch: Vec<Ready>,
    known: &Known,
) -> Result<(Vec<Ready>, Vec<Option<Result<Header, InspectError>>>), Error> {
    let look = |file: &Ready| {
        let wanted = !known.lists(&file.instance, &file.sha256);
        (wanted, known.has_data(&file.instance, &file.data_set))
    };
    let looks: Vec<_> = batch.iter().map(look).collect();
    blocking(move || {
        let mut headers = Vec::with_capacity(batch.len());
        for (file, (wanted, has_data)) in batch.iter().zip(looks) {
            headers.push(match wanted.then(|| part10::inspect(&file.path)) {
                Some(Err(InspectError::Io(e))) if has_data && e.kind() == std::io::ErrorKind::NotFound => {
                    None
                }
                Some(Err(InspectError::Io(source))) => {
                    return Err(crate::spool::SpoolError::Io { doing: "read", source }.into());
                }
                inspected => inspected,
            });
        }
        Ok((batch, headers))
    })
    .await?
}

/// Runs `work`, which blocks, off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Ending),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::PathBuf};

    use isocenter_domain::{
        document::{Instance, Series},
        id::InstanceUid,
    };

    use super::*;
    use crate::spool::Origin;

    const UID: &str = "1.2.3";

    fn gone(data_set: &[u8]) -> Ready {
        Ready {
            path: PathBuf::from("/no/such/folder/instance.dcm"),
            study: StudyKey { tenant: "net".parse().unwrap(), study: "1.2".parse().unwrap() },
            origin: Origin { site: "north".parse().unwrap(), calling: "CT2".parse().unwrap() },
            instance: UID.parse().unwrap(),
            sha256: Digest::of(b"as another device sends it"),
            data_set: Digest::of(data_set),
            size: 4,
            received: None,
            adopted: false,
        }
    }

    fn known(data_set: &[u8]) -> Known {
        let instance = Instance {
            sop_class: "1.2.840.10008.5.1.4.1.1.2".parse().unwrap(),
            instance: UID.parse().unwrap(),
            transfer_syntax: "1.2.840.10008.1.2.1".parse().unwrap(),
            size: 4,
            sha256: Digest::of(b"as one device sent it"),
            data_set: Digest::of(data_set),
            number: 1,
            frames: 1,
            image: true,
        };
        let instances = BTreeMap::from([(UID.parse::<InstanceUid>().unwrap(), instance)]);
        let series = BTreeMap::from([("5".parse().unwrap(), Series { instances, ..Series::default() })]);
        let mut known = Known::default();
        known.learn(&Images { series, ..Images::default() });
        known
    }

    /// Sent again while its first copy, a repeat, was let go: the same path, which is removed under the new account.
    #[tokio::test]
    async fn a_repeat_whose_file_went_with_an_earlier_copy_does_not_hold_up_its_study() {
        let (batch, headers) = inspect(vec![gone(b"data")], &known(b"data")).await.unwrap();
        assert_eq!((batch.len(), headers.len()), (1, 1));
        assert!(headers[0].is_none(), "it is to be dropped");
        assert!(
            inspect(vec![gone(b"other")], &known(b"data")).await.is_err(),
            "what is not in blobs is missed"
        );
    }
}
