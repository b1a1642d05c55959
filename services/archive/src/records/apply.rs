//! From journal entries to tables. Applying again, in any order, changes nothing: a record goes only upward.

use std::collections::{BTreeMap, BTreeSet};

use isocenter_blobs::{BlobPath, Blobs, path};
use isocenter_domain::{
    document::{Event, JournalEntry, Manifest},
    key::{StudyKey, text},
    record::RecordKind,
    refs::Digest,
};
use isocenter_wire::document::Stored as _;
use sqlx::{Any, AssertSqlSafe, Row as _, Transaction};

use super::{Records, number, project, query};
use crate::{
    Error,
    group::Group,
    item::{About, Item, Kept, kind},
};

/// Records asked after in one statement.
const KEYS: usize = 256;

/// What became of some entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Events that were new.
    pub events: u64,
    /// Counters under which two different changes were found.
    pub forks: u64,
    /// Values that could not be understood; their events are kept.
    pub undecodable: u64,
}

/// Manifests of the batch's studies that are not indexed yet.
type Manifests = BTreeMap<StudyKey, Manifest>;

impl Records {
    /// Applies the entries of one journal object, all of one group of shards, in one SQL transaction.
    ///
    /// # Errors
    /// [`Error::Records`] and [`Error::Unserved`], and [`Error::Blobs`] where a manifest cannot be read now. Nothing is
    /// applied then, or all of it where the database was lost as it committed; the same entries may be applied again.
    pub(crate) async fn apply(
        &self,
        blobs: &Blobs,
        object: &BlobPath,
        entries: &[JournalEntry],
    ) -> Result<Applied, Error> {
        let Some(group) = entries.first().map(|entry| Group::of(&entry.event.key)) else {
            return Ok(Applied::default());
        };
        self.within(async {
            let manifests = self.manifests(blobs, entries).await?;
            let mut applied = Applied::default();
            // Closed never.
            let _writer = self.writers.acquire().await;
            let mut tx = self.begin().await?;
            take_turn(&mut tx, group).await?;
            let mut known = Known::of(&mut tx, entries).await?;
            for entry in entries {
                apply_one(&mut tx, &manifests, &mut known, entry, &mut applied).await?;
            }
            let tail = "INSERT INTO rebuild_tail (object) SELECT $1 WHERE EXISTS (SELECT 1 FROM rebuilding)
                 ON CONFLICT (object) DO NOTHING";
            sqlx::query(tail).bind(object.as_str().to_owned()).execute(&mut *tx).await?;
            tx.commit().await?;
            Ok(applied)
        })
        .await
    }

