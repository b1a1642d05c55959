//! A storage service that records what it is asked, and the files that peers send it.

mod association;
mod peers;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use isocenter_domain::id::{AeTitle, InstanceUid, SopClassUid, TransferSyntaxUid};
use tokio::sync::watch;

use crate::{
    Closed, Peer, Rejection, StorageAssociation, StorageService, StoreRequest, StoreSink, StoreStatus, part10,
};

const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
const IMPLICIT: &str = "1.2.840.10008.1.2";
const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const BIG: &str = "1.2.840.10008.1.2.2";
const DEFLATED: &str = "1.2.840.10008.1.2.1.99";
const JPEG: &str = "1.2.840.10008.1.2.4.50";

fn ae(title: &str) -> AeTitle {
    AeTitle::new(title).unwrap()
}

/// What the service was asked, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Admitted(String),
    Store(String, String),
    Finished(usize),
    Abandoned(usize),
    Closed(Closed),
}

/// How the recorder answers.
#[derive(Clone, Copy, Default)]
struct Script {
    reject: Option<Rejection>,
    refuse_store: Option<StoreStatus>,
    /// The status of the write that would exceed this many bytes.
    full_at: Option<(usize, StoreStatus)>,
    /// Never answers `finish`.
    stuck: bool,
}

#[derive(Clone)]
struct Recorder {
    events: Arc<watch::Sender<Vec<Event>>>,
    script: Script,
    /// Where finished files are put, by SOP Instance UID.
    dir: Option<PathBuf>,
}

impl Recorder {
    fn new(script: Script) -> Self {
        Self { events: Arc::new(watch::channel(Vec::new()).0), script, dir: None }
    }

    fn into_dir(dir: &tempfile::TempDir) -> Self {
        Self { dir: Some(dir.path().to_owned()), ..Self::new(Script::default()) }
    }

    fn note(&self, event: Event) {
        self.events.send_modify(|events| events.push(event));
    }

    fn events(&self) -> Vec<Event> {
        self.events.borrow().clone()
    }

    async fn wait_for(&self, event: Event) {
        self.events.subscribe().wait_for(|events| events.contains(&event)).await.unwrap();
    }
}

#[async_trait]
impl StorageService for Recorder {
    async fn admit(&self, peer: &Peer) -> Result<Box<dyn StorageAssociation>, Rejection> {
        if let Some(why) = self.script.reject {
            return Err(why);
        }
        self.note(Event::Admitted(format!("{} {}", peer.calling, peer.called)));
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl StorageAssociation for Recorder {
    async fn store(&mut self, request: StoreRequest) -> Result<Box<dyn StoreSink>, StoreStatus> {
        self.note(Event::Store(request.sop_instance.to_string(), request.transfer_syntax.to_string()));
        if let Some(status) = self.script.refuse_store {
            return Err(status);
        }
        let head = part10::header(
            &request.sop_class,
            &request.sop_instance,
            &request.transfer_syntax,
            &request.calling,
        );
        let path = self.dir.as_ref().map(|dir| dir.join(request.sop_instance.as_str()));
        Ok(Box::new(RecordingSink { recorder: self.clone(), head: head.len(), bytes: head, path }))
    }

    async fn closed(self: Box<Self>, how: Closed) {
        self.note(Event::Closed(how));
    }
}

struct RecordingSink {
    recorder: Recorder,
    head: usize,
    bytes: Vec<u8>,
    path: Option<PathBuf>,
}

#[async_trait]
impl StoreSink for RecordingSink {
    async fn write(&mut self, data: Bytes) -> Result<(), StoreStatus> {
        match self.recorder.script.full_at {
            Some((limit, status)) if self.bytes.len() - self.head + data.len() > limit => Err(status),
            _ => {
                self.bytes.extend_from_slice(&data);
                Ok(())
            }
        }
    }

    async fn finish(self: Box<Self>) -> StoreStatus {
        if self.recorder.script.stuck {
            std::future::pending::<()>().await;
        }
        if let Some(path) = &self.path {
            std::fs::write(path, &self.bytes).unwrap();
        }
        self.recorder.note(Event::Finished(self.bytes.len() - self.head));
        StoreStatus::SUCCESS
    }

    async fn abandon(self: Box<Self>) {
        self.recorder.note(Event::Abandoned(self.bytes.len() - self.head));
    }
}

/// A small CT image as a Part 10 file. Every encoding but JPEG holds the same elements.
fn ct_file(instance: &str, syntax: &str) -> Vec<u8> {
    use dicom_core::{DataElement, PrimitiveValue, VR, dicom_value, value::PixelFragmentSequence};
    use dicom_dictionary_std::tags;
    use dicom_encoding::transfer_syntax::TransferSyntaxIndex as _;

    let mut o = dicom_object::InMemDicomObject::new_empty();
    let texts = [
        (tags::SOP_CLASS_UID, VR::UI, CT),
        (tags::SOP_INSTANCE_UID, VR::UI, instance),
        (tags::STUDY_INSTANCE_UID, VR::UI, "1.2.3"),
        (tags::SERIES_INSTANCE_UID, VR::UI, "1.2.3.1"),
        (tags::MODALITY, VR::CS, "CT"),
        (tags::PATIENT_ID, VR::LO, "4711"),
        (tags::PATIENT_NAME, VR::PN, "DOE^JANE"),
        (tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
    ];
    for (tag, vr, value) in texts {
        o.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
    }
    let numbers = [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::ROWS, 256),
        (tags::COLUMNS, 256),
        (tags::BITS_ALLOCATED, 16),
        (tags::BITS_STORED, 12),
        (tags::HIGH_BIT, 11),
        (tags::PIXEL_REPRESENTATION, 0),
    ];
    for (tag, value) in numbers {
        o.put(DataElement::new(tag, VR::US, dicom_value!(U16, [value])));
    }
    if syntax == JPEG {
        let fragments: Vec<Vec<u8>> = vec![vec![0xFF, 0xD8, 0xFF, 0xD9]];
        let fragments = PixelFragmentSequence::new(vec![0u32], fragments);
        o.put(DataElement::new(tags::PIXEL_DATA, VR::OB, fragments));
    } else {
        let pixels: Vec<u16> = (0..=u16::MAX).map(|n| n & 0xFFF).collect();
        o.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(pixels.into())));
    }
    let mut bytes = part10::header(
        &SopClassUid::new(CT).unwrap(),
        &InstanceUid::new(instance).unwrap(),
        &TransferSyntaxUid::new(syntax).unwrap(),
        &ae("MODALITY"),
    );
    let syntax = dicom_transfer_syntax_registry::TransferSyntaxRegistry.get(syntax).unwrap();
    o.write_dataset_with_ts(&mut bytes, syntax).unwrap();
    bytes
}
