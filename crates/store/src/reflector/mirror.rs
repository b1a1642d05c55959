//! The cache itself, and the bounded subscriptions to its changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Bound,
    sync::{Arc, Weak},
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use crate::kv::{Event, Key, KeyValue, Range, Revision};

/// Keys a subscription holds before it says [`Changed::Relist`] instead: above a day's peak of changes in flight, and a
/// few MiB at most.
pub const SUBSCRIBER_KEYS: usize = 16_384;

/// Keys that are read under one lock: a few dozen microseconds, for which the next change waits.
const AT_ONCE: usize = 1024;

/// A key with its value as stored and as decoded.
#[derive(Debug)]
pub struct Cached<T> {
    /// As stored.
    pub kv: KeyValue,
    /// As decoded.
    pub value: T,
}

type Items<T> = BTreeMap<Key, Arc<Cached<T>>>;

/// The whole cache at one moment. Holding it costs the next change a copy of the map, not of the values: for caches of a few
/// keys. What reads a large one uses [`Mirror::range`].
pub struct Snapshot<T> {
    /// The revision it shows.
    pub revision: Revision,
    /// The keys, in order.
    pub items: Arc<BTreeMap<Key, Arc<Cached<T>>>>,
}

impl<T> fmt::Debug for Snapshot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot({} keys at {})", self.items.len(), self.revision)
    }
}

/// A handle to a reflector's cache. Cheap to clone. May lag behind the store: decide by it, commit by compare-and-swap.
pub struct Mirror<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for Mirror<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<T> fmt::Debug for Mirror<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.snapshot().fmt(f)
    }
}

struct Inner<T> {
    state: RwLock<State<T>>,
    /// The revision reached, zero before the first list.
    reached: watch::Sender<Revision>,
    live: watch::Sender<bool>,
    subscribers: Mutex<Vec<Weak<Subscriber>>>,
}

struct State<T> {
    items: Arc<Items<T>>,
    revision: Revision,
}

impl<T> Mirror<T> {
    pub(super) fn new() -> Self {
        let inner = Inner {
            state: RwLock::new(State { items: Arc::default(), revision: Revision(0) }),
            reached: watch::Sender::new(Revision(0)),
            live: watch::Sender::new(false),
            subscribers: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// One key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<Cached<T>>> {
        self.named(key.as_str())
    }

    /// The key of this text: for who looks often and has made no [`Key`] of it.
    pub(crate) fn named(&self, key: &str) -> Option<Arc<Cached<T>>> {
        self.inner.state.read().items.get(key).cloned()
    }

    /// What is in `range`, in the order of keys, without a copy of anything: nobody waits for it for long, however much that
    /// is. Up to some thousand keys are of one revision; of more, each is of its own moment during the call.
    #[must_use]
    pub fn range(&self, range: &Range) -> Vec<Arc<Cached<T>>> {
        let (from, to) = range.bounds();
        let high = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut found: Vec<Arc<Cached<T>>> = Vec::new();
        loop {
            let last = found.last().map(Arc::clone);
            let low = match &last {
                None => Bound::Included(from.as_str()),
                Some(last) => Bound::Excluded(last.kv.key.as_str()),
            };
            let before = found.len();
            {
                let state = self.inner.state.read();
                let items = state.items.range::<str, _>((low, high)).take(AT_ONCE);
                found.extend(items.map(|(_, cached)| Arc::clone(cached)));
            }
            if found.len() < before + AT_ONCE {
                return found;
            }
        }
    }

    /// Everything, at one revision.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot<T> {
        let state = self.inner.state.read();
        Snapshot { revision: state.revision, items: Arc::clone(&state.items) }
    }

    /// Waits until the cache was filled for the first time.
    pub async fn synced(&self) {
        self.reached(Revision(1)).await;
    }

    /// Whether the cache was filled.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        *self.inner.reached.borrow() > Revision(0)
    }

    /// Waits until the cache shows `revision` or a later one, for example that of an own write.
    pub async fn reached(&self, revision: Revision) {
        // The sender lives as long as this handle, so that the wait cannot fail.
        drop(self.inner.reached.subscribe().wait_for(|at| *at >= revision).await);
    }

    /// Whether a watch is open. While it is not, the cache is stale.
    #[must_use]
    pub fn is_live(&self) -> bool {
        *self.inner.live.borrow()
    }

    /// The changes from now on, beginning with one [`Changed::Relist`] as soon as the cache is filled.
    #[must_use]
    pub fn subscribe(&self) -> Changes {
        let subscriber = Arc::new(Subscriber::default());
        // Locked first, so that no change falls between the look at the revision and the subscription.
        let mut subscribers = self.inner.subscribers.lock();
        if self.is_synced() {
            subscriber.relist();
        }
        subscribers.push(Arc::downgrade(&subscriber));
        Changes { subscriber }
    }

    pub(super) fn set_live(&self, live: bool) {
        self.inner.live.send_if_modified(|was| std::mem::replace(was, live) != live);
    }

    /// The beginning of another list.
    pub(super) fn refill(&self) -> Refill<T> {
        Refill { before: self.snapshot(), mirror: self.clone() }
    }

    /// One revision's changes.
    pub(super) fn apply(&self, revision: Revision, events: Vec<Event>, decode: &dyn Fn(&KeyValue) -> T) {
        let mut changed = Vec::with_capacity(events.len());
        {
            let mut state = self.inner.state.write();
            let items = Arc::make_mut(&mut state.items);
            for event in events {
                let key = event.key().clone();
                if items.get(&key).is_some_and(|cached| cached.kv.mod_revision >= event.revision()) {
                    continue;
                }
                match event {
                    Event::Put(kv) => {
                        items.insert(key.clone(), Arc::new(Cached { value: decode(&kv), kv }));
                    }
                    Event::Delete { .. } => {
                        items.remove(&key);
                    }
                }
                changed.push(key);
            }
            state.revision = revision;
        }
        let subscribers = self.inner.subscribers.lock();
        self.inner.reached.send_replace(revision);
        tell(&subscribers, |s| s.changed(&changed));
    }

    /// Nothing changed up to `revision`.
    pub(super) fn reach(&self, revision: Revision) {
        let mut state = self.inner.state.write();
        if revision > state.revision {
            state.revision = revision;
            self.inner.reached.send_replace(revision);
        }
    }

    pub(super) fn close(&self) {
        self.set_live(false);
        let mut subscribers = self.inner.subscribers.lock();
        tell(&subscribers, Subscriber::close);
        subscribers.clear();
    }
}

