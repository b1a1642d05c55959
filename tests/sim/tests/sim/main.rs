//! The races that the project promises to win, each driven through the public surfaces with several seeds.

mod calls;
mod closing;
mod desk;
mod determinism;
mod history;
mod images;
mod signing;
mod storm;
mod vanishing;
mod vendor;
mod world;
