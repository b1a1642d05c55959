//! The records: SQL projections of the journal. Rebuildable, never the truth.

mod apply;
mod project;
pub(crate) mod query;

use std::{sync::Arc, time::Duration};

use sqlx::{AnyPool, Executor as _, any::AnyPoolOptions, migrate::Migrator};
use tokio::sync::Mutex;

use crate::Error;

/// The tables, embedded, so that the binary needs no folder beside it.
static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Connections: SQLite has one writer anyway, and a cell's readers are few.
const CONNECTIONS: u32 = 4;

/// The records database. Cloning gives another handle to the same one.
#[derive(Clone, Debug)]
pub struct Records {
    pool: AnyPool,
    /// One writer at a time in this process: SQLite would answer "busy" to the second.
    writer: Arc<Mutex<()>>,
}

impl Records {
    /// Opens the database at `url`, `sqlite:/path/to/records.db` (made where it is absent), and brings its tables up to
    /// date.
    ///
    /// # Errors
    /// [`Error::Records`] where it cannot be opened; [`Error::Migrate`] where its tables are those of a newer build.
    pub async fn open(url: &str) -> Result<Self, Error> {
        sqlx::any::install_default_drivers();
        let sqlite = url.starts_with("sqlite:");
        let url = if sqlite && !url.contains('?') { format!("{url}?mode=rwc") } else { url.to_owned() };
        let options = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(Duration::from_secs(10))
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if sqlite {
                        // Losing the last commits in a power cut loses nothing: their events are still in the outbox or
                        // in the journal. The busy timeout is for a second process, such as a backup.
                        for pragma in [
                            "PRAGMA journal_mode = WAL",
                            "PRAGMA synchronous = NORMAL",
                            "PRAGMA foreign_keys = ON",
                            "PRAGMA busy_timeout = 10000",
                        ] {
                            connection.execute(pragma).await?;
                        }
                    }
                    Ok(())
                })
            });
        let pool = options.connect(&url).await?;
        MIGRATIONS.run(&pool).await?;
        Ok(Self { pool, writer: Arc::default() })
    }

    /// Closes the connections; for tests and tools. Handles left over fail from then on.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A number as SQL holds it, saturating: no counter here comes near.
pub(crate) fn number(n: impl TryInto<i64>) -> i64 {
    n.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
impl Records {
    pub(crate) fn pool(&self) -> &AnyPool {
        &self.pool
    }
}
