//! The records: SQL projections of the journal. Rebuildable, never the truth. One SQL text on SQLite and PostgreSQL.
//!
//! A database that does not answer stops nothing: calls are refused at once with a cause, and [`Records::keep`] finds it
//! again. Every connection that was open when it was lost is given up, so that none is waited for.

mod apply;
pub(crate) mod arrivals;
mod connect;
mod history;
#[cfg(test)]
mod indexed_tests;
mod project;
pub(crate) mod query;
pub(crate) mod rebuild;
pub(crate) mod schema;

use std::{fmt, sync::Arc, time::Duration};

use isocenter_runtime::task::chain;
use parking_lot::RwLock;
use sqlx::{Any, AnyPool, Transaction};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use self::schema::{STEPS, Step};
pub use self::{
    history::{Gap, History},
    schema::{Migration, Schema},
};
use crate::Error;

/// The longest that a call to PostgreSQL may take; the server itself breaks off a statement a little earlier. SQLite is in
/// this process and does not go silent.
const CALL: Duration = Duration::from_secs(35);

/// The longest that a look at the database may take.
const LOOK: Duration = Duration::from_secs(5);

/// How often a database that answers is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How often one that does not is tried.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// Appliers at a time on PostgreSQL: as many as shards are drained at a time.
const WRITERS: usize = 4;

/// Which database it is, where that matters: how to connect, lock, and look at the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

/// How the records are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serving {
    /// Not asked yet.
    Unknown,
    /// They answer.
    Yes,
    /// They do not, and why. What happens is journaled meanwhile and applied when they answer again.
    No(Arc<str>),
}

/// The records database. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Records {
    url: Arc<str>,
    dialect: Dialect,
    tables: connect::Tables,
    steps: &'static [Step],
    pool: Arc<RwLock<AnyPool>>,
    serving: Arc<watch::Sender<Serving>>,
    /// SQLite has one writer and would answer "busy" to the second.
    writers: Arc<Semaphore>,
    /// One rebuild at a time in this process; PostgreSQL has a lock for the others.
    rebuild: Arc<tokio::sync::Mutex<()>>,
}

impl fmt::Debug for Records {
    /// Without the address, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("dialect", &self.dialect).finish_non_exhaustive()
    }
}

impl Records {
    /// The database at `url`: `sqlite:/path/to/records.db` (made where it is absent), or
    /// `postgres://user:password@host:port/database`, with `?sslmode=verify-full&sslrootcert=/path/ca.pem` for TLS.
    ///
    /// SQLite is opened and its tables are brought up to date. PostgreSQL is only noted: nothing waits for it, and
    /// [`Records::keep`] connects when it answers.
    ///
    /// # Errors
    /// [`Error::Records`] where the address is none, or the file cannot be opened; [`Error::Schema`] where its tables are
    /// those of a newer build.
    pub async fn open(url: &str) -> Result<Self, Error> {
        Self::open_as(url, STEPS).await
    }

    pub(crate) async fn open_as(url: &str, steps: &'static [Step]) -> Result<Self, Error> {
        let dialect = connect::dialect(url)?;
        let writers = match dialect {
            Dialect::Sqlite => 1,
            Dialect::Postgres => WRITERS,
        };
        let records = Self {
            url: url.into(),
            dialect,
            tables: connect::Tables::Serving,
            steps,
            pool: Arc::new(RwLock::new(connect::pool(url, dialect, connect::Tables::Serving)?)),
            serving: Arc::new(watch::Sender::new(Serving::Unknown)),
            writers: Arc::new(Semaphore::new(writers)),
            rebuild: Arc::default(),
        };
        match dialect {
            Dialect::Sqlite => {
                records.migrate(Migration::Expand).await?;
                records.prepare().await?;
            }
            Dialect::Postgres => {}
        }
        Ok(records)
    }

    /// How they are now.
    #[must_use]
    pub fn serving(&self) -> Serving {
        self.serving.borrow().clone()
    }

