//! The header of a Part 10 file: what the rest of the system asks of an instance, without its pixels.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;
use dicom_encoding::transfer_syntax::{Codec, Endianness, TransferSyntaxIndex as _};
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;
use isocenter_domain::{
    Phi,
    id::{InstanceUid, SeriesUid, SopClassUid, StudyUid, TransferSyntaxUid},
};

use super::{
    FileMeta, InspectError,
    element::{Encoding, Event, Walk},
    meta::uid,
    text::CharacterSet,
};

/// The longest value read, in bytes. The longest legitimate one asked for is a person name: 3 × 64 characters.
const MAX_VALUE: u32 = 16 * 1024;

/// What an instance says of itself, its patient and its study. Text is UTF-8, trimmed; absent and empty are one: `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Study Instance UID (0020,000D).
    pub study: StudyUid,
    /// Series Instance UID (0020,000E).
    pub series: SeriesUid,
    /// SOP Instance UID (0008,0018).
    pub instance: InstanceUid,
    /// SOP Class UID (0008,0016).
    pub sop_class: SopClassUid,
    /// Transfer Syntax UID (0002,0010).
    pub transfer_syntax: TransferSyntaxUid,
    /// Modality (0008,0060).
    pub modality: Option<String>,
    /// Body Part Examined (0018,0015).
    pub body_part: Option<String>,
    /// Laterality (0020,0060), else Image Laterality (0020,0062).
    pub laterality: Option<String>,
    /// Series Number (0020,0011).
    pub series_number: Option<i32>,
    /// Instance Number (0020,0013).
    pub instance_number: Option<i32>,
    /// Number of Frames (0028,0008); 1 where pixel data does not state it, 0 without pixel data.
    pub frames: u32,
    /// Whether there is pixel data, or a place elsewhere that holds it.
    pub pixel_data: bool,
    /// Whether a person looks at it as an image: pixel data that is no segmentation, dose or the like.
    pub image: bool,
    /// Study Date (0008,0020), `YYYYMMDD` as the sender wrote it.
    pub study_date: Option<String>,
    /// Study Time (0008,0030), `HHMMSS.FFFFFF` or shorter, as the sender wrote it.
    pub study_time: Option<String>,
    /// Study Description (0008,1030). Free text.
    pub study_description: Option<String>,
    /// The first item of Procedure Code Sequence (0008,1032).
    pub procedure_code: Option<ProcedureCode>,
    /// Requested Procedure Priority (0040,1003).
    pub priority: Option<String>,
    /// Institution Name (0008,0080).
    pub institution: Option<String>,
    /// Accession Number (0008,0050).
    pub accession: Option<Phi<String>>,
    /// Issuer of Accession Number Sequence (0008,0051): its Local Namespace, else its Universal Entity ID.
    pub accession_issuer: Option<String>,
    /// Patient ID (0010,0020).
    pub patient_id: Option<Phi<String>>,
    /// Issuer of Patient ID (0010,0021).
    pub patient_id_issuer: Option<String>,
    /// Patient's Name (0010,0010), component groups and all.
    pub patient_name: Option<Phi<String>>,
    /// Patient's Birth Date (0010,0030).
    pub birth_date: Option<Phi<String>>,
    /// Patient's Sex (0010,0040).
    pub sex: Option<Phi<String>>,
    /// Specific Character Set (0008,0005) as written, values separated by backslash.
    pub character_set: Option<String>,
}

/// A coded procedure (PS3.3 §8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcedureCode {
    /// Code Value (0008,0100), else Long Code Value (0008,0119), else URN Code Value (0008,0120).
    pub value: String,
    /// Coding Scheme Designator (0008,0102).
    pub scheme: Option<String>,
    /// Code Meaning (0008,0104).
    pub meaning: Option<String>,
}

