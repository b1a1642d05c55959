//! The store brought up to date from the journal, after it was put back to an earlier moment.
//!
//! A snapshot of the store is older than the journal and the records in SQL. Worked on as it is, it would read and deliver
//! again what was read and delivered since, under counters that the history has already. So the last journaled value of each
//! record is put back first, as it was, under its own counter, while no role is at work.

use std::collections::BTreeMap;

use isocenter_domain::{Time, document::JournalEntry, record::RecordKind};
use isocenter_wire::record as wire;

use crate::{
    Compare, Key, KeyValue, Op, Txn,
    table::{TableError, Tables},
};

/// Keys of one transaction: a compare and a change of each stay below the store's 128, and their values below its 1.5 MiB.
const KEYS: usize = 40;

/// What became of the records that a journal tells of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Put back, or put forward to their last value.
    pub put: u64,
    /// Taken away, since they had been closed or removed.
    pub removed: u64,
    /// As they should be already.
    pub kept: u64,
}

/// The last that is known of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Last {
    at: Time,
    seq: u64,
    /// `None`: it is gone.
    value: Option<Vec<u8>>,
}

impl Tables {
    /// Brings every record that `entries` tell of to the last value that was journaled, or takes it away where it was
    /// closed since. Nothing goes back: a record that is later than its journal stays. Give all entries of a shard in one
    /// call, in any order; tried again it changes nothing more.
    ///
    /// For a store that was restored from a snapshot, under its new epoch, before any role works on it. No events are made:
    /// what is put back has had its own.
    ///
    /// # Errors
    /// [`TableError::Conflict`] where somebody else works on the store, or another epoch has begun; the store's own.
    pub async fn restore(
        &self,
        entries: impl IntoIterator<Item = JournalEntry>,
    ) -> Result<Restored, TableError> {
        let last: Vec<_> = newest(entries).into_iter().collect();
        let mut restored = Restored::default();
        for some in last.chunks(KEYS) {
            self.restore_some(some, &mut restored).await?;
        }
        Ok(restored)
    }

    async fn restore_some(&self, some: &[(String, Last)], restored: &mut Restored) -> Result<(), TableError> {
        let keys = some.iter().map(|(key, _)| Key::new(key.as_str())).collect::<Result<Vec<_>, _>>()?;
        let found = self.kv().txn(Txn::always(keys.iter().map(Op::get).collect())).await?.reads;
        let (mut compare, mut ops) = (self.epoch().to_vec(), Vec::new());
        for ((key, (name, last)), found) in keys.iter().zip(some).zip(found) {
            let found = found.into_iter().next();
            let due = found.as_ref().map_or(last.value.is_some(), |found| last.is_later(name, found));
            if !due {
                restored.kept += 1;
                continue;
            }
            compare.push(match found {
                Some(found) => Compare::unchanged(key, found.mod_revision),
                None => Compare::absent(key),
            });
            match &last.value {
                Some(value) => {
                    ops.push(Op::put(key, value.clone()));
                    restored.put += 1;
                }
                None => {
                    ops.push(Op::delete(key));
                    restored.removed += 1;
                }
            }
        }
        if !ops.is_empty() && !self.kv().txn(Txn::when(compare, ops)).await?.succeeded {
            return Err(TableError::Conflict);
        }
        Ok(())
    }
}

impl Last {
    fn of(entry: JournalEntry) -> (String, Self) {
        let JournalEntry { event, value_seq, value } = entry;
        let head = wire::decode_head(&value).ok().filter(|_| !value.is_empty());
        let last = match head {
            Some(head) => Self { at: head.updated_at, seq: value_seq, value: Some(value) },
            None => Self { at: event.at, seq: event.seq, value: None },
        };
        (event.key, last)
    }

    /// What decides which of two is the later. Most records count for ever, over close and reopen; those that may begin
    /// anew go by their time. At one counter, gone is later than there.
    fn order(&self, key: &str) -> (Time, u64, bool) {
        let kind = key.split('/').next().and_then(RecordKind::parse);
        let by_time = if kind.is_some_and(|kind| !kind.counts_for_ever()) { self.at } else { Time::ZERO };
        (by_time, self.seq, self.value.is_none())
    }

    /// Whether this is later than what the store has. What cannot be understood is left alone.
    fn is_later(&self, key: &str, found: &KeyValue) -> bool {
        wire::decode_head(&found.value).is_ok_and(|head| {
            let found = Self { at: head.updated_at, seq: head.seq, value: Some(Vec::new()) };
            found.order(key) < self.order(key)
        })
    }
}

/// The last of each record.
fn newest(entries: impl IntoIterator<Item = JournalEntry>) -> BTreeMap<String, Last> {
    let mut newest: BTreeMap<String, Last> = BTreeMap::new();
    for (key, last) in entries.into_iter().map(Last::of) {
        if newest.get(&key).is_none_or(|known| known.order(&key) < last.order(&key)) {
            newest.insert(key, last);
        }
    }
    // What nodes counted of a study went when it was closed, without an event of its own.
    let gone = |study: &str| newest.get(study).filter(|last| last.value.is_none()).map(|last| last.at);
    let with: Vec<_> = newest
        .iter()
        .filter_map(|(key, last)| Some((key.clone(), gone(&study_of(key)?).filter(|at| last.at <= *at)?)))
        .collect();
    for (key, at) in with {
        newest.insert(key, Last { at, seq: u64::MAX, value: None });
    }
    newest
}

/// The study of an intake.
fn study_of(key: &str) -> Option<String> {
    let (study, _node) = key.strip_prefix("intake/")?.rsplit_once('/')?;
    Some(format!("study/{study}"))
}

#[cfg(test)]
mod tests {
    use isocenter_domain::document::Event;

    use super::*;

    const STUDY: &str = "study/0a/t/1.2";
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

    fn last(entries: &[JournalEntry], key: &str) -> (u64, bool) {
        let mut both = [entries.to_vec(), entries.iter().rev().cloned().collect()]
            .map(|entries| newest(entries).remove(key).map(|last| (last.seq, last.value.is_some())).unwrap());
        assert_eq!(both[0], both[1], "the order of entries does not matter");
        std::mem::take(&mut both[0])
    }

    #[test]
    fn the_last_value_counts_whatever_the_order() {
        let entries = [entry(STUDY, 1, 1, Some(1)), entry(STUDY, 2, 2, Some(3)), entry(STUDY, 3, 3, Some(3))];
        assert_eq!(last(&entries, STUDY), (3, true));
    }

    #[test]
    fn what_was_closed_is_gone_and_what_was_reopened_is_there() {
        let closed = [entry(STUDY, 1, 1, Some(1)), entry(STUDY, 2, 2, None), entry(STUDY, 2, 1, None)];
        assert_eq!(last(&closed, STUDY), (2, false));
        let reopened = [&closed[..], &[entry(STUDY, 3, 3, Some(3))]].concat();
        assert_eq!(last(&reopened, STUDY), (3, true));
    }

    #[test]
    fn an_intake_goes_with_its_study_and_a_later_one_stays() {
        let closed = [entry(STUDY, 1, 1, Some(1)), entry(INTAKE, 1, 9, Some(9)), entry(STUDY, 5, 2, None)];
        assert!(!last(&closed, INTAKE).1);
        // It counts from 1 again.
        let late = [&closed[..], &[entry(INTAKE, 6, 1, Some(1))]].concat();
        assert_eq!(last(&late, INTAKE), (1, true));
    }
}
