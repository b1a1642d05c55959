//! One change: compares, puts, events, and one transaction.

use isocenter_domain::{Time, document::Event, key::RecordKey};
use isocenter_wire::record::{self as wire, Head, Stored as Storable};

use super::{Stored, TableError, Tables, store_key};
use crate::{Compare, Error, Key, Op, Range, Revision, Txn};

/// Who changes something, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The request or operation: the caller's `request_id`, or one that is derived or drawn for this attempt alone. An
    /// ambiguous answer is resolved by finding it in the record.
    pub op_id: String,
    /// Who: a principal's subject, or the role.
    pub actor: String,
    /// Why, where the event needs a reason.
    pub reason: String,
}

impl Cause {
    /// A role acting by itself, with an operation id of its own.
    #[must_use]
    pub fn role(actor: &str) -> Self {
        Self {
            op_id: isocenter_runtime::random::uuid_v7().to_string(),
            actor: actor.into(),
            reason: String::new(),
        }
    }

    /// A principal's request.
    #[must_use]
    pub fn request(op_id: &str, actor: &str) -> Self {
        Self { op_id: op_id.into(), actor: actor.into(), reason: String::new() }
    }

    /// The same, with a reason for the event.
    #[must_use]
    pub fn because(self, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..self }
    }
}

/// A change under construction. The first record written is its anchor: it is what an ambiguous answer is resolved by.
#[derive(Debug)]
#[must_use]
pub struct Change<'a> {
    tables: &'a Tables,
    cause: Cause,
    now: Time,
    compare: Vec<Compare>,
    ops: Vec<Op>,
    anchor: Option<(Key, u64)>,
}

impl<'a> Change<'a> {
    pub(super) fn new(tables: &'a Tables, cause: Cause) -> Self {
        let now = tables.clock().now();
        Self { tables, cause, now, compare: tables.epoch().to_vec(), ops: Vec::new(), anchor: None }
    }

    /// The time that this change bears; use it for the transition too.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// Creates a record that must not exist yet. `trace` is the study's traceparent, or empty.
    pub fn create<R: Storable>(&mut self, key: &R::Key, record: &R, event: &str, trace: &str) {
        self.create_after(key, record, event, trace, 0);
    }

    /// Creates a record that existed before and whose change counter goes on from `last_seq`.
    pub fn create_after<R: Storable>(
        &mut self,
        key: &R::Key,
        record: &R,
        event: &str,
        trace: &str,
        last_seq: u64,
    ) {
        let stored = store_key(key);
        self.compare.push(Compare::absent(&stored));
        let head = Head {
            level: self.tables.level(),
            seq: last_seq + 1,
            op_id: self.cause.op_id.clone(),
            created_at: self.now,
            updated_at: self.now,
            trace: trace.to_owned(),
            cell: self.tables.cell().to_string(),
        };
        self.write(stored, &head, record, event);
    }

    /// Changes a record that must be as it was loaded.
    pub fn update<R: Storable>(&mut self, current: &Stored<R>, record: &R, event: &str) {
        let key = store_key(&current.key);
        self.compare.push(Compare::unchanged(&key, current.mod_revision));
        let head = Head {
            level: self.tables.level().max(current.head.level),
            seq: current.head.seq + 1,
            op_id: self.cause.op_id.clone(),
            updated_at: self.now.max(current.head.updated_at),
            ..current.head.clone()
        };
        self.write(key, &head, record, event);
    }

    /// Removes a record that must be as it was loaded; its last event says so.
    pub fn delete<R: Storable>(&mut self, current: &Stored<R>, event: &str) {
        let key = store_key(&current.key);
        self.compare.push(Compare::unchanged(&key, current.mod_revision));
        let at = self.now.max(current.head.updated_at);
        self.event(&key, current.head.seq + 1, event, &current.head.trace, at);
        self.ops.push(Op::delete(&key));
        self.anchor.get_or_insert((key, current.head.seq + 1));
    }

    /// Removes whatever is in `range`, without an event for each: the caller sees to it that their events are known. Rest the
    /// change on [`Change::none_newer`] of the same range.
    pub fn delete_range(&mut self, range: Range) {
        self.ops.push(Op::Delete { range });
    }

