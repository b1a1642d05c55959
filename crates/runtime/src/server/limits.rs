//! How much one server takes on, in all and from each.

use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::config::{Period, Size};

/// The bounds of a server's main port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at a time; more are closed at once.
    pub connections: usize,
    /// Of these, from one address; more are closed at once. Behind a proxy or a translated address, callers share it.
    pub connections_per_peer: usize,
    /// Calls of one certificate's principal that are unanswered at a time; more are refused.
    pub calls_per_caller: usize,
    /// Calls at a time on one connection (`SETTINGS_MAX_CONCURRENT_STREAMS`, RFC 9113 §6.5.2).
    pub streams: u32,
    /// The headers of one call.
    pub headers: Size,
    /// The longest that a TLS handshake, and the headers of an HTTP/1.1 call, may take to arrive.
    pub handshake: Period,
    /// A connection without a call under way for this long is closed. It also bounds how long a peer may be silent before
    /// its first call.
    pub idle: Period,
    /// A connection this old is asked to end, so that callers spread over servers that came later and are judged by
    /// certificates of today; calls under way have a tenth of it more, then they are cut off.
    pub age: Period,
}

impl Default for Limits {
    /// 1,024 connections, 256 of one address, 256 calls of one caller, 256 on one connection, 16 KiB of headers, 10 s to a
    /// handshake, 5 min idle, 1 h of age.
    fn default() -> Self {
        Self {
            connections: 1_024,
            connections_per_peer: 256,
            calls_per_caller: 256,
            streams: 256,
            headers: Size(16 << 10),
            handshake: Period(Duration::from_secs(10)),
            idle: Period(Duration::from_secs(300)),
            age: Period(Duration::from_secs(3_600)),
        }
    }
}

impl Limits {
    /// For the health port, where probes ask and nobody else has a reason to.
    pub(super) fn of_probes() -> Self {
        let idle = Period(Duration::from_secs(60));
        Self { connections: 128, connections_per_peer: 64, streams: 16, idle, ..Self::default() }
    }
}

/// Places, so many for each key. It holds the keys that have one, and no others.
#[derive(Debug)]
pub(super) struct Shares<K> {
    each: usize,
    taken: Mutex<HashMap<K, usize>>,
}

/// One place, until it is dropped.
pub(super) struct Share<K: Hash + Eq> {
    shares: Arc<Shares<K>>,
    key: K,
}

impl<K: Hash + Eq + Clone> Shares<K> {
    pub fn new(each: usize) -> Arc<Self> {
        Arc::new(Self { each, taken: Mutex::default() })
    }

    /// A place for `key`, if it has not all of its own.
    pub fn take(self: &Arc<Self>, key: &K) -> Option<Share<K>> {
        let mut taken = self.taken.lock();
        if taken.get(key).copied().unwrap_or(0) >= self.each {
            return None;
        }
        *taken.entry(key.clone()).or_default() += 1;
        Some(Share { shares: Arc::clone(self), key: key.clone() })
    }
}

impl<K: Hash + Eq> Drop for Share<K> {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock();
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_places_and_none_is_remembered() {
        let shares = Shares::new(2);
        let (a, b) = (shares.take(&"a"), shares.take(&"a"));
        assert!(a.is_some() && b.is_some() && shares.take(&"a").is_none());
        assert!(shares.take(&"b").is_some());
        drop(a);
        let again = shares.take(&"a");
        assert!(again.is_some() && shares.take(&"a").is_none());
        drop((again, b));
        assert!(shares.taken.lock().is_empty());
    }
}
