//! A modality: sends studies over real associations and keeps account of what was answered.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use isocenter_dimse::{
    Scu, StatusClass, StoreStatus,
    scu::{ProposedContext, ScuError, Source},
};
use isocenter_domain::{
    Kinded as _,
    id::{AeTitle, InstanceUid, StudyUid},
};
use isocenter_runtime::task::chain;
use sha2::{Digest as _, Sha256};

use crate::study::{Instance, Study};

/// Who sends, where to, and how fast.
#[derive(Clone, Debug)]
pub struct ModalityConfig {
    /// Its own AE title.
    pub calling: AeTitle,
    /// The AE title it calls.
    pub called: AeTitle,
    /// `host:port` of the receiver.
    pub address: String,
    /// Associations at once, from 1; each carries one study.
    pub associations: usize,
    /// The pause before each object of an association; zero sends as fast as the receiver answers.
    pub pace: Duration,
    /// How often an object is offered, from 1: what failed in passing is offered again on a new association.
    pub attempts: u32,
    /// The pause before a new attempt.
    pub retry: Duration,
}

impl ModalityConfig {
    /// One association at a time, no pacing, three attempts a second apart.
    #[must_use]
    pub const fn new(calling: AeTitle, called: AeTitle, address: String) -> Self {
        Self {
            calling,
            called,
            address,
            associations: 1,
            pace: Duration::ZERO,
            attempts: 3,
            retry: Duration::from_secs(1),
        }
    }
}

/// What became of one object.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its study.
    pub study_uid: StudyUid,
    /// Its SOP Instance UID.
    pub instance_uid: InstanceUid,
    /// SHA-256 of the Part 10 file; `None` where it could not be read.
    pub sha256: Option<[u8; 32]>,
    /// The last answer, or why there is none.
    pub outcome: Result<StoreStatus, Unsent>,
}

impl Sent {
    /// Whether the receiver has answered for the object: success or a warning (PS3.7 §9.1.1.1.9).
    #[must_use]
    pub fn is_stored(&self) -> bool {
        matches!(self.outcome, Ok(status) if status.is_stored())
    }
}

/// Why an object has no answer. The receiver may have it all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Unsent {
    /// The error and what caused it, in words, without anything of the object.
    pub why: String,
    /// Whether another attempt may help.
    pub retryable: bool,
}

impl Unsent {
    fn of(error: &ScuError) -> Self {
        Self { why: chain(error), retryable: error.is_retryable() }
    }
}

/// A modality.
#[derive(Clone, Debug)]
pub struct Modality {
    config: ModalityConfig,
}

impl Modality {
    /// Nothing is sent before [`Modality::send`].
    #[must_use]
    pub const fn new(config: ModalityConfig) -> Self {
        Self { config }
    }

    /// Sends studies, each over an association of its own, as many at once as configured. The account has one entry
    /// for each object, in the order given. Dropping the future closes the connections, which the receiver takes as aborts.
    pub async fn send(&self, studies: &[Study]) -> Vec<Sent> {
        let sent: Vec<Vec<Sent>> = stream::iter(studies)
            .map(|study| self.send_study(study))
            .buffered(self.config.associations.max(1))
            .collect()
            .await;
        sent.into_iter().flatten().collect()
    }

    /// Sends one study, and what failed in passing again.
    pub async fn send_study(&self, study: &Study) -> Vec<Sent> {
        let mut account: Vec<Sent> = study.instances.iter().map(|i| unsent(study, i)).collect();
        for attempt in 0..self.config.attempts.max(1) {
            if attempt > 0 {
                tokio::time::sleep(self.config.retry).await;
            }
            self.attempt(study, &mut account).await;
            if !account.iter().any(is_open) {
                break;
            }
        }
        account
    }

    /// One association for all objects that still want an answer.
    async fn attempt(&self, study: &Study, account: &mut [Sent]) {
        let open: Vec<usize> = (0..account.len()).filter(|i| is_open(&account[*i])).collect();
        let contexts: Vec<_> = open.iter().map(|i| context(&study.instances[*i])).collect();
        let config = &self.config;
        let mut association =
            match Scu::connect(&config.address, &config.calling, &config.called, &contexts).await {
                Ok(association) => association,
                Err(e) => {
                    let why = Unsent::of(&e);
                    open.iter().for_each(|i| account[*i].outcome = Err(why.clone()));
                    return;
                }
            };
        for (nth, i) in open.iter().enumerate() {
            if !config.pace.is_zero() {
                tokio::time::sleep(config.pace).await;
            }
            let file = match study.instances[*i].read().await {
                Ok(file) => file,
                Err(e) => {
                    let why = format!("the file cannot be read: {}", e.kind());
                    account[*i].outcome = Err(Unsent { why, retryable: false });
                    continue;
                }
            };
            account[*i].sha256 = Some(sha256(&file));
            match association.store(Source::Bytes(file)).await {
                Ok(status) => account[*i].outcome = Ok(status),
                Err(e @ (ScuError::NoContext { .. } | ScuError::File(_))) => {
                    account[*i].outcome = Err(Unsent::of(&e));
                }
                Err(e) => {
                    let why = Unsent { retryable: true, ..Unsent::of(&e) };
                    open[nth..].iter().for_each(|i| account[*i].outcome = Err(why.clone()));
                    return association.abort().await;
                }
            }
        }
        // Each object has its answer; that the receiver does not confirm the release changes none.
        if let Err(error) = association.release().await {
            tracing::debug!(error = %chain(&error), "association not released");
        }
    }
}

fn unsent(study: &Study, instance: &Instance) -> Sent {
    Sent {
        study_uid: study.study_uid.clone(),
        instance_uid: instance.instance_uid.clone(),
        sha256: None,
        outcome: Err(Unsent { why: "not offered yet".to_owned(), retryable: true }),
    }
}

/// Whether another attempt may change the outcome: no answer for a passing reason, or out of resources.
fn is_open(sent: &Sent) -> bool {
    match &sent.outcome {
        Ok(status) => status.class() == StatusClass::Refused,
        Err(unsent) => unsent.retryable,
    }
}

fn context(instance: &Instance) -> ProposedContext {
    ProposedContext {
        sop_class: instance.sop_class_uid.clone(),
        transfer_syntax: instance.transfer_syntax_uid.clone(),
    }
}

fn sha256(file: &Bytes) -> [u8; 32] {
    Sha256::digest(file).into()
}
