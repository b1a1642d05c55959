//! What this node has acknowledged and not yet settled, in memory: the source of its intake records and of the mover's
//! work. Lost with the process, and made again from the spool at its start.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use isocenter_domain::{Time, key::StudyKey};
use parking_lot::Mutex;

use crate::{
    metrics::Meters,
    spool::{Origin, Ready},
};

/// The accounts of all studies that have something open or pending. Bounded by the associations that may be open and by
/// `dicom.max_pending`; a file costs some 600 bytes.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    accounts: Arc<Mutex<HashMap<StudyKey, Entry>>>,
    meters: Meters,
}

#[derive(Debug, Default)]
struct Entry {
    origin: Option<Origin>,
    files: BTreeMap<PathBuf, Ready>,
    open: u32,
    last_at: Time,
    gate: Arc<tokio::sync::Mutex<()>>,
}

/// A study's account at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    /// Who sent the study; `None` where this process has received nothing of it.
    pub origin: Option<Origin>,
    /// Instances acknowledged and not yet in blobs.
    pub pending: usize,
    /// Associations that have carried the study and are open.
    pub open: u32,
    /// When the last instance arrived; [`Time::ZERO`] where this process has received none.
    pub last_at: Time,
}

/// The studies that one association has carried.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    studies: HashSet<StudyKey>,
    closed: bool,
}

impl Ledger {
    pub(crate) fn new(meters: Meters) -> Self {
        Self { accounts: Arc::default(), meters }
    }

    /// Takes account of a durable instance. `true`: it is the association's first of this study, so that the intake record
    /// has to be written before the answer.
    ///
    /// Called where the instance was made durable, with no await in between: whatever cancels the association, an instance
    /// in `ready/` is in here.
    pub(crate) fn received(&self, ready: Ready, now: Time, carried: &Mutex<Carried>) -> bool {
        let mut carried = carried.lock();
        let joins = !carried.closed && carried.studies.insert(ready.study.clone());
        let mut accounts = self.accounts.lock();
        let entry = accounts.entry(ready.study.clone()).or_default();
        entry.open += u32::from(joins);
        entry.last_at = entry.last_at.max(now);
        self.add(entry, ready);
        joins
    }

    /// Takes account of an instance that an earlier process left.
    pub(crate) fn recovered(&self, ready: Ready, now: Time) {
        let mut accounts = self.accounts.lock();
        let entry = accounts.entry(ready.study.clone()).or_default();
        entry.last_at = entry.last_at.max(now);
        self.add(entry, ready);
    }

    fn add(&self, entry: &mut Entry, ready: Ready) {
        entry.origin.get_or_insert_with(|| ready.origin.clone());
        let size = i64::try_from(ready.size).unwrap_or(i64::MAX);
        // The same instance sent again while the first copy waits is the same file.
        if entry.files.insert(ready.path.clone(), ready).is_none() {
            self.meters.spool_files.inc();
            self.meters.spool_bytes.add(size);
        }
    }

    /// Instances acknowledged and not yet in blobs, of all studies.
    pub(crate) fn pending(&self) -> usize {
        usize::try_from(self.meters.spool_files.get()).unwrap_or_default()
    }

    /// Makes sure that the study has an account, so that its intake record is written anew.
    pub(crate) fn touch(&self, study: &StudyKey) {
        self.accounts.lock().entry(study.clone()).or_default();
    }

    /// An association is over. Answers the studies it has carried.
    pub(crate) fn closed(&self, carried: &Mutex<Carried>) -> Vec<StudyKey> {
        let studies = {
            let mut carried = carried.lock();
            carried.closed = true;
            std::mem::take(&mut carried.studies)
        };
        let mut accounts = self.accounts.lock();
        let mut studies: Vec<StudyKey> = studies.into_iter().collect();
        studies.sort();
        for study in &studies {
            if let Some(entry) = accounts.get_mut(study) {
                entry.open = entry.open.saturating_sub(1);
            }
        }
        studies
    }

    /// The study's account; `None` where it has none.
    pub(crate) fn account(&self, study: &StudyKey) -> Option<Account> {
        let accounts = self.accounts.lock();
        let entry = accounts.get(study)?;
        Some(Account {
            origin: entry.origin.clone(),
            pending: entry.files.len(),
            open: entry.open,
            last_at: entry.last_at,
        })
    }

    /// Every study with an account, in order.
    pub(crate) fn studies(&self) -> Vec<StudyKey> {
        let mut studies: Vec<StudyKey> = self.accounts.lock().keys().cloned().collect();
        studies.sort();
        studies
    }

    /// Whether nothing is open or pending.
    pub(crate) fn is_empty(&self) -> bool {
        self.accounts.lock().is_empty()
    }

    /// What is held while the study's intake record is written, so that this process does not race itself.
    pub(crate) fn gate(&self, study: &StudyKey) -> Arc<tokio::sync::Mutex<()>> {
        self.accounts.lock().entry(study.clone()).or_default().gate.clone()
    }

    /// At most `most` instances of the study that wait to be moved, of at most `bytes` in all, but at least one.
    pub(crate) fn batch(&self, study: &StudyKey, most: usize, bytes: u64) -> Vec<Ready> {
        let accounts = self.accounts.lock();
        accounts
            .get(study)
            .map(|entry| {
                // In the order in which they came: where two contradict one another, the first is the instance. What an
                // earlier process left came before everything.
                let mut files: Vec<Ready> = entry.files.values().cloned().collect();
                files.sort_by_key(|file| file.received);
                let mut sum = 0_u64;
                let fits = |file: &Ready| {
                    sum = sum.saturating_add(file.size);
                    sum <= bytes
                };
                let fitting = files.iter().take(most).map(fits).take_while(|fits| *fits).count();
                files.truncate(fitting.max(1));
                files
            })
            .unwrap_or_default()
    }

    /// These instances are in blobs and listed, or known to be there already.
    pub(crate) fn moved(&self, study: &StudyKey, files: &[Ready]) {
        let mut accounts = self.accounts.lock();
        let Some(entry) = accounts.get_mut(study) else { return };
        for file in files {
            if entry.files.remove(&file.path).is_some() {
                self.meters.spool_files.dec();
                self.meters.spool_bytes.sub(i64::try_from(file.size).unwrap_or(i64::MAX));
            }
        }
    }

    /// Forgets a study of which nothing is open or pending; what its record says of the past is in the store. Answers
    /// whether something is left.
    pub(crate) fn settle(&self, study: &StudyKey) -> bool {
        let mut accounts = self.accounts.lock();
        let Some(entry) = accounts.get(study) else { return false };
        let left = entry.open > 0 || !entry.files.is_empty();
        // A gate that somebody else holds is about to be written through: its account must stay for that.
        if !left && Arc::strong_count(&entry.gate) == 1 {
            accounts.remove(study);
        }
        left
    }
}
