//! How to connect, and which errors mean that the database is gone.

use std::time::Duration;

use sqlx::{AnyPool, Executor as _, any::AnyPoolOptions};

use super::Dialect;
use crate::Error;

/// Connections: a process's appliers, its comparer and a cell's few readers. Two archives use a fifth of PostgreSQL's
/// default of 100.
const CONNECTIONS: u32 = 10;

/// On SQLite: one writer anyway.
const CONNECTIONS_OF_A_FILE: u32 = 4;

/// The longest wait for a connection.
const ACQUIRE: Duration = Duration::from_secs(5);

/// Losing the last commits in a power cut loses nothing: their events are still in the outbox or in the journal. The busy
/// timeout is for a second process, such as a backup.
const SQLITE: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;
    PRAGMA busy_timeout = 10000";

/// The server breaks off what this process no longer waits for, and a session whose process is gone keeps no lock.
const POSTGRES: &str = "SET statement_timeout = '30s'; SET lock_timeout = '10s';
    SET idle_in_transaction_session_timeout = '60s'; SET application_name = 'isocenter'";

/// The same, with the tables that are being made again.
const POSTGRES_REBUILT: &str = "SET statement_timeout = '30s'; SET lock_timeout = '10s';
    SET application_name = 'isocenter'; SET search_path = isocenter_rebuild";

pub(super) fn dialect(url: &str) -> Result<Dialect, Error> {
    let scheme = url.split(':').next().unwrap_or_default();
    match scheme {
        "sqlite" => Ok(Dialect::Sqlite),
        "postgres" | "postgresql" => Ok(Dialect::Postgres),
        _ => Err(Error::Records(sqlx::Error::Configuration(
            "it is neither sqlite:FILE nor postgres://USER@HOST/DATABASE".into(),
        ))),
    }
}

/// Which tables a pool works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tables {
    /// Those that serve.
    Serving,
    /// Those that are being made again: in PostgreSQL in a schema of their own, in SQLite in a file of their own.
    Rebuilt,
}

/// A pool that connects when it is used.
pub(super) fn pool(url: &str, dialect: Dialect, tables: Tables) -> Result<AnyPool, Error> {
    sqlx::any::install_default_drivers();
    let (url, connections) = match dialect {
        Dialect::Sqlite if !url.contains('?') => (format!("{url}?mode=rwc"), CONNECTIONS_OF_A_FILE),
        Dialect::Sqlite => (url.to_owned(), CONNECTIONS_OF_A_FILE),
        Dialect::Postgres => (url.to_owned(), CONNECTIONS),
    };
    let options = AnyPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE).after_connect(
        move |connection, _| {
            Box::pin(async move {
                let settings = match (dialect, tables) {
                    (Dialect::Sqlite, _) => SQLITE,
                    (Dialect::Postgres, Tables::Serving) => POSTGRES,
                    (Dialect::Postgres, Tables::Rebuilt) => POSTGRES_REBUILT,
                };
                connection.execute(settings).await?;
                Ok(())
            })
        },
    );
    Ok(options.connect_lazy(&url)?)
}

/// Whether an error says that the database is gone or cannot serve at all, rather than that it refuses one statement.
pub(super) fn lost(error: &Error) -> bool {
    match error {
        Error::Unserved(_) => true,
        Error::Records(sqlx::Error::Database(e)) => {
            // SQLSTATE: connection exception, insufficient resources, operator intervention (but not a statement that was
            // broken off, 57014), system error.
            let code = e.code().unwrap_or_default();
            let class = ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class));
            class && code != "57014" && code.len() == 5
        }
        Error::Records(e) => matches!(
            e,
            sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
        ),
        _ => false,
    }
}
