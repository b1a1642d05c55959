//! The whole store looked over: does every key hold what it should? And the whole store shown, as JSON.
//!
//! Both read every key, in pages, as of one revision; neither holds up anybody. What a check finds is a defect or damage,
//! and never ordinary work in progress: everything is judged as of one moment, and each change is one transaction.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use isocenter_domain::{
    id::{ReadId, TenantId},
    key::{CaseKey, ReadKey, RecordKey},
    record::{
        RecordKind, ai_task::AiTask, case::Case, delivery::Delivery, delivery::Lane, intake::Intake,
        plan::Plan, policy::ActivePolicy, read::Holding, read::Read, registry::Entry,
        report::Report as Signed, study::Study,
    },
};
use isocenter_wire::{
    error::Undecodable,
    node::Node,
    record::{self as wire, Stored as Storable},
};

use crate::{
    Error, Key, KeyValue, Listing, Page, Range, Revision,
    kv::LIST_PAGE,
    members::NODES,
    table::{Stored, TableError, Tables, decoded, era_of, is_era, parse_outbox_key, store_key},
};

/// Problems that are told one by one; the others are counted.
const TOLD: usize = 1_000;

/// What a key holds that it should not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key.
    pub key: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)
    }
}

/// What a check has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The revision that was looked at.
    pub revision: Revision,
    /// How many records there are of each kind.
    pub records: BTreeMap<RecordKind, u64>,
    /// How many events wait for the archive.
    pub outbox: u64,
    /// How many leased keys there are.
    pub leased: u64,
    /// The records that only a newer build understands. They are no problem: they were left alone.
    pub future: Vec<String>,
    /// What is wrong: the first thousand.
    pub problems: Vec<Problem>,
    /// How many problems there are in all.
    pub found: u64,
}

/// Looks at every key of the store: that it parses, is in its shard, and can be decoded; that leased keys are presence and
/// leadership and nothing else; that each record's waiting events are without a gap and end with its present counter; and
/// that what a record is about exists.
///
/// # Errors
/// The store's own; [`Error::Compacted`] where the look took longer than history is kept: look again.
pub async fn check(tables: &Tables) -> Result<Report, Error> {
    let mut look = Look::default();
    let mut pages = pages(tables, Range::all());
    while let Some(page) = pages.try_next().await? {
        look.report.revision = page.revision;
        page.items.iter().for_each(|kv| look.key(kv, tables.known_level()));
    }
    Ok(look.conclude())
}

/// One key of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dumped {
    /// The key.
    pub key: Key,
    /// The revision that last changed it.
    pub mod_revision: Revision,
    /// Whether it goes with a lease.
    pub leased: bool,
    /// What it holds, as JSON. There is no patient's identity in the store, and so none here.
    pub json: String,
}

/// Every key of `range` in order, as of one revision. Ends after its first error.
#[must_use]
pub fn dump(tables: &Tables, range: Range) -> BoxStream<'static, Result<Dumped, Error>> {
    let shown = |kv: KeyValue| Dumped {
        json: json(&kv),
        key: kv.key,
        mod_revision: kv.mod_revision,
        leased: kv.lease.is_some(),
    };
    let keys = pages(tables, range).map_ok(move |page| stream::iter(page.items).map(move |kv| Ok(shown(kv))));
    keys.try_flatten().boxed()
}

fn json(kv: &KeyValue) -> String {
    let shown = match kv.key.segments().next() {
        Some("outbox") => wire::event_json(&kv.value),
        Some("presence") if kv.key.as_str().starts_with(NODES) => {
            Node::decode(&kv.value).and_then(|node| node.json())
        }
        Some("presence" | "leader" | "meta" | "journaled") => {
            Ok(wire::text_json(&String::from_utf8_lossy(&kv.value)))
        }
        Some(_) | None => wire::record_json(&kv.value),
    };
    shown.unwrap_or_else(|e| wire::text_json(&format!("cannot be shown: {e}")))
}

/// The pages of a range, all at the first one's revision.
pub(crate) fn pages(tables: &Tables, range: Range) -> BoxStream<'static, Result<Listing, Error>> {
    let kv = std::sync::Arc::clone(tables.kv());
    let first = Some(Page { limit: LIST_PAGE, ..Page::default() });
    stream::try_unfold((kv, range, first), |(kv, range, page)| async move {
        let Some(page) = page else { return Ok(None) };
        let listing = kv.list(&range, page).await?;
        let after = listing.items.last().filter(|_| listing.more).map(|kv| kv.key.clone());
        let next =
            after.map(|after| Page { limit: LIST_PAGE, after: Some(after), at: Some(listing.revision) });
        Ok(Some((listing, (kv, range, next))))
    })
    .boxed()
}

/// What was seen so far.
#[derive(Default)]
struct Look {
    report: Report,
    /// Each record's change counter.
    seqs: BTreeMap<String, u64>,
    /// The first and last waiting event of each record.
    waiting: BTreeMap<String, (u64, u64)>,
    /// What must exist, and because of whom.
    named: BTreeSet<(String, String)>,
}

impl Look {
    fn problem(&mut self, key: impl fmt::Display, what: impl Into<String>) {
        self.report.found += 1;
        if self.report.problems.len() < TOLD {
            self.report.problems.push(Problem { key: key.to_string(), what: what.into() });
        }
    }

