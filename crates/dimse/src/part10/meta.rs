//! The File Meta Information of a Part 10 file (PS3.10 §7.1), read element by element.

use std::io::{self, BufRead};

use dicom_core::{Tag, VR, header::Header as _};
use dicom_dictionary_std::tags;
use dicom_encoding::decode::{Decode as _, explicit_le::ExplicitVRLittleEndianDecoder};
use isocenter_domain::id::{AeTitle, Id, IdKind, InstanceUid, SopClassUid, TransferSyntaxUid};

use super::InspectError;

/// The most bytes preamble and meta information may take. Real ones take below 1 KiB.
pub const MAX_META: u64 = 64 * 1024;

/// What the File Meta Information says of the data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMeta {
    /// Media Storage SOP Class UID (0002,0002).
    pub sop_class: SopClassUid,
    /// Media Storage SOP Instance UID (0002,0003).
    pub sop_instance: InstanceUid,
    /// Transfer Syntax UID (0002,0010).
    pub transfer_syntax: TransferSyntaxUid,
    /// Source Application Entity Title (0002,0016), which is optional; `None` where it is no title.
    pub source: Option<AeTitle>,
    /// Where in the file the data set begins.
    pub data_set_offset: u64,
}

impl FileMeta {
    /// Reads preamble and meta information, and leaves `source` at the first byte of the data set.
    ///
    /// The end is where group 0002 ends, whatever its group length says: that element is wrong in many files.
    ///
    /// # Errors
    /// [`InspectError`], offsets counted from the start of the file.
    pub fn read(source: &mut impl BufRead) -> Result<Self, InspectError> {
        let mut magic = [0; 132];
        source.read_exact(&mut magic).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => InspectError::NotPart10,
            _ => InspectError::Io(e),
        })?;
        if &magic[128..] != b"DICM" {
            return Err(InspectError::NotPart10);
        }
        let mut position = 132;
        let (mut class, mut instance, mut syntax, mut calling) = (None, None, None, None);
        let mut last = tags::FILE_META_INFORMATION_GROUP_LENGTH;
        while in_meta_group(source)? {
            let (tag, value) = element(source, &mut position, last)?;
            last = tag;
            match tag {
                tags::MEDIA_STORAGE_SOP_CLASS_UID => class = Some(uid(tag, &value)?),
                tags::MEDIA_STORAGE_SOP_INSTANCE_UID => instance = Some(uid(tag, &value)?),
                tags::TRANSFER_SYNTAX_UID => syntax = Some(uid(tag, &value)?),
                tags::SOURCE_APPLICATION_ENTITY_TITLE => {
                    calling = String::from_utf8_lossy(&value).trim_matches(['\0', ' ']).parse().ok();
                }
                _ => {}
            }
        }
        Ok(Self {
            sop_class: class.ok_or(InspectError::Missing(tags::MEDIA_STORAGE_SOP_CLASS_UID))?,
            sop_instance: instance.ok_or(InspectError::Missing(tags::MEDIA_STORAGE_SOP_INSTANCE_UID))?,
            transfer_syntax: syntax.ok_or(InspectError::Missing(tags::TRANSFER_SYNTAX_UID))?,
            source: calling,
            data_set_offset: position,
        })
    }
}

/// Whether another element of group 0002 follows: its tag and a known VR, looked at without being consumed. The VR tells
/// it from a deflated data set, which may begin with any byte.
fn in_meta_group(source: &mut impl BufRead) -> Result<bool, InspectError> {
    Ok(match source.fill_buf().map_err(InspectError::Io)? {
        [0x02, 0x00, _, _, a, b, ..] => VR::from_binary([*a, *b]).is_some(),
        // Fewer bytes than that are in the buffer by chance, or because the file ends in the middle of an element.
        short => short.first() == Some(&0x02) && short.len() < 6,
    })
}

fn element(source: &mut impl BufRead, position: &mut u64, last: Tag) -> Result<(Tag, Vec<u8>), InspectError> {
    let truncated = |tag, offset| InspectError::Truncated { tag, offset };
    let (header, read) = ExplicitVRLittleEndianDecoder::default()
        .decode_header(source)
        .map_err(|_| truncated(last, *position))?;
    let tag = header.tag();
    *position += read as u64;
    if header.vr() == VR::SQ || tag.group() != 2 {
        return Err(InspectError::Malformed { tag, offset: *position });
    }
    let len = header.len.get().ok_or(InspectError::Malformed { tag, offset: *position })?;
    if *position + u64::from(len) > MAX_META {
        return Err(InspectError::TooLong { tag, max: MAX_META });
    }
    let mut value = vec![0; usize::try_from(len).expect("below MAX_META")];
    source.read_exact(&mut value).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => truncated(tag, *position),
        _ => InspectError::Io(e),
    })?;
    *position += u64::from(len);
    Ok((tag, value))
}

/// A UID's value without its padding, checked.
pub(super) fn uid<K: IdKind>(tag: Tag, value: &[u8]) -> Result<Id<K>, InspectError> {
    let text = String::from_utf8_lossy(value);
    let text = text.trim_matches(|c: char| c == '\0' || c == ' ');
    if text.is_empty() {
        return Err(InspectError::Missing(tag));
    }
    Id::new(text).map_err(|source| InspectError::InvalidUid { tag, source })
}
