//! Walks the elements of a data set without recursion, without keeping what nobody asked for, and within bounds.
//!
//! The header codecs are `dicom-encoding`'s. The walk is here because the library's readers build nested objects by
//! recursion and assume balanced delimiters: a hostile data set could end the process by either.

use std::{
    error::Error as _,
    io::{self, BufRead, Read as _},
};

use dicom_core::{Tag, VR, header::Header as _};
use dicom_encoding::decode::{
    self, Decode as _, explicit_be::ExplicitVRBigEndianDecoder, explicit_le::ExplicitVRLittleEndianDecoder,
    implicit_le::StandardImplicitVRLittleEndianDecoder,
};

use super::InspectError;

/// How an element's tag, VR and length are encoded (PS3.5 §7.1, Annex A).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    ImplicitLittle,
    ExplicitLittle,
    ExplicitBig,
}

/// The deepest nesting followed. Structured reports of real devices stay below 20.
const MAX_DEPTH: usize = 128;

/// The most bytes read before the pixel data. The functional groups of an enhanced object of 10,000 frames take 30 MB;
/// the bound is there for deflated data sets, which can grow a thousandfold.
const MAX_HEADER: u64 = 1 << 30;

const ITEM: Tag = Tag(0xFFFE, 0xE000);
const ITEM_END: Tag = Tag(0xFFFE, 0xE00D);
const SEQUENCE_END: Tag = Tag(0xFFFE, 0xE0DD);

/// What the walk has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// An element with a value of `len` bytes, which must be taken with [`Walk::value`] or [`Walk::skip`] next.
    Value { tag: Tag, len: u32 },
    /// An element of undefined length that holds fragments: encapsulated pixel data. Going on passes over them.
    Fragments { tag: Tag },
    /// A sequence begins.
    Sequence { tag: Tag },
    /// An item of a sequence begins.
    Item,
    /// The data set is at its end.
    End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Sequence,
    Item,
    Fragments,
}

struct Frame {
    inside: Inside,
    tag: Tag,
    /// Where it ends, unless a delimiter says so.
    end: Option<u64>,
    encoding: Encoding,
}

/// A walk over one data set.
pub(super) struct Walk<R> {
    source: Counted<R>,
    encoding: Encoding,
    frames: Vec<Frame>,
    last: Tag,
}

impl<R: BufRead> Walk<R> {
    pub(super) fn new(source: R, encoding: Encoding) -> Self {
        let source = Counted { inner: source, position: 0 };
        Self { source, encoding, frames: Vec::new(), last: Tag(0, 0) }
    }

    /// Bytes of the data set read so far.
    pub(super) fn position(&self) -> u64 {
        self.source.position
    }

    /// How many sequences enclose what comes next.
    pub(super) fn depth(&self) -> usize {
        self.frames.iter().filter(|f| f.inside == Inside::Sequence).count()
    }

    /// The outermost sequence that encloses what comes next.
    pub(super) fn outermost(&self) -> Option<Tag> {
        self.frames.first().map(|f| f.tag)
    }

    /// The next event.
    pub(super) fn next(&mut self) -> Result<Event, InspectError> {
        loop {
            self.close_finished()?;
            if self.source.position > MAX_HEADER {
                return Err(InspectError::TooLong { tag: self.last, max: MAX_HEADER });
            }
            let at_end = self.source.inner.fill_buf().map(<[u8]>::is_empty);
            if at_end.map_err(|e| self.io(e))? {
                return if self.frames.is_empty() { Ok(Event::End) } else { Err(self.truncated()) };
            }
            if let Some(event) = self.element()? {
                return Ok(event);
            }
        }
    }

    /// The value of the element just met, at most `max` bytes.
    pub(super) fn value(&mut self, len: u32, max: u32) -> Result<Vec<u8>, InspectError> {
        if len > max {
            return Err(InspectError::TooLong { tag: self.last, max: u64::from(max) });
        }
        let mut value = vec![0; usize::try_from(len).expect("checked against a bound of 32 bits")];
        self.source.read_exact(&mut value).map_err(|e| self.io(e))?;
        Ok(value)
    }

    /// Passes over the value of the element just met.
    pub(super) fn skip(&mut self, len: u32) -> Result<(), InspectError> {
        let len = u64::from(len);
        if self.source.position + len > MAX_HEADER {
            return Err(InspectError::TooLong { tag: self.last, max: MAX_HEADER });
        }
        let skipped = io::copy(&mut (&mut self.source).take(len), &mut io::sink()).map_err(|e| self.io(e))?;
        if skipped == len { Ok(()) } else { Err(self.truncated()) }
    }