/// A list on its way into the mirror.
pub(super) struct Refill<T> {
    mirror: Mirror<T>,
    before: Snapshot<T>,
}

/// A page of it.
pub(super) struct Decoded<T> {
    items: Vec<(Key, Arc<Cached<T>>)>,
    /// Those that are other than they were.
    changed: Vec<Key>,
}

impl<T> Decoded<T> {
    /// How many records it has.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }
}

impl<T> Refill<T> {
    /// A page, decoded but for what is in the mirror as it is.
    pub(super) fn page(&self, page: Vec<KeyValue>, decode: &dyn Fn(&KeyValue) -> T) -> Decoded<T> {
        let first = self.before.revision == Revision(0);
        let mut changed = Vec::new();
        let cached = |kv: KeyValue| {
            // A store that was restored may have given the same revision to another value: compare both.
            let same = self.before.items.get(&kv.key).filter(|cached| cached.kv == kv);
            let cached = same.cloned().unwrap_or_else(|| {
                if !first {
                    changed.push(kv.key.clone());
                }
                Arc::new(Cached { value: decode(&kv), kv })
            });
            (cached.kv.key.clone(), cached)
        };
        let items = page.into_iter().map(cached).collect();
        Decoded { items, changed }
    }

    /// The pages, in the order of keys, take the place of the cache; what vanished is told as changed.
    pub(super) fn take_over(&self, revision: Revision, pages: Vec<Decoded<T>>) {
        let (inner, first) = (&self.mirror.inner, self.before.revision == Revision(0));
        let mut changed = Vec::new();
        let of_page = |page: Decoded<T>| {
            changed.extend(page.changed);
            page.items
        };
        // In order already, which is the fastest way to make a map, and fills its nodes.
        let items: Items<T> = pages.into_iter().flat_map(of_page).collect();
        changed.extend(self.before.items.keys().filter(|key| !items.contains_key(*key)).cloned());
        *inner.state.write() = State { items: Arc::new(items), revision };
        let subscribers = inner.subscribers.lock();
        inner.reached.send_replace(revision);
        tell(&subscribers, |s| if first { s.relist() } else { s.changed(&changed) });
    }
}

fn tell(subscribers: &[Weak<Subscriber>], what: impl Fn(&Subscriber)) {
    subscribers.iter().filter_map(Weak::upgrade).for_each(|s| what(&s));
}

/// What changed since it was last asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// These keys, each once, in order; what they are now is in the mirror.
    Keys(Vec<Key>),
    /// Anything: at the beginning, and when more keys changed than a subscription holds.
    Relist,
}

/// A subscription to a mirror's changes: a set of keys, never a queue of events.
#[derive(Debug)]
pub struct Changes {
    subscriber: Arc<Subscriber>,
}

impl Changes {
    /// Waits for changes; `None` once the reflector has ended and everything was delivered.
    pub async fn next(&mut self) -> Option<Changed> {
        loop {
            let told = self.subscriber.told.notified();
            if let Some(answer) = self.subscriber.take() {
                return answer;
            }
            told.await;
        }
    }
}

#[derive(Debug, Default)]
struct Subscriber {
    pending: Mutex<Pending>,
    told: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    keys: BTreeSet<Key>,
    relist: bool,
    closed: bool,
}

impl Subscriber {
    fn take(&self) -> Option<Option<Changed>> {
        let mut pending = self.pending.lock();
        if std::mem::take(&mut pending.relist) {
            return Some(Some(Changed::Relist));
        }
        if !pending.keys.is_empty() {
            return Some(Some(Changed::Keys(std::mem::take(&mut pending.keys).into_iter().collect())));
        }
        pending.closed.then_some(None)
    }

    fn changed(&self, keys: &[Key]) {
        let mut pending = self.pending.lock();
        if pending.relist {
            return;
        }
        pending.keys.extend(keys.iter().cloned());
        let over = pending.keys.len() > SUBSCRIBER_KEYS;
        drop(pending);
        if over {
            self.relist();
        }
        self.told.notify_one();
    }

    fn relist(&self) {
        let mut pending = self.pending.lock();
        pending.relist = true;
        pending.keys.clear();
        drop(pending);
        self.told.notify_one();
    }

    fn close(&self) {
        self.pending.lock().closed = true;
        self.told.notify_one();
    }
}
