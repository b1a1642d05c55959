//! The tables made again from the journal, beside those that serve, and then put in their place.
//!
//! Nobody waits for it: calls are answered from the old tables, and what happens goes on being applied to them. From the
//! start on each object that is applied there is noted; when the whole journal has been applied to the new tables these
//! are applied too, the last of them while no one else applies, and the tables are exchanged in that same transaction.
//! A rebuild that was broken off left the old tables as they were.

use futures::StreamExt as _;
use isocenter_blobs::{BlobPath, Blobs, path};
use isocenter_domain::{Time, document::JournalEntry};
use isocenter_wire::document::Stored as _;
use sqlx::{Any, AssertSqlSafe, Connection as _, Executor as _, Row as _, Transaction, pool::PoolConnection};

use super::{Dialect, Migration, Records, Serving, connect};
use crate::{Error, reconcile::close::undecodable, replay::Replayed};

/// The tables that hold projections, those that others refer to first.
pub(crate) const TABLES: [&str; 13] = [
    "events",
    "applied",
    "studies",
    "study_modalities",
    "images",
    "plans",
    "cases",
    "case_members",
    "ai_tasks",
    "reads",
    "reports",
    "report_studies",
    "deliveries",
];

/// So few noted objects are applied while nobody else applies: a moment.
const LAST: usize = 16;

/// Noted objects read at a time.
const PAGE: i64 = 1_000;

/// Where a rebuild is told about.
pub(crate) type Progress = tokio::sync::mpsc::Sender<Replayed>;

impl Records {
    /// Makes the tables again from the journal. Tells `progress` after each shard.
    ///
    /// # Errors
    /// [`Error::Rebuilding`] where that is being done already. [`Error::Undecodable`] where a journal object is damaged,
    /// and whatever else fails: the tables are as they were.
    pub(crate) async fn rebuild(
        &self,
        blobs: &Blobs,
        now: Time,
        progress: Progress,
    ) -> Result<Replayed, Error> {
        let Ok(_only) = self.rebuild.try_lock() else { return Err(Error::Rebuilding) };
        let Some(guard) = self.alone().await? else { return Err(Error::Rebuilding) };
        let done = self.beside(blobs, now, &progress).await;
        let ended = self.forget().await;
        // Not given back to the pool: its lock ends with it.
        drop(guard.close().await);
        let done = done?;
        ended?;
        Ok(done)
    }

    /// Clears away what a rebuild left that was broken off with its process.
    pub(super) async fn forget_abandoned(&self) -> Result<(), Error> {
        let Ok(_only) = self.rebuild.try_lock() else { return Ok(()) };
        let left: i64 = sqlx::query("SELECT COUNT(*) AS n FROM rebuilding")
            .fetch_one(&self.pool())
            .await?
            .try_get("n")?;
        if left == 0 {
            return Ok(());
        }
        let Some(lock) = self.alone().await? else { return Ok(()) };
        let forgotten = self.forget().await;
        drop(lock.close().await);
        forgotten
    }

    /// The connection that holds the lock of whoever rebuilds; `None` where another process has it.
    async fn alone(&self) -> Result<Option<PoolConnection<Any>>, Error> {
        let mut guard = self.pool().acquire().await?;
        if self.dialect == Dialect::Postgres {
            // Held by this connection: gone with it, however this process ends.
            let lock = "SELECT CASE WHEN pg_try_advisory_lock(7598805550973906276) THEN 1 ELSE 0 END AS held";
            let held: i32 = sqlx::query(lock).fetch_one(&mut *guard).await?.try_get("held")?;
            if held == 0 {
                return Ok(None);
            }
        }
        Ok(Some(guard))
    }

    async fn beside(&self, blobs: &Blobs, now: Time, progress: &Progress) -> Result<Replayed, Error> {
        self.forget().await?;
        let new = self.sibling().await?;
        self.note(now).await?;
        let mut replayed = Replayed::default();
        for shard in 0..=u8::MAX {
            let mut objects = blobs.list(&path::journal_of(shard));
            while let Some(object) = objects.next().await {
                new.replay_one(blobs, &object?.path, &mut replayed).await?;
            }
            // Where nobody listens any more the work is not broken off.
            let _told = progress.try_send(replayed);
        }
        loop {
            let noted = self.noted().await?;
            if noted.len() <= LAST {
                break;
            }
            self.apply_noted(blobs, &new, &noted, &mut replayed).await?;
        }
        self.exchange(blobs, &new, &mut replayed).await?;
        new.close().await;
        Ok(replayed)
    }

    /// Applies one journal object.
    pub(crate) async fn replay_one(
        &self,
        blobs: &Blobs,
        object: &BlobPath,
        replayed: &mut Replayed,
    ) -> Result<(), Error> {
        let bytes = blobs.get(object).await?;
        let entries = Vec::<JournalEntry>::decode(&bytes).map_err(undecodable("a journal object"))?;
        let applied = self.apply(blobs, object, &entries).await?;
        replayed.objects += 1;
        replayed.events += applied.events;
        replayed.forks += applied.forks;
        Ok(())
    }