    /// Reads one element header; `None` where it was a delimiter.
    fn element(&mut self) -> Result<Option<Event>, InspectError> {
        let encoding = self.frames.last().map_or(self.encoding, |f| f.encoding);
        let header = match encoding {
            Encoding::ImplicitLittle => {
                StandardImplicitVRLittleEndianDecoder::default().decode_header(&mut self.source)
            }
            Encoding::ExplicitLittle => {
                ExplicitVRLittleEndianDecoder::default().decode_header(&mut self.source)
            }
            Encoding::ExplicitBig => ExplicitVRBigEndianDecoder::default().decode_header(&mut self.source),
        };
        let (header, _) = header.map_err(|e| self.header_error(&e))?;
        let (tag, len) = (header.tag(), header.len);
        self.last = tag;
        let inside = self.frames.last().map(|f| f.inside);
        match (inside, tag) {
            (Some(Inside::Sequence), ITEM) => {
                self.push(Inside::Item, tag, len.get(), encoding)?;
                Ok(Some(Event::Item))
            }
            (Some(Inside::Fragments), ITEM) => {
                let len = len.get().ok_or_else(|| self.malformed())?;
                self.skip(len).map(|()| None)
            }
            (Some(Inside::Sequence | Inside::Fragments), SEQUENCE_END) | (Some(Inside::Item), ITEM_END) => {
                self.frames.pop();
                Ok(None)
            }
            (Some(Inside::Sequence | Inside::Fragments), _) | (_, ITEM | ITEM_END | SEQUENCE_END) => {
                Err(self.malformed())
            }
            (None | Some(Inside::Item), _) => self.enter(tag, header.vr(), len.get(), encoding).map(Some),
        }
    }

    fn enter(
        &mut self,
        tag: Tag,
        vr: VR,
        len: Option<u32>,
        encoding: Encoding,
    ) -> Result<Event, InspectError> {
        let pixels = matches!(vr, VR::OB | VR::OW) || tag == Tag(0x7FE0, 0x0010);
        match (vr, len) {
            (VR::SQ, len) => {
                self.push(Inside::Sequence, tag, len, encoding)?;
                Ok(Event::Sequence { tag })
            }
            (_, Some(len)) => Ok(Event::Value { tag, len }),
            (_, None) if pixels => {
                self.push(Inside::Fragments, tag, None, encoding)?;
                Ok(Event::Fragments { tag })
            }
            // An unknown VR of undefined length is a sequence in Implicit VR Little Endian (PS3.5 §6.2.2 note 2).
            (VR::UN, None) => {
                self.push(Inside::Sequence, tag, None, Encoding::ImplicitLittle)?;
                Ok(Event::Sequence { tag })
            }
            (_, None) => Err(self.malformed()),
        }
    }

    fn push(
        &mut self,
        inside: Inside,
        tag: Tag,
        len: Option<u32>,
        encoding: Encoding,
    ) -> Result<(), InspectError> {
        if self.frames.len() >= MAX_DEPTH {
            return Err(self.malformed());
        }
        let end = len.map(|len| self.source.position + u64::from(len));
        // An item keeps the tag of its sequence, so that the outermost frame always names one.
        let tag = if inside == Inside::Item { self.frames.last().map_or(tag, |f| f.tag) } else { tag };
        self.frames.push(Frame { inside, tag, end, encoding });
        Ok(())
    }

    /// Leaves the sequences and items of defined length that end here.
    fn close_finished(&mut self) -> Result<(), InspectError> {
        while let Some(end) = self.frames.last().and_then(|f| f.end) {
            match self.source.position.cmp(&end) {
                std::cmp::Ordering::Less => return Ok(()),
                std::cmp::Ordering::Equal => drop(self.frames.pop()),
                std::cmp::Ordering::Greater => return Err(self.malformed()),
            }
        }
        Ok(())
    }

    fn truncated(&self) -> InspectError {
        InspectError::Truncated { tag: self.last, offset: self.source.position }
    }

    fn malformed(&self) -> InspectError {
        InspectError::Malformed { tag: self.last, offset: self.source.position }
    }

    /// The codecs fail for want of bytes alone, every combination of bits being some header; the cause says which.
    fn header_error(&self, error: &decode::Error) -> InspectError {
        let cause = error.source().and_then(|e| e.downcast_ref::<io::Error>());
        cause.map_or_else(|| self.truncated(), |e| self.io(e.kind().into()))
    }

    fn io(&self, error: io::Error) -> InspectError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.truncated(),
            // What the decompressor says of bytes that are not deflated.
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => self.malformed(),
            _ => InspectError::Io(error),
        }
    }
}

/// Counts the bytes read.
struct Counted<R> {
    inner: R,
    position: u64,
}

impl<R: io::Read> io::Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.position += n as u64;
        Ok(n)
    }
}
