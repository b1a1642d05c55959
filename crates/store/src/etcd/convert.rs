//! Our requests as the client library's, and its answers as ours.

use bytes::Bytes;
use etcd_client::{CompareOp, DeleteOptions, GetOptions, PutOptions, TxnOp, TxnOpResponse};

use crate::{
    Error,
    kv::{
        Answer, Compare, Key, KeyValue, LeaseId, Listing, Op, Range, Revision, Target, Txn, TxnAnswer,
        lease_number,
    },
};

/// A revision or version as etcd's signed number; ours come from there and from counting, never near the limit.
pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// Key and end of a range in etcd's way: no end for one key, a zero byte for "no end".
pub(super) fn bounds(range: &Range) -> (Vec<u8>, Option<Vec<u8>>) {
    if let Range::Key(key) = range {
        return (key.as_str().into(), None);
    }
    let (from, to) = range.bounds();
    let from = if from.is_empty() { vec![0] } else { from.into_bytes() };
    (from, Some(to.map_or_else(|| vec![0], String::into_bytes)))
}

pub(super) fn get_options(end: Option<Vec<u8>>) -> GetOptions {
    let options = GetOptions::new();
    match end {
        Some(end) => options.with_range(end),
        None => options,
    }
}

pub(super) fn txn(txn: &Txn) -> etcd_client::Txn {
    let ops = |ops: &[Op]| ops.iter().map(op).collect::<Vec<_>>();
    etcd_client::Txn::new()
        .when(txn.compare.iter().map(compare).collect::<Vec<_>>())
        .and_then(ops(&txn.then))
        .or_else(ops(&txn.or_else))
}

fn compare(compare: &Compare) -> etcd_client::Compare {
    let (key, end) = bounds(&compare.range);
    let is = match compare.is {
        Answer::Equal => CompareOp::Equal,
        Answer::NotEqual => CompareOp::NotEqual,
        Answer::Greater => CompareOp::Greater,
        Answer::Less => CompareOp::Less,
    };
    let out = match compare.target {
        Target::CreateRevision(r) => etcd_client::Compare::create_revision(key, is, signed(r.0)),
        Target::ModRevision(r) => etcd_client::Compare::mod_revision(key, is, signed(r.0)),
        Target::Version(v) => etcd_client::Compare::version(key, is, signed(v)),
        Target::Lease(l) => etcd_client::Compare::lease(key, is, lease_number(l)),
    };
    match end {
        Some(end) => out.with_range(end),
        None => out,
    }
}

fn op(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(key.as_str(), value.to_vec(), options)
        }
        Op::Delete { range } => {
            let (key, end) = bounds(range);
            TxnOp::delete(key, end.map(|end| DeleteOptions::new().with_range(end)))
        }
        Op::Get { range } => {
            let (key, end) = bounds(range);
            TxnOp::get(key, Some(get_options(end)))
        }
    }
}

pub(super) fn txn_answer(answer: &etcd_client::TxnResponse) -> Result<TxnAnswer, Error> {
    let mut reads = Vec::new();
    for response in answer.op_responses() {
        if let TxnOpResponse::Get(get) = response {
            reads.push(key_values(get.kvs())?);
        }
    }
    Ok(TxnAnswer { succeeded: answer.succeeded(), revision: revision(answer.header())?, reads })
}

/// What a transaction of reads has read.
pub(super) fn listings(answer: &etcd_client::TxnResponse) -> Result<Vec<Listing>, Error> {
    let revision = revision(answer.header())?;
    let mut listings = Vec::new();
    for response in answer.op_responses() {
        if let TxnOpResponse::Get(get) = response {
            listings.push(Listing { items: key_values(get.kvs())?, revision, more: get.more() });
        }
    }
    Ok(listings)
}

pub(super) fn revision(header: Option<&etcd_client::ResponseHeader>) -> Result<Revision, Error> {
    let header = header.ok_or_else(|| Error::Protocol { why: "an answer has no header".to_owned() })?;
    Ok(Revision(unsigned(header.revision())))
}

pub(super) fn key_values(kvs: &[etcd_client::KeyValue]) -> Result<Vec<KeyValue>, Error> {
    kvs.iter().map(key_value).collect()
}

pub(super) fn key(bytes: &[u8]) -> Result<Key, Error> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Error::InvalidKey { why: "the store holds a key that is not text" })?;
    Key::new(text)
}

pub(super) fn key_value(kv: &etcd_client::KeyValue) -> Result<KeyValue, Error> {
    Ok(KeyValue {
        key: key(kv.key())?,
        value: Bytes::copy_from_slice(kv.value()),
        create_revision: Revision(unsigned(kv.create_revision())),
        mod_revision: Revision(unsigned(kv.mod_revision())),
        version: unsigned(kv.version()),
        lease: (kv.lease() != 0).then_some(LeaseId(kv.lease())),
    })
}
