//! The queue in memory, kept from the mirrors on every replica, and what the leader has reserved of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use isocenter_assign::{Explanation, Item, Params, Parked, Queue, ReaderProfile};
use isocenter_domain::{
    Time,
    id::{ReadId, TenantId},
    key::{CaseKey, HoldingKey, ReadKey},
    record::case::CaseState,
};
use isocenter_store::Revision;
use parking_lot::Mutex;
use tokio::sync::{Notify, SetOnce};

use crate::{error::Error, plan::item, view::View};

/// For how long after asking in vain a reader counts as waiting for work. A workstation asks every second or so.
const IDLE: Duration = Duration::from_secs(5);

/// Cases that are shown in one go: a few milliseconds, so that the queue is whole before what is looked at now and then.
const AT_ONCE: usize = 256;

/// The queue, one for each tenant: nobody reads for another tenant.
#[derive(Debug)]
pub(crate) struct Board {
    params: Params,
    inner: Mutex<Inner>,
    /// Told when a read came into the queue that was not in it.
    pub arrived: Notify,
    /// Set once everything was shown for the first time.
    pub filled: SetOnce<()>,
}

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
    /// Reads that came since somebody last looked.
    fresh: BTreeSet<ReadKey>,
    /// Cases whose age alone will open them to another pool, by when.
    ripe: BTreeMap<Time, BTreeSet<CaseKey>>,
    /// Readers who asked and got nothing: since when, and when they last asked.
    idle: BTreeMap<HoldingKey, Asked>,
    /// Reads that were recalled from somebody for a better use, and when.
    recalled: BTreeMap<ReadKey, Time>,
}

/// A reader who waits for work.
#[derive(Clone, Copy, Debug)]
struct Asked {
    since: Time,
    last: Time,
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

impl Default for Board {
    fn default() -> Self {
        Self {
            params: Params::default(),
            inner: Mutex::default(),
            arrived: Notify::new(),
            filled: SetOnce::new(),
        }
    }
}

impl Board {
    /// What a tenant's queue is ordered by at `now`.
    pub fn params(&self, tenant: &TenantId, now: Time) -> Params {
        match self.inner.lock().queues.get_mut(tenant) {
            Some(queue) => {
                queue.keep_up(now);
                queue.params().clone()
            }
            None => self.params.clone(),
        }
    }

    /// Shows the reads of a case as the mirrors have them now.
    pub fn refresh(&self, view: &View, key: &CaseKey) {
        // The mirrors are read under the lock, so that of two refreshes the later one shows the later state.
        let inner = &mut *self.inner.lock();
        let case = view.cases.get(key).filter(|case| case.record.state == CaseState::Ready);
        let reads = view.reads_of(key);
        inner.forget_floors(key, |n| reads.contains_key(&n));
        let mut shown = BTreeSet::new();
        if let Some(case) = &case {
            for read in reads.values() {
                view.ledger.see(&read.key, &read.record, || item::needs(&case.record));
                let behind = inner.floors.get(&read.key).is_some_and(|floor| read.mod_revision < *floor);
                if !behind {
                    inner.floors.remove(&read.key);
                }
                if behind || !read.record.is_queued() || inner.reads.contains(&read.key) {
                    continue;
                }
                let (item, opens) = view.placed(&read.key, &read.record, &case.record, &reads);
                if let Some(opens) = opens {
                    inner.ripe.entry(opens).or_default().insert(key.clone());
                }
                let params = &self.params;
                let queue =
                    inner.queues.entry(key.tenant.clone()).or_insert_with(|| Queue::new(params.clone()));
                // Every replica looks, so that whoever leads next has seen the day's waits; not before all that waits is in line.
                if self.filled.initialized() {
                    queue.keep_up(view.people.now());
                }
                if queue.get(&item.read) != Some(&item) && queue.insert(item).is_none() {
                    inner.fresh.insert(read.key.clone());
                    // What was never offered has just come.
                    if read.head.seq == 1 {
                        view.outlook.came(&read.key, queue, view.people.now());
                    }
                    self.arrived.notify_one();
                }
                shown.insert(read.key.read.clone());
            }
        }
        inner.show(key, shown);
    }

