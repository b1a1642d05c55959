//! The bytes of the log's records and of the snapshot: little-endian numbers, length-prefixed strings.

use std::{collections::BTreeMap, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes};

use super::state::{Change, Parts, Record, Version};
use crate::kv::{Key, LeaseId, Revision};

const COMMIT: u8 = 1;
const GRANT: u8 = 2;
const REVOKE: u8 = 3;
const COMPACT: u8 = 4;
const DELETE: u8 = 0;
const PUT: u8 = 1;

/// Appends a record.
pub(super) fn put_record(out: &mut Vec<u8>, record: &Record) {
    match record {
        Record::Commit { revision, changes } => {
            out.put_u8(COMMIT);
            out.put_u64_le(revision.0);
            put_len(out, changes.len());
            for change in changes {
                put_change(out, change);
            }
        }
        Record::Grant { lease, ttl } => {
            out.put_u8(GRANT);
            out.put_i64_le(lease.0);
            out.put_u64_le(ttl.as_secs());
        }
        Record::Revoke { lease } => {
            out.put_u8(REVOKE);
            out.put_i64_le(lease.0);
        }
        Record::Compact { at } => {
            out.put_u8(COMPACT);
            out.put_u64_le(at.0);
        }
    }
}

fn put_change(out: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Put { key, value, lease } => {
            out.put_u8(PUT);
            put_bytes(out, key.as_str().as_bytes());
            put_bytes(out, value);
            out.put_i64_le(lease.map_or(0, |l| l.0));
        }
        Change::Delete { key } => {
            out.put_u8(DELETE);
            put_bytes(out, key.as_str().as_bytes());
        }
    }
}

/// Every record of a frame; `None` where the bytes are not records.
pub(super) fn records(mut bytes: Bytes) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while bytes.has_remaining() {
        records.push(record(&mut bytes)?);
    }
    Some(records)
}

fn record(b: &mut Bytes) -> Option<Record> {
    Some(match b.try_get_u8().ok()? {
        COMMIT => {
            let revision = Revision(b.try_get_u64_le().ok()?);
            let count = get_len(b)?;
            let changes = (0..count).map(|_| change(b)).collect::<Option<Vec<_>>>()?;
            Record::Commit { revision, changes }
        }
        GRANT => Record::Grant {
            lease: LeaseId(b.try_get_i64_le().ok()?),
            ttl: Duration::from_secs(b.try_get_u64_le().ok()?),
        },
        REVOKE => Record::Revoke { lease: LeaseId(b.try_get_i64_le().ok()?) },
        COMPACT => Record::Compact { at: Revision(b.try_get_u64_le().ok()?) },
        _ => return None,
    })
}

fn change(b: &mut Bytes) -> Option<Change> {
    Some(match b.try_get_u8().ok()? {
        PUT => Change::Put { key: get_key(b)?, value: get_bytes(b)?, lease: get_lease(b)? },
        DELETE => Change::Delete { key: get_key(b)? },
        _ => return None,
    })
}

/// The body of a snapshot.
pub(super) fn snapshot(parts: &Parts<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u64_le(parts.revision.0);
    out.put_u64_le(parts.compacted.0);
    out.put_i64_le(parts.next_lease);
    put_len(&mut out, parts.leases.len());
    for (id, ttl) in &parts.leases {
        out.put_i64_le(id.0);
        out.put_u64_le(ttl.as_secs());
    }
    put_len(&mut out, parts.chains.len());
    for (key, chain) in parts.chains {
        put_bytes(&mut out, key.as_str().as_bytes());
        put_len(&mut out, chain.len());
        for version in chain {
            out.put_u64_le(version.mod_revision.0);
            out.put_u64_le(version.create_revision.0);
            out.put_u64_le(version.version);
            out.put_i64_le(version.lease.map_or(0, |l| l.0));
            match &version.value {
                Some(value) => {
                    out.put_u8(PUT);
                    put_bytes(&mut out, value);
                }
                None => out.put_u8(DELETE),
            }
        }
    }
    out
}

/// What a snapshot's body says.
pub(super) struct Snapshot {
    pub revision: Revision,
    pub compacted: Revision,
    pub next_lease: i64,
    pub leases: Vec<(LeaseId, Duration)>,
    pub chains: BTreeMap<Key, Vec<Version>>,
}

/// Reads a snapshot's body; `None` where the bytes are not one.
pub(super) fn read_snapshot(mut b: Bytes) -> Option<Snapshot> {
    let b = &mut b;
    let revision = Revision(b.try_get_u64_le().ok()?);
    let compacted = Revision(b.try_get_u64_le().ok()?);
    let next_lease = b.try_get_i64_le().ok()?;
    let mut leases = Vec::new();
    for _ in 0..get_len(b)? {
        leases.push((LeaseId(b.try_get_i64_le().ok()?), Duration::from_secs(b.try_get_u64_le().ok()?)));
    }
    let keys = get_len(b)?;
    // No key takes less than its two lengths.
    let mut chains = Vec::with_capacity(keys.min(b.remaining() / 8));
    for _ in 0..keys {
        let key = get_key(b)?;
        let versions = get_len(b)?;
        // Most keys have one version, for which a vector that grows would take the room of four.
        let mut chain = Vec::with_capacity(versions.min(b.remaining()));
        for _ in 0..versions {
            chain.push(version(b)?);
        }
        chains.push((key, chain));
    }
    // In order already, which is the fastest way to make a map.
    let chains = chains.into_iter().collect();
    (!b.has_remaining()).then_some(Snapshot { revision, compacted, next_lease, leases, chains })
}

fn version(b: &mut Bytes) -> Option<Version> {
    Some(Version {
        mod_revision: Revision(b.try_get_u64_le().ok()?),
        create_revision: Revision(b.try_get_u64_le().ok()?),
        version: b.try_get_u64_le().ok()?,
        lease: get_lease(b)?,
        value: match b.try_get_u8().ok()? {
            PUT => Some(get_bytes(b)?),
            DELETE => None,
            _ => return None,
        },
    })
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.put_u32_le(u32::try_from(len).expect("the memory of one machine holds fewer than 2^32 of them"));
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.put_slice(bytes);
}

fn get_len(b: &mut Bytes) -> Option<usize> {
    usize::try_from(b.try_get_u32_le().ok()?).ok()
}

fn get_bytes(b: &mut Bytes) -> Option<Bytes> {
    let len = get_len(b)?;
    // Copied, so that a value does not keep the whole file it was read from in memory.
    (len <= b.remaining()).then(|| Bytes::copy_from_slice(&b.split_to(len)))
}

fn get_key(b: &mut Bytes) -> Option<Key> {
    let len = get_len(b)?;
    if len > b.remaining() {
        return None;
    }
    let bytes = b.split_to(len);
    Key::new(std::str::from_utf8(&bytes).ok()?).ok()
}

fn get_lease(b: &mut Bytes) -> Option<Option<LeaseId>> {
    let id = b.try_get_i64_le().ok()?;
    Some((id != 0).then_some(LeaseId(id)))
}
