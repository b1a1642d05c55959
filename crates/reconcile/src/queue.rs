//! The queue: which keys are to be looked at, and when.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
    time::{Duration, Instant},
};

use isocenter_domain::Time;
use isocenter_runtime::{clock::Clock, retry::Schedule};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::Key;

/// How many keys a queue holds where nothing else is said: ten times the studies of a large city's day. A key costs
/// some 200 bytes.
pub const DEFAULT_LIMIT: usize = 262_144;

/// How many woken keys go before one of a resync.
const SWEPT_AFTER: u32 = 16;

/// A clock that falls behind by more than this was set back: time servers slew what is less.
const SET_BACK: Duration = Duration::from_secs(1);

/// Keys to be looked at, each at most once, each at its earliest wish. Clones are the same queue.
///
/// A key woken while it runs is run again afterwards. Beyond its bound the queue forgets new keys and says so; a
/// [`crate::Feed`] then lists all keys again once half of the queue is free.
pub struct Queue<K>(Arc<Shared<K>>);

struct Shared<K> {
    state: Mutex<State<K>>,
    /// Wakes the one runner.
    changed: Notify,
    /// Wakes the one feed, when keys were forgotten and there is room again.
    room: Notify,
    clock: Arc<dyn Clock>,
    limit: usize,
}

/// Whether a key is this process's to work on.
type Owns<K> = Arc<dyn Fn(&K) -> bool + Send + Sync>;

struct State<K> {
    /// What is taken; `None` takes everything.
    owns: Option<Owns<K>>,
    entries: HashMap<K, Entry>,
    /// The keys that wait, not the running ones.
    due: BTreeSet<(Time, K)>,
    /// The keys of which nothing is known but that they are to be looked at now and then; not the running ones.
    swept: BTreeSet<K>,
    /// The one of them that was taken last.
    last: Option<K>,
    /// How many of `due` were taken since the last of `swept`.
    before: u32,
    overflowed: bool,
    /// What the clocks said when they were last read.
    read: (Time, Instant),
}

#[derive(Default)]
struct Entry {
    due: Option<Time>,
    /// Whether a resync asked for it.
    swept: bool,
    running: bool,
    failures: u32,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Key> fmt::Debug for Queue<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("len", &self.len())
            .field("limit", &self.0.limit)
            .finish_non_exhaustive()
    }
}

impl<K: Key> Queue<K> {
    /// A queue of at most [`DEFAULT_LIMIT`] keys.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::bounded(clock, DEFAULT_LIMIT)
    }

    /// A queue of at most `limit` keys, those that run and those that wait for their time included.
    #[must_use]
    pub fn bounded(clock: Arc<dyn Clock>, limit: usize) -> Self {
        let read = (clock.now(), clock.monotonic());
        let state = State {
            owns: None,
            entries: HashMap::new(),
            due: BTreeSet::new(),
            swept: BTreeSet::new(),
            before: 0,
            last: None,
            overflowed: false,
            read,
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            changed: Notify::new(),
            room: Notify::new(),
            clock,
            limit: limit.max(1),
        }))
    }

    /// Has `key` looked at now. `false`: the queue is full and does not know the key; the next resync finds it.
    pub fn wake(&self, key: K) -> bool {
        self.wake_at(key, self.0.clock.now())
    }

    /// Has `key` looked at no later than `at`: an earlier wish stays.
    pub fn wake_at(&self, key: K, at: Time) -> bool {
        let queued = {
            let mut state = self.0.state.lock();
            // So that a clock which is set back before the runner looks is seen to have been ahead.
            state.now(&*self.0.clock);
            state.schedule(key, at, self.0.limit)
        };
        self.0.changed.notify_one();
        queued
    }

    /// As [`Queue::wake`], but what is woken goes first, and a key that failed is left to its retry schedule: a resync is no
    /// news of it, and a process that has just started has tens of thousands of keys to look at and live work besides.
    pub fn resync(&self, key: K) -> bool {
        let queued = self.0.state.lock().sweep(key, self.0.limit);
        self.0.changed.notify_one();
        queued
    }

    /// How many keys it holds: waiting for their time, due, and running.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.state.lock().entries.len()
    }

    /// Whether it holds no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many keys are due and not running.
    #[must_use]
    pub fn depth(&self) -> usize {
        let now = self.0.clock.now();
        let state = self.0.state.lock();
        state.due.iter().take_while(|(at, _)| *at <= now).count() + state.swept.len()
    }

    /// How long the key that is due the longest has waited; zero where none is. A resync is not waited for.
    #[must_use]
    pub fn oldest(&self) -> Duration {
        let now = self.0.clock.now();
        self.0.state.lock().due.first().map_or(Duration::ZERO, |(at, _)| now.since(*at))
    }

    /// From now on only keys that `owns` affirms are taken. It is asked under the queue's lock: it must neither wait nor
    /// call the queue.
    pub(crate) fn restrict(&self, owns: Owns<K>) {
        self.0.state.lock().owns = Some(owns);
    }

    /// Forgets the keys that are not to be taken, but for those that run.
    pub(crate) fn prune(&self) {
        let mut state = self.0.state.lock();
        let State { owns: Some(owns), entries, due, swept, .. } = &mut *state else { return };
        let mut stays = |key: &K| {
            let stays = owns(key);
            if !stays {
                entries.remove(key);
            }
            stays
        };
        due.retain(|(_, key)| stays(key));
        swept.retain(stays);
        self.tell_room(&mut state);
    }

    /// Takes the key that is due the longest: it runs until [`Queue::finish`]. Keys that are another process's are
    /// forgotten on the way: whoever works on them knows of them as this process did.
    pub(crate) fn take(&self) -> Option<K> {
        let mut state = self.0.state.lock();
        let now = state.now(&*self.0.clock);
        while let Some(key) = state.next(now) {
            if state.owns.as_ref().is_some_and(|owns| !owns(&key)) {
                state.entries.remove(&key);
                self.tell_room(&mut state);
                continue;
            }
            let entry = state.entries.entry(key.clone()).or_default();
            *entry = Entry { running: true, failures: entry.failures, ..Entry::default() };
            return Some(key);
        }
        None
    }

    /// Ends a run: what was woken meanwhile, or is wished for `again`, waits for its time; a success forgets failures.
    pub(crate) fn finish(&self, key: K, again: Option<Time>) {
        let mut state = self.0.state.lock();
        if let Some(entry) = state.entries.get_mut(&key) {
            entry.failures = 0;
        }
        self.settle(&mut state, key, again);
    }

    /// Ends a run that failed: tried again by `schedule`. A change meanwhile does not shorten the wait, lest a key that
    /// fails and is written about in one breath be tried without pause. Returns the number of failures in a row.
    pub(crate) fn fail(&self, key: K, schedule: &Schedule) -> u32 {
        let now = self.0.clock.now();
        let mut state = self.0.state.lock();
        let mut failures = 1;
        if let Some(entry) = state.entries.get_mut(&key) {
            failures = entry.failures.saturating_add(1);
            *entry = Entry { failures, ..Entry::default() };
        }
        self.settle(&mut state, key, Some(schedule.next(failures, now)));
        failures
    }

    fn settle(&self, state: &mut State<K>, key: K, again: Option<Time>) {
        let Some(entry) = state.entries.get_mut(&key) else { return };
        entry.running = false;
        entry.due = match (entry.due, again) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        match (entry.due, entry.swept) {
            (None, false) => drop(state.entries.remove(&key)),
            (due, swept) => {
                if swept {
                    state.swept.insert(key.clone());
                }
                state.due.extend(due.map(|at| (at, key)));
            }
        }
        self.tell_room(state);
    }

    /// Says that there is room again, where keys were forgotten.
    fn tell_room(&self, state: &mut State<K>) {
        if state.overflowed && state.entries.len() <= self.0.limit / 2 {
            state.overflowed = false;
            self.0.room.notify_one();
        }
    }

    /// How long until a key is due; `None` where none waits.
    pub(crate) fn next_in(&self) -> Option<Duration> {
        let mut state = self.0.state.lock();
        let now = state.now(&*self.0.clock);
        if !state.swept.is_empty() {
            return Some(Duration::ZERO);
        }
        state.due.first().map(|(at, _)| at.since(now))
    }

    /// Returns when a key was woken since the last call.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Returns when keys were forgotten and there is room again.
    pub(crate) async fn room(&self) {
        self.0.room.notified().await;
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }
}

