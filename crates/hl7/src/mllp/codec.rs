//! Frames.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use isocenter_domain::{Kind, Kinded};
use tokio_util::codec::{Decoder, Encoder};

/// Before the first byte of a message.
const START: u8 = 0x0b;
/// After the last byte of a message, and followed by [`CARRIAGE_RETURN`].
const END: u8 = 0x1c;
/// The last byte of a frame.
const CARRIAGE_RETURN: u8 = 0x0d;

/// How long a message may be unless the caller says otherwise: 1 MiB.
pub const DEFAULT_FRAME_LIMIT: usize = 1 << 20;

/// How many bytes may stand between two frames: 64 KiB. Some systems end a frame with more than the standard asks
/// for; what never begins a frame is not MLLP.
pub const SKIP_LIMIT: usize = 64 << 10;

/// A connection that does not carry MLLP frames, or no longer does. Nothing of what was read is repeated.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed.
    #[error("connection failed")]
    Io(#[from] io::Error),
    /// A message is longer than the limit.
    #[error("frame is longer than {limit} bytes")]
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// More than [`SKIP_LIMIT`] bytes without the beginning of a frame.
    #[error("no frame begins within {SKIP_LIMIT} bytes: the peer does not speak MLLP")]
    NoStart,
    /// The connection ended within a frame.
    #[error("connection ended within a frame, after {bytes} bytes of it")]
    HalfFrame {
        /// How much of the message had arrived, in bytes.
        bytes: usize,
    },
    /// A frame began within a frame. The two are never taken for one message: they may be about two patients.
    #[error("a frame begins within a frame")]
    Interrupted,
    /// `0x1C` without `0x0D` after it.
    #[error("a frame ends with 0x1C and without 0x0D")]
    BadEnd,
    /// A message to be sent has `0x0B` or `0x1C` in it and cannot be framed.
    #[error("message has a byte in it that begins or ends a frame")]
    NotFrameable,
}

impl Kinded for FrameError {
    fn kind(&self) -> Kind {
        match self {
            Self::Io(_) | Self::HalfFrame { .. } => Kind::Unavailable,
            Self::TooLong { .. } | Self::NoStart | Self::Interrupted | Self::BadEnd | Self::NotFrameable => {
                Kind::Invalid
            }
        }
    }
}

/// The MLLP codec. A decoder holds at most one frame of the limit, and what the transport read beyond it.
///
/// Bytes before a frame are passed over and counted, up to [`SKIP_LIMIT`]. After an error the connection is of no
/// further use.
#[derive(Debug)]
pub struct Codec {
    limit: usize,
    state: State,
    skipped: u64,
}

#[derive(Debug)]
enum State {
    /// Between frames; how many bytes were passed over since the last one.
    Between(usize),
    /// Within a frame; how many bytes of the buffer are known not to end it, so that none is looked at twice.
    Within(usize),
}

impl Codec {
    /// A codec that refuses to read messages longer than `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { limit, state: State::Between(0), skipped: 0 }
    }

    /// How many bytes outside frames were passed over since the connection began.
    #[must_use]
    pub const fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Passes over what precedes the next frame. True once a frame has begun.
    fn skip(&mut self, already: usize, src: &mut BytesMut) -> Result<bool, FrameError> {
        let start = src.iter().position(|b| *b == START);
        let skipped = start.unwrap_or(src.len());
        self.skipped += skipped as u64;
        let total = already + skipped;
        if total > SKIP_LIMIT {
            return Err(FrameError::NoStart);
        }
        if start.is_some() {
            src.advance(skipped + 1);
            self.state = State::Within(0);
        } else {
            src.clear();
            self.state = State::Between(total);
        }
        Ok(start.is_some())
    }

    /// Looks for the end of the frame that begins at the start of `src`.
    fn frame(&mut self, scanned: usize, src: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        let special = src[scanned..].iter().position(|b| *b == START || *b == END).map(|i| scanned + i);
        if special.unwrap_or(src.len()) > self.limit {
            return Err(FrameError::TooLong { limit: self.limit });
        }
        let Some(at) = special else {
            self.state = State::Within(src.len());
            return Ok(None);
        };
        if src[at] == START {
            return Err(FrameError::Interrupted);
        }
        match src.get(at + 1) {
            None => {
                self.state = State::Within(at);
                Ok(None)
            }
            Some(&CARRIAGE_RETURN) => {
                let message = src.split_to(at).freeze();
                src.advance(2);
                self.state = State::Between(0);
                Ok(Some(message))
            }
            Some(_) => Err(FrameError::BadEnd),
        }
    }
}

