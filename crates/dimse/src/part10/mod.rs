//! DICOM files (PS3.10 §7): written around a data set that is kept as it came, and read as far as its header.
//!
//! Everything here is synchronous and, where it takes a path, blocks: callers run it off the async threads.

mod digest;
mod element;
mod inspect;
mod meta;
mod text;

use dicom_object::meta::FileMetaTableBuilder;
use isocenter_domain::{
    Kind, Kinded,
    id::{AeTitle, InstanceUid, InvalidId, SopClassUid, TransferSyntaxUid},
};

pub use self::{
    digest::{Digests, dataset_digest},
    inspect::{Header, ProcedureCode, inspect, inspect_reader},
    meta::{FileMeta, MAX_META},
};
use crate::uid::{IMPLEMENTATION_CLASS, IMPLEMENTATION_VERSION};

/// A data element's tag, for errors: `(gggg,eeee)`.
pub use dicom_core::Tag;

/// The start of a Part 10 file: preamble, `DICM` and the File Meta Information (PS3.10 §7.1) with its group length.
/// The data set follows it byte for byte, in `transfer_syntax`.
#[must_use]
pub fn header(
    sop_class: &SopClassUid,
    sop_instance: &InstanceUid,
    transfer_syntax: &TransferSyntaxUid,
    source: &AeTitle,
) -> Vec<u8> {
    let meta = FileMetaTableBuilder::new()
        .media_storage_sop_class_uid(sop_class.as_str())
        .media_storage_sop_instance_uid(sop_instance.as_str())
        .transfer_syntax(transfer_syntax.as_str())
        .implementation_class_uid(IMPLEMENTATION_CLASS)
        .implementation_version_name(IMPLEMENTATION_VERSION)
        .source_application_entity_title(source.as_str())
        .build()
        .expect("the one required field, the transfer syntax, is given");
    let mut bytes = vec![0; 128];
    bytes.extend_from_slice(b"DICM");
    meta.write(&mut bytes).expect("writing short text to memory does not fail");
    bytes
}

/// Why a file is not one that can be filed. Where a value is wrong, its tag is named and the value is not repeated.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file could not be read.
    #[error("the file cannot be read")]
    Io(#[source] std::io::Error),
    /// No `DICM` after the preamble (PS3.10 §7.1).
    #[error("not a DICOM file: no DICM after 128 bytes")]
    NotPart10,
    /// The file ends before the element's value does.
    #[error("the file ends at byte {offset}, within {}", display(*tag))]
    Truncated {
        /// The element, or the one before where its tag is cut off.
        tag: Tag,
        /// Where in the data set, or in the file for the meta information.
        offset: u64,
    },
    /// A required element is absent or empty.
    #[error("{} is absent or empty", display(*.0))]
    Missing(Tag),
    /// An element's value is not what its kind of identifier allows.
    #[error("{} is not valid", display(*tag))]
    InvalidUid {
        /// The element.
        tag: Tag,
        /// What is wrong.
        #[source]
        source: InvalidId,
    },
    /// The data set says otherwise than the file meta information, or the command it was written from.
    #[error("{} differs from the file meta information", display(*.0))]
    Mismatch(Tag),
    /// A value of the header is longer than any legitimate one.
    #[error("{} is longer than {max} bytes", display(*tag))]
    TooLong {
        /// The element.
        tag: Tag,
        /// The bound.
        max: u64,
    },
    /// The structure of sequences and items is broken.
    #[error("the structure is broken at byte {offset}, at {}", display(*tag))]
    Malformed {
        /// The element found out of place.
        tag: Tag,
        /// Where in the data set.
        offset: u64,
    },
    /// The transfer syntax compresses the whole data set in a way that is not implemented.
    #[error("data sets in transfer syntax {0} cannot be read")]
    UnsupportedTransferSyntax(TransferSyntaxUid),
}

impl Kinded for InspectError {
    fn kind(&self) -> Kind {
        match self {
            Self::Io(_) => Kind::Unavailable,
            Self::NotPart10
            | Self::Truncated { .. }
            | Self::Missing(_)
            | Self::InvalidUid { .. }
            | Self::Mismatch(_)
            | Self::TooLong { .. }
            | Self::Malformed { .. }
            | Self::UnsupportedTransferSyntax(_) => Kind::Invalid,
        }
    }
}

fn display(tag: Tag) -> String {
    format!("({:04X},{:04X})", tag.group(), tag.element())
}

#[cfg(test)]
mod tests;
