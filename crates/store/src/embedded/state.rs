//! The embedded store's memory: every key's chain of versions, the recent history, the leases. Pure: no I/O, no clock.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    Error,
    kv::{Compare, Event, Key, KeyValue, LeaseId, Listing, Op, Page, Range, Revision, Txn, TxnAnswer},
};

/// What a version costs beside its key and value, for the quota: an estimate of the containers around it.
const VERSION_OVERHEAD: u64 = 96;

/// One state of one key; a tombstone where `value` is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub mod_revision: Revision,
    pub create_revision: Revision,
    pub version: u64,
    pub lease: Option<LeaseId>,
    pub value: Option<Bytes>,
}

/// One change as the log keeps it; the numbers of the key follow from replaying it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Put { key: Key, value: Bytes, lease: Option<LeaseId> },
    Delete { key: Key },
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Commit { revision: Revision, changes: Vec<Change> },
    Grant { lease: LeaseId, ttl: Duration },
    Revoke { lease: LeaseId },
    Compact { at: Revision },
}

#[derive(Clone, Debug)]
struct Lease {
    ttl: Duration,
    deadline: Instant,
    keys: BTreeSet<Key>,
}

/// The whole store. `revision` may be ahead of what is durable; readers are given the revision they may see.
#[derive(Debug)]
pub(super) struct State {
    chains: BTreeMap<Key, Vec<Version>>,
    /// The events of every revision from `compacted` (or the first) to `revision`, without a gap.
    history: VecDeque<Arc<Vec<Event>>>,
    history_from: Revision,
    leases: BTreeMap<LeaseId, Lease>,
    deadlines: BTreeSet<(Instant, LeaseId)>,
    next_lease: i64,
    revision: Revision,
    compacted: Revision,
    bytes: u64,
}

impl State {
    pub fn new() -> Self {
        Self {
            chains: BTreeMap::new(),
            history: VecDeque::new(),
            history_from: Revision(2),
            leases: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            next_lease: 1,
            revision: Revision(1),
            compacted: Revision(0),
            bytes: 0,
        }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many revisions the history holds.
    pub fn history_len(&self) -> usize {
        self.history.len()
    }

    /// When the next lease expires, unless it is kept alive.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub fn get(&self, key: &Key, at: Revision) -> Option<KeyValue> {
        shown(key, self.chains.get(key)?, at)
    }

    pub fn list(&self, range: &Range, page: &Page, visible: Revision) -> Result<Listing, Error> {
        let at = page.at.unwrap_or(visible);
        if at > visible {
            return Err(Error::FutureRevision { asked: at, at: visible });
        }
        if at < self.compacted {
            return Err(Error::Compacted { at: self.compacted });
        }
        let limit = if page.limit == 0 { usize::MAX } else { page.limit };
        let mut found = self.scan(range, page.after.as_ref(), at);
        let items: Vec<_> = found.by_ref().take(limit).collect();
        let more = found.next().is_some();
        Ok(Listing { items, revision: at, more })
    }

