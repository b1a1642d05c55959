//! The suite on a real server, and what only a server can do: go away.

const DATABASE: crate::records::Dialect = crate::records::Dialect::Postgres;

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
#[path = "outage.rs"]
mod outage;
#[path = "rebuilding.rs"]
mod rebuilding;
#[path = "serving.rs"]
mod serving;