    /// Fresh tables beside these.
    async fn sibling(&self) -> Result<Self, Error> {
        let mut new = self.clone();
        new.tables = connect::Tables::Rebuilt;
        new.serving = std::sync::Arc::new(tokio::sync::watch::Sender::new(Serving::Unknown));
        new.writers = std::sync::Arc::new(tokio::sync::Semaphore::new(1));
        let url = match self.dialect {
            Dialect::Sqlite => {
                let beside = self.beside_file();
                for file in [beside.clone(), format!("{beside}-wal"), format!("{beside}-shm")] {
                    drop(tokio::fs::remove_file(file).await);
                }
                format!("sqlite:{beside}")
            }
            Dialect::Postgres => {
                let fresh =
                    "DROP SCHEMA IF EXISTS isocenter_rebuild CASCADE; CREATE SCHEMA isocenter_rebuild";
                self.pool().execute(fresh).await?;
                self.url.to_string()
            }
        };
        new.pool = std::sync::Arc::new(parking_lot::RwLock::new(connect::pool(
            &url,
            self.dialect,
            connect::Tables::Rebuilt,
        )?));
        new.migrate(Migration::Expand).await?;
        new.prepare().await?;
        Ok(new)
    }

    /// The file beside that of SQLite.
    fn beside_file(&self) -> String {
        let file = self.url.trim_start_matches("sqlite:");
        format!("{}.rebuild", file.split('?').next().unwrap_or(file))
    }

    /// From now on each object that is applied is noted: who applies already has ended when every turn was had.
    async fn note(&self, now: Time) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        take_every_turn(&mut tx).await?;
        let since = sqlx::query("INSERT INTO rebuilding (id, since) VALUES (1, $1)").bind(now.0);
        since.execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    /// Nothing is noted any more, and nothing is left of the new tables.
    async fn forget(&self) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM rebuilding").execute(&mut *tx).await?;
        sqlx::query("DELETE FROM rebuild_tail").execute(&mut *tx).await?;
        tx.commit().await?;
        match self.dialect {
            Dialect::Sqlite => {
                let beside = self.beside_file();
                for file in [beside.clone(), format!("{beside}-wal"), format!("{beside}-shm")] {
                    drop(tokio::fs::remove_file(file).await);
                }
            }
            Dialect::Postgres => {
                self.pool().execute("DROP SCHEMA IF EXISTS isocenter_rebuild CASCADE").await?;
            }
        }
        Ok(())
    }

    async fn noted(&self) -> Result<Vec<String>, Error> {
        let rows = sqlx::query("SELECT object FROM rebuild_tail ORDER BY object LIMIT $1").bind(PAGE);
        let rows = self.rows(rows).await?;
        Ok(rows.iter().map(|row| row.try_get("object")).collect::<Result<_, _>>()?)
    }

    async fn apply_noted(
        &self,
        blobs: &Blobs,
        new: &Self,
        noted: &[String],
        replayed: &mut Replayed,
    ) -> Result<(), Error> {
        for object in noted {
            new.replay_one(blobs, &BlobPath::parse(object)?, replayed).await?;
            let done = sqlx::query("DELETE FROM rebuild_tail WHERE object = $1").bind(object.clone());
            self.within(async { Ok(done.execute(&self.pool()).await?) }).await?;
        }
        Ok(())
    }

    /// Waits until nobody applies, applies what is left, and exchanges the tables, in one transaction.
    async fn exchange(&self, blobs: &Blobs, new: &Self, replayed: &mut Replayed) -> Result<(), Error> {
        // Nobody of this process waits for the lock in the database.
        let _writers = self.writers.acquire().await;
        let mut guard = self.pool().acquire().await?;
        if self.dialect == Dialect::Sqlite {
            let attach =
                format!("ATTACH DATABASE '{}' AS isocenter_rebuild", self.beside_file().replace('\'', "''"));
            sqlx::raw_sql(AssertSqlSafe(attach)).execute(&mut *guard).await?;
        }
        let exchanged = async {
            // Not at once for writing: SQLite would lock the other file too, to which the last objects are still applied.
            let mut tx = guard.begin().await?;
            take_every_turn(&mut tx).await?;
            let rows = sqlx::query("SELECT object FROM rebuild_tail ORDER BY object");
            for row in rows.fetch_all(&mut *tx).await? {
                let object: String = row.try_get("object")?;
                new.replay_one(blobs, &BlobPath::parse(&object)?, replayed).await?;
            }
            for statement in exchange_of(self.dialect) {
                sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *tx).await?;
            }
            Ok::<(), Error>(tx.commit().await?)
        };
        let exchanged = exchanged.await;
        // An attached file must not be met by the next user of the connection.
        drop(guard.close().await);
        exchanged
    }
}

async fn take_every_turn(tx: &mut Transaction<'_, Any>) -> Result<(), Error> {
    sqlx::query("UPDATE shards SET turn = turn + 1").execute(&mut **tx).await?;
    Ok(())
}

/// PostgreSQL moves the tables, which takes a moment however large they are; SQLite copies the rows.
fn exchange_of(dialect: Dialect) -> Vec<String> {
    let children_first = TABLES.iter().rev();
    match dialect {
        Dialect::Sqlite => children_first
            .map(|table| format!("DELETE FROM main.{table}"))
            .chain(TABLES.iter().map(|table| {
                format!("INSERT INTO main.{table} SELECT * FROM isocenter_rebuild.{table}")
            }))
            .collect(),
        Dialect::Postgres => children_first
            .map(|table| format!("DROP TABLE {table}"))
            .chain(TABLES.iter().map(|table| {
                format!("DO $$ BEGIN EXECUTE format('ALTER TABLE isocenter_rebuild.{table} SET SCHEMA %I', current_schema()); END $$")
            }))
            .collect(),
    }
}
