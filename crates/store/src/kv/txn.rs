//! Transactions.

use std::{cmp::Ordering, collections::BTreeSet};

use bytes::Bytes;

use super::{Key, KeyValue, LeaseId, MAX_KEY_BYTES, Range, Revision};
use crate::Error;

/// The longest value, in bytes. A record is typically below 1.2 KB; this is the bound for records, outbox and meta.
pub const MAX_VALUE_BYTES: usize = 4096;

/// The most compares, and the most operations in either branch, of a transaction: etcd's `--max-txn-ops`.
pub const MAX_TXN_OPS: usize = 128;

/// etcd's `--max-request-bytes`, which the two limits above keep every transaction below.
const MAX_REQUEST_BYTES: usize = 1536 * 1024;

/// What a compare or an operation may add to its keys and value on the wire: tags, lengths, numbers.
const OP_OVERHEAD: usize = 64;

const _: () = assert!(
    MAX_TXN_OPS * (2 * (MAX_VALUE_BYTES + MAX_KEY_BYTES + OP_OVERHEAD) + 2 * MAX_KEY_BYTES + OP_OVERHEAD)
        < MAX_REQUEST_BYTES
);

/// What a compare looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The revision that created the key; zero where it does not exist.
    CreateRevision(Revision),
    /// The revision that last changed the key; zero where it does not exist.
    ModRevision(Revision),
    /// The number of puts since creation; zero where the key does not exist.
    Version(u64),
    /// The lease of the key; `None` where it has none or does not exist.
    Lease(Option<LeaseId>),
}

/// How a compare compares: the key's number on the left, the target's on the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `>`
    Greater,
    /// `<`
    Less,
}

/// A precondition of a transaction. Over a range it must hold for every key in it; over a range without keys it is
/// evaluated once, with every number zero, as etcd does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The keys.
    pub range: Range,
    /// Which number of the key, and what it is compared with.
    pub target: Target,
    /// How.
    pub is: Answer,
}

impl Compare {
    /// The key does not exist.
    #[must_use]
    pub fn absent(key: &Key) -> Self {
        Self::created(key, Revision(0))
    }

    /// No key of the range exists.
    #[must_use]
    pub fn empty(range: Range) -> Self {
        Self { range, target: Target::CreateRevision(Revision(0)), is: Answer::Equal }
    }

    /// The key was last changed by exactly this revision.
    #[must_use]
    pub fn unchanged(key: &Key, since: Revision) -> Self {
        Self { range: Range::key(key), target: Target::ModRevision(since), is: Answer::Equal }
    }

    /// No key of the range was changed after this revision (deletions do not show).
    #[must_use]
    pub fn none_newer(range: Range, than: Revision) -> Self {
        Self { range, target: Target::ModRevision(than.next()), is: Answer::Less }
    }

    /// The key was created by exactly this revision.
    #[must_use]
    pub fn created(key: &Key, at: Revision) -> Self {
        Self { range: Range::key(key), target: Target::CreateRevision(at), is: Answer::Equal }
    }

    /// Whether the compare holds for one key, or for the absence of any.
    pub(crate) fn holds(&self, kv: Option<&KeyValue>) -> bool {
        let order = match self.target {
            Target::CreateRevision(r) => kv.map_or(Revision(0), |kv| kv.create_revision).cmp(&r),
            Target::ModRevision(r) => kv.map_or(Revision(0), |kv| kv.mod_revision).cmp(&r),
            Target::Version(v) => kv.map_or(0, |kv| kv.version).cmp(&v),
            Target::Lease(l) => lease_number(kv.and_then(|kv| kv.lease)).cmp(&lease_number(l)),
        };
        match self.is {
            Answer::Equal => order == Ordering::Equal,
            Answer::NotEqual => order != Ordering::Equal,
            Answer::Greater => order == Ordering::Greater,
            Answer::Less => order == Ordering::Less,
        }
    }
}

/// A lease as etcd numbers it: zero is none.
pub(crate) fn lease_number(lease: Option<LeaseId>) -> i64 {
    lease.map_or(0, |l| l.0)
}

/// One operation of a transaction. Later operations see the effect of earlier ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key; a key that had another lease, or that `lease` leaves without one, is detached from the old.
    Put {
        /// The key.
        key: Key,
        /// Its value, at most [`MAX_VALUE_BYTES`].
        value: Bytes,
        /// The lease that shall delete it.
        lease: Option<LeaseId>,
    },
    /// Deletes every key of a range; none is fine.
    Delete {
        /// The keys.
        range: Range,
    },
    /// Reads a range; the result is in [`TxnAnswer::reads`].
    Get {
        /// The keys.
        range: Range,
    },
}

impl Op {
    /// Puts a key without a lease.
    #[must_use]
    pub fn put(key: &Key, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.clone(), value: value.into(), lease: None }
    }

    /// Puts a key that lives as long as a lease.
    #[must_use]
    pub fn put_leased(key: &Key, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        Self::Put { key: key.clone(), value: value.into(), lease: Some(lease) }
    }

    /// Deletes one key.
    #[must_use]
    pub fn delete(key: &Key) -> Self {
        Self::Delete { range: Range::key(key) }
    }

    /// Reads one key.
    #[must_use]
    pub fn get(key: &Key) -> Self {
        Self::Get { range: Range::key(key) }
    }
}

/// An atomic change with its preconditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold for `then` to be applied.
    pub compare: Vec<Compare>,
    /// Applied where every compare holds.
    pub then: Vec<Op>,
    /// Applied otherwise.
    pub or_else: Vec<Op>,
}

impl Txn {
    /// A transaction without preconditions.
    #[must_use]
    pub fn always(then: Vec<Op>) -> Self {
        Self { then, ..Self::default() }
    }

    /// A transaction that does `then` where all of `compare` hold, and otherwise nothing.
    #[must_use]
    pub fn when(compare: Vec<Compare>, then: Vec<Op>) -> Self {
        Self { compare, then, or_else: Vec::new() }
    }

    /// The same with operations for the other case, usually a read of what is there instead.
    #[must_use]
    pub fn otherwise(self, or_else: Vec<Op>) -> Self {
        Self { or_else, ..self }
    }

    /// The refusals that need no look at the store; both stores make them before anything else.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let ops = self.compare.len().max(self.then.len()).max(self.or_else.len());
        if ops > MAX_TXN_OPS {
            return Err(Error::TooManyOps { ops, limit: MAX_TXN_OPS });
        }
        check_branch(&self.then)?;
        check_branch(&self.or_else)
    }
}

/// A key may be put once, and not both put and deleted, whatever the order. Deleting twice is harmless.
fn check_branch(ops: &[Op]) -> Result<(), Error> {
    let mut puts = BTreeSet::new();
    for op in ops {
        let Op::Put { key, value, .. } = op else { continue };
        if value.len() > MAX_VALUE_BYTES {
            return Err(Error::TooLarge { bytes: value.len(), limit: MAX_VALUE_BYTES });
        }
        if !puts.insert(key) {
            return Err(Error::DuplicateKey);
        }
    }
    for op in ops {
        let Op::Delete { range } = op else { continue };
        if puts.iter().any(|key| range.contains(key)) {
            return Err(Error::DuplicateKey);
        }
    }
    Ok(())
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnAnswer {
    /// Whether every compare held, so that `then` was applied.
    pub succeeded: bool,
    /// The store's revision after the transaction; the transaction's own where it changed something.
    pub revision: Revision,
    /// The results of the [`Op::Get`]s of the applied branch, in order; each in key order.
    pub reads: Vec<Vec<KeyValue>>,
}
