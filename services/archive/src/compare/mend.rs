//! Mends the differences that need nobody's decision. Each mend that changes a record, or adds to its history, bears the
//! operator and their reason; what only the records (SQL) lacked is told by the answer and the log.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use isocenter_blobs::path;
use isocenter_domain::{
    Time,
    document::{Event, Head, JournalEntry, Manifest},
    id::StudyUid,
    key::StudyKey,
};
use isocenter_runtime::task::chain;
use isocenter_store::Key;
use isocenter_wire::{document::Stored as _, record as wire};

use super::{Compared, Comparer, Remedy};
use crate::{
    Error, Replayed,
    group::Group,
    item::About,
    reconcile::{close::undecodable, reopen::last_head},
};

/// Who mends, and why.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub actor: String,
    pub reason: String,
}

impl Comparer {
    /// Mends what it can. What fails is left as it is, with its remedy.
    pub async fn mend(&self, compared: &mut Compared, order: &Order) {
        // A group's journal is applied once, however many of its records lag.
        let mut replayed = BTreeSet::new();
        for difference in &mut compared.differences {
            let mended = match &difference.remedy {
                Remedy::Person(_) => continue,
                Remedy::Reopen(key) => self.reopen(key, order).await,
                Remedy::Index(key, revision) => self.index(key, *revision).await,
                Remedy::Project => self.project(&difference.key, order, &mut replayed).await,
            };
            match mended {
                Ok(what) => difference.mended = what,
                Err(e) => {
                    let kind = difference.kind;
                    tracing::error!(kind, error = %chain(&e), "a difference could not be mended");
                }
            }
            if let Some(what) = difference.mended {
                let (kind, actor, reason) = (difference.kind, &order.actor, &order.reason);
                tracing::info!(kind, what, %actor, %reason, "a difference was mended");
            }
        }
    }