    /// The same, to wait for a change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Serving> {
        self.serving.subscribe()
    }

    /// The version of the tables.
    ///
    /// # Errors
    /// [`Error::Records`].
    pub async fn schema(&self) -> Result<Schema, Error> {
        schema::read(&self.pool(), self.dialect, self.steps).await
    }

    /// Takes one half of the steps to this build's version; what is done already is not done again.
    ///
    /// # Errors
    /// [`Error::Records`]; [`Error::Schema`] where the tables are to be contracted that are not expanded.
    pub async fn migrate(&self, migration: Migration) -> Result<Schema, Error> {
        schema::migrate(&self.pool(), self.dialect, self.steps, migration).await
    }

    /// Connects and looks whether this build may work on the tables. Where there are none at all they are made; tables of
    /// an older version are left as they are, because processes of that version may still be running.
    ///
    /// # Errors
    /// [`Error::Records`], [`Error::Schema`].
    pub async fn prepare(&self) -> Result<(), Error> {
        let look = async {
            let mut schema = self.schema().await?;
            if schema.expanded == 0 {
                schema = self.migrate(Migration::Expand).await?;
            }
            if !schema.fits() {
                return Err(Error::Schema(schema));
            }
            self.forget_abandoned().await
        };
        let looked = match self.dialect {
            Dialect::Sqlite => look.await,
            Dialect::Postgres => match tokio::time::timeout(LOOK, look).await {
                Ok(looked) => looked,
                Err(_) => Err(Error::Unserved("the records database does not answer".into())),
            },
        };
        match &looked {
            Ok(()) => drop(self.serving.send_if_modified(|now| {
                let changed = *now != Serving::Yes;
                *now = Serving::Yes;
                changed
            })),
            Err(e) => self.lost(e),
        }
        looked
    }

    /// Keeps [`Records::serving`] true to what is until `ended`: connects, looks now and then, and connects again.
    pub async fn keep(&self, ended: CancellationToken) {
        loop {
            let before = self.serving();
            let looked = self.prepare().await;
            match (&before, &looked) {
                (Serving::No(_), Ok(())) => tracing::info!("the records answer again"),
                (Serving::Yes | Serving::Unknown, Err(e)) => {
                    tracing::error!(error = %chain(e), "the records do not serve; what happens is journaled");
                }
                (Serving::Yes | Serving::Unknown, Ok(())) | (Serving::No(_), Err(_)) => {}
            }
            let pause = if looked.is_ok() { LOOK_EVERY } else { TRY_EVERY };
            let mut serving = self.watch();
            tokio::select! {
                () = ended.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                // A call found them gone.
                _ = serving.wait_for(|now| looked.is_ok() && *now != Serving::Yes) => {}
            }
        }
    }

    /// Closes the connections; for tests and tools. Handles left over fail from then on.
    pub async fn close(&self) {
        let pool = self.pool();
        pool.close().await;
    }

    pub(crate) fn pool(&self) -> AnyPool {
        self.pool.read().clone()
    }

    /// Does `work` while the database serves. Where it is lost meanwhile the work is broken off.
    pub(crate) async fn within<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let mut serving = self.watch();
        match &*serving.borrow_and_update() {
            Serving::Yes => {}
            Serving::Unknown => {
                return Err(Error::Unserved("the records database is being connected to".into()));
            }
            Serving::No(why) => return Err(Error::Unserved(Arc::clone(why))),
        }
        let done = tokio::select! {
            done = work => done,
            _ = serving.wait_for(|now| *now != Serving::Yes) => {
                Err(Error::Unserved("the records database was lost".into()))
            }
            () = tokio::time::sleep(CALL), if self.dialect == Dialect::Postgres => {
                Err(Error::Unserved("the records database does not answer".into()))
            }
        };
        if let Err(e) = &done
            && connect::lost(e)
        {
            self.lost(e);
        }
        done
    }

    /// A transaction that may write.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Any>, Error> {
        begin(&self.pool(), self.dialect).await
    }

    /// Gives up every connection: one that hangs is never waited for.
    fn lost(&self, error: &Error) {
        let why: Arc<str> = chain(error).into();
        self.serving.send_if_modified(|now| {
            let was = matches!(now, Serving::No(_));
            *now = Serving::No(why);
            !was
        });
        if self.dialect == Dialect::Postgres
            && let Ok(fresh) = connect::pool(&self.url, self.dialect, self.tables)
        {
            *self.pool.write() = fresh;
        }
    }
}

/// A transaction that may write. SQLite takes its lock at once: one that read first could not have it later.
pub(crate) async fn begin(pool: &AnyPool, dialect: Dialect) -> Result<Transaction<'static, Any>, Error> {
    Ok(match dialect {
        Dialect::Sqlite => pool.begin_with("BEGIN IMMEDIATE").await?,
        Dialect::Postgres => pool.begin().await?,
    })
}

/// A number as SQL holds it, saturating: no counter here comes near.
pub(crate) fn number(n: impl TryInto<i64>) -> i64 {
    n.try_into().unwrap_or(i64::MAX)
}
