//! The store brought up to date from the journal, after it was put back to an earlier moment.
//!
//! A snapshot of the store is older than the journal and the records in SQL. Worked on as it is, it would read and deliver
//! again what was read and delivered since, under counters that the history has already. So the last journaled value of each
//! record is put back first, as it was, under its own counter, while no role is at work.
//!
//! The journal is folded object by object. An object's name has the time of its first event, and within one life of a record
//! no event is dated before the one before it. So once the objects have come past the time at which a record was removed, no
//! older value of it can follow, and that it was there can be forgotten, unless the store has it still.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::TryStreamExt as _;
use isocenter_domain::{
    Time,
    document::{Head, JournalEntry},
    key::{self, CaseKey, StudyKey},
    record::{RecordKind, case::Case, plan::Plan},
};
use isocenter_wire::record as wire;

use crate::{
    Compare, Key, Op, Revision, Txn,
    check::pages,
    table::{TableError, Tables, kind_range},
};

/// Keys of one transaction: a compare and a change of each stay below the store's 128, and their values below its 1.5 MiB.
const KEYS: usize = 40;

/// What became of the records that the store had or the journal tells of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Put back, or put forward to their last value.
    pub put: u64,
    /// Taken away, since they had been closed or removed.
    pub removed: u64,
    /// As they should be already.
    pub kept: u64,
}

/// A restore under way: what the store has, and what the journal read so far says should be there. Memory: the records of
/// both that live, and those removed since the time of the object at hand.
#[derive(Debug)]
pub struct Restoring<'a> {
    tables: &'a Tables,
    fold: Fold,
}

impl Tables {
    /// Begins to bring every record to the last value that was journaled, or to take it away where it was closed since.
    /// Nothing goes back: a record that is later than its journal stays. Broken off and begun again it changes nothing more.
    ///
    /// For a store that was restored from a snapshot, under its new epoch, before any role works on it. No events are made:
    /// what is put back has had its own.
    ///
    /// # Errors
    /// The store's own.
    pub async fn restoring(&self) -> Result<Restoring<'_>, TableError> {
        let mut fold = Fold::default();
        for kind in RecordKind::ALL {
            let mut pages = pages(self, kind_range(kind));
            while let Some(page) = pages.try_next().await? {
                for kv in page.items {
                    fold.found(kv.key.to_string(), kv.value, kv.mod_revision);
                }
            }
        }
        Ok(Restoring { tables: self, fold })
    }
}

impl Restoring<'_> {
    /// Takes in what a journal object has. Give the objects of one journal in the order of their names.
    ///
    /// # Errors
    /// [`TableError::Undecodable`] where a value is damaged. Nothing has been written then.
    pub fn object(&mut self, entries: Vec<JournalEntry>) -> Result<(), TableError> {
        self.fold.object(entries)
    }

    /// The next object is another journal's, and of other records.
    pub fn end_of_journal(&mut self) {
        self.fold.settle(None);
    }

    /// The studies of which the journals say that a part of their unit is gone, and of another part not. A unit is closed in
    /// one transaction, but each journal is written by itself: the last events of one may be lost with the store. What was
    /// closed is in the study's last head, which is for [`Restoring::closed`]; without one it is not closed.
    #[must_use]
    pub fn half_closed(&self) -> BTreeSet<StudyKey> {
        self.fold.half_closed(self.tables.known_level())
    }

    /// Takes away what a study's last head lists and has not changed since. Only for a study of [`Restoring::half_closed`]:
    /// a head is written before its unit is closed, and alone does not say that it was.
    pub fn closed(&mut self, head: &Head) {
        self.fold.closed(head);
    }

    /// Writes what differs.
    ///
    /// # Errors
    /// [`TableError::Conflict`] where somebody else works on the store, or another epoch has begun; the store's own.
    pub async fn finish(self) -> Result<Restored, TableError> {
        let Self { tables, fold } = self;
        let mut restored = Restored::default();
        restored.kept += fold.strange.len() as u64;
        let mut known = fold.known.into_iter().filter(|(_, known)| match (known.news, known.found) {
            (false, Some(_)) => {
                restored.kept += 1;
                false
            }
            (true, Some(_)) => true,
            (_, None) => known.last.value.is_some(),
        });
        let mut written = (0, 0);
        loop {
            let some: Vec<_> = known.by_ref().take(KEYS).collect();
            if some.is_empty() {
                break;
            }
            let (mut compare, mut ops) = (tables.epoch().to_vec(), Vec::new());
            for (name, Known { last, found, .. }) in some {
                let key = Key::new(name)?;
                compare.push(match found {
                    Some(revision) => Compare::unchanged(&key, revision),
                    None => Compare::absent(&key),
                });
                match last.value {
                    Some(value) => {
                        ops.push(Op::put(&key, value));
                        written.0 += 1;
                    }
                    None => {
                        ops.push(Op::delete(&key));
                        written.1 += 1;
                    }
                }
            }
            if !tables.kv().txn(Txn::when(compare, ops)).await?.succeeded {
                return Err(TableError::Conflict);
            }
        }
        drop(known);
        (restored.put, restored.removed) = written;
        Ok(restored)
    }
}

