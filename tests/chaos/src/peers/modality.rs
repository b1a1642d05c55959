//! A modality that sends studies until it is told to stop, each until every object is acknowledged.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use isocenter_dimse::{StatusClass, part10::FileMeta};
use isocenter_domain::{id::AeTitle, refs::Digest};
use isocenter_peers::{
    modality::{Modality, ModalityConfig},
    study::{Instance, Study},
    synthetic::{StudyKind, Synthetic},
};
use isocenter_runtime::random::Seeded;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Load;
use crate::record::{Deed, Outcome, Recorder};

/// Small studies, one of them without anything to read, two of several images.
const KINDS: [StudyKind; 6] = [
    StudyKind::CrChest,
    StudyKind::DxChestOpacity,
    StudyKind::UsAbdomen,
    StudyKind::CrChestOpacity,
    StudyKind::SrOnly,
    StudyKind::DxChest,
];
/// The pause before what was not acknowledged is sent again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long one association may take. What is frozen neither answers nor hangs up.
const ASSOCIATION: Duration = Duration::from_secs(15);

/// One modality.
pub(super) struct Sender {
    rng: Seeded,
    synthetic: Synthetic,
    real: Vec<Study>,
    mean: Duration,
    address: SocketAddr,
    recorder: Recorder,
    studies: Arc<Mutex<BTreeSet<String>>>,
}

impl Sender {
    pub fn new(
        n: usize,
        load: &Load,
        address: SocketAddr,
        recorder: Recorder,
        studies: Arc<Mutex<BTreeSet<String>>>,
    ) -> Self {
        let seed = load.seed.wrapping_mul(64).wrapping_add(n as u64);
        let senders = u32::try_from(load.senders).unwrap_or(1).max(1);
        let real = load.real.iter().skip(n).step_by(load.senders.max(1)).cloned().collect();
        Self {
            rng: Seeded::new(seed).fork("modality"),
            synthetic: Synthetic::new(seed),
            real,
            mean: Duration::from_secs_f64(1.0 / load.rate.max(0.01)) * senders,
            address,
            recorder,
            studies,
        }
    }

    pub async fn run(&mut self, mut stop: watch::Receiver<bool>) {
        let mut nth = 0_usize;
        while !*stop.borrow() {
            let pause = self.rng.gap(self.mean);
            // The sender of the stop lives in the handle; where it is gone, so is the run.
            if tokio::time::timeout(pause, stop.wait_for(|stop| *stop)).await.is_ok() {
                return;
            }
            let study = match self.real.pop() {
                Some(study) => study,
                None => {
                    let kind = KINDS[nth % KINDS.len()];
                    nth += 1;
                    self.synthetic.study(kind).expect("synthetic studies can always be drawn").study
                }
            };
            self.send(study).await;
        }
    }

    async fn send(&mut self, study: Study) {
        self.studies.lock().insert(study.study_uid.to_string());
        let mut open = study.instances.clone();
        // Every other study of several objects comes over two associations at once, which may end at two nodes.
        let halves = if open.len() > 1 && self.rng.chance(0.5) { 2 } else { 1 };
        while !open.is_empty() {
            let size = open.len().div_ceil(halves);
            let parts: Vec<_> = open.chunks(size).map(|part| self.associate(&study, part.to_vec())).collect();
            open = futures::future::join_all(parts).await.concat();
            if !open.is_empty() {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Sends objects over one association; those that are not acknowledged.
    async fn associate(&self, study: &Study, instances: Vec<Instance>) -> Vec<Instance> {
        let title = |text: &str| AeTitle::new(text).expect("a literal is a valid title");
        let config = ModalityConfig {
            attempts: 1,
            ..ModalityConfig::new(title("NORTH"), title("ISOCENTER"), self.address.to_string())
        };
        let invoked = self.recorder.now();
        let part = Study { study_uid: study.study_uid.clone(), instances: instances.clone() };
        let modality = Modality::new(config);
        let sent = tokio::time::timeout(ASSOCIATION, modality.send_study(&part)).await;
        let mut outcomes = match sent {
            Ok(sent) => sent.into_iter().map(|sent| Some(sent.outcome)).collect(),
            Err(_) => vec![None; instances.len()],
        };
        let mut open = Vec::new();
        for (instance, outcome) in instances.into_iter().zip(outcomes.drain(..)) {
            let (outcome, again) = match outcome {
                Some(Ok(status)) if status.is_stored() => (Outcome::Ok(String::new()), false),
                // Out of resources: the modality comes again. What is refused for another reason is refused for good.
                Some(Ok(status)) => {
                    (Outcome::Failed(status.to_string()), status.class() == StatusClass::Refused)
                }
                Some(Err(unsent)) if !unsent.retryable => (Outcome::Failed(unsent.why), false),
                Some(Err(unsent)) => (Outcome::Unknown(unsent.why), true),
                None => (Outcome::Unknown("no answer in time".to_owned()), true),
            };
            let deed = Deed::Store {
                study: study.study_uid.to_string(),
                instance: instance.instance_uid.to_string(),
                data_set: data_set(&instance).await,
            };
            self.recorder.done(deed, invoked, outcome);
            if again {
                open.push(instance);
            }
        }
        open
    }
}

/// SHA-256 of an instance's data set; empty where the file is none.
async fn data_set(instance: &Instance) -> String {
    let Ok(file) = instance.read().await else { return String::new() };
    let Ok(meta) = FileMeta::read(&mut file.as_ref()) else { return String::new() };
    let offset = usize::try_from(meta.data_set_offset).unwrap_or(usize::MAX);
    file.get(offset..).map(|data_set| Digest::of(data_set).to_string()).unwrap_or_default()
}
