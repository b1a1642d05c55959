//! MLLP, the minimal lower layer protocol (HL7 Transport Specification, MLLP Release 1): `0x0B`, the message, `0x1C`,
//! `0x0D`.
//!
//! [`Codec`] frames, [`Client`] sends one message at a time and awaits its answer, [`Listener`] is the other side.

mod client;
mod codec;
mod listener;

pub use client::{ANSWER_LIMIT, Client, MllpError};
pub use codec::{Codec, DEFAULT_FRAME_LIMIT, FrameError, SKIP_LIMIT};
pub use listener::{Connection, Listener};