/// The last that is known of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Last {
    at: Time,
    seq: u64,
    /// `None`: it is gone.
    value: Option<Bytes>,
}

#[derive(Debug)]
struct Known {
    last: Last,
    /// As of which revision the store has the record.
    found: Option<Revision>,
    /// Whether what is known differs from what the store has.
    news: bool,
}

/// What all that was read so far comes to.
#[derive(Debug, Default)]
struct Fold {
    known: BTreeMap<String, Known>,
    /// What the store has and cannot be understood: it is left alone.
    strange: BTreeSet<String>,
    /// What was removed, and until when an older value of it may still come.
    gone: BTreeSet<(Time, String)>,
}

impl Last {
    fn of(event_at: Time, event_seq: u64, key: &str, value: Vec<u8>) -> Result<Self, TableError> {
        if value.is_empty() {
            return Ok(Self { at: event_at, seq: event_seq, value: None });
        }
        let head = wire::decode_head(&value)
            .map_err(|source| TableError::Undecodable { key: key.to_owned(), source })?;
        Ok(Self { at: head.updated_at, seq: head.seq, value: Some(value.into()) })
    }

    /// What decides which of two is the later. Most records count for ever, over close and reopen; those that may begin
    /// anew go by their time. At one counter, gone is later than there.
    fn order(&self, key: &str) -> (Time, u64, bool) {
        let by_time = kind(key).is_some_and(|kind| !kind.counts_for_ever());
        (if by_time { self.at } else { Time::ZERO }, self.seq, self.value.is_none())
    }
}

impl Fold {
    fn found(&mut self, key: String, value: Bytes, revision: Revision) {
        let Ok(head) = wire::decode_head(&value) else {
            self.strange.insert(key);
            return;
        };
        let last = Last { at: head.updated_at, seq: head.seq, value: Some(value) };
        self.known.insert(key, Known { last, found: Some(revision), news: false });
    }

    fn object(&mut self, entries: Vec<JournalEntry>) -> Result<(), TableError> {
        self.settle(entries.iter().map(|entry| entry.event.at).min());
        for JournalEntry { event, value, .. } in entries {
            let last = Last::of(event.at, event.seq, &event.key, value)?;
            self.learn(event.key, last);
        }
        Ok(())
    }

    fn learn(&mut self, key: String, last: Last) {
        let known = self.known.get(&key);
        if self.strange.contains(&key)
            || known.is_some_and(|known| known.last.order(&key) >= last.order(&key))
        {
            return;
        }
        if last.value.is_none() {
            let until = known.map_or(last.at, |known| known.last.at.max(last.at));
            self.gone.insert((until, key.clone()));
        }
        let found = known.and_then(|known| known.found);
        self.known.insert(key, Known { last, found, news: true });
    }