/// The elements read at the top level.
const TOP: [Tag; 24] = [
    tags::SPECIFIC_CHARACTER_SET,
    tags::SOP_CLASS_UID,
    tags::SOP_INSTANCE_UID,
    tags::STUDY_DATE,
    tags::STUDY_TIME,
    tags::ACCESSION_NUMBER,
    tags::MODALITY,
    tags::INSTITUTION_NAME,
    tags::STUDY_DESCRIPTION,
    tags::PATIENT_NAME,
    tags::PATIENT_ID,
    tags::ISSUER_OF_PATIENT_ID,
    tags::PATIENT_BIRTH_DATE,
    tags::PATIENT_SEX,
    tags::BODY_PART_EXAMINED,
    tags::STUDY_INSTANCE_UID,
    tags::SERIES_INSTANCE_UID,
    tags::SERIES_NUMBER,
    tags::INSTANCE_NUMBER,
    tags::LATERALITY,
    tags::IMAGE_LATERALITY,
    tags::NUMBER_OF_FRAMES,
    tags::ROWS,
    tags::REQUESTED_PROCEDURE_PRIORITY,
];

/// The elements read in an item, by their sequence.
const NESTED: [(Tag, Tag); 7] = [
    (tags::ISSUER_OF_ACCESSION_NUMBER_SEQUENCE, tags::LOCAL_NAMESPACE_ENTITY_ID),
    (tags::ISSUER_OF_ACCESSION_NUMBER_SEQUENCE, tags::UNIVERSAL_ENTITY_ID),
    (tags::PROCEDURE_CODE_SEQUENCE, tags::CODE_VALUE),
    (tags::PROCEDURE_CODE_SEQUENCE, tags::LONG_CODE_VALUE),
    (tags::PROCEDURE_CODE_SEQUENCE, tags::URN_CODE_VALUE),
    (tags::PROCEDURE_CODE_SEQUENCE, tags::CODING_SCHEME_DESIGNATOR),
    (tags::PROCEDURE_CODE_SEQUENCE, tags::CODE_MEANING),
];

/// The first group that is not part of the header: pixel data and what comes after.
const PIXEL_DATA_GROUP: u16 = 0x7FE0;

/// Storage classes with pixels that are not an image to read, below the standard's storage root (PS3.4 Annex B.5): raw
/// data and segmentations, RT dose, presentation states, structured reports, encapsulated documents.
const NOT_IMAGES: [&str; 5] = ["66", "481.2", "11", "88", "104"];

/// Reads the header of the Part 10 file at `path`, up to its pixel data, and checks it: the required UIDs are there and
/// are UIDs, SOP class and instance agree with the meta information, and the file is as long as its pixel data claims.
/// Blocks.
///
/// # Errors
/// [`InspectError`].
pub fn inspect(path: &Path) -> Result<Header, InspectError> {
    let file = File::open(path).map_err(InspectError::Io)?;
    let len = file.metadata().map_err(InspectError::Io)?.len();
    inspect_reader(BufReader::new(file), Some(len))
}

/// As [`inspect`], from any source; `total_len` is the length of the whole file where it is known.
///
/// # Errors
/// [`InspectError`].
pub fn inspect_reader(mut source: impl BufRead, total_len: Option<u64>) -> Result<Header, InspectError> {
    let meta = FileMeta::read(&mut source)?;
    let syntax = TransferSyntaxRegistry.get(meta.transfer_syntax.as_str());
    let found = match syntax.map(|s| (s, s.codec())) {
        None => {
            let encoding = guess(&mut source)?;
            let rest = total_len.map(|len| len.saturating_sub(meta.data_set_offset));
            walk(source, encoding, rest)?
        }
        Some((_, Codec::Dataset(Some(adapter)))) => {
            let inflated = BufReader::new(adapter.adapt_reader(Box::new(&mut source)));
            walk(inflated, Encoding::ExplicitLittle, None)?
        }
        Some((_, Codec::Dataset(None))) => {
            return Err(InspectError::UnsupportedTransferSyntax(meta.transfer_syntax));
        }
        Some((syntax, Codec::None | Codec::EncapsulatedPixelData(..))) => {
            let encoding = match syntax.endianness() {
                Endianness::Big => Encoding::ExplicitBig,
                Endianness::Little if syntax.uid() == crate::uid::IMPLICIT_VR_LITTLE_ENDIAN => {
                    Encoding::ImplicitLittle
                }
                Endianness::Little => Encoding::ExplicitLittle,
            };
            let rest = total_len.map(|len| len.saturating_sub(meta.data_set_offset));
            walk(source, encoding, rest)?
        }
    };
    found.into_header(meta)
}

