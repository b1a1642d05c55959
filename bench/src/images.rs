//! Studies of one small image each: as little as a modality can send, so that what is measured is the workflow.

use anyhow::Result;
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use isocenter_peers::study::{Content, Instance, Study};
use isocenter_runtime::random;

/// Rows and columns.
const SIDE: u16 = 16;

/// A new patient's CT of one slice.
pub fn study() -> Result<Study> {
    let unique = random::uuid_v7();
    let root = format!("2.25.{}", unique.as_u128());
    let (series, instance) = (format!("{root}.1"), format!("{root}.1.1"));
    let id = unique.simple().to_string();
    let mut ds = InMemDicomObject::new_empty();
    let mut put = |tag, vr, value: &str| {
        ds.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
    };
    put(tags::SOP_CLASS_UID, VR::UI, uids::CT_IMAGE_STORAGE);
    put(tags::SOP_INSTANCE_UID, VR::UI, &instance);
    put(tags::STUDY_DATE, VR::DA, "20260105");
    put(tags::STUDY_TIME, VR::TM, "120000");
    // The last characters of the id are the random ones; SH holds 16.
    put(tags::ACCESSION_NUMBER, VR::SH, &id[16..]);
    put(tags::MODALITY, VR::CS, "CT");
    put(tags::PATIENT_NAME, VR::PN, "SYNTHETIC^PATIENT");
    put(tags::PATIENT_ID, VR::LO, &id);
    put(tags::BODY_PART_EXAMINED, VR::CS, "HEAD");
    put(tags::STUDY_INSTANCE_UID, VR::UI, &root);
    put(tags::SERIES_INSTANCE_UID, VR::UI, &series);
    put(tags::SERIES_NUMBER, VR::IS, "1");
    put(tags::INSTANCE_NUMBER, VR::IS, "1");
    put(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2");
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::ROWS, SIDE),
        (tags::COLUMNS, SIDE),
        (tags::BITS_ALLOCATED, 16),
        (tags::BITS_STORED, 12),
        (tags::HIGH_BIT, 11),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        ds.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
    }
    let pixels = vec![0_u16; usize::from(SIDE) * usize::from(SIDE)];
    ds.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(pixels.into())));
    let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    let mut bytes = Vec::new();
    ds.with_meta(meta)?.write_all(&mut bytes)?;
    let instance = Instance {
        series_uid: series.parse()?,
        instance_uid: instance.parse()?,
        sop_class_uid: uids::CT_IMAGE_STORAGE.parse()?,
        transfer_syntax_uid: uids::EXPLICIT_VR_LITTLE_ENDIAN.parse()?,
        content: Content::Memory(bytes.into()),
    };
    Ok(Study { study_uid: root.parse()?, instances: vec![instance] })
}
