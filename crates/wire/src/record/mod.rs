//! Records as the store holds them: a head that every record has, and the record.
//!
//! Levels make rolling upgrades safe although prost drops unknown fields: a record bears the lowest level that may change
//! it, and a process below that level leaves it alone.

mod case;
pub(crate) mod field;
mod read;
mod reader;
mod reading;
mod registry;
mod study;

use isocenter_domain::{Time, document::Event, record::Record};
use prost::Message;

use crate::{
    error::{Malformed, Undecodable},
    stored,
};

/// The level this build writes and understands.
pub const LEVEL: u32 = 1;

/// What every stored record bears.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The lowest level that may change the record.
    pub level: u32,
    /// The record's own change counter, from 1.
    pub seq: u64,
    /// The request or operation that made the last change.
    pub op_id: String,
    /// When the record was made.
    pub created_at: Time,
    /// When it was last changed; never goes back.
    pub updated_at: Time,
    /// W3C traceparent of the study; empty where there is none.
    pub trace: String,
    /// The cell that wrote it.
    pub cell: String,
}

/// A record that has a stored form.
pub trait Stored: Record {
    /// The stored form.
    #[doc(hidden)]
    fn to_body(&self) -> Body;
    /// The record of a stored form.
    #[doc(hidden)]
    fn from_body(body: Body) -> Result<Self, Malformed>;
}

/// A record's stored form; opaque outside this crate.
#[derive(Debug)]
pub struct Body(stored::record::Body);

/// The bytes of a record.
#[must_use]
pub fn encode<R: Stored>(head: &Head, record: &R) -> Vec<u8> {
    stored::Record {
        level: head.level,
        seq: head.seq,
        op_id: head.op_id.clone(),
        created_at: head.created_at.0,
        updated_at: head.updated_at.0,
        trace: head.trace.clone(),
        cell: head.cell.clone(),
        body: Some(record.to_body().0),
    }
    .encode_to_vec()
}

/// The record in `bytes`; refused where it is damaged, of another kind, or of a level above this build's.
pub fn decode<R: Stored>(bytes: &[u8]) -> Result<(Head, R), Undecodable> {
    decode_at(bytes, LEVEL)
}

/// As [`decode`], for a process that knows the levels up to `ours`.
pub fn decode_at<R: Stored>(bytes: &[u8], ours: u32) -> Result<(Head, R), Undecodable> {
    let record = message(bytes)?;
    let head = head(&record);
    if head.level > ours {
        return Err(Undecodable::FromTheFuture { level: head.level, ours });
    }
    let body = record.body.ok_or_else(|| Undecodable::Damaged("record has no body".into()))?;
    Ok((head, R::from_body(Body(body))?))
}

/// The head of any record, whatever its kind and level.
pub fn decode_head(bytes: &[u8]) -> Result<Head, Undecodable> {
    Ok(head(&message(bytes)?))
}

/// The bytes of an outbox entry; key and seq are in the entry's own key.
#[must_use]
pub fn encode_event(event: &Event) -> Vec<u8> {
    stored::OutboxEvent {
        event: event.event.clone(),
        actor: event.actor.clone(),
        reason: event.reason.clone(),
        at: event.at.0,
        op_id: event.op_id.clone(),
        trace: event.trace.clone(),
    }
    .encode_to_vec()
}

/// The outbox entry in `bytes`, found under `key` and `seq`.
pub fn decode_event(key: &str, seq: u64, bytes: &[u8]) -> Result<Event, Undecodable> {
    let e = stored::OutboxEvent::decode(bytes).map_err(|e| Undecodable::Damaged(e.to_string()))?;
    let (event, actor, reason, op_id, trace) = (e.event, e.actor, e.reason, e.op_id, e.trace);
    Ok(Event { key: key.to_owned(), seq, event, actor, reason, at: Time(e.at), op_id, trace })
}

/// A record as JSON, of whatever kind; fields of a higher level than this build knows are not in it. For people who look
/// into a store: nothing reads it back.
pub fn record_json(bytes: &[u8]) -> Result<String, Undecodable> {
    json(&message(bytes)?)
}

/// An outbox entry as JSON, likewise.
pub fn event_json(bytes: &[u8]) -> Result<String, Undecodable> {
    json(&stored::OutboxEvent::decode(bytes).map_err(|e| Undecodable::Damaged(e.to_string()))?)
}

/// A text as JSON.
#[must_use]
pub fn text_json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

pub(crate) fn json(message: &impl serde::Serialize) -> Result<String, Undecodable> {
    serde_json::to_string(message).map_err(|e| Undecodable::Damaged(e.to_string()))
}

fn message(bytes: &[u8]) -> Result<stored::Record, Undecodable> {
    stored::Record::decode(bytes).map_err(|e| Undecodable::Damaged(e.to_string()))
}

fn head(record: &stored::Record) -> Head {
    Head {
        level: record.level,
        seq: record.seq,
        op_id: record.op_id.clone(),
        created_at: Time(record.created_at),
        updated_at: Time(record.updated_at),
        trace: record.trace.clone(),
        cell: record.cell.clone(),
    }
}

#[cfg(test)]
mod tests;
