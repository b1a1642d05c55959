//! From the outbox to the journal to the records, one group of shards after another, in the order of keys.
//!
//! Each step may be repeated: a crash anywhere journals the same events again at worst. An outbox entry goes only after its
//! event is in the journal, and in the records, or, while they do not serve, its journal object is noted in the store as not
//! yet applied. So no journal object is ever forgotten, and the store does not fill while the records are away.

use std::collections::BTreeMap;

use bytes::Bytes;
use isocenter_blobs::{BlobPath, Blobs, path};
use isocenter_domain::{
    Kind, Kinded as _, Time,
    document::{Event, JournalEntry},
    refs::Digest,
};
use isocenter_reconcile::{Failed, Outcome, Reconciler, Share};
use isocenter_runtime::{random, task::chain};
use isocenter_store::{
    Compare, Key, KeyValue, Op, Page, Range, Revision, Txn,
    table::{TableError, Tables, parse_outbox_key},
};
use isocenter_wire::{
    document::Stored as _,
    record::{self as wire, LEVEL},
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::close::{CLOSED, closed_with, undecodable};
use crate::{
    Error,
    group::Group,
    metrics::Metrics,
    records::{Records, Serving},
};

/// Events in one journal object: at the bound of a value each, a MiB; typically a tenth of that.
const BATCH: usize = 256;

/// Reads or deletes in one transaction, below the store's 128.
const OPS: usize = 120;

/// Events counted for the gauge of the outbox's depth.
const COUNTED: usize = 10_000;

/// What is journaled and not yet in the records: `journaled/{first shard of the group}/{name of the journal object}`, its
/// value the object's whole name. Empty while the records serve.
pub(crate) const JOURNALED: &str = "journaled/";

/// How often it is looked for: what was noted for a passing reason, or by a process that is gone.
const FOLLOW: std::time::Duration = std::time::Duration::from_secs(5);

pub(crate) struct Drainer {
    pub tables: Tables,
    pub blobs: Blobs,
    pub records: Records,
    pub metrics: Metrics,
    pub interval: std::time::Duration,
    /// Keeps this process's journal objects apart from every other's.
    process: [u8; 16],
    /// When each group was last journaled.
    last: Mutex<[Time; 16]>,
}

/// Part of a group's outbox, in key order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// What is journaled.
    pub entries: Vec<JournalEntry>,
    /// The outbox entries it stands for.
    pub outbox: Vec<(Key, Revision)>,
    /// Whether the group has more after `last`.
    pub more: bool,
    last: Option<Key>,
}

#[async_trait::async_trait]
impl Reconciler for Drainer {
    type Key = Group;

    async fn reconcile(&self, group: &Group) -> Result<Outcome, Failed> {
        let now = self.tables.clock().now();
        let last = self.last.lock()[group.index()];
        let due = last.plus(self.interval);
        // A clock set back must not stop the journal.
        if last != Time::ZERO && last <= now && now < due {
            return Ok(Outcome::At(due));
        }
        if self.drain(*group).await? > 0 {
            self.last.lock()[group.index()] = self.tables.clock().now();
        }
        Ok(Outcome::Done)
    }
}

impl Drainer {
    pub fn new(
        tables: Tables,
        blobs: Blobs,
        records: Records,
        metrics: Metrics,
        interval: std::time::Duration,
    ) -> Self {
        let process = random::uuid_v7().into_bytes();
        let last = Mutex::new([Time::ZERO; 16]);
        Self { tables, blobs, records, metrics, interval, process, last }
    }

    /// Everything of a group that waits now. Returns how many events that was.
    pub async fn drain(&self, group: Group) -> Result<usize, Error> {
        let (mut after, mut drained) = (None, 0);
        loop {
            let batch = self.collect(group, after.take()).await?;
            if !batch.entries.is_empty() {
                let object = self.timed("journal", self.journal(group, &batch)).await?;
                if let Err(e) = self.timed("apply", self.apply(&object, &batch)).await {
                    // Whatever it is, the journal goes on.
                    tracing::debug!(error = %chain(&e), "a journal object is not applied yet");
                    self.timed("note", self.note(group, &object)).await?;
                }
                self.timed("delete", self.delete(&batch)).await?;
                drained += batch.entries.len();
            }
            if !batch.more {
                return Ok(drained);
            }
            after = batch.last;
        }
    }