    /// Shows everything anew, and forgets what is gone. That is a second of work where tens of thousands wait, so that others
    /// have their turns in between.
    pub async fn refresh_all(&self, view: &View) {
        let mut keys: BTreeSet<_> = self.inner.lock().shown.keys().cloned().collect();
        keys.extend(view.cases.all().iter().map(|case| case.key.clone()));
        for (n, key) in keys.iter().enumerate() {
            self.refresh(view, key);
            if n % AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Shows anew the cases whose age opens them to another pool by now.
    pub fn ripen(&self, view: &View, now: Time) {
        loop {
            let cases = {
                let ripe = &mut self.inner.lock().ripe;
                match ripe.first_entry() {
                    Some(first) if *first.key() <= now => first.remove(),
                    Some(_) | None => return,
                }
            };
            for key in &cases {
                self.refresh(view, key);
            }
        }
    }

    /// The reads that came since this was last asked, in order, those that still wait.
    pub fn arrivals(&self, now: Time) -> Vec<(ReadKey, Item)> {
        let inner = &mut *self.inner.lock();
        let fresh = std::mem::take(&mut inner.fresh);
        let waiting = |key: ReadKey| {
            let queue = inner.queues.get_mut(&key.tenant)?;
            queue.keep_up(now);
            let item = queue.get(&key.read)?.clone();
            Some((queue.params().rank(&item, None, now), key, item))
        };
        let mut waiting: Vec<_> = fresh.into_iter().filter_map(waiting).collect();
        waiting.sort_by(|a, b| a.0.cmp(&b.0));
        waiting.into_iter().map(|(_, key, item)| (key, item)).collect()
    }

    /// A reader asked, and nothing waited for him.
    pub fn waits(&self, reader: &HoldingKey, now: Time) {
        let idle = &mut self.inner.lock().idle;
        idle.entry(reader.clone()).or_insert(Asked { since: now, last: now }).last = now;
        // Who does not ask any more is not idle but gone.
        idle.retain(|_, asked| now.since(asked.last) <= IDLE);
    }

    /// A reader has work.
    pub fn works(&self, reader: &HoldingKey) {
        self.inner.lock().idle.remove(reader);
    }

    /// The readers who wait for work, and since when. Those to whom an offer is being committed are not among them.
    pub fn idle(&self, now: Time) -> Vec<(HoldingKey, Time)> {
        let inner = self.inner.lock();
        let waits = inner
            .idle
            .iter()
            .filter(|(key, asked)| now.since(asked.last) <= IDLE && !inner.readers.contains(*key));
        waits.map(|(key, asked)| (key.clone(), asked.since)).collect()
    }

    /// When a read was last recalled for a better use.
    pub fn recalled_at(&self, read: &ReadKey) -> Option<Time> {
        self.inner.lock().recalled.get(read).copied()
    }

    /// Remembers a recall for as long as it counts.
    pub fn recalled(&self, read: &ReadKey, now: Time, window: Duration) {
        let recalled = &mut self.inner.lock().recalled;
        recalled.retain(|_, at| now.since(*at) < window);
        recalled.insert(read.clone(), now);
    }

    /// Something of a read as it waits; none where it is not in the queue.
    pub fn of<T>(&self, key: &ReadKey, what: impl FnOnce(&Item) -> T) -> Option<T> {
        self.inner.lock().queues.get(&key.tenant)?.get(&key.read).map(what)
    }

    /// Every item of a tenant's queue.
    pub fn items(&self, tenant: &TenantId) -> Vec<Item> {
        let inner = self.inner.lock();
        inner.queues.get(tenant).into_iter().flat_map(Queue::items).cloned().collect()
    }

    /// The tenants that have a queue.
    pub fn tenants(&self) -> Vec<TenantId> {
        self.inner.lock().queues.keys().cloned().collect()
    }

    /// The first read that the reader may have; it stays where it is.
    pub fn peek(&self, tenant: &TenantId, reader: &ReaderProfile, now: Time) -> Option<Item> {
        self.inner.lock().queues.get_mut(tenant)?.pick(reader, now).cloned()
    }

    /// Reserves a reader, so that he is made one offer at a time.
    pub fn reserve_reader(self: &Arc<Self>, key: HoldingKey) -> Result<ReaderReserved, Error> {
        if self.inner.lock().readers.insert(key.clone()) {
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
        let inner = &mut *self.inner.lock();
        let queue = inner.queues.get_mut(tenant)?;
        // Who has a read open asks for the one after it.
        let found =
            if reader.holding.open > 0 { queue.next_up(reader, now) } else { queue.pick(reader, now) };
        let read = found?.read.clone();
        queue.hand(&read, reader);
        let key = ReadKey { tenant: tenant.clone(), read };
        inner.reads.insert(key.clone());
        Some(ReadReserved { board: Arc::clone(self), view: view.clone(), key })
    }

    /// Takes a read out of the queue that was just put back into it, whether or not the mirror has heard of that.
    pub fn reserve_this(self: &Arc<Self>, view: &View, key: ReadKey) -> Option<ReadReserved> {
        let inner = &mut *self.inner.lock();
        if let Some(queue) = inner.queues.get_mut(&key.tenant) {
            queue.remove(&key.read);
        }
        // Where somebody else has reserved it, that one's reservation stands.
        let free = inner.reads.insert(key.clone());
        free.then(|| ReadReserved { board: Arc::clone(self), view: view.clone(), key })
    }

    /// Why a read is where it is; `None` where it does not wait.
    pub fn explain(
        &self,
        tenant: &TenantId,
        read: &ReadId,
        now: Time,
        readers: &[ReaderProfile],
    ) -> Option<Explanation> {
        let inner = &mut *self.inner.lock();
        let queue = inner.queues.get_mut(tenant)?;
        queue.keep_up(now);
        queue.explain(read, now, readers)
    }

    /// How many reads wait, and since when the oldest.
    pub fn depth(&self) -> (usize, Option<Time>) {
        let inner = self.inner.lock();
        let items = || inner.queues.values().flat_map(Queue::items);
        (items().count(), items().map(|item: &Item| item.complete_at).min())
    }

    /// How many reads have used up most of their deadline and still wait.
    pub fn nearing(&self, now: Time) -> usize {
        let inner = self.inner.lock();
        let near = |item: &&Item| {
            let at = self.params.nears_deadline_at(&item.urgency, item.complete_at);
            at.is_some_and(|at| at <= now)
        };
        inner.queues.values().flat_map(Queue::items).filter(near).count()
    }

    /// The reads that wait and no registered reader could ever have.
    pub fn parked(&self, view: &View, tenant: &TenantId, now: Time) -> Vec<Parked> {
        let profiles = view.profiles(tenant);
        let inner = self.inner.lock();
        inner.queues.get(tenant).map(|queue| queue.parked(&profiles, now)).unwrap_or_default()
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
        self.board.inner.lock().floors.insert(self.key.clone(), revision);
    }
}

impl Drop for ReadReserved {
    fn drop(&mut self) {
        self.board.inner.lock().reads.remove(&self.key);
        self.board.refresh(&self.view, &crate::view::case_key(&self.key));
    }
}

impl Drop for ReaderReserved {
    fn drop(&mut self) {
        self.board.inner.lock().readers.remove(&self.key);
    }
}
