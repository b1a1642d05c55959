//! The archive over the embedded store and a folder of blobs: one suite, once on SQLite and once on PostgreSQL.

#[expect(clippy::duplicate_mod, reason = "one suite, two databases")]
mod postgres;
#[expect(clippy::duplicate_mod, reason = "one suite, two databases")]
mod sqlite;