    fn scan<'a>(
        &'a self,
        range: &Range,
        after: Option<&Key>,
        at: Revision,
    ) -> impl Iterator<Item = KeyValue> + use<'a> {
        let (from, to) = range.bounds();
        let low = match after {
            Some(after) if after.as_str() >= from.as_str() => Bound::Excluded(after.as_str().to_owned()),
            _ => Bound::Included(from),
        };
        let high = to.map_or(Bound::Unbounded, Bound::Excluded);
        // A page that begins beyond the end of its range has nothing; BTreeMap would panic on such bounds.
        let inverted = match (&low, &high) {
            (Bound::Included(l) | Bound::Excluded(l), Bound::Excluded(h)) => l >= h,
            _ => false,
        };
        let chains = (!inverted).then(|| {
            let bounds = (low.as_ref().map(String::as_str), high.as_ref().map(String::as_str));
            self.chains.range::<str, _>(bounds)
        });
        chains.into_iter().flatten().filter_map(move |(key, chain)| shown(key, chain, at))
    }

    /// Evaluates a transaction that passed [`Txn::check`] and applies it. The record is what the log must keep;
    /// `None` where nothing changed.
    pub fn txn(&mut self, txn: &Txn, full: bool) -> Result<(TxnAnswer, Option<Record>), Error> {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.or_else };
        for op in ops {
            let Op::Put { lease, .. } = op else { continue };
            if lease.is_some_and(|lease| !self.leases.contains_key(&lease)) {
                return Err(Error::LeaseExpired);
            }
            if full {
                return Err(Error::NoSpace);
            }
        }
        let revision = self.revision.next();
        let mut changes = Vec::new();
        let mut reads = Vec::new();
        let mut events = Vec::new();
        for op in ops {
            match op {
                Op::Put { key, value, lease } => {
                    let change = Change::Put { key: key.clone(), value: value.clone(), lease: *lease };
                    events.push(self.change(revision, &change));
                    changes.push(change);
                }
                Op::Delete { range } => {
                    for kv in self.scan(range, None, revision).collect::<Vec<_>>() {
                        let change = Change::Delete { key: kv.key };
                        events.push(self.change(revision, &change));
                        changes.push(change);
                    }
                }
                Op::Get { range } => reads.push(self.scan(range, None, revision).collect()),
            }
        }
        let record = (!changes.is_empty()).then(|| {
            self.finish(revision, events);
            Record::Commit { revision, changes }
        });
        Ok((TxnAnswer { succeeded, revision: self.revision, reads }, record))
    }

    fn holds(&self, compare: &Compare) -> bool {
        let mut found = self.scan(&compare.range, None, self.revision).peekable();
        if found.peek().is_none() {
            return compare.holds(None);
        }
        found.all(|kv| compare.holds(Some(&kv)))
    }

    pub fn grant(&mut self, ttl: Duration, now: Instant) -> (LeaseId, Record) {
        let lease = LeaseId(self.next_lease);
        self.add_lease(lease, ttl, now);
        (lease, Record::Grant { lease, ttl })
    }

    fn add_lease(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        let deadline = now + ttl;
        self.leases.insert(id, Lease { ttl, deadline, keys: BTreeSet::new() });
        self.deadlines.insert((deadline, id));
        self.next_lease = self.next_lease.max(id.0 + 1);
    }

    pub fn keep_alive(&mut self, id: LeaseId, now: Instant) -> Result<Duration, Error> {
        let lease = self.leases.get_mut(&id).ok_or(Error::LeaseExpired)?;
        self.deadlines.remove(&(lease.deadline, id));
        lease.deadline = now + lease.ttl;
        self.deadlines.insert((lease.deadline, id));
        Ok(lease.ttl)
    }

    /// Ends a lease: its keys go in one revision.
    pub fn revoke(&mut self, id: LeaseId) -> Result<Vec<Record>, Error> {
        let lease = self.leases.get(&id).ok_or(Error::LeaseExpired)?;
        let changes: Vec<_> = lease.keys.iter().map(|key| Change::Delete { key: key.clone() }).collect();
        let mut records = Vec::new();
        if !changes.is_empty() {
            let revision = self.revision.next();
            let events = changes.iter().map(|change| self.change(revision, change)).collect();
            self.finish(revision, events);
            records.push(Record::Commit { revision, changes });
        }
        self.drop_lease(id);
        records.push(Record::Revoke { lease: id });
        Ok(records)
    }

    fn drop_lease(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.remove(&id) {
            self.deadlines.remove(&(lease.deadline, id));
        }
    }

    /// Ends every lease whose time is over, each in a revision of its own.
    pub fn expire(&mut self, now: Instant) -> Vec<Record> {
        let due: Vec<_> = self.deadlines.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect();
        due.into_iter().flat_map(|id| self.revoke(id).unwrap_or_default()).collect()
    }

    pub fn compact(&mut self, at: Revision) -> Result<Record, Error> {
        if at > self.revision {
            return Err(Error::FutureRevision { asked: at, at: self.revision });
        }
        if at <= self.compacted {
            return Err(Error::Compacted { at: self.compacted });
        }
        self.forget(at);
        Ok(Record::Compact { at })
    }

    /// Keeps what is needed to show every revision from `at` on, including that revision's own deletions.
    fn forget(&mut self, at: Revision) {
        self.compacted = at;
        let mut freed = 0;
        self.chains.retain(|key, chain| {
            let newest = chain.iter().rposition(|v| v.mod_revision <= at).unwrap_or(0);
            let dead = chain[newest].value.is_none() && chain[newest].mod_revision < at;
            freed += chain.drain(..newest + usize::from(dead)).map(|v| cost(key, &v)).sum::<u64>();
            !chain.is_empty()
        });
        self.bytes -= freed;
        while self.history_from < at && self.history.pop_front().is_some() {
            self.history_from = self.history_from.next();
        }
    }

    /// The events of one revision; `None` where it is compacted or has not happened.
    pub fn events(&self, revision: Revision) -> Option<Arc<Vec<Event>>> {
        let index = revision.0.checked_sub(self.history_from.0)?;
        self.history.get(usize::try_from(index).ok()?).cloned()
    }

    /// Repeats a record of the log. `false` where it does not follow on what came before.
    pub fn replay(&mut self, record: &Record, now: Instant) -> bool {
        match record {
            Record::Commit { revision, changes } => {
                if *revision != self.revision.next() {
                    return false;
                }
                let events = changes.iter().map(|change| self.change(*revision, change)).collect();
                self.finish(*revision, events);
                true
            }
            Record::Grant { lease, ttl } => {
                self.add_lease(*lease, *ttl, now);
                true
            }
            Record::Revoke { lease } => {
                self.drop_lease(*lease);
                true
            }
            Record::Compact { at } => self.compact(*at).is_ok(),
        }
    }

    fn change(&mut self, revision: Revision, change: &Change) -> Event {
        let (key, value, lease) = match change {
            Change::Put { key, value, lease } => (key, Some(value.clone()), *lease),
            Change::Delete { key } => (key, None, None),
        };
        // Many keys are put once, for which a vector that grows would take the room of four versions.
        let chain = self.chains.entry(key.clone()).or_insert_with(|| Vec::with_capacity(1));
        let before = chain.last().filter(|v| v.value.is_some());
        let version = Version {
            mod_revision: revision,
            create_revision: before.map_or(revision, |v| v.create_revision),
            version: before.map_or(0, |v| v.version) + 1,
            lease,
            value,
        };
        if let Some(lease) = before.and_then(|v| v.lease).and_then(|old| self.leases.get_mut(&old)) {
            lease.keys.remove(key);
        }
        if let Some(lease) = lease.and_then(|new| self.leases.get_mut(&new)) {
            lease.keys.insert(key.clone());
        }
        self.bytes += cost(key, &version);
        let event = event(key, &version);
        chain.push(version);
        event
    }

    fn finish(&mut self, revision: Revision, mut events: Vec<Event>) {
        events.sort_by(|a, b| a.key().cmp(b.key()));
        self.history.push_back(Arc::new(events));
        self.revision = revision;
    }

    /// Everything a snapshot keeps.
    pub fn parts(&self) -> Parts<'_> {
        Parts {
            revision: self.revision,
            compacted: self.compacted,
            next_lease: self.next_lease,
            leases: self.leases.iter().map(|(id, lease)| (*id, lease.ttl)).collect(),
            chains: &self.chains,
        }
    }

    /// The store a snapshot describes. Leases get their full time again.
    pub fn restore(
        revision: Revision,
        compacted: Revision,
        next_lease: i64,
        leases: &[(LeaseId, Duration)],
        chains: BTreeMap<Key, Vec<Version>>,
        now: Instant,
    ) -> Self {
        let mut state = Self { revision, compacted, ..Self::new() };
        for (id, ttl) in leases {
            state.add_lease(*id, *ttl, now);
        }
        state.next_lease = next_lease;
        state.history_from = Revision(compacted.0.max(2));
        let mut history: BTreeMap<Revision, Vec<Event>> = BTreeMap::new();
        for (key, chain) in &chains {
            for version in chain {
                state.bytes += cost(key, version);
                if version.mod_revision >= state.history_from {
                    history.entry(version.mod_revision).or_default().push(event(key, version));
                }
            }
            if let Some(lease) = chain.last().and_then(|v| v.lease).and_then(|id| state.leases.get_mut(&id)) {
                lease.keys.insert(key.clone());
            }
        }
        let mut at = state.history_from;
        while at <= revision {
            state.history.push_back(Arc::new(history.remove(&at).unwrap_or_default()));
            at = at.next();
        }
        state.chains = chains;
        state
    }
}

/// What [`State::parts`] gives the snapshot's encoder.
pub(super) struct Parts<'a> {
    pub revision: Revision,
    pub compacted: Revision,
    pub next_lease: i64,
    pub leases: Vec<(LeaseId, Duration)>,
    pub chains: &'a BTreeMap<Key, Vec<Version>>,
}

fn cost(key: &Key, version: &Version) -> u64 {
    let bytes = key.as_str().len() + version.value.as_ref().map_or(0, Bytes::len);
    bytes as u64 + VERSION_OVERHEAD
}

fn shown(key: &Key, chain: &[Version], at: Revision) -> Option<KeyValue> {
    let version = chain.iter().rev().find(|v| v.mod_revision <= at)?;
    key_value(key, version)
}

fn key_value(key: &Key, version: &Version) -> Option<KeyValue> {
    Some(KeyValue {
        key: key.clone(),
        value: version.value.clone()?,
        create_revision: version.create_revision,
        mod_revision: version.mod_revision,
        version: version.version,
        lease: version.lease,
    })
}

fn event(key: &Key, version: &Version) -> Event {
    key_value(key, version)
        .map_or_else(|| Event::Delete { key: key.clone(), mod_revision: version.mod_revision }, Event::Put)
}
