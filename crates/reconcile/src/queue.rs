//! The queue: which keys are to be looked at, and when.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
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
    overflowed: bool,
    /// What the clocks said when they were last read.
    read: (Time, Instant),
}

#[derive(Default)]
struct Entry {
    due: Option<Time>,
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
        let state =
            State { owns: None, entries: HashMap::new(), due: BTreeSet::new(), overflowed: false, read };
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

    /// As [`Queue::wake`], but leaves a key that failed to its retry schedule: a resync is no news of it.
    pub fn resync(&self, key: K) -> bool {
        let failed = self.0.state.lock().entries.get(&key).is_some_and(|entry| entry.failures > 0);
        failed || self.wake(key)
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
        self.0.state.lock().due.iter().take_while(|(at, _)| *at <= now).count()
    }

    /// How long the key that is due the longest has waited; zero where none is.
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
        let State { owns: Some(owns), entries, due, .. } = &mut *state else { return };
        due.retain(|(_, key)| {
            let stays = owns(key);
            if !stays {
                entries.remove(key);
            }
            stays
        });
        self.tell_room(&mut state);
    }

    /// Takes the key that is due the longest: it runs until [`Queue::finish`]. Keys that are another process's are
    /// forgotten on the way: whoever works on them knows of them as this process did.
    pub(crate) fn take(&self) -> Option<K> {
        let mut state = self.0.state.lock();
        let now = state.now(&*self.0.clock);
        while state.due.first()?.0 <= now {
            let (_, key) = state.due.pop_first()?;
            if state.owns.as_ref().is_some_and(|owns| !owns(&key)) {
                state.entries.remove(&key);
                self.tell_room(&mut state);
                continue;
            }
            let entry = state.entries.entry(key.clone()).or_default();
            entry.running = true;
            entry.due = None;
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
            entry.failures = entry.failures.saturating_add(1);
            entry.due = None;
            failures = entry.failures;
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
        match entry.due {
            Some(at) => drop(state.due.insert((at, key))),
            None => drop(state.entries.remove(&key)),
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

    fn schedule(&mut self, key: K, at: Time, limit: usize) -> bool {
        if !self.entries.contains_key(&key) && self.entries.len() >= limit {
            self.overflowed = true;
            return false;
        }
        let entry = self.entries.entry(key.clone()).or_default();
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
mod tests {
    use isocenter_runtime::{clock::TestClock, random::Seeded};

    use super::*;

    fn queue(limit: usize) -> (Queue<u32>, TestClock) {
        let clock = TestClock::new(Time(1_000));
        (Queue::bounded(clock.shared(), limit), clock)
    }

    fn schedule() -> Schedule {
        Schedule::new(Duration::from_secs(1), Duration::from_secs(60))
    }

    #[test]
    fn the_earliest_wish_wins_and_keys_are_held_once() {
        let (queue, clock) = queue(10);
        queue.wake_at(1, Time(3_000));
        queue.wake_at(1, Time(2_000));
        queue.wake_at(1, Time(9_000));
        assert_eq!((queue.len(), queue.depth(), queue.take()), (1, 0, None));
        clock.set(Time(2_000));
        assert_eq!((queue.depth(), queue.take(), queue.take()), (1, Some(1), None));
    }

    #[test]
    fn a_key_of_another_process_is_not_taken_and_makes_room() {
        let (queue, _clock) = queue(2);
        queue.restrict(Arc::new(|key| key % 2 == 0));
        assert!(queue.wake(1) && queue.wake_at(3, Time(9_000)));
        assert!(!queue.wake(2), "full of keys that are not known to be another's yet");
        queue.prune();
        assert!(queue.is_empty() && queue.wake(2) && queue.wake(5));
        assert_eq!((queue.take(), queue.take()), (Some(2), None));
        queue.restrict(Arc::new(|_| false));
        queue.prune();
        assert_eq!(queue.len(), 1, "what runs is left alone");
        queue.finish(2, Some(Time(1_000)));
        assert_eq!((queue.take(), queue.len()), (None, 0), "and is not run again");
    }

    #[test]
    fn a_key_woken_while_it_runs_runs_again_after_not_beside() {
        let (queue, _clock) = queue(10);
        queue.wake(1);
        assert_eq!(queue.take(), Some(1));
        queue.wake(1);
        assert_eq!(queue.take(), None);
        queue.finish(1, None);
        assert_eq!(queue.take(), Some(1));
        queue.finish(1, None);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_clock_that_is_set_back_takes_what_waits_with_it() {
        let (queue, clock) = queue(10);
        let hour = Duration::from_secs(3_600);
        clock.set(clock.now().plus(hour));
        queue.wake_at(1, clock.now().plus(Duration::from_secs(5)));
        queue.wake_at(2, clock.now().plus(Duration::from_secs(9)));
        clock.set(clock.now().minus(hour));
        assert_eq!((queue.take(), queue.next_in()), (None, Some(Duration::from_secs(5))));
        // An earlier wish still finds the later one, and takes its place.
        queue.wake_at(2, clock.now().plus(Duration::from_secs(1)));
        clock.advance(Duration::from_secs(5));
        assert_eq!((queue.take(), queue.take(), queue.take(), queue.len()), (Some(2), Some(1), None, 2));
    }

    #[test]
    fn failures_wait_longer_each_time_and_a_success_forgets_them() {
        let (queue, clock) = queue(10);
        let mut waits = Vec::new();
        for expected in 1..=4 {
            queue.wake(7);
            clock.advance(Duration::from_secs(60));
            assert_eq!(queue.take(), Some(7));
            assert_eq!(queue.fail(7, &schedule()), expected);
            waits.push(queue.next_in().unwrap());
        }
        assert!(waits.is_sorted(), "{waits:?}");
        assert!(queue.resync(7) && queue.depth() == 0, "a resync does not shorten the wait");
        queue.wake(7);
        assert_eq!(queue.take(), Some(7));
        queue.finish(7, None);
        queue.wake(7);
        assert_eq!(queue.take(), Some(7));
        assert_eq!(queue.fail(7, &schedule()), 1);
    }

    #[tokio::test]
    async fn a_full_queue_forgets_new_keys_knows_old_ones_and_tells_when_there_is_room() {
        let (queue, _clock) = queue(2);
        assert!(queue.wake(1) && queue.wake(2) && !queue.wake(3) && queue.wake(1));
        for _ in 0..2 {
            let key = queue.take().unwrap();
            queue.finish(key, None);
        }
        queue.room().await;
        assert!(queue.wake(3));
    }

    /// Random wakes, takes and ends against a model that is a plain map of wishes and a set of running keys.
    #[test]
    fn the_queue_agrees_with_its_model() {
        let mut rng = Seeded::fresh();
        let seed = rng.seed();
        let (queue, clock) = queue(1_000);
        let mut wishes = std::collections::BTreeMap::<u32, Time>::new();
        let mut running = std::collections::BTreeMap::<u32, Option<Time>>::new();
        for _ in 0..20_000 {
            let now = clock.now();
            let (key, at) = (
                u32::try_from(rng.range(0..20)).unwrap(),
                now.plus(rng.duration(Duration::ZERO..Duration::from_millis(5))),
            );
            match rng.range(0..4) {
                0 => {
                    queue.wake_at(key, at);
                    let earliest = |old: Option<Time>| Some(old.map_or(at, |old| old.min(at)));
                    if let Some(wish) = running.get_mut(&key) {
                        *wish = earliest(*wish);
                    } else {
                        wishes.insert(key, earliest(wishes.get(&key).copied()).unwrap());
                    }
                }
                1 => {
                    let first = wishes.iter().map(|(key, at)| (*at, *key)).min().filter(|(at, _)| *at <= now);
                    assert_eq!(queue.take(), first.map(|(_, key)| key), "seed {seed}");
                    if let Some((_, key)) = first {
                        wishes.remove(&key);
                        running.insert(key, None);
                    }
                }
                2 => {
                    if let Some((key, wish)) = running.pop_first() {
                        let again = rng.chance(0.5).then_some(at);
                        queue.finish(key, again);
                        if let Some(at) = wish.into_iter().chain(again).min() {
                            wishes.insert(key, at);
                        }
                    }
                }
                _ => clock.advance(Duration::from_millis(1)),
            }
            assert_eq!(queue.len(), wishes.len() + running.len(), "seed {seed}");
        }
    }
}