    /// The change rests on this record's being as it was loaded.
    pub fn unchanged<R: Storable>(&mut self, current: &Stored<R>) {
        self.compare.push(Compare::unchanged(&store_key(&current.key), current.mod_revision));
    }

    /// The change rests on there being no such record.
    pub fn absent<K: RecordKey>(&mut self, key: &K) {
        self.compare.push(Compare::absent(&store_key(key)));
    }

    /// The change rests on nothing in `range` having changed since it was listed at `revision`. Deletions do not show.
    pub fn none_newer(&mut self, range: Range, revision: Revision) {
        self.compare.push(Compare::none_newer(range, revision));
    }

    /// The change rests on any other compare, e.g. a leader's token.
    pub fn require(&mut self, compare: Compare) {
        self.compare.push(compare);
    }

    /// Commits. `Ok` means durable, once, also where the store's answer was lost on the way.
    ///
    /// # Errors
    /// [`TableError::Conflict`] where something the change rests on is otherwise; nothing was changed.
    /// [`Error::Ambiguous`] where it cannot be told whether it was changed: load again and decide again.
    pub async fn commit(self) -> Result<Revision, TableError> {
        let (anchor, op_id) = (self.anchor.clone(), self.cause.op_id.clone());
        let read_back = anchor.iter().map(|(key, _)| Op::get(key)).collect();
        // Our own op_id is success only at the change counter that this change writes: one request may have changed the
        // record before, in another way.
        let ours = |value: &[u8], seq: u64| {
            wire::decode_head(value).is_ok_and(|head| head.op_id == op_id && head.seq == seq)
        };
        let kv = self.tables.kv();
        match kv.txn(Txn::when(self.compare, self.ops).otherwise(read_back)).await {
            Ok(answer) if answer.succeeded => Ok(answer.revision),
            // Another delivery of the same request may have been first: its own op_id in the record is success.
            Ok(answer) => match (answer.reads.first().and_then(|found| found.first()), anchor) {
                (Some(found), Some((_, seq))) if ours(&found.value, seq) => Ok(found.mod_revision),
                (Some(_) | None, Some(_) | None) => Err(TableError::Conflict),
            },
            Err(Error::Ambiguous { why }) => {
                let Some((anchor, seq)) = anchor else { return Err(Error::Ambiguous { why }.into()) };
                match kv.get(&anchor).await {
                    Ok(Some(found)) if ours(&found.value, seq) => Ok(found.mod_revision),
                    Ok(_) | Err(_) => Err(Error::Ambiguous { why }.into()),
                }
            }
            Err(e) => Err(e.into()),
        }
    }

    fn write<R: Storable>(&mut self, key: Key, head: &Head, record: &R, event: &str) {
        self.event(&key, head.seq, event, &head.trace, head.updated_at);
        self.ops.push(Op::put(&key, wire::encode(head, record)));
        self.anchor.get_or_insert((key, head.seq));
    }

    /// No event is dated before the one before it: a restore of the store relies on that.
    fn event(&mut self, key: &Key, seq: u64, event: &str, trace: &str, at: Time) {
        let event = Event {
            key: key.to_string(),
            seq,
            event: event.to_owned(),
            actor: self.cause.actor.clone(),
            reason: self.cause.reason.clone(),
            at,
            op_id: self.cause.op_id.clone(),
            trace: trace.to_owned(),
        };
        self.ops.push(Op::put(&outbox_key(key, seq), wire::encode_event(&event)));
    }
}

/// Where the event of a record's change waits: `outbox/{shard}/{record key}/{seq, 20 digits}`. Kinds without a shard are in
/// shard 00.
fn outbox_key(key: &Key, seq: u64) -> Key {
    let shard = key.segments().nth(1).filter(|shard| is_shard(shard)).unwrap_or("00");
    Key::new(format!("outbox/{shard}/{key}/{seq:020}")).expect("a record's key and digits make a valid key")
}

fn is_shard(segment: &str) -> bool {
    segment.len() == 2 && u8::from_str_radix(segment, 16).is_ok()
}

/// Reads the key of an outbox entry: the record's key and its seq.
#[must_use]
pub fn parse_outbox_key(key: &Key) -> Option<(String, u64)> {
    let rest = key.as_str().strip_prefix("outbox/")?.split_once('/')?.1;
    let (record, seq) = rest.rsplit_once('/')?;
    Some((record.to_owned(), seq.parse().ok()?))
}
