//! AI dispatch over an embedded store, blobs in a folder, and services on real sockets.

mod fetch;
mod hostile;
mod illness;
mod life;
mod sample;
mod vendor;
mod world;