    async fn reopen(&self, key: &StudyKey, order: &Order) -> Result<Option<&'static str>, Error> {
        self.reopener.consider_as(key, order.cause()).await?;
        let live = self.tables.load::<isocenter_domain::record::study::Study>(key).await?.is_some();
        Ok(live.then_some("reopened"))
    }

    async fn index(&self, key: &StudyKey, revision: u32) -> Result<Option<&'static str>, Error> {
        let bytes = self.blobs.get(&path::manifest(&key.tenant, &key.study, revision)).await?;
        let manifest = Manifest::decode(&bytes).map_err(undecodable("a manifest"))?;
        self.records.index(key, &manifest).await?;
        Ok(Some("indexed"))
    }

    /// First from the journal, which may have it all; then from the store, or from the head of what was closed.
    async fn project(
        &self,
        key: &str,
        order: &Order,
        replayed: &mut BTreeSet<Group>,
    ) -> Result<Option<&'static str>, Error> {
        let mut groups = BTreeSet::from([Group::of(key)]);
        if let Some(study) = isocenter_domain::key::parse::<StudyKey>(key)
            && let Some(head) = last_head(&self.blobs, &study).await?
        {
            // What was closed with it may lack in the records without a trace.
            groups.extend(head.records.iter().map(|(record, _)| Group::of(record)));
        }
        for group in groups {
            if replayed.insert(group) {
                let mut done = Replayed::default();
                let mut objects = self.blobs.list(&path::journal_of(group.shard()));
                while let Some(object) = objects.next().await {
                    self.records.replay_one(&self.blobs, &object?.path, &mut done).await?;
                }
            }
        }
        if self.shows(key).await? {
            return Ok(Some("applied again from the journal"));
        }
        let entries = match self.tables.kv().get(&Key::new(key)?).await? {
            Some(stored) => {
                let head = wire::decode_head(&stored.value).map_err(undecodable("a record"))?;
                self.lost_events(key, &head, &stored.value, order).await?
            }
            None => self.closed(key, order).await?,
        };
        let Some(first) = entries.first().map(|entry| entry.event.at) else { return Ok(None) };
        let object =
            path::journal(Group::of(key).shard(), first, isocenter_runtime::random::uuid_v7().as_u128());
        self.blobs.put_new(&object, entries.encode().into()).await?;
        self.records.apply(&self.blobs, &object, &entries).await?;
        Ok(self.shows(key).await?.then_some("journaled again"))
    }

    /// Whether the records show a record as the store has it.
    async fn shows(&self, key: &str) -> Result<bool, Error> {
        let (seq, gone) = self.records.applied_one(key).await?;
        Ok(match self.tables.kv().get(&Key::new(key)?).await? {
            Some(stored) => !gone && wire::decode_head(&stored.value).is_ok_and(|head| head.seq == seq),
            None => gone,
        })
    }

    /// The events that the history lacks of a record that is there, with its value.
    async fn lost_events(
        &self,
        key: &str,
        head: &wire::Head,
        value: &[u8],
        order: &Order,
    ) -> Result<Vec<JournalEntry>, Error> {
        let known = self.records.seqs(key).await?;
        let lacking = (1..=head.seq).filter(|seq| !known.contains(seq));
        let mut entries: Vec<JournalEntry> = lacking
            .map(|seq| {
                let op_id = if seq == head.seq { head.op_id.clone() } else { format!("restored {seq}") };
                let event = order.event(key, seq, "restored", head.updated_at, op_id, &head.trace);
                JournalEntry { event, value_seq: head.seq, value: value.to_vec() }
            })
            .collect();
        if entries.is_empty() && self.records.applied_one(key).await?.0 < head.seq {
            // Every event is there, and only the value was not projected.
            let event =
                order.event(key, head.seq, "restored", head.updated_at, head.op_id.clone(), &head.trace);
            entries.push(JournalEntry { event, value_seq: head.seq, value: value.to_vec() });
        }
        Ok(entries)
    }

    /// The last value and the close of a record that is gone, from the head of its study; none where there is no head that
    /// has it.
    async fn closed(&self, key: &str, order: &Order) -> Result<Vec<JournalEntry>, Error> {
        let Some((head, closed_at)) = self.head_with(key).await? else { return Ok(Vec::new()) };
        let before = wire::decode_head(&head).map_err(undecodable("a record of a head"))?;
        let mut entries = self.lost_events(key, &before, &head, order).await?;
        let op_id = format!("closed {}", before.seq + 1);
        let event = order.event(
            key,
            before.seq + 1,
            "closed",
            closed_at.max(before.updated_at),
            op_id,
            &before.trace,
        );
        entries.push(JournalEntry { event, value_seq: 0, value: Vec::new() });
        Ok(entries)
    }

    async fn head_with(&self, key: &str) -> Result<Option<(Vec<u8>, Time)>, Error> {
        let about = About::key(key);
        let Ok(tenant) = about.tenant.parse::<isocenter_domain::id::TenantId>() else { return Ok(None) };
        let study: Option<StudyUid> = match (about.study, &about.case) {
            (Some(study), _) => Some(study),
            (None, Some(case)) => self.records.member_of(&tenant, case).await?.and_then(|s| s.parse().ok()),
            (None, None) => None,
        };
        let Some(study) = study else { return Ok(None) };
        let Some(Head { records, closed_at, .. }) =
            last_head(&self.blobs, &StudyKey { tenant, study }).await?
        else {
            return Ok(None);
        };
        let found = records.into_iter().find(|(record, _)| record == key);
        Ok(found.map(|(_, value)| (value, closed_at)))
    }
}

impl Order {
    pub fn cause(&self) -> isocenter_store::table::Cause {
        let op_id = isocenter_runtime::random::uuid_v7().to_string();
        isocenter_store::table::Cause::request(&op_id, &self.actor).because(self.reason.clone())
    }

    fn event(&self, key: &str, seq: u64, event: &str, at: Time, op_id: String, trace: &str) -> Event {
        Event {
            key: key.to_owned(),
            seq,
            event: event.to_owned(),
            actor: self.actor.clone(),
            reason: self.reason.clone(),
            at,
            op_id,
            trace: trace.to_owned(),
        }
    }
}
