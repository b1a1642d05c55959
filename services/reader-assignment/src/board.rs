//! The queue in memory, kept from the mirrors on every replica, and what the leader has reserved of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use isocenter_assign::{Explanation, Item, Queue, ReaderProfile};
use isocenter_domain::{
    Time,
    id::{ReadId, TenantId},
    key::{CaseKey, HoldingKey, ReadKey},
    record::case::CaseState,
};
use isocenter_store::Revision;
use parking_lot::Mutex;

use crate::{error::Error, view::View};

/// The queue, one for each tenant: nobody reads for another tenant.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    queues: BTreeMap<TenantId, Queue>,
    /// Which reads of a case are in the queue.
    shown: BTreeMap<CaseKey, BTreeSet<ReadId>>,
    /// Reads that an offer is being committed of.
    reads: BTreeSet<ReadKey>,
    /// Readers that an offer is being committed to.
    readers: BTreeSet<HoldingKey>,
    /// Reads of which the mirror is known to be behind: not shown before it has caught up.
    floors: BTreeMap<ReadKey, Revision>,
}

/// A reader, reserved until this is dropped.
#[derive(Debug)]
pub(crate) struct ReaderReserved {
    board: Arc<Board>,
    key: HoldingKey,
}

/// A read, out of the queue until this is dropped.
#[derive(Debug)]
pub(crate) struct ReadReserved {
    board: Arc<Board>,
    view: View,
    key: ReadKey,
}

impl Board {
    /// Shows the reads of a case as the mirrors have them now.
    pub fn refresh(&self, view: &View, key: &CaseKey) {
        // The mirrors are read under the lock, so that of two refreshes the later one shows the later state.
        let inner = &mut *self.0.lock();
        let case = view.cases.get(key).filter(|case| case.record.state == CaseState::Ready);
        let reads = view.reads_of(key);
        inner.forget_floors(key, |n| reads.contains_key(&n));
        let mut shown = BTreeSet::new();
        if let Some(case) = &case {
            for read in reads.values() {
                let behind = inner.floors.get(&read.key).is_some_and(|floor| read.mod_revision < *floor);
                if !behind {
                    inner.floors.remove(&read.key);
                }
                if behind || !read.record.is_queued() || inner.reads.contains(&read.key) {
                    continue;
                }
                let item = view.item(&read.key, &read.record, &case.record);
                let queue = inner.queues.entry(key.tenant.clone()).or_default();
                if queue.get(&item.read) != Some(&item) {
                    queue.insert(item);
                }
                shown.insert(read.key.read.clone());
            }
        }
        inner.show(key, shown);
    }

    /// Shows everything anew, and forgets what is gone.
    pub fn refresh_all(&self, view: &View) {
        let mut keys: BTreeSet<_> = self.0.lock().shown.keys().cloned().collect();
        keys.extend(view.cases.all().iter().map(|case| case.key.clone()));
        for key in &keys {
            self.refresh(view, key);
        }
    }

    /// Reserves a reader, so that he is made one offer at a time.
    pub fn reserve_reader(self: &Arc<Self>, key: HoldingKey) -> Result<ReaderReserved, Error> {
        if self.0.lock().readers.insert(key.clone()) {
            Ok(ReaderReserved { board: Arc::clone(self), key })
        } else {
            Err(Error::InHand)
        }
    }

    /// Takes the first read that the reader may have out of the queue.
    pub fn reserve_read(
        self: &Arc<Self>,
        view: &View,
        tenant: &TenantId,
        reader: &ReaderProfile,
        now: Time,
    ) -> Option<ReadReserved> {
        let inner = &mut *self.0.lock();
        let queue = inner.queues.get_mut(tenant)?;
        let read = queue.pick(reader, now)?.read.clone();
        queue.remove(&read);
        let key = ReadKey { tenant: tenant.clone(), read };
        inner.reads.insert(key.clone());
        Some(ReadReserved { board: Arc::clone(self), view: view.clone(), key })
    }

    /// Why a read is where it is; `None` where it does not wait.
    pub fn explain(
        &self,
        tenant: &TenantId,
        read: &ReadId,
        now: Time,
        readers: &[ReaderProfile],
    ) -> Option<Explanation> {
        self.0.lock().queues.get(tenant)?.explain(read, now, readers)
    }

    /// How many reads wait, and since when the oldest.
    pub fn depth(&self) -> (usize, Option<Time>) {
        let inner = self.0.lock();
        let items = || inner.queues.values().flat_map(Queue::items);
        (items().count(), items().map(|item: &Item| item.complete_at).min())
    }

    /// How many of the reads that wait no registered reader could ever have.
    pub fn parked(&self, view: &View) -> usize {
        let inner = self.0.lock();
        let parked = |(tenant, queue): (&TenantId, &Queue)| queue.parked(&view.profiles(tenant)).len();
        inner.queues.iter().map(parked).sum()
    }
}

impl Inner {
    fn show(&mut self, key: &CaseKey, shown: BTreeSet<ReadId>) {
        let before = if shown.is_empty() {
            self.shown.remove(key)
        } else {
            self.shown.insert(key.clone(), shown.clone())
        };
        let Some(queue) = self.queues.get_mut(&key.tenant) else { return };
        for gone in before.iter().flatten().filter(|read| !shown.contains(read)) {
            queue.remove(gone);
        }
    }

    /// Reads are offered only once they were in the mirror, so that a read which is not there any more is gone.
    fn forget_floors(&mut self, key: &CaseKey, exists: impl Fn(u32) -> bool) {
        let id = |n| ReadKey { tenant: key.tenant.clone(), read: ReadId { case: key.case.clone(), n } };
        let gone: Vec<_> = self
            .floors
            .range(id(0)..=id(u32::MAX))
            .map(|(k, _)| k)
            .filter(|k| !exists(k.read.n))
            .cloned()
            .collect();
        for key in gone {
            self.floors.remove(&key);
        }
    }
}

impl ReadReserved {
    /// The read.
    pub fn key(&self) -> &ReadKey {
        &self.key
    }

    /// Does not show the read again before the mirror has reached `revision`: what it shows is known to be old.
    pub fn not_before(&self, revision: Revision) {
        self.board.0.lock().floors.insert(self.key.clone(), revision);
    }
}

impl Drop for ReadReserved {
    fn drop(&mut self) {
        self.board.0.lock().reads.remove(&self.key);
        self.board.refresh(&self.view, &crate::view::case_key(&self.key));
    }
}

impl Drop for ReaderReserved {
    fn drop(&mut self) {
        self.board.0.lock().readers.remove(&self.key);
    }
}