/// A transfer syntax nobody registered is little endian; whether its VRs are explicit shows in the first element.
fn guess(source: &mut impl BufRead) -> Result<Encoding, InspectError> {
    Ok(match source.fill_buf().map_err(InspectError::Io)? {
        [_, _, _, _, a, b, ..] if VR::from_binary([*a, *b]).is_some() => Encoding::ExplicitLittle,
        _ => Encoding::ImplicitLittle,
    })
}

/// The raw values found, by sequence and tag.
struct Found {
    values: BTreeMap<(Option<Tag>, Tag), Vec<u8>>,
    pixel_data: bool,
    big_endian: bool,
}

fn walk(source: impl BufRead, encoding: Encoding, data_set_len: Option<u64>) -> Result<Found, InspectError> {
    let mut found =
        Found { values: BTreeMap::new(), pixel_data: false, big_endian: encoding == Encoding::ExplicitBig };
    let mut walk = Walk::new(source, encoding);
    let mut item = 0u64;
    loop {
        match walk.next()? {
            Event::End => return Ok(found),
            Event::Sequence { .. } if walk.depth() == 1 => item = 0,
            Event::Item if walk.depth() == 1 => item += 1,
            Event::Sequence { .. } | Event::Item => {}
            Event::Fragments { tag } if walk.depth() == 0 && tag.group() >= PIXEL_DATA_GROUP => {
                found.pixel_data = tag.group() == PIXEL_DATA_GROUP;
                return Ok(found);
            }
            Event::Fragments { .. } => {}
            Event::Value { tag, len } => {
                if walk.depth() == 0 && tag.group() >= PIXEL_DATA_GROUP {
                    let end = walk.position() + u64::from(len);
                    if data_set_len.is_some_and(|total| end > total) {
                        let offset = data_set_len.unwrap_or_default();
                        return Err(InspectError::Truncated { tag, offset });
                    }
                    found.pixel_data = tag.group() == PIXEL_DATA_GROUP && tag.element() != 0;
                    if found.pixel_data || tag.group() > PIXEL_DATA_GROUP {
                        return Ok(found);
                    }
                }
                let key = match walk.depth() {
                    0 => Some((None, tag)).filter(|_| TOP.contains(&tag)),
                    1 if item == 1 => {
                        walk.outermost().map(|s| (Some(s), tag)).filter(|_| nested(walk.outermost(), tag))
                    }
                    _ => None,
                };
                match key {
                    Some(key) => {
                        let value = walk.value(len, MAX_VALUE)?;
                        found.values.entry(key).or_insert(value);
                    }
                    None => walk.skip(len)?,
                }
            }
        }
    }
}

fn nested(sequence: Option<Tag>, tag: Tag) -> bool {
    sequence.is_some_and(|sequence| NESTED.contains(&(sequence, tag)))
}

