//! Routing over an embedded store, a folder of blobs and real sockets.

mod common;
mod registry;
mod routing;