impl<K: Key> State<K> {
    /// The time. Where the clock was set back, what waits goes back with it: a wait that was reckoned by the wrong clock is as
    /// long as it was meant to be. Set ahead, it only ends waits early, which does no harm.
    #[expect(clippy::iter_over_hash_type, reason = "each entry is changed by itself, in whatever order")]
    fn now(&mut self, clock: &dyn Clock) -> Time {
        let (now, steady) = (clock.now(), clock.monotonic());
        let expected = self.read.0.plus(steady.saturating_duration_since(self.read.1));
        self.read = (now, steady);
        let back = expected.since(now);
        if back > SET_BACK {
            tracing::warn!(seconds = back.as_secs(), "the clock was set back");
            let due = std::mem::take(&mut self.due);
            self.due = due.into_iter().map(|(at, key)| (at.minus(back), key)).collect();
            for entry in self.entries.values_mut() {
                entry.due = entry.due.map(|at| at.minus(back));
            }
        }
        now
    }

    /// The next key to be run, out of the sets: what is due goes first, but not for ever.
    fn next(&mut self, now: Time) -> Option<K> {
        let due = self.due.first().is_some_and(|(at, _)| *at <= now);
        if due && (self.swept.is_empty() || self.before < SWEPT_AFTER) {
            self.before += 1;
            let (_, key) = self.due.pop_first()?;
            self.swept.remove(&key);
            return Some(key);
        }
        self.before = 0;
        // On from the last one, and round: a resync that comes before the last one was through must not begin it anew.
        let on = self.last.as_ref().and_then(|last| self.swept.range((Excluded(last), Unbounded)).next());
        let key = on.or_else(|| self.swept.first())?.clone();
        self.swept.remove(&key);
        self.last = Some(key.clone());
        if let Some(at) = self.entries.get(&key).and_then(|entry| entry.due) {
            self.due.remove(&(at, key.clone()));
        }
        Some(key)
    }

    fn sweep(&mut self, key: K, limit: usize) -> bool {
        let Some(entry) = self.entry(&key, limit) else { return false };
        if entry.failures == 0 && !std::mem::replace(&mut entry.swept, true) && !entry.running {
            self.swept.insert(key);
        }
        true
    }

    /// The key's entry; none: there is no room for it.
    fn entry(&mut self, key: &K, limit: usize) -> Option<&mut Entry> {
        if !self.entries.contains_key(key) && self.entries.len() >= limit {
            self.overflowed = true;
            return None;
        }
        Some(self.entries.entry(key.clone()).or_default())
    }

    fn schedule(&mut self, key: K, at: Time, limit: usize) -> bool {
        let Some(entry) = self.entry(&key, limit) else { return false };
        if entry.due.is_some_and(|due| due <= at) {
            return true;
        }
        let earlier = entry.due.replace(at);
        if !entry.running {
            if let Some(earlier) = earlier {
                self.due.remove(&(earlier, key.clone()));
            }
            self.due.insert((at, key));
        }
        true
    }
}

#[cfg(test)]
mod tests;