impl Found {
    fn into_header(self, meta: FileMeta) -> Result<Header, InspectError> {
        let required = |tag| self.values.get(&(None, tag)).ok_or(InspectError::Missing(tag));
        let sop_class: SopClassUid = uid(tags::SOP_CLASS_UID, required(tags::SOP_CLASS_UID)?)?;
        if sop_class != meta.sop_class {
            return Err(InspectError::Mismatch(tags::SOP_CLASS_UID));
        }
        let instance: InstanceUid = uid(tags::SOP_INSTANCE_UID, required(tags::SOP_INSTANCE_UID)?)?;
        if instance != meta.sop_instance {
            return Err(InspectError::Mismatch(tags::SOP_INSTANCE_UID));
        }
        let study = uid(tags::STUDY_INSTANCE_UID, required(tags::STUDY_INSTANCE_UID)?)?;
        let series = uid(tags::SERIES_INSTANCE_UID, required(tags::SERIES_INSTANCE_UID)?)?;

        let character_set = self.code(tags::SPECIFIC_CHARACTER_SET);
        let set = CharacterSet::new(character_set.as_deref().unwrap_or_default());
        let text = |tag| self.text(set, None, tag);
        let phi = |tag| self.text(set, None, tag).map(Phi::new);
        let issuer = tags::ISSUER_OF_ACCESSION_NUMBER_SEQUENCE;
        let pixel_data = self.pixel_data || self.rows() > 0;
        let frames = self.integer(tags::NUMBER_OF_FRAMES).and_then(|n| u32::try_from(n).ok());
        Ok(Header {
            study,
            series,
            instance,
            image: pixel_data && is_image(&sop_class),
            sop_class,
            transfer_syntax: meta.transfer_syntax,
            modality: self.first_code(tags::MODALITY),
            body_part: self.first_code(tags::BODY_PART_EXAMINED),
            laterality: self.first_code(tags::LATERALITY).or_else(|| self.first_code(tags::IMAGE_LATERALITY)),
            series_number: self.integer(tags::SERIES_NUMBER),
            instance_number: self.integer(tags::INSTANCE_NUMBER),
            frames: if pixel_data { frames.unwrap_or(1).max(1) } else { 0 },
            pixel_data,
            study_date: text(tags::STUDY_DATE),
            study_time: text(tags::STUDY_TIME),
            study_description: text(tags::STUDY_DESCRIPTION),
            procedure_code: self.procedure_code(set),
            priority: self.first_code(tags::REQUESTED_PROCEDURE_PRIORITY),
            institution: text(tags::INSTITUTION_NAME),
            accession: phi(tags::ACCESSION_NUMBER),
            accession_issuer: self
                .text(set, Some(issuer), tags::LOCAL_NAMESPACE_ENTITY_ID)
                .or_else(|| self.text(set, Some(issuer), tags::UNIVERSAL_ENTITY_ID)),
            patient_id: phi(tags::PATIENT_ID),
            patient_id_issuer: text(tags::ISSUER_OF_PATIENT_ID),
            patient_name: phi(tags::PATIENT_NAME),
            birth_date: phi(tags::PATIENT_BIRTH_DATE),
            sex: phi(tags::PATIENT_SEX),
            character_set,
        })
    }

    fn text(&self, set: CharacterSet, sequence: Option<Tag>, tag: Tag) -> Option<String> {
        let text = set.decode(self.values.get(&(sequence, tag))?);
        let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// A value of VR CS, IS or the like, which no character set touches.
    fn code(&self, tag: Tag) -> Option<String> {
        self.text(CharacterSet::default(), None, tag)
    }

    fn first_code(&self, tag: Tag) -> Option<String> {
        let code = self.code(tag)?;
        let first = code.split('\\').next().unwrap_or_default().trim();
        (!first.is_empty()).then(|| first.to_owned())
    }

    fn integer(&self, tag: Tag) -> Option<i32> {
        self.first_code(tag)?.parse().ok()
    }

    fn rows(&self) -> u16 {
        let value = self.values.get(&(None, tags::ROWS)).and_then(|v| v.first_chunk::<2>());
        value.map_or(0, |v| if self.big_endian { u16::from_be_bytes(*v) } else { u16::from_le_bytes(*v) })
    }

    fn procedure_code(&self, set: CharacterSet) -> Option<ProcedureCode> {
        let text = |tag| self.text(set, Some(tags::PROCEDURE_CODE_SEQUENCE), tag);
        Some(ProcedureCode {
            value: text(tags::CODE_VALUE)
                .or_else(|| text(tags::LONG_CODE_VALUE))
                .or_else(|| text(tags::URN_CODE_VALUE))?,
            scheme: text(tags::CODING_SCHEME_DESIGNATOR),
            meaning: text(tags::CODE_MEANING),
        })
    }
}

fn is_image(sop_class: &SopClassUid) -> bool {
    let Some(class) = sop_class.as_str().strip_prefix(crate::uid::STORAGE_ROOT) else { return true };
    !NOT_IMAGES
        .iter()
        .any(|n| class.strip_prefix(n).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}
