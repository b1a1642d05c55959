//! The demo's account: what was sent, what was answered, and what is really there.

use std::collections::BTreeMap;

use anyhow::Result;
use futures::StreamExt as _;
use isocenter_blobs::{Blobs, path};
use isocenter_dimse::part10::FileMeta;
use isocenter_domain::{
    id::{InstanceUid, StudyUid, TenantId},
    refs::Digest,
    stage::Stage,
};
use isocenter_peers::{modality::Sent, study::Study};
use isocenter_wire::v1::{self, StudyStage};
use serde::Serialize;

use crate::command::study::stage_name;

/// The last line of the demo's stdout.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// Studies that a modality sent.
    pub studies_sent: u64,
    /// Instances that a modality sent.
    pub instances_sent: u64,
    /// Instances answered with success and found in blobs.
    pub instances_stored: u64,
    /// Instances answered with success and found in quarantine.
    pub instances_quarantined: u64,
    /// Instances answered with a failure, or not at all.
    pub instances_rejected: u64,
    /// Accepted studies with a complete revision.
    pub studies_complete: u64,
    /// Accepted studies in which the policy found nothing to read.
    pub studies_without_read: u64,
    /// Reports signed.
    pub reads_signed: u64,
    /// Reports that the receiver's application has accepted, each counted once.
    pub reports_acknowledged: u64,
    /// Instances answered with success and found nowhere, and accepted studies in no terminal state.
    pub lost: u64,
    /// Analyses answered in time.
    pub ai_succeeded: u64,
    /// Analyses that ended otherwise.
    pub ai_failed: u64,
    /// From the first instance to the end.
    pub seconds: f64,
}

/// An instance that was answered with success: what was promised.
struct Promise {
    study: StudyUid,
    instance: InstanceUid,
    data_set: Digest,
}

/// What was sent and how it was answered.
#[derive(Default)]
pub struct Account {
    studies: u64,
    instances: u64,
    promises: Vec<Promise>,
}

impl Account {
    /// Takes down the answers for one study.
    pub async fn enter(&mut self, study: &Study, sent: &[Sent]) -> Result<()> {
        self.studies += 1;
        self.instances += u64::try_from(sent.len())?;
        for (instance, answer) in study.instances.iter().zip(sent) {
            if answer.is_stored() {
                let data_set = data_set_digest(&instance.read().await?)?;
                let (study, instance) = (answer.study_uid.clone(), answer.instance_uid.clone());
                self.promises.push(Promise { study, instance, data_set });
            }
        }
        Ok(())
    }

    /// The studies of which at least one instance was answered with success.
    pub fn accepted(&self) -> BTreeMap<String, StudyStage> {
        self.promises.iter().map(|p| (p.study.to_string(), StudyStage::Unspecified)).collect()
    }

    /// Compares the promises with what is in blobs, and the accepted studies with their stages.
    pub async fn settle(
        &self,
        blobs: &Blobs,
        tenant: &TenantId,
        studies: &BTreeMap<String, v1::Study>,
    ) -> Result<Summary> {
        let mut summary = Summary {
            studies_sent: self.studies,
            instances_sent: self.instances,
            instances_rejected: self.instances - u64::try_from(self.promises.len())?,
            ..Summary::default()
        };
        for promise in &self.promises {
            let stored = path::versions_of(tenant, &promise.study, &promise.instance);
            if holds(blobs, &stored, &promise.data_set).await? {
                summary.instances_stored += 1;
            } else if holds(blobs, &path::quarantine_of(tenant, &promise.study), &promise.data_set).await? {
                summary.instances_quarantined += 1;
            } else {
                summary.lost += 1;
            }
        }
        for uid in self.accepted().keys() {
            let study = studies.get(uid);
            let stage = study.map(v1::Study::stage).unwrap_or_default();
            summary.studies_complete += u64::from(study.is_some_and(|s| s.revision > 0));
            summary.studies_without_read += u64::from(stage == StudyStage::NothingToRead);
            summary.lost += u64::from(!terminal(stage));
        }
        Ok(summary)
    }
}

/// Whether nothing more is owed to a study in this stage.
pub fn terminal(stage: StudyStage) -> bool {
    let name = stage_name(stage);
    Stage::ALL.into_iter().any(|stage| stage.terminal() && stage.name() == name)
}

async fn holds(blobs: &Blobs, prefix: &isocenter_blobs::Prefix, data_set: &Digest) -> Result<bool> {
    let mut entries = blobs.list(prefix);
    while let Some(entry) = entries.next().await {
        if data_set_digest(&blobs.get(&entry?.path).await?)? == *data_set {
            return Ok(true);
        }
    }
    Ok(false)
}

/// SHA-256 of the data set of a Part 10 file. Its file meta information is written anew by whoever stores it.
fn data_set_digest(file: &[u8]) -> Result<Digest> {
    let meta = FileMeta::read(&mut std::io::Cursor::new(file))?;
    let offset = usize::try_from(meta.data_set_offset)?;
    Ok(Digest::of(file.get(offset..).unwrap_or_default()))
}
