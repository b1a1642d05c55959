//! The tables' version: expand, then contract.
//!
//! A step is made of two texts. *Expand* only adds, so that processes of the version before go on working; *contract*
//! takes away what they needed, once none is left. The database says up to which version it is expanded, and which version a
//! process must have at least; a process runs on what is expanded for it and not yet contracted away.

use std::fmt;

use sqlx::{Any, AnyPool, Row as _, Transaction};

use super::{Dialect, begin};
use crate::Error;

/// One step from a version to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// From 1, without a gap.
    pub version: i64,
    /// What is added; runs in one transaction.
    pub expand: &'static str,
    /// What the version before needed and this one does not; empty: nothing.
    pub contract: &'static str,
}

/// The steps that this build knows, embedded, so that the binary needs no folder beside it.
pub(crate) static STEPS: &[Step] =
    &[Step { version: 1, expand: include_str!("../../migrations/0001_expand.sql"), contract: "" }];

/// Which half of the steps to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migration {
    /// Adds what this build needs. Processes of the version before go on working.
    Expand,
    /// Takes away what only older builds need. None of them must be running.
    Contract,
}

/// The version of the tables, beside what this build wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schema {
    /// Up to which version the tables are expanded; 0: there are none.
    pub expanded: i64,
    /// A process must be of this version at least.
    pub oldest: i64,
    /// The version of this build.
    pub wanted: i64,
}

impl Schema {
    /// Whether this build may work on these tables.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.expanded >= self.wanted && self.oldest <= self.wanted
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expanded, oldest, wanted } = self;
        if oldest > wanted {
            write!(
                f,
                "the records' tables are contracted to version {oldest}, this build knows {wanted}: upgrade it"
            )
        } else if expanded < wanted {
            write!(
                f,
                "the records' tables are of version {expanded}, this build needs {wanted}: run `isocenter records migrate`"
            )
        } else {
            write!(f, "the records' tables are of version {expanded}, this build needs {wanted}")
        }
    }
}

/// The last version of some steps.
pub(super) fn last(steps: &[Step]) -> i64 {
    steps.last().map_or(0, |step| step.version)
}

/// What the database says of its tables.
pub(super) async fn read(pool: &AnyPool, dialect: Dialect, steps: &[Step]) -> Result<Schema, Error> {
    let none = Schema { expanded: 0, oldest: 0, wanted: last(steps) };
    let there = match dialect {
        Dialect::Sqlite => "SELECT COUNT(*) AS there FROM sqlite_master WHERE name = 'schema_version'",
        Dialect::Postgres => {
            "SELECT COUNT(*) AS there FROM pg_tables WHERE tablename = 'schema_version' AND schemaname = current_schema()"
        }
    };
    let there: i64 = sqlx::query(there).fetch_one(pool).await?.try_get("there")?;
    if there == 0 {
        return Ok(none);
    }
    let row = sqlx::query("SELECT expanded, oldest FROM schema_version").fetch_optional(pool).await?;
    let Some(row) = row else { return Ok(none) };
    Ok(Schema { expanded: row.try_get("expanded")?, oldest: row.try_get("oldest")?, ..none })
}

/// Takes one half of the steps that are missing, in one transaction; two processes at once take them once.
pub(super) async fn migrate(
    pool: &AnyPool,
    dialect: Dialect,
    steps: &[Step],
    migration: Migration,
) -> Result<Schema, Error> {
    let mut tx = begin(pool, dialect).await?;
    if dialect == Dialect::Postgres {
        // The number is ours alone: the first bytes of "isocenter".
        sqlx::query("SELECT pg_advisory_xact_lock(7598805550973906275)").execute(&mut *tx).await?;
        // Tables may be large, and an index takes the time it takes.
        sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *tx).await?;
    }
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS schema_version (id BIGINT NOT NULL PRIMARY KEY, expanded BIGINT NOT NULL,
             oldest BIGINT NOT NULL)",
    )
    .execute(&mut *tx)
    .await?;
    let row =
        "INSERT INTO schema_version (id, expanded, oldest) VALUES (1, 0, 0) ON CONFLICT (id) DO NOTHING";
    sqlx::query(row).execute(&mut *tx).await?;
    let row = sqlx::query("SELECT expanded, oldest FROM schema_version").fetch_one(&mut *tx).await?;
    let mut schema =
        Schema { expanded: row.try_get("expanded")?, oldest: row.try_get("oldest")?, wanted: last(steps) };
    match migration {
        Migration::Expand => expand(&mut tx, steps, &mut schema).await?,
        Migration::Contract => contract(&mut tx, steps, &mut schema).await?,
    }
    let row = sqlx::query("UPDATE schema_version SET expanded = $1, oldest = $2");
    row.bind(schema.expanded).bind(schema.oldest).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(schema)
}

async fn expand(
    tx: &mut Transaction<'static, Any>,
    steps: &[Step],
    schema: &mut Schema,
) -> Result<(), Error> {
    for step in steps.iter().filter(|step| step.version > schema.expanded) {
        sqlx::raw_sql(step.expand).execute(&mut **tx).await?;
    }
    schema.expanded = schema.expanded.max(schema.wanted);
    Ok(())
}

async fn contract(
    tx: &mut Transaction<'static, Any>,
    steps: &[Step],
    schema: &mut Schema,
) -> Result<(), Error> {
    if schema.expanded < schema.wanted {
        return Err(Error::Schema(*schema));
    }
    for step in steps.iter().filter(|step| step.version > schema.oldest && !step.contract.is_empty()) {
        sqlx::raw_sql(step.contract).execute(&mut **tx).await?;
    }
    schema.oldest = schema.oldest.max(schema.wanted);
    Ok(())
}
