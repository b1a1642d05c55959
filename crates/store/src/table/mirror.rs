//! Typed mirrors: one cache per kind of record and process, fed by one reflector each.

use std::{any::Any, collections::BTreeMap, sync::Arc};

use futures::{FutureExt as _, StreamExt as _, stream::BoxStream};
use isocenter_domain::{
    key::{self, RecordKey},
    record::{Record, RecordKind},
};
use isocenter_runtime::task::Tasks;
use isocenter_wire::record::Stored as Storable;
use parking_lot::Mutex;

use super::{Stored, Tables, decoded, kind_range};
use crate::{
    Key, Range,
    reflector::{self, Changed, Reflector, ReflectorOptions},
};

type Decoded<R> = Result<Arc<Stored<R>>, String>;

/// A cache of every record of one kind. It may be a moment old: a decision that writes compares what it rests on.
pub struct Mirror<R: Record>(reflector::Mirror<Decoded<R>>);

impl<R: Record> Clone for Mirror<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: Record> std::fmt::Debug for Mirror<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl<R: Storable> Mirror<R> {
    /// The record under `key`.
    #[must_use]
    pub fn get(&self, key: &R::Key) -> Option<Arc<Stored<R>>> {
        self.0.named(&key::text(key)).and_then(|cached| cached.value.as_ref().ok().cloned())
    }

    /// The records in `range`, in the order of their keys.
    #[must_use]
    pub fn of(&self, range: &Range) -> Vec<Arc<Stored<R>>> {
        self.0.range(range).iter().filter_map(|cached| cached.value.as_ref().ok().cloned()).collect()
    }

    /// Every record, in the order of their keys.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Stored<R>>> {
        self.of(&Range::all())
    }

    /// Waits until the first list is in.
    pub async fn synced(&self) {
        self.0.synced().await;
    }

    /// The keys that change from now on, each at least once after its last change; of a mirror that is not synced yet,
    /// first every key. Ends when some may have been missed: list again. A lagging caller never holds up anybody.
    #[must_use]
    pub fn changes(&self) -> BoxStream<'static, R::Key> {
        let mut changes = self.0.subscribe();
        // A subscription to a synced mirror begins with "list". The caller lists after this call anyway, and while that word
        // is not taken, changes are not told one by one: take it now.
        let listed = changes.next().now_or_never().is_some();
        let mirror = self.0.clone();
        futures::stream::unfold((changes, listed), move |(mut changes, listed)| {
            let mirror = mirror.clone();
            async move {
                match changes.next().await? {
                    Changed::Keys(keys) => Some((keys, (changes, true))),
                    Changed::Relist if !listed => {
                        let all = mirror.range(&Range::all());
                        Some((all.iter().map(|cached| cached.kv.key.clone()).collect(), (changes, true)))
                    }
                    Changed::Relist => None,
                }
            }
        })
        .flat_map(|keys: Vec<Key>| {
            futures::stream::iter(keys.into_iter().filter_map(|k| key::parse::<R::Key>(k.as_str())))
        })
        .boxed()
    }

    fn undecodable(&self) -> Vec<(String, String)> {
        let all = self.0.range(&Range::all());
        let bad = |cached: &Arc<reflector::Cached<Decoded<R>>>| {
            cached.value.as_ref().err().map(|why| (cached.kv.key.to_string(), why.clone()))
        };
        all.iter().filter_map(bad).collect()
    }
}

/// What the mirrors of all kinds have in common.
trait AnyMirror: Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn undecodable(&self) -> Vec<(String, String)>;
}

impl<R: Storable> AnyMirror for Mirror<R> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn undecodable(&self) -> Vec<(String, String)> {
        Mirror::undecodable(self)
    }
}

/// The mirrors of a process, each started at its first use.
#[derive(Clone)]
pub struct Mirrors {
    tables: Tables,
    tasks: Tasks,
    started: Arc<Mutex<BTreeMap<RecordKind, Arc<dyn AnyMirror>>>>,
}

impl std::fmt::Debug for Mirrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirrors").field("kinds", &self.started.lock().keys()).finish_non_exhaustive()
    }
}

impl Mirrors {
    /// No mirror yet; their reflectors will run on `tasks`.
    #[must_use]
    pub fn new(tables: Tables, tasks: &Tasks) -> Self {
        Self { tables, tasks: tasks.clone(), started: Arc::default() }
    }

    /// The mirror of one kind of record.
    ///
    /// # Panics
    /// Never: a kind has one record type.
    #[must_use]
    pub fn of<R: Storable>(&self) -> Mirror<R> {
        let mut started = self.started.lock();
        let mirror = started.entry(R::Key::KIND).or_insert_with(|| {
            let options = ReflectorOptions::new(kind_range(R::Key::KIND));
            let kv = Arc::clone(self.tables.kv());
            let ours = self.tables.known_level();
            let decode = move |kv: &_| decoded::<R>(kv, ours).map(Arc::new).map_err(|e| why(&e));
            let (reflector, mirror) = Reflector::new(kv, options, decode);
            self.tasks.background("reflector", reflector.run(self.tasks.token()));
            Arc::new(Mirror(mirror))
        });
        let mirror = mirror.as_any().downcast_ref::<Mirror<R>>();
        mirror.expect("a kind has one record type").clone()
    }

    /// The records that no decision of this process rests on, because it cannot understand them: key and why.
    #[must_use]
    pub fn undecodable(&self) -> Vec<(String, String)> {
        let started: Vec<_> = self.started.lock().values().cloned().collect();
        started.iter().flat_map(|mirror| mirror.undecodable()).collect()
    }
}

fn why(e: &super::TableError) -> String {
    isocenter_runtime::task::chain(e)
}