    async fn timed<T>(&self, step: &str, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let clock = self.tables.clock();
        let began = clock.monotonic();
        let done = work.await;
        let took = clock.monotonic().saturating_duration_since(began);
        self.metrics.steps.with_label_values(&[step]).observe(took.as_secs_f64());
        done
    }

    /// Reads events, and after them each record's value: a value is never older than its event.
    pub async fn collect(&self, group: Group, after: Option<Key>) -> Result<Batch, Error> {
        let range = group.outbox()?;
        let kv = self.tables.kv();
        let page = kv.list(&range, Page { limit: BATCH, after, at: None }).await?;
        let last = page.items.last().map(|kv| kv.key.clone());
        let mut batch = Batch { more: page.more, last, ..Batch::default() };
        let events: Vec<(&KeyValue, Event)> =
            page.items.iter().filter_map(|kv| self.event(kv).map(|event| (kv, event))).collect();
        let values = self.values(events.iter().map(|(_, event)| event.key.as_str())).await?;
        for (stored, event) in events {
            let value = values.get(&event.key).cloned().unwrap_or_default();
            let head = wire::decode_head(&value).ok().filter(|_| !value.is_empty());
            if head.as_ref().is_some_and(|head| head.level > LEVEL) {
                // A newer process journals it; this one would keep its value out of the records.
                self.metrics.undecodable.inc();
                continue;
            }
            let value_seq = head.map_or(0, |head| head.seq);
            let with =
                if event.event == CLOSED { closed_with(&self.blobs, &event).await? } else { Vec::new() };
            batch.entries.extend(with.iter().filter_map(|(key, last)| closed(&event, key, last)));
            batch.entries.push(JournalEntry { event, value_seq, value: value.to_vec() });
            batch.outbox.push((stored.key.clone(), stored.mod_revision));
        }
        Ok(batch)
    }

    /// What cannot be understood stays where it is, for somebody to look at; the gauge of the outbox's age shows it.
    fn event(&self, kv: &KeyValue) -> Option<Event> {
        let event =
            parse_outbox_key(&kv.key).and_then(|(key, seq)| wire::decode_event(&key, seq, &kv.value).ok());
        if event.is_none() {
            self.metrics.undecodable.inc();
            tracing::error!(revision = %kv.mod_revision, "an outbox entry cannot be understood and stays");
        }
        event
    }

    async fn values(&self, keys: impl Iterator<Item = &str>) -> Result<BTreeMap<String, Bytes>, Error> {
        let mut distinct: Vec<Key> = keys.map(Key::new).collect::<Result<_, _>>()?;
        distinct.sort();
        distinct.dedup();
        let mut values = BTreeMap::new();
        for keys in distinct.chunks(OPS) {
            let answer = self.tables.kv().txn(Txn::always(keys.iter().map(Op::get).collect())).await?;
            for kv in answer.reads.into_iter().flatten() {
                values.insert(kv.key.to_string(), kv.value);
            }
        }
        Ok(values)
    }

