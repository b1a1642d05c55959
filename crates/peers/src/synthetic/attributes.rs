//! Data sets by module of PS3.3, and their encoding as files.

use dicom_core::{
    DataElement, PrimitiveValue, Tag, VR,
    dictionary::{DataDictionary, DataDictionaryEntry},
    value::DataSetSequence,
};
use dicom_dictionary_std::{StandardDataDictionary, tags, uids};
use dicom_encoding::TransferSyntaxIndex;
use dicom_object::{InMemDicomObject, meta::FileMetaTableBuilder};
use dicom_pixeldata::Transcode;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use super::{Draft, Synthetic, SyntheticError};

/// Code Value, Coding Scheme Designator, Code Meaning (PS3.3 §8).
pub(super) type Code = (&'static str, &'static str, &'static str);

/// A data set being filled; every value representation is the dictionary's.
pub(super) struct DataSet(pub InMemDicomObject);

impl DataSet {
    pub fn empty() -> Self {
        Self(InMemDicomObject::new_empty())
    }

    pub fn put(&mut self, tag: Tag, value: impl Into<PrimitiveValue>) -> &mut Self {
        self.0.put(DataElement::new(tag, vr(tag), value.into()));
        self
    }

    /// An attribute of type 2: present and empty, because nobody knows.
    pub fn blank(&mut self, tag: Tag) -> &mut Self {
        match vr(tag) {
            VR::SQ => self.items(tag, Vec::new()),
            _ => self.put(tag, PrimitiveValue::Empty),
        }
    }

    pub fn items(&mut self, tag: Tag, items: Vec<DataSet>) -> &mut Self {
        let items: Vec<_> = items.into_iter().map(|i| i.0).collect();
        self.0.put(DataElement::new(tag, VR::SQ, DataSetSequence::from(items)));
        self
    }

    pub fn code(&mut self, tag: Tag, code: Code) -> &mut Self {
        self.items(tag, vec![coded(code)])
    }
}

fn vr(tag: Tag) -> VR {
    StandardDataDictionary.by_tag(tag).map_or(VR::UN, |entry| entry.vr().relaxed())
}

/// One item of a code sequence.
pub(super) fn coded((value, scheme, meaning): Code) -> DataSet {
    let mut item = DataSet::empty();
    item.put(tags::CODE_VALUE, value)
        .put(tags::CODING_SCHEME_DESIGNATOR, scheme)
        .put(tags::CODE_MEANING, meaning);
    item
}

/// The modules every object has: SOP Common, Patient, General Study, General Series, General Equipment.
pub(super) fn common(draft: &Draft, at: (u16, u16), sop_class: &str) -> DataSet {
    let (subject, procedure) = (&draft.subject, draft.kind.procedure());
    let mut ds = DataSet::empty();
    if let Some(charset) = subject.charset {
        ds.put(tags::SPECIFIC_CHARACTER_SET, charset);
    }
    ds.put(tags::SOP_CLASS_UID, sop_class)
        .put(tags::SOP_INSTANCE_UID, draft.instance_uid(at.0, at.1))
        .put(tags::INSTANCE_CREATION_DATE, subject.study_date.as_str())
        .put(tags::INSTANCE_CREATION_TIME, subject.study_time.as_str());
    ds.put(tags::PATIENT_NAME, subject.name.as_str())
        .put(tags::PATIENT_ID, subject.id.as_str())
        .put(tags::ISSUER_OF_PATIENT_ID, Synthetic::ISSUER)
        .put(tags::PATIENT_BIRTH_DATE, subject.birth_date.as_str())
        .put(tags::PATIENT_SEX, subject.sex);
    ds.put(tags::STUDY_INSTANCE_UID, draft.study_uid())
        .put(tags::STUDY_DATE, subject.study_date.as_str())
        .put(tags::STUDY_TIME, subject.study_time.as_str())
        .blank(tags::REFERRING_PHYSICIAN_NAME)
        .put(tags::STUDY_ID, "1")
        .put(tags::ACCESSION_NUMBER, subject.accession.as_str())
        .put(tags::STUDY_DESCRIPTION, procedure.description)
        .code(tags::PROCEDURE_CODE_SEQUENCE, (procedure.code, "99SYNTH", procedure.description))
        .put(tags::REQUESTED_PROCEDURE_PRIORITY, procedure.priority);
    ds.put(tags::MODALITY, procedure.modality)
        .put(tags::SERIES_INSTANCE_UID, draft.series_uid(at.0))
        .put(tags::SERIES_NUMBER, at.0.to_string())
        .put(tags::SERIES_DATE, subject.study_date.as_str())
        .put(tags::SERIES_TIME, subject.study_time.as_str())
        .put(tags::INSTANCE_NUMBER, at.1.to_string());
    ds.put(tags::MANUFACTURER, "Isocenter")
        .put(tags::MANUFACTURER_MODEL_NAME, "Synthetic")
        .put(tags::INSTITUTION_NAME, "Synthetic Hospital")
        .put(tags::STATION_NAME, "SYNTHETIC")
        .put(tags::DEVICE_SERIAL_NUMBER, "0")
        .put(tags::SOFTWARE_VERSIONS, env!("CARGO_PKG_VERSION"));
    ds
}

/// General Image and what every image of this crate shares; `kind` is Image Type (0008,0008).
pub(super) fn image(draft: &Draft, at: (u16, u16), sop_class: &str, kind: &str) -> DataSet {
    let mut ds = common(draft, at, sop_class);
    ds.put(tags::IMAGE_TYPE, kind)
        .put(tags::BODY_PART_EXAMINED, draft.kind.body_part())
        .put(tags::ACQUISITION_DATE, draft.subject.study_date.as_str())
        .put(tags::ACQUISITION_TIME, draft.subject.study_time.as_str())
        .put(tags::CONTENT_DATE, draft.subject.study_date.as_str())
        .put(tags::CONTENT_TIME, draft.subject.study_time.as_str())
        .put(tags::ACQUISITION_NUMBER, "1")
        .put(tags::BURNED_IN_ANNOTATION, "NO");
    ds
}

/// Image Pixel for 16-bit monochrome images of 12 stored bits, and a window that shows them.
pub(super) fn mono16(ds: &mut DataSet, side: u16, pixels: Vec<u16>, window: (&str, &str)) {
    ds.put(tags::SAMPLES_PER_PIXEL, 1_u16)
        .put(tags::PHOTOMETRIC_INTERPRETATION, "MONOCHROME2")
        .put(tags::ROWS, side)
        .put(tags::COLUMNS, side)
        .put(tags::BITS_ALLOCATED, 16_u16)
        .put(tags::BITS_STORED, 12_u16)
        .put(tags::HIGH_BIT, 11_u16)
        .put(tags::PIXEL_REPRESENTATION, 0_u16)
        .put(tags::WINDOW_CENTER, window.0)
        .put(tags::WINDOW_WIDTH, window.1)
        .put(tags::PIXEL_DATA, PrimitiveValue::U16(pixels.into()));
}

/// Image Pixel for 8-bit images: one sample is monochrome, three are RGB by pixel.
pub(super) fn pixel8(ds: &mut DataSet, (rows, columns): (u16, u16), samples: u16, pixels: Vec<u8>) {
    ds.put(tags::SAMPLES_PER_PIXEL, samples)
        .put(tags::PHOTOMETRIC_INTERPRETATION, if samples == 1 { "MONOCHROME2" } else { "RGB" })
        .put(tags::ROWS, rows)
        .put(tags::COLUMNS, columns)
        .put(tags::BITS_ALLOCATED, 8_u16)
        .put(tags::BITS_STORED, 8_u16)
        .put(tags::HIGH_BIT, 7_u16)
        .put(tags::PIXEL_REPRESENTATION, 0_u16);
    if samples > 1 {
        ds.put(tags::PLANAR_CONFIGURATION, 0_u16);
    }
    ds.0.put(DataElement::new(tags::PIXEL_DATA, VR::OB, PrimitiveValue::U8(pixels.into())));
}

/// Frame of Reference and Image Plane: axial slices, millimetres, feet to head.
pub(super) fn axial(
    ds: &mut DataSet,
    frame_of_reference: String,
    side: u16,
    spacing: f32,
    z: f32,
    step: f32,
) {
    let corner = -spacing * f32::from(side) / 2.0;
    ds.put(tags::FRAME_OF_REFERENCE_UID, frame_of_reference)
        .blank(tags::POSITION_REFERENCE_INDICATOR)
        .put(tags::PIXEL_SPACING, format!("{spacing}\\{spacing}"))
        .put(tags::IMAGE_ORIENTATION_PATIENT, "1\\0\\0\\0\\1\\0")
        .put(tags::IMAGE_POSITION_PATIENT, format!("{corner}\\{corner}\\{z}"))
        .put(tags::SLICE_LOCATION, z.to_string())
        .put(tags::SLICE_THICKNESS, step.to_string())
        .put(tags::PATIENT_POSITION, "HFS");
}

/// Encodes an object as a Part 10 file; encapsulated syntaxes compress its pixel data first.
pub(super) fn part10(object: InMemDicomObject, transfer_syntax: &str) -> Result<Vec<u8>, SyntheticError> {
    let target = TransferSyntaxRegistry.get(transfer_syntax).filter(|ts| ts.is_encapsulated_pixel_data());
    let native = if target.is_some() { uids::EXPLICIT_VR_LITTLE_ENDIAN } else { transfer_syntax };
    let meta = FileMetaTableBuilder::new().transfer_syntax(native);
    let mut file = object.with_meta(meta).map_err(|e| SyntheticError::Meta(Box::new(e)))?;
    if let Some(target) = target {
        file.transcode(target).map_err(|e| SyntheticError::Compress(Box::new(e)))?;
    }
    let mut bytes = Vec::new();
    file.write_all(&mut bytes).map_err(|e| SyntheticError::Write(Box::new(e)))?;
    Ok(bytes)
}