    /// Nothing older than `now` follows, or nothing at all.
    fn settle(&mut self, now: Option<Time>) {
        while self.gone.first().is_some_and(|(until, _)| now.is_none_or(|now| *until < now)) {
            let Some((until, key)) = self.gone.pop_first() else { return };
            // Begun anew since, or gone once more, which is still to come here.
            let Some(Known { last: Last { value: None, at, .. }, found, .. }) = self.known.get(&key) else {
                continue;
            };
            if *at > until {
                continue;
            }
            if found.is_none() {
                self.known.remove(&key);
            }
            // Whatever belonged to it went in the same transaction, though its own last event may be lost.
            for owned in owned(&key).flat_map(|owned| self.at_or_below(&owned)).collect::<Vec<_>>() {
                if self.known.get(&owned).is_some_and(|known| known.last.at <= until) {
                    self.take_away(&owned, until);
                }
            }
        }
    }

    /// This key and those below it that are known.
    fn at_or_below(&self, key: &str) -> Vec<String> {
        let own = self.known.get_key_value(key).map(|(key, _)| key.clone());
        let below = format!("{key}/");
        own.into_iter().chain(self.below(&below).map(|(key, _)| key.clone())).collect()
    }

    fn below(&self, prefix: &str) -> impl Iterator<Item = (&String, &Known)> {
        self.known.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix))
    }

    fn take_away(&mut self, key: &str, at: Time) {
        let Some(known) = self.known.get_mut(key) else { return };
        if known.found.is_none() {
            self.known.remove(key);
        } else {
            known.last = Last { at: at.max(known.last.at), value: None, ..known.last };
            known.news = true;
        }
    }

    fn half_closed(&self, level: u32) -> BTreeSet<StudyKey> {
        let lives = |key: &str| {
            self.strange.contains(key) || self.known.get(key).is_some_and(|known| known.last.value.is_some())
        };
        let mut half = BTreeSet::new();
        // A study whose plan is gone may be one whose close was journaled no further; one that was never planned has no head.
        for (key, known) in self.below(&format!("{}/", RecordKind::Study)) {
            let Some(study) = key::parse::<StudyKey>(key).filter(|_| known.last.value.is_some()) else {
                continue;
            };
            let plan = key::PlanKey { tenant: study.tenant.clone(), study: study.study.clone() };
            if !lives(&key::text(&plan)) {
                half.insert(study);
            }
        }
        for kind in [RecordKind::Case, RecordKind::Plan] {
            for (key, known) in self.below(&format!("{kind}/")) {
                let Some(value) = &known.last.value else { continue };
                if let Some(case) = key::parse::<CaseKey>(key) {
                    let Ok((_, record)) = wire::decode_at::<Case>(value, level) else { continue };
                    let study = |study| StudyKey { tenant: case.tenant.clone(), study };
                    let members = record.members.into_iter().map(study);
                    half.extend(members.filter(|study| !lives(&key::text(study))));
                }
                if let Some(plan) = key::parse::<key::PlanKey>(key) {
                    let Ok((_, record)) = wire::decode_at::<Plan>(value, level) else { continue };
                    let case =
                        record.case().map(|case| CaseKey { tenant: plan.tenant.clone(), case: case.clone() });
                    if case.is_some_and(|case| !lives(&key::text(&case))) {
                        half.insert(StudyKey { tenant: plan.tenant, study: plan.study });
                    }
                }
            }
        }
        half
    }

    fn closed(&mut self, head: &Head) {
        for (key, value) in &head.records {
            let Ok(listed) = wire::decode_head(value) else { continue };
            let listed = Last { at: listed.updated_at, seq: listed.seq, value: Some(Bytes::new()) };
            if self.known.get(key).is_some_and(|known| known.last.order(key) <= listed.order(key)) {
                self.take_away(key, head.closed_at);
            }
        }
    }
}

fn kind(key: &str) -> Option<RecordKind> {
    RecordKind::parse(key.split('/').next()?)
}