    /// Writes the journal object. Its name is of this process and this batch, so that the same batch tried again is not
    /// journaled twice; where the first try was with older values, those are as good: each newer value has an event of
    /// its own still to come.
    pub async fn journal(&self, group: Group, batch: &Batch) -> Result<BlobPath, Error> {
        let first = batch.entries.iter().map(|entry| entry.event.at).min().unwrap_or_default();
        let mut name = self.process.to_vec();
        for (key, revision) in &batch.outbox {
            name.extend_from_slice(key.as_str().as_bytes());
            name.extend_from_slice(&revision.0.to_be_bytes());
        }
        let mut unique = [0; 16];
        unique.copy_from_slice(&Digest::of(&name).0[..16]);
        let path = path::journal(group.shard(), first, u128::from_be_bytes(unique));
        let bytes = batch.entries.encode();
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        match self.blobs.put_new(&path, bytes.into()).await {
            Ok(_) => {
                self.metrics.journal_objects.inc();
                self.metrics.journal_bytes.inc_by(size);
                self.metrics.journal_events.inc_by(u64::try_from(batch.entries.len()).unwrap_or(u64::MAX));
                Ok(path)
            }
            Err(isocenter_blobs::Error::AlreadyExists(_)) => Ok(path),
            Err(e) => Err(e.into()),
        }
    }

    pub async fn apply(&self, object: &BlobPath, batch: &Batch) -> Result<(), Error> {
        let applied = self.records.apply(&self.blobs, object, &batch.entries).await?;
        self.metrics.forks.inc_by(applied.forks);
        self.metrics.undecodable.inc_by(applied.undecodable);
        Ok(())
    }

    /// Notes in the store that a journal object is still to be applied.
    pub async fn note(&self, group: Group, object: &BlobPath) -> Result<(), Error> {
        let key = Key::new(format!("{JOURNALED}{:02x}/{}", group.shard(), object.file_name()))?;
        let put = Op::put(&key, object.as_str().to_owned());
        let noted = self.tables.kv().txn(Txn::when(self.tables.epoch().to_vec(), vec![put])).await?;
        // A note of another epoch must not stand, and then the outbox entries must not go either.
        if noted.succeeded { Ok(()) } else { Err(TableError::Conflict.into()) }
    }

    /// Applies what was noted of the groups of `share`, in the order of each one's objects, and forgets it. Returns how many
    /// objects that was.
    ///
    /// An object that cannot be applied now is tried again at the next call; those after it are applied all the same, since
    /// each record goes only upward.
    ///
    /// # Errors
    /// [`Error::Unserved`] and the like where the records do not serve; what is left stays noted.
    pub async fn catch_up(&self, share: &dyn Share) -> Result<u64, Error> {
        let range = Range::prefix(JOURNALED)?;
        let (mut applied, mut left, mut after) = (0, 0_i64, None);
        loop {
            let page = self.tables.kv().list(&range, Page { limit: BATCH, after, at: None }).await?;
            let ours = |noted: &&KeyValue| shard_of(&noted.key).is_none_or(|shard| share.owns(shard));
            let noted: Vec<_> = page.items.iter().filter(ours).collect();
            let count = noted.len();
            for noted in noted {
                match self.applied(noted).await {
                    Ok(()) => applied += 1,
                    Err(e) if e.kind() == Kind::Unavailable => {
                        self.metrics.unapplied.set(left + i64::try_from(count).unwrap_or(i64::MAX));
                        return Err(e);
                    }
                    // Another archive was first with it, or another epoch has begun, which ends this process.
                    Err(e) if e.kind() == Kind::Conflict => {}
                    Err(e) => {
                        left += 1;
                        tracing::error!(key = %noted.key, error = %chain(&e), "a journal object cannot be applied");
                    }
                }
            }
            after = page.items.last().map(|kv| kv.key.clone());
            if !page.more {
                self.metrics.unapplied.set(left);
                return Ok(applied);
            }
        }
    }

    async fn applied(&self, noted: &KeyValue) -> Result<(), Error> {
        let name = String::from_utf8_lossy(&noted.value);
        let object = BlobPath::parse(&name)?;
        let bytes = self.blobs.get(&object).await?;
        let entries = Vec::<JournalEntry>::decode(&bytes).map_err(undecodable("a journal object"))?;
        self.apply(&object, &Batch { entries, ..Batch::default() }).await?;
        let mut compare = self.tables.epoch().to_vec();
        compare.push(Compare::unchanged(&noted.key, noted.mod_revision));
        let forgotten = self.tables.kv().txn(Txn::when(compare, vec![Op::delete(&noted.key)])).await?;
        if forgotten.succeeded { Ok(()) } else { Err(TableError::Conflict.into()) }
    }

