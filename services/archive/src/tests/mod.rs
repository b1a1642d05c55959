//! The archive over the embedded store, a folder of blobs and SQLite.

mod closing;
mod comparing;
mod draining;
mod fixture;
mod serving;
