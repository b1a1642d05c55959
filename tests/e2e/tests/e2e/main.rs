//! End-to-end tests: the binary `isocenter` as a process of its own, and around it a network that sends, analyses, reads
//! and receives. What a test knows of the server it learns as a peer or an operator would, and from its folders.

mod harness;

mod alerts;
mod bad_input;
mod bad_peers;
mod cli;
mod demo;
mod durability;
mod interop;
mod network;
mod operator;
mod privacy;
mod real_input;
mod receiving;
mod replay;
mod security;
mod telemetry;
mod vendor;