impl Decoder for Codec {
    type Item = Bytes;
    type Error = FrameError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        if let State::Between(already) = self.state
            && !self.skip(already, src)?
        {
            return Ok(None);
        }
        match self.state {
            State::Within(scanned) => self.frame(scanned, src),
            State::Between(_) => Ok(None),
        }
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        if let Some(message) = self.decode(src)? {
            return Ok(Some(message));
        }
        match self.state {
            State::Between(_) => Ok(None),
            State::Within(_) => Err(FrameError::HalfFrame { bytes: src.len() }),
        }
    }
}

impl Encoder<&str> for Codec {
    type Error = FrameError;

    fn encode(&mut self, message: &str, dst: &mut BytesMut) -> Result<(), FrameError> {
        if message.bytes().any(|b| b == START || b == END) {
            return Err(FrameError::NotFrameable);
        }
        dst.reserve(message.len() + 3);
        dst.put_u8(START);
        dst.put_slice(message.as_bytes());
        dst.put_slice(&[END, CARRIAGE_RETURN]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `pieces` one after another, as a connection would, and then its end.
    fn read(limit: usize, pieces: &[&[u8]]) -> (Vec<Bytes>, Option<FrameError>, u64) {
        let mut codec = Codec::new(limit);
        let mut buffer = BytesMut::new();
        let mut messages = Vec::new();
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match codec.decode(&mut buffer) {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(e) => return (messages, Some(e), codec.skipped()),
                }
            }
        }
        loop {
            match codec.decode_eof(&mut buffer) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return (messages, None, codec.skipped()),
                Err(e) => return (messages, Some(e), codec.skipped()),
            }
        }
    }

    #[test]
    fn two_frames_are_read_however_the_bytes_are_cut() {
        let stream = b"\r\n\x0bMSH|one\r\x1c\x0d\n\x0bMSH|two\r\x1c\x0d";
        for cut in 0..=stream.len() {
            for second in cut..=stream.len() {
                let (messages, error, skipped) =
                    read(100, &[&stream[..cut], &stream[cut..second], &stream[second..]]);
                assert!(error.is_none(), "cut at {cut} and {second}: {error:?}");
                assert_eq!(messages, ["MSH|one\r", "MSH|two\r"], "cut at {cut} and {second}");
                assert_eq!(skipped, 3);
            }
        }
        let bytewise: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(read(100, &bytewise).0.len(), 2);
    }

    #[test]
    fn a_frame_of_the_limit_passes_and_one_byte_more_does_not() {
        assert_eq!(read(4, &[b"\x0babcd\x1c\x0d"]).0, ["abcd"]);
        assert!(matches!(read(4, &[b"\x0babcde\x1c\x0d"]).1, Some(FrameError::TooLong { limit: 4 })));
        // An endless frame is refused before its end is seen.
        assert!(matches!(read(4, &[b"\x0bab", b"cde"]).1, Some(FrameError::TooLong { limit: 4 })));
        assert!(matches!(read(4, &[b"\x0babcd", b"\x1c\x0d"]), (m, None, 0) if m == ["abcd"]));
    }

    #[test]
    fn every_half_frame_is_named_so() {
        let frame = b"\x0bMSH|x\x1c\x0d";
        for cut in 1..frame.len() {
            let (messages, error, _) = read(100, &[&frame[..cut]]);
            assert!(messages.is_empty());
            let Some(FrameError::HalfFrame { bytes }) = error else { panic!("cut at {cut}: {error:?}") };
            assert_eq!(bytes, cut - 1);
        }
    }

    #[test]
    fn what_is_not_mllp_is_refused() {
        let junk = vec![b'G'; SKIP_LIMIT];
        assert!(read(9, &[&junk]).1.is_none());
        assert!(matches!(read(9, &[&junk, b"E"]).1, Some(FrameError::NoStart)));
        assert!(matches!(read(9, &[&junk, b"\x0bok\x1c\x0d"]), (m, None, 65_536) if m == ["ok"]));
        assert!(matches!(read(9, &[b"\x0bab\x0bcd\x1c\x0d"]).1, Some(FrameError::Interrupted)));
        assert!(matches!(read(9, &[b"\x0bab\x1c\x0b"]).1, Some(FrameError::BadEnd)));
    }

    #[test]
    fn a_message_that_would_break_its_frame_is_not_written() {
        let mut out = BytesMut::new();
        for bad in ["a\u{b}b", "a\u{1c}b"] {
            assert!(matches!(Codec::new(9).encode(bad, &mut out), Err(FrameError::NotFrameable)));
        }
        assert!(out.is_empty());
        Codec::new(9).encode("MSH", &mut out).unwrap();
        assert_eq!(&out[..], b"\x0bMSH\x1c\x0d");
    }
}