    fn key(&mut self, kv: &KeyValue, ours: u32) {
        let first = kv.key.segments().next().unwrap_or_default();
        let may_be_leased = matches!(first, "presence" | "leader");
        match (may_be_leased, kv.lease.is_some()) {
            (true, true) => self.report.leased += 1,
            (true, false) => self.problem(&kv.key, "has no lease: it would outlive its process"),
            (false, true) => self.problem(&kv.key, "has a lease: it would vanish with a process"),
            (false, false) => {}
        }
        match first {
            "meta" => self.meta(kv),
            "presence" if kv.key.as_str().starts_with(NODES) => {
                if let Err(e) = Node::decode(&kv.value) {
                    self.problem(&kv.key, e.to_string());
                }
            }
            "presence" | "leader" => {}
            "outbox" => self.event(kv),
            // What it names is in blobs and the archive's affair.
            "journaled" => {}
            kind => match RecordKind::parse(kind) {
                Some(kind) => self.record(kind, kv, ours),
                None => self.problem(&kv.key, "is a key of nothing that is known"),
            },
        }
    }

    fn meta(&mut self, kv: &KeyValue) {
        let text = String::from_utf8_lossy(&kv.value);
        match kv.key.as_str() {
            "meta/epoch" => match era_of(&text) {
                // Without its era, nothing would ever be written in it.
                Some(era) => self.named.extend(era.map(|era| (era.to_string(), kv.key.to_string()))),
                None => self.problem(&kv.key, "is not a number and a name"),
            },
            "meta/level" if text.parse::<u64>().is_err() => self.problem(&kv.key, "is not a number"),
            "meta/level" | "meta/epoch_reason" | "meta/key_check" => {}
            era if is_era(&kv.key) => drop(self.seqs.insert(era.to_owned(), 0)),
            _ => self.problem(&kv.key, "is a key of nothing that is known"),
        }
    }

    fn event(&mut self, kv: &KeyValue) {
        self.report.outbox += 1;
        let Some((record, seq)) = parse_outbox_key(&kv.key) else {
            return self.problem(&kv.key, "is no key of an event");
        };
        if let Err(e) = wire::decode_event(&record, seq, &kv.value) {
            self.problem(&kv.key, e.to_string());
        }
        // Events come in the order of their numbers, for those have twenty digits in the key.
        match self.waiting.get_mut(&record) {
            None => drop(self.waiting.insert(record, (seq, seq))),
            Some((_, last)) if seq == *last + 1 => *last = seq,
            Some((_, last)) => {
                let before = std::mem::replace(last, seq);
                self.problem(&kv.key, format!("follows event {before}: some between are missing"));
            }
        }
    }

    fn record(&mut self, kind: RecordKind, kv: &KeyValue, ours: u32) {
        *self.report.records.entry(kind).or_default() += 1;
        match kind {
            RecordKind::Study => self.typed::<Study>(kv, ours, |_| Vec::new()),
            // An intake may be there before its study, and after it.
            RecordKind::Intake => self.typed::<Intake>(kv, ours, |_| Vec::new()),
            RecordKind::Plan => self.typed::<Plan>(kv, ours, |plan| {
                let of_id = |id| of(&CaseKey { tenant: plan.key.tenant.clone(), case: id });
                plan.record.case().cloned().map(of_id).into_iter().collect()
            }),
            RecordKind::Case => self.typed::<Case>(kv, ours, |_| Vec::new()),
            RecordKind::AiTask => self.typed::<AiTask>(kv, ours, |_| Vec::new()),
            RecordKind::Read => self.typed::<Read>(kv, ours, |read| {
                vec![of(&CaseKey { tenant: read.key.tenant.clone(), case: read.key.read.case.clone() })]
            }),
            RecordKind::Report => self.typed::<Signed>(kv, ours, |report| {
                vec![of(&read_key(&report.key.tenant, &report.key.read))]
            }),
            RecordKind::Holding => self.typed::<Holding>(kv, ours, |holding| {
                let held = holding.record.offered.iter().chain(&holding.record.open);
                held.map(|read| of(&read_key(&holding.key.tenant, read))).collect()
            }),
            RecordKind::Delivery => self.typed::<Delivery>(kv, ours, |d| vec![of(&d.key.report)]),
            RecordKind::Lane => {
                self.typed::<Lane>(kv, ours, |lane| lane.record.in_flight.iter().map(of).collect());
            }
            RecordKind::Registry => self.typed::<Entry>(kv, ours, |_| Vec::new()),
            RecordKind::Policy => self.typed::<ActivePolicy>(kv, ours, |_| Vec::new()),
        }
    }

    fn typed<R: Storable>(&mut self, kv: &KeyValue, ours: u32, about: impl Fn(&Stored<R>) -> Vec<String>) {
        let key = kv.key.to_string();
        if let Ok(head) = wire::decode_head(&kv.value) {
            self.seqs.insert(key.clone(), head.seq);
        }
        match decoded::<R>(kv, ours) {
            Ok(stored) => self.named.extend(about(&stored).into_iter().map(|named| (named, key.clone()))),
            Err(TableError::Undecodable { source: Undecodable::FromTheFuture { .. }, .. }) => {
                self.report.future.push(key);
            }
            Err(e) => self.problem(key, isocenter_runtime::task::chain(&e)),
        }
    }

    fn conclude(mut self) -> Report {
        for (record, (first, last)) in std::mem::take(&mut self.waiting) {
            match self.seqs.get(&record) {
                Some(seq) if *seq != last => {
                    let what =
                        format!("is at change {seq}, but its waiting events {first} to {last} end elsewhere");
                    self.problem(&record, what);
                }
                // A record that is gone has left its last event, which the archive has still to take.
                Some(_) | None => {}
            }
        }
        for (named, by) in std::mem::take(&mut self.named) {
            if !self.seqs.contains_key(&named) {
                self.problem(by, format!("is about {named}, which does not exist"));
            }
        }
        self.report
    }
}

fn read_key(tenant: &TenantId, read: &ReadId) -> ReadKey {
    ReadKey { tenant: tenant.clone(), read: read.clone() }
}

fn of<K: RecordKey>(key: &K) -> String {
    store_key(key).to_string()
}
