//! Who is at work: one leased key for each reader, `presence/reader/{tenant}/{reader}`, and its mirror.

use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _, stream, stream::BoxStream};
use isocenter_domain::{
    id::{ReaderId, TenantId},
    key::HoldingKey,
};
use isocenter_runtime::task::Tasks;
use isocenter_store::{
    Compare, Error, Key, KeyValue, Kv, Range, Revision,
    reflector::{Changed, Changes, Mirror, Reflector, ReflectorOptions},
};

const PREFIX: &str = "presence/reader/";

/// A sign of life as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sign {
    /// Which stream gave it.
    pub session: String,
    /// Whether offers are wanted.
    pub accepting: bool,
}

impl Sign {
    /// The key's value: the session, and `1` where offers are wanted.
    pub fn value(&self) -> String {
        format!("{} {}", self.session, u8::from(self.accepting))
    }

    /// Reads a value; `None` where it is none.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (session, accepting) = std::str::from_utf8(value).ok()?.split_once(' ')?;
        Some(Self { session: session.to_owned(), accepting: accepting == "1" })
    }
}

/// What is known of a reader's presence.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// The sign of life; `None` where there is none.
    pub sign: Option<Sign>,
    /// Holds for as long as this is so: signs that only prolong presence do not change the key.
    pub still: Compare,
}

impl Known {
    fn new(key: &Key, sign: Option<Sign>, since: Option<Revision>) -> Self {
        // A key that is not there was last changed at revision zero.
        Self { sign, still: Compare::unchanged(key, since.unwrap_or_default()) }
    }
}

/// The mirror of everybody's presence.
#[derive(Clone, Debug)]
pub(crate) struct Presence {
    kv: Arc<dyn Kv>,
    mirror: Mirror<Option<Sign>>,
}

impl Presence {
    /// Starts the mirror on `tasks`.
    pub fn start(kv: Arc<dyn Kv>, tasks: &Tasks) -> Self {
        let range = Range::prefix(PREFIX).expect("a literal is a valid prefix");
        let options = ReflectorOptions::new(range);
        let (reflector, mirror) =
            Reflector::new(Arc::clone(&kv), options, |kv: &KeyValue| Sign::parse(&kv.value));
        tasks.background("presence reflector", reflector.run(tasks.token()));
        Self { kv, mirror }
    }

    pub async fn synced(&self) {
        self.mirror.synced().await;
    }

    /// The reader's sign of life, as the mirror has it.
    pub fn of(&self, tenant: &TenantId, reader: &ReaderId) -> Option<Sign> {
        self.mirror.get(&key(tenant, reader))?.value.clone()
    }

    /// The reader's presence: where the mirror has no sign, the store is asked, since a workstation asks for work the moment it
    /// is present.
    pub async fn now(&self, tenant: &TenantId, reader: &ReaderId) -> Result<Known, Error> {
        let seen = self.seen(tenant, reader);
        if seen.sign.is_some() { Ok(seen) } else { self.load(tenant, reader).await }
    }

    /// The reader's presence, as the store has it.
    pub async fn load(&self, tenant: &TenantId, reader: &ReaderId) -> Result<Known, Error> {
        let key = key(tenant, reader);
        let found = self.kv.get(&key).await?;
        let sign = found.as_ref().and_then(|kv| Sign::parse(&kv.value));
        Ok(Known::new(&key, sign, found.map(|kv| kv.mod_revision)))
    }

    fn seen(&self, tenant: &TenantId, reader: &ReaderId) -> Known {
        let key = key(tenant, reader);
        let cached = self.mirror.get(&key);
        let sign = cached.as_ref().and_then(|cached| cached.value.clone());
        Known::new(&key, sign, cached.map(|cached| cached.kv.mod_revision))
    }

    /// Whether another session's sign, given after `revision`, stands for the reader.
    pub fn taken_over(
        &self,
        tenant: &TenantId,
        reader: &ReaderId,
        session: &str,
        revision: Revision,
    ) -> bool {
        let Some(cached) = self.mirror.get(&key(tenant, reader)) else { return false };
        let other = cached.value.as_ref().is_some_and(|sign| sign.session != session);
        other && cached.kv.mod_revision > revision
    }

    /// How many readers are present.
    pub fn count(&self) -> usize {
        self.mirror.snapshot().items.len()
    }

    /// Told of every change of anybody's presence from now on, and once at the beginning.
    pub fn watch(&self) -> Changes {
        self.mirror.subscribe()
    }

    /// The readers whose presence changes from now on; ends when changes may have been missed.
    pub fn changes(&self) -> BoxStream<'static, HoldingKey> {
        let mut changes = self.mirror.subscribe();
        // A subscription begins by saying that anything may have changed, and until that is taken tells no key: what changed
        // before the first look would be lost with it.
        let listed = changes.next().now_or_never().is_some();
        let mirror = self.mirror.clone();
        let keys = stream::unfold((changes, listed), move |(mut changes, listed)| {
            let mirror = mirror.clone();
            async move {
                match changes.next().await? {
                    Changed::Keys(keys) => Some((keys, (changes, true))),
                    Changed::Relist if !listed => {
                        Some((mirror.snapshot().items.keys().cloned().collect(), (changes, true)))
                    }
                    Changed::Relist => None,
                }
            }
        });
        keys.flat_map(|keys: Vec<Key>| stream::iter(keys.into_iter().filter_map(|key| parse(&key)))).boxed()
    }
}

/// A reader's key.
pub(crate) fn key(tenant: &TenantId, reader: &ReaderId) -> Key {
    Key::new(format!("{PREFIX}{tenant}/{reader}")).expect("ids make a valid key")
}

fn parse(key: &Key) -> Option<HoldingKey> {
    let (tenant, reader) = key.as_str().strip_prefix(PREFIX)?.split_once('/')?;
    Some(HoldingKey { tenant: tenant.parse().ok()?, reader: reader.parse().ok()? })
}