    /// Puts a revision's images into the index.
    pub(crate) async fn index(&self, key: &StudyKey, manifest: &Manifest) -> Result<(), Error> {
        self.within(async {
            let _writer = self.writers.acquire().await;
            let mut tx = self.begin().await?;
            take_turn(&mut tx, Group::of(&text(key))).await?;
            project::index(&mut tx, key, manifest).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Reads from blobs what the image index lacks, before the transaction: none is held open over other I/O.
    async fn manifests(&self, blobs: &Blobs, entries: &[JournalEntry]) -> Result<Manifests, Error> {
        let mut wanted: BTreeMap<StudyKey, (u32, Digest)> = BTreeMap::new();
        for entry in entries {
            if let Ok(Item::Study(Kept { key, value: Some((_, study)) })) =
                Item::read(&entry.event.key, &entry.value)
                && let Some(manifest) = study.manifest
            {
                let newest = wanted.entry(key).or_insert((study.revision, manifest));
                if newest.0 < study.revision {
                    *newest = (study.revision, manifest);
                }
            }
        }
        let mut manifests = Manifests::new();
        for (key, (revision, digest)) in wanted {
            if query::indexed_revision(&self.pool(), &key).await? >= i64::from(revision) {
                continue;
            }
            let path = path::manifest(&key.tenant, &key.study, revision);
            match blobs.get_checked(&path, &digest).await {
                Ok(bytes) => match Manifest::decode(&bytes) {
                    Ok(manifest) => drop(manifests.insert(key, manifest)),
                    Err(e) => tracing::error!(%path, error = %e, "manifest is not indexed"),
                },
                // The journal must go on; reconcile lists the study until its manifest is restored.
                Err(
                    e @ (isocenter_blobs::Error::NotFound(_)
                    | isocenter_blobs::Error::Corrupt(_)
                    | isocenter_blobs::Error::TooLarge { .. }),
                ) => tracing::error!(%path, error = %e, "manifest is not indexed"),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(manifests)
    }
}

/// Waits for whoever applies to the same group of shards, in whichever process.
pub(super) async fn take_turn(tx: &mut Transaction<'static, Any>, group: Group) -> Result<(), Error> {
    let turn =
        sqlx::query("UPDATE shards SET turn = turn + 1 WHERE shard = $1").bind(i64::from(group.shard()));
    turn.execute(&mut **tx).await?;
    Ok(())
}

/// What the tables had of a batch's records before, and what this transaction has done to them: a statement for each batch in
/// the place of three for each event.
#[derive(Default)]
struct Known<'a> {
    /// The highest counter of each record's events, and where that event stands in the order of events.
    last: BTreeMap<String, (u64, i64)>,
    /// The value of each record that was held against the tables, with its counter: the events of one batch bear one value
    /// mostly.
    gated: BTreeMap<&'a str, (u64, &'a [u8])>,
}

impl<'a> Known<'a> {
    async fn of(tx: &mut Transaction<'static, Any>, entries: &[JournalEntry]) -> Result<Self, Error> {
        let keys: BTreeSet<&str> = entries.iter().map(|entry| entry.event.key.as_str()).collect();
        let mut known = Self::default();
        for keys in keys.into_iter().collect::<Vec<_>>().chunks(KEYS) {
            let places: Vec<_> = (1..=keys.len()).map(|n| format!("${n}")).collect();
            let text = format!(
                "SELECT record_key, seq, ord FROM events AS one WHERE record_key IN ({})
                 AND seq = (SELECT MAX(seq) FROM events WHERE record_key = one.record_key)",
                places.join(", ")
            );
            let query = keys
                .iter()
                .fold(sqlx::query(AssertSqlSafe(text)), |query, key| query.bind((*key).to_owned()));
            for row in query.fetch_all(&mut **tx).await? {
                let (key, seq, ord): (String, i64, i64) =
                    (row.try_get("record_key")?, row.try_get("seq")?, row.try_get("ord")?);
                let seq = u64::try_from(seq).unwrap_or_default();
                // Of a history that has forked two events bear the highest.
                known.last.entry(key).and_modify(|last| last.1 = last.1.max(ord)).or_insert((seq, ord));
            }
        }
        Ok(known)
    }

    /// Where the record's last event stands, if `entry` comes after all of them.
    fn follows(&self, entry: &JournalEntry) -> Option<i64> {
        match self.last.get(&entry.event.key) {
            Some((seq, ord)) => (entry.event.seq > *seq).then_some(*ord),
            None => Some(entry.event.at.0),
        }
    }

    fn insert(&mut self, entry: &JournalEntry, ord: i64) {
        self.last.insert(entry.event.key.clone(), (entry.event.seq, ord));
    }

    /// No event after one that stands at `ord` stands before it.
    fn raised(&mut self, key: &str, ord: i64) {
        if let Some(last) = self.last.get_mut(key) {
            last.1 = last.1.max(ord);
        }
    }

    /// Whether this value has been held against the tables already.
    fn was_gated(&mut self, entry: &'a JournalEntry) -> bool {
        let value = (entry.value_seq, entry.value.as_slice());
        self.gated.insert(&entry.event.key, value) == Some(value)
    }
}

async fn apply_one<'a>(
    tx: &mut Transaction<'static, Any>,
    manifests: &Manifests,
    known: &mut Known<'a>,
    entry: &'a JournalEntry,
    applied: &mut Applied,
) -> Result<(), Error> {
    let about = About::key(&entry.event.key);
    let for_ever = kind(&entry.event.key).is_some_and(RecordKind::counts_for_ever);
    let follows = known.follows(entry);
    if insert_event(tx, &about, known, entry).await? {
        applied.events += 1;
        if for_ever && follows.is_none() && events_at(tx, entry).await? > 1 {
            applied.forks += 1;
            alarm(entry, "two changes bear one counter");
        }
    }
    let gone = entry.value.is_empty();
    // That a record is gone says something only together with the event that closed it; any other event of a record
    // that was deleted since has been overtaken.
    if !for_ever || (gone && entry.event.event != "closed") || (!gone && known.was_gated(entry)) {
        return Ok(());
    }
    let item = match Item::read(&entry.event.key, &entry.value) {
        Ok(item) => item,
        Err(e) => {
            applied.undecodable += 1;
            tracing::error!(kind = kind_name(entry), error = %e, "value is journaled and not projected");
            return Ok(());
        }
    };
    match gate(tx, &about, entry, gone).await? {
        Gate::Higher => project::item(tx, manifests, &item).await?,
        Gate::Known => {}
        Gate::Fork => {
            applied.forks += 1;
            alarm(entry, "two values bear one counter");
        }
    }
    Ok(())
}

fn alarm(entry: &JournalEntry, what: &'static str) {
    tracing::error!(
        kind = kind_name(entry),
        seq = entry.event.seq,
        what,
        "the history of a record has forked"
    );
}

fn kind_name(entry: &JournalEntry) -> &str {
    entry.event.key.split('/').next().unwrap_or_default()
}

/// Keeps the event; `false` where it was there.
async fn insert_event(
    tx: &mut Transaction<'static, Any>,
    about: &About,
    known: &mut Known<'_>,
    entry: &JournalEntry,
) -> Result<bool, Error> {
    let event = &entry.event;
    let (before, later) = match known.follows(entry) {
        Some(before) => (before, 0),
        None => around(tx, event).await?,
    };
    let ord = before.max(event.at.0);
    let inserted = sqlx::query(
        "INSERT INTO events (tenant, record_key, seq, op_id, kind, study, case_id, event, actor, reason, at, ord, trace)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
         ON CONFLICT (record_key, seq, op_id) DO NOTHING",
    )
    .bind(about.tenant.clone())
    .bind(event.key.clone())
    .bind(number(event.seq))
    .bind(event.op_id.clone())
    .bind(kind_name(entry).to_owned())
    .bind(about.study.as_ref().map(ToString::to_string).unwrap_or_default())
    .bind(about.case.as_ref().map(ToString::to_string).unwrap_or_default())
    .bind(event.event.clone())
    .bind(event.actor.clone())
    .bind(event.reason.clone())
    .bind(event.at.0)
    .bind(ord)
    .bind(event.trace.clone());
    let new = inserted.execute(&mut **tx).await?.rows_affected() > 0;
    if known.follows(entry).is_some() {
        known.insert(entry, ord);
    }
    if new && later > 0 {
        // Objects may be applied in any order, and the order of a record's events must not depend on it.
        let raise = "UPDATE events SET ord = $3 WHERE record_key = $1 AND seq > $2 AND ord < $3";
        let raise = sqlx::query(raise).bind(event.key.clone()).bind(number(event.seq)).bind(ord);
        raise.execute(&mut **tx).await?;
        known.raised(&event.key, ord);
    }
    Ok(new)
}

/// Where the event before this one stands, and whether there are later ones, which is so where objects are applied in another
/// order than they were written in.
async fn around(tx: &mut Transaction<'static, Any>, event: &Event) -> Result<(i64, i64), Error> {
    let around = "SELECT COALESCE((SELECT ord FROM events WHERE record_key = $1 AND seq < $2 ORDER BY seq DESC LIMIT 1), $3)
             AS before,
         CAST(CASE WHEN EXISTS (SELECT 1 FROM events WHERE record_key = $1 AND seq > $2) THEN 1 ELSE 0 END AS BIGINT)
             AS later";
    let around = sqlx::query(around).bind(event.key.clone()).bind(number(event.seq)).bind(event.at.0);
    let around = around.fetch_one(&mut **tx).await?;
    Ok((around.try_get("before")?, around.try_get("later")?))
}

async fn events_at(tx: &mut Transaction<'static, Any>, entry: &JournalEntry) -> Result<i64, Error> {
    let same = "SELECT COUNT(*) AS same FROM events WHERE record_key = $1 AND seq = $2";
    let same = sqlx::query(same).bind(entry.event.key.clone()).bind(number(entry.event.seq));
    Ok(same.fetch_one(&mut **tx).await?.try_get("same")?)
}

enum Gate {
    Higher,
    Known,
    Fork,
}

/// Moves the record's counter upward, or says that it is there already.
async fn gate(
    tx: &mut Transaction<'static, Any>,
    about: &About,
    entry: &JournalEntry,
    gone: bool,
) -> Result<Gate, Error> {
    let seq = if gone { entry.event.seq } else { entry.value_seq };
    let digest = if gone { String::new() } else { Digest::of(&entry.value).to_string() };
    let moved = sqlx::query(
        "INSERT INTO applied (record_key, tenant, kind, seq, gone, digest) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (record_key) DO UPDATE SET seq = excluded.seq, gone = excluded.gone, digest = excluded.digest
         WHERE applied.seq < excluded.seq",
    )
    .bind(entry.event.key.clone())
    .bind(about.tenant.clone())
    .bind(kind_name(entry).to_owned())
    .bind(number(seq))
    .bind(i64::from(gone))
    .bind(digest.clone())
    .execute(&mut **tx)
    .await?;
    if moved.rows_affected() > 0 {
        return Ok(Gate::Higher);
    }
    let now =
        sqlx::query("SELECT seq, digest FROM applied WHERE record_key = $1").bind(entry.event.key.clone());
    let now = now.fetch_one(&mut **tx).await?;
    let (at, held): (i64, String) = (now.try_get("seq")?, now.try_get("digest")?);
    Ok(if at == number(seq) && held != digest { Gate::Fork } else { Gate::Known })
}