    /// Catches up with what is this process's whenever the records serve, until `ended`.
    pub async fn follow(&self, share: &dyn Share, ended: CancellationToken) {
        let mut serving = self.records.watch();
        loop {
            if *serving.borrow_and_update() == Serving::Yes {
                match self.catch_up(share).await {
                    Ok(0) => {}
                    Ok(objects) => tracing::info!(objects, "the records caught up with the journal"),
                    Err(e) => {
                        tracing::warn!(error = %chain(&e), "the records have not caught up with the journal")
                    }
                }
            }
            tokio::select! {
                () = ended.cancelled() => return,
                () = tokio::time::sleep(FOLLOW) => {}
                // The sender lives as long as this drainer's records.
                _ = serving.changed() => {}
            }
        }
    }

    /// Deletes exactly the outbox entries that were journaled. Where another process was first, each is tried alone.
    ///
    /// # Errors
    /// [`TableError::Conflict`] where another epoch has begun: its store may tell of another history under the same keys and
    /// revisions, and nothing of that is deleted.
    pub async fn delete(&self, batch: &Batch) -> Result<(), Error> {
        for entries in batch.outbox.chunks(OPS) {
            if !self.delete_all(entries).await? {
                let ours = Txn::when(self.tables.epoch().to_vec(), Vec::new());
                if !self.tables.kv().txn(ours).await?.succeeded {
                    return Err(TableError::Conflict.into());
                }
                for entry in entries {
                    self.delete_all(std::slice::from_ref(entry)).await?;
                }
            }
        }
        Ok(())
    }

    async fn delete_all(&self, entries: &[(Key, Revision)]) -> Result<bool, Error> {
        let unchanged = entries.iter().map(|(key, revision)| Compare::unchanged(key, *revision));
        let compare = self.tables.epoch().into_iter().chain(unchanged).collect();
        let then = entries.iter().map(|(key, _)| Op::delete(key)).collect();
        Ok(self.tables.kv().txn(Txn::when(compare, then)).await?.succeeded)
    }

    /// Sets the gauges of the outbox.
    pub async fn observe(&self) -> Result<(), Error> {
        let range = Range::prefix("outbox/")?;
        let (mut depth, mut oldest, mut after) = (0, None, None);
        loop {
            let page = self.tables.kv().list(&range, Page { limit: 1_000, after, at: None }).await?;
            depth += page.items.len();
            let made = page.items.iter().filter_map(|kv| {
                let (key, seq) = parse_outbox_key(&kv.key)?;
                Some(wire::decode_event(&key, seq, &kv.value).ok()?.at)
            });
            oldest = made.chain(oldest).min();
            after = page.items.last().map(|kv| kv.key.clone());
            if !page.more || depth >= COUNTED {
                break;
            }
        }
        let age = oldest.map_or(0, |oldest| self.tables.clock().now().since(oldest).as_secs());
        self.metrics.outbox_depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
        self.metrics.outbox_oldest.set(i64::try_from(age).unwrap_or(i64::MAX));
        Ok(())
    }
}

/// The last event of a record that was closed together with another, whose event it was.
fn closed(with: &Event, key: &str, last: &[u8]) -> Option<JournalEntry> {
    let head = wire::decode_head(last).ok()?;
    let at = with.at.max(head.updated_at);
    let event = Event { key: key.to_owned(), seq: head.seq + 1, at, trace: head.trace, ..with.clone() };
    Some(JournalEntry { event, value_seq: 0, value: Vec::new() })
}

/// The shard that the key of an event or of a note names.
pub(super) fn shard_of(key: &Key) -> Option<u8> {
    u8::from_str_radix(key.segments().nth(1)?, 16).ok()
}