/// The keys of what belongs to a study or a case, or what they begin with.
fn owned(key: &str) -> impl Iterator<Item = String> {
    let (owner, owned): (_, &[RecordKind]) = match kind(key) {
        Some(owner @ RecordKind::Study) => {
            (owner.as_str(), &[RecordKind::Plan, RecordKind::Intake, RecordKind::AiTask])
        }
        Some(owner @ RecordKind::Case) => {
            (owner.as_str(), &[RecordKind::Read, RecordKind::Report, RecordKind::Delivery])
        }
        Some(
            RecordKind::Plan
            | RecordKind::Intake
            | RecordKind::AiTask
            | RecordKind::Read
            | RecordKind::Report
            | RecordKind::Delivery
            | RecordKind::Holding
            | RecordKind::Lane
            | RecordKind::Registry
            | RecordKind::Policy,
        )
        | None => ("", &[]),
    };
    let id = key[owner.len()..].to_owned();
    owned.iter().map(move |kind| format!("{kind}{id}"))
}

#[cfg(test)]
mod tests {
    use isocenter_domain::document::Event;

    use super::*;

    const STUDY: &str = "study/0a/t/1.2";
    const CASE: &str = "case/0b/t/c";
    const INTAKE: &str = "intake/0a/t/1.2/n";

    fn entry(key: &str, at: i64, seq: u64, value: Option<u64>) -> JournalEntry {
        let event = Event {
            key: key.to_owned(),
            seq,
            event: "changed".to_owned(),
            actor: String::new(),
            reason: String::new(),
            at: Time(at),
            op_id: String::new(),
            trace: String::new(),
        };
        let head = |seq| wire::Head { level: 1, seq, updated_at: Time(at), ..wire::Head::default() };
        let study = |seq| {
            let (site, title) = ("north".parse().unwrap(), "NORTH".parse().unwrap());
            let record = isocenter_domain::record::study::Study::receiving(site, title, Time(at));
            wire::encode(&head(seq), &record)
        };
        JournalEntry {
            event,
            value_seq: value.unwrap_or_default(),
            value: value.map(study).unwrap_or_default(),
        }
    }

    fn folded(objects: &[&[JournalEntry]]) -> Fold {
        let mut fold = Fold::default();
        for object in objects {
            fold.object(object.to_vec()).unwrap();
        }
        fold.settle(None);
        fold
    }

    /// The counter of what is there, whatever the order within an object.
    fn last(entries: &[JournalEntry], key: &str) -> Option<u64> {
        let backwards: Vec<_> = entries.iter().rev().cloned().collect();
        let both = [folded(&[entries]), folded(&[&backwards])]
            .map(|fold| fold.known.get(key).map(|known| known.last.seq));
        assert_eq!(both[0], both[1], "the order of entries does not matter");
        both[0]
    }

    #[test]
    fn the_last_value_counts_whatever_the_order() {
        let entries = [entry(STUDY, 1, 1, Some(1)), entry(STUDY, 2, 2, Some(3)), entry(STUDY, 3, 3, Some(3))];
        assert_eq!(last(&entries, STUDY), Some(3));
    }

    #[test]
    fn what_was_closed_is_gone_and_what_was_reopened_is_there() {
        let closed = [entry(STUDY, 1, 1, Some(1)), entry(STUDY, 2, 2, None), entry(STUDY, 2, 1, None)];
        assert_eq!(last(&closed, STUDY), None);
        let reopened = [&closed[..], &[entry(STUDY, 3, 3, Some(3))]].concat();
        assert_eq!(last(&reopened, STUDY), Some(3));
    }

