//! The suite on a file.

const DATABASE: crate::records::Dialect = crate::records::Dialect::Sqlite;

#[path = "arriving.rs"]
mod arriving;
#[path = "closing.rs"]
mod closing;
#[path = "comparing.rs"]
mod comparing;
#[path = "draining.rs"]
mod draining;
#[path = "fixture.rs"]
mod fixture;
#[path = "mending.rs"]
mod mending;
#[path = "rebuilding.rs"]
mod rebuilding;
#[path = "restoring.rs"]
mod restoring;
#[path = "serving.rs"]
mod serving;
