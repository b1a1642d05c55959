//! Whether the records' history is whole: of each record every change, each once.

use futures::StreamExt as _;
use isocenter_blobs::{Blobs, path};
use isocenter_domain::{document::JournalEntry, id::TenantId, record::RecordKind};
use isocenter_wire::document::Stored as _;
use sqlx::{Row as _, any::AnyRow};

use super::{Records, number};
use crate::{Error, item::About, reconcile::close::undecodable};

/// Records looked at in one query.
const PAGE: usize = 1_000;

/// Gaps told at most: more would not be read one by one.
const GAPS: usize = 1_000;

/// What a look at the history found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Records that ever had an event.
    pub records: u64,
    /// Events of the records database.
    pub events: u64,
    /// Events of the journal, those that it has more than once counted as often.
    pub journaled: u64,
    /// What is wrong; at most 1,000.
    pub gaps: Vec<Gap>,
}

/// A record whose history is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The record.
    pub key: String,
    /// What is wrong with it.
    pub what: String,
}

impl History {
    fn gap(&mut self, key: String, what: String) {
        if self.gaps.len() < GAPS {
            self.gaps.push(Gap { key, what });
        }
    }
}

impl Records {
    /// Looks at the history of every record of a tenant: its counters are 1 to n without a gap, none was given to two
    /// changes, and what the journal has is here. Reads the whole journal; memory: one page and one journal object.
    ///
    /// Events that are not yet applied, because they are still in the outbox or happen meanwhile, may look like a gap:
    /// ask when nothing happens.
    ///
    /// # Errors
    /// [`Error::Records`], [`Error::Unserved`], [`Error::Blobs`]; [`Error::Undecodable`] for a damaged journal object.
    pub async fn history(&self, blobs: &Blobs, tenant: &TenantId) -> Result<History, Error> {
        let mut history = History::default();
        let mut after = String::new();
        loop {
            let rows =
                "SELECT record_key, kind, MIN(seq) AS first, MAX(seq) AS last, COUNT(DISTINCT seq) AS seqs,
                     COUNT(*) AS events FROM events WHERE tenant = $1 AND record_key > $2
                 GROUP BY record_key, kind ORDER BY record_key LIMIT $3";
            let rows = sqlx::query(rows).bind(tenant.to_string()).bind(after.clone()).bind(number(PAGE));
            let rows = self.rows(rows).await?;
            for row in &rows {
                after = row.try_get("record_key")?;
                counted(row, &mut history)?;
            }
            if rows.len() < PAGE {
                break;
            }
        }
        self.journaled(blobs, tenant, &mut history).await?;
        Ok(history)
    }

    async fn journaled(&self, blobs: &Blobs, tenant: &TenantId, history: &mut History) -> Result<(), Error> {
        for shard in 0..=u8::MAX {
            let mut objects = blobs.list(&path::journal_of(shard));
            while let Some(object) = objects.next().await {
                let bytes = blobs.get(&object?.path).await?;
                let entries = Vec::<JournalEntry>::decode(&bytes).map_err(undecodable("a journal object"))?;
                for JournalEntry { event, .. } in entries {
                    if About::key(&event.key).tenant != tenant.as_str() {
                        continue;
                    }
                    history.journaled += 1;
                    let row = "SELECT seq FROM events WHERE record_key = $1 AND seq = $2 AND op_id = $3";
                    let row =
                        sqlx::query(row).bind(event.key.clone()).bind(number(event.seq)).bind(event.op_id);
                    if self.row(row).await?.is_none() {
                        history.gap(
                            event.key,
                            format!("change {} is journaled and not in the records", event.seq),
                        );
                    }
                }
            }
        }
        Ok(())
    }
}

fn counted(row: &AnyRow, history: &mut History) -> Result<(), sqlx::Error> {
    let (key, kind): (String, String) = (row.try_get("record_key")?, row.try_get("kind")?);
    let (first, last): (i64, i64) = (row.try_get("first")?, row.try_get("last")?);
    let (seqs, events): (i64, i64) = (row.try_get("seqs")?, row.try_get("events")?);
    history.records += 1;
    history.events += u64::try_from(events).unwrap_or(0);
    // Other kinds may be deleted and made anew, and then count on from the store's revision (ADR 0004).
    let for_ever = RecordKind::parse(&kind).is_some_and(RecordKind::counts_for_ever);
    if for_ever && (first != 1 || seqs != last) {
        history.gap(key.clone(), format!("has {seqs} different counters from {first} to {last}"));
    }
    if for_ever && events > seqs {
        history.gap(key, format!("has {events} changes under {seqs} counters: its history has forked"));
    }
    Ok(())
}