    #[test]
    fn what_belongs_to_a_study_goes_with_it_and_what_is_later_stays() {
        let owned = [INTAKE, "plan/0a/t/1.2", "ai/0a/t/1.2/pe/1"];
        for (owner, owned) in [(STUDY, &owned[..]), (CASE, &["read/0b/t/c/1", "delivery/0b/t/c/1/1/ris"])] {
            for owned in owned {
                let closed =
                    [entry(owner, 1, 1, Some(1)), entry(owned, 1, 9, Some(9)), entry(owner, 5, 2, None)];
                assert_eq!(last(&closed, owned), None);
                let again =
                    [&closed[..], &[entry(owner, 6, 3, Some(3)), entry(owned, 6, 11, Some(11))]].concat();
                assert_eq!(last(&again, owned), Some(11));
            }
        }
        // A late image's intake comes alone, and counts from 1 again. Another study's is its own affair.
        let closed = [entry(STUDY, 1, 1, Some(1)), entry(INTAKE, 1, 9, Some(9)), entry(STUDY, 5, 2, None)];
        let late = [&closed[..], &[entry(INTAKE, 6, 1, Some(1))]].concat();
        assert_eq!(last(&late, INTAKE), Some(1));
        let other = [&closed[..], &[entry("plan/0a/t/1.2.3", 1, 1, Some(1))]].concat();
        assert_eq!(last(&other, "plan/0a/t/1.2.3"), Some(1));
    }

    /// Two archives may journal one event, each with the value that it saw.
    #[test]
    fn an_older_value_in_a_later_object_brings_nothing_back() {
        let closed =
            [entry("read/0b/t/c/1", 2, 1, Some(1)), entry(STUDY, 1, 1, Some(1)), entry(STUDY, 7, 3, None)];
        let late = [entry(STUDY, 6, 2, Some(2)), entry("read/0b/t/c/1", 6, 2, Some(2))];
        let fold = folded(&[&closed, &late]);
        assert_eq!(fold.known.keys().collect::<Vec<_>>(), ["read/0b/t/c/1"]);
    }

    #[test]
    fn what_was_closed_twice_stays_closed() {
        let both = [entry(STUDY, 5, 2, None), entry(STUDY, 10, 3, Some(3)), entry(STUDY, 15, 4, None)];
        let fold = folded(&[&[entry(STUDY, 1, 1, Some(1))], &both, &[entry(STUDY, 10, 3, Some(3))]]);
        assert!(fold.known.is_empty(), "{:?}", fold.known);
        let fold = folded(&[&both, &[entry(STUDY, 12, 3, Some(3)), entry(STUDY, 14, 3, Some(3))]]);
        assert!(fold.known.is_empty(), "{:?}", fold.known);
    }

    #[test]
    fn what_is_gone_is_held_in_memory_only_while_it_may_matter() {
        let mut fold = Fold::default();
        fold.found(STUDY.to_owned(), entry(STUDY, 1, 1, Some(1)).value.into(), Revision(3));
        for n in 0..1000 {
            let (key, at) = (format!("study/0a/t/2.{n}"), n * 10);
            let object =
                [entry(&key, at, 1, Some(1)), entry(&key, at + 5, 2, None), entry(STUDY, at, 2, None)];
            fold.object(object.to_vec()).unwrap();
            assert!(fold.known.len() <= 3, "{:?}", fold.known.keys());
            assert!(fold.gone.len() <= 3, "{:?}", fold.gone);
        }
        fold.settle(None);
        let known: Vec<_> =
            fold.known.iter().map(|(key, known)| (key.as_str(), known.last.value.is_some())).collect();
        assert_eq!(known, [(STUDY, false)], "what the store has is remembered, to be taken away");
    }

    #[test]
    fn what_cannot_be_understood_stops_it_or_is_left_alone() {
        let mut fold = Fold::default();
        fold.found(STUDY.to_owned(), Bytes::from_static(b"\xff"), Revision(3));
        fold.object(vec![entry(STUDY, 1, 1, Some(1)), entry(STUDY, 2, 2, None)]).unwrap();
        assert!(fold.known.is_empty());
        let damaged = JournalEntry { value: b"\xff".to_vec(), ..entry(INTAKE, 1, 1, Some(1)) };
        assert!(fold.object(vec![damaged]).is_err());
    }
}
