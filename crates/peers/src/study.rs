//! A study as a peer holds it before it sends it: the UIDs that DICOM needs to address each object, and its bytes.

use std::{io, path::PathBuf};

use bytes::Bytes;
use isocenter_domain::id::{InstanceUid, SeriesUid, SopClassUid, StudyUid, TransferSyntaxUid};

/// The objects of one study, in series order, then instance order.
#[derive(Clone, Debug)]
pub struct Study {
    /// Study Instance UID (0020,000D).
    pub study_uid: StudyUid,
    /// Its objects; never empty.
    pub instances: Vec<Instance>,
}

/// One SOP instance as a DICOM Part 10 file (PS3.10 §7).
#[derive(Clone, Debug)]
pub struct Instance {
    /// Series Instance UID (0020,000E).
    pub series_uid: SeriesUid,
    /// SOP Instance UID (0008,0018).
    pub instance_uid: InstanceUid,
    /// SOP Class UID (0008,0016).
    pub sop_class_uid: SopClassUid,
    /// Transfer Syntax UID (0002,0010).
    pub transfer_syntax_uid: TransferSyntaxUid,
    /// Where the file is.
    pub content: Content,
}

/// Where the bytes of a Part 10 file are.
#[derive(Clone)]
pub enum Content {
    /// In memory.
    Memory(Bytes),
    /// In a file, read when it is sent so that a large folder costs no memory.
    File(PathBuf),
}

/// Says where the bytes are and never shows them: they name the patient.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory(bytes) => write!(f, "Memory({} bytes)", bytes.len()),
            Self::File(_) => f.write_str("File"),
        }
    }
}

impl Instance {
    /// The whole Part 10 file. A file is read off the async threads; its errors are those of the file system.
    pub async fn read(&self) -> io::Result<Bytes> {
        match &self.content {
            Content::Memory(bytes) => Ok(bytes.clone()),
            Content::File(path) => tokio::fs::read(path).await.map(Bytes::from),
        }
    }
}
