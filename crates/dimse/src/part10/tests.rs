use std::io::Cursor;

use dicom_core::{DataElement, PrimitiveValue, VR, dicom_value, value::DataSetSequence};
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use isocenter_domain::Phi;
use proptest::prelude::*;

use super::*;

const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
const SR: &str = "1.2.840.10008.5.1.4.1.1.88.22";
const IMPLICIT: &str = "1.2.840.10008.1.2";
const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const BIG: &str = "1.2.840.10008.1.2.2";
const DEFLATED: &str = "1.2.840.10008.1.2.1.99";
const JPEG: &str = "1.2.840.10008.1.2.4.50";

fn text(object: &mut InMemDicomObject, tag: Tag, vr: VR, value: &str) {
    object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
}

fn object(class: &str) -> InMemDicomObject {
    let mut o = InMemDicomObject::new_empty();
    text(&mut o, tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192");
    text(&mut o, tags::SOP_CLASS_UID, VR::UI, class);
    text(&mut o, tags::SOP_INSTANCE_UID, VR::UI, "1.2.3.4");
    text(&mut o, tags::STUDY_INSTANCE_UID, VR::UI, "1.2.3");
    text(&mut o, tags::SERIES_INSTANCE_UID, VR::UI, "1.2.3.1");
    text(&mut o, tags::MODALITY, VR::CS, "CT");
    text(&mut o, tags::BODY_PART_EXAMINED, VR::CS, "HEAD");
    text(&mut o, tags::ACCESSION_NUMBER, VR::SH, "A-17");
    text(&mut o, tags::PATIENT_NAME, VR::PN, "Иванов^Иван");
    text(&mut o, tags::PATIENT_ID, VR::LO, "4711");
    text(&mut o, tags::ISSUER_OF_PATIENT_ID, VR::LO, "NORTH");
    text(&mut o, tags::INSTANCE_NUMBER, VR::IS, "12 ");
    let mut code = InMemDicomObject::new_empty();
    text(&mut code, tags::CODE_VALUE, VR::SH, "77477000");
    text(&mut code, tags::CODING_SCHEME_DESIGNATOR, VR::SH, "SCT");
    let mut deep = InMemDicomObject::new_empty();
    text(&mut deep, tags::CODE_VALUE, VR::SH, "not this one");
    let sequence = |item| DataSetSequence::from(vec![item]);
    code.put(DataElement::new(tags::CONCEPT_CODE_SEQUENCE, VR::SQ, sequence(deep)));
    o.put(DataElement::new(tags::PROCEDURE_CODE_SEQUENCE, VR::SQ, sequence(code)));
    let mut issuer = InMemDicomObject::new_empty();
    text(&mut issuer, tags::LOCAL_NAMESPACE_ENTITY_ID, VR::UT, "NORTH-RIS");
    o.put(DataElement::new(tags::ISSUER_OF_ACCESSION_NUMBER_SEQUENCE, VR::SQ, sequence(issuer)));
    o
}

fn with_pixels(mut o: InMemDicomObject) -> InMemDicomObject {
    o.put(DataElement::new(tags::ROWS, VR::US, dicom_value!(U16, [8])));
    o.put(DataElement::new(tags::COLUMNS, VR::US, dicom_value!(U16, [8])));
    o.put(DataElement::new(tags::BITS_ALLOCATED, VR::US, dicom_value!(U16, [16])));
    o.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(vec![7u16; 64].into())));
    o
}

fn file_of(o: &InMemDicomObject, class: &str, syntax: &str) -> Vec<u8> {
    let mut bytes = header(
        &SopClassUid::new(class).unwrap(),
        &InstanceUid::new("1.2.3.4").unwrap(),
        &TransferSyntaxUid::new(syntax).unwrap(),
        &AeTitle::new("CT-1").unwrap(),
    );
    let registry = dicom_transfer_syntax_registry::TransferSyntaxRegistry;
    let syntax = dicom_encoding::transfer_syntax::TransferSyntaxIndex::get(&registry, syntax).unwrap();
    o.write_dataset_with_ts(&mut bytes, syntax).unwrap();
    bytes
}

fn read(bytes: &[u8]) -> Result<Header, InspectError> {
    inspect_reader(Cursor::new(bytes), Some(bytes.len() as u64))
}

#[test]
fn every_encoding_gives_the_same_header() {
    for syntax in [IMPLICIT, EXPLICIT, BIG, DEFLATED] {
        let header = read(&file_of(&with_pixels(object(CT)), CT, syntax)).unwrap();
        assert_eq!(header.study.as_str(), "1.2.3", "{syntax}");
        assert_eq!(header.transfer_syntax.as_str(), syntax);
        assert_eq!(header.modality.as_deref(), Some("CT"));
        assert_eq!(header.body_part.as_deref(), Some("HEAD"));
        assert_eq!(header.instance_number, Some(12));
        assert_eq!(header.accession, Some(Phi::new("A-17".to_owned())));
        assert_eq!(header.accession_issuer.as_deref(), Some("NORTH-RIS"));
        assert_eq!(header.patient_name, Some(Phi::new("Иванов^Иван".to_owned())));
        assert_eq!(header.patient_id_issuer.as_deref(), Some("NORTH"));
        let code = header.procedure_code.unwrap();
        assert_eq!((code.value.as_str(), code.scheme.as_deref()), ("77477000", Some("SCT")));
        assert_eq!((header.pixel_data, header.image, header.frames), (true, true, 1));
    }
}

#[test]
fn the_library_reads_the_files_we_head() {
    let bytes = file_of(&with_pixels(object(CT)), CT, EXPLICIT);
    let read = dicom_object::from_reader(Cursor::new(&bytes)).unwrap();
    assert_eq!(read.meta().source_application_entity_title.as_deref().map(str::trim_end), Some("CT-1"));
    let group_length = u64::from(read.meta().information_group_length);
    assert_eq!(FileMeta::read(&mut Cursor::new(&bytes)).unwrap().data_set_offset, 144 + group_length);
}

#[test]
fn reports_and_segmentations_are_not_images() {
    let report = read(&file_of(&object(SR), SR, EXPLICIT)).unwrap();
    assert_eq!((report.pixel_data, report.image, report.frames), (false, false, 0));
    let seg = "1.2.840.10008.5.1.4.1.1.66.4";
    let seg = read(&file_of(&with_pixels(object(seg)), seg, EXPLICIT)).unwrap();
    assert_eq!((seg.pixel_data, seg.image), (true, false));
    let mammography = "1.2.840.10008.5.1.4.1.1.1.2";
    assert!(read(&file_of(&with_pixels(object(mammography)), mammography, EXPLICIT)).unwrap().image);
}

#[test]
fn encapsulated_pixels_are_not_read_and_nested_ones_are_passed_over() {
    let fragments = |bytes: &mut Vec<u8>, group: [u8; 4]| {
        bytes.extend_from_slice(&group);
        bytes.extend_from_slice(b"OB\0\0\xff\xff\xff\xff");
        bytes.extend_from_slice(&[0xfe, 0xff, 0x00, 0xe0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&[0xfe, 0xff, 0x00, 0xe0, 4, 0, 0, 0, 1, 2, 3, 4]);
        bytes.extend_from_slice(&[0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]);
    };
    let mut bytes = file_of(&object(CT), CT, JPEG);
    fragments(&mut bytes, [0x01, 0x60, 0x10, 0x10]);
    fragments(&mut bytes, [0xe0, 0x7f, 0x10, 0x00]);
    assert!(read(&bytes).unwrap().image);
}

#[test]
fn an_unknown_vr_of_undefined_length_is_an_implicit_sequence() {
    let mut bytes = file_of(&object(CT), CT, EXPLICIT);
    bytes.extend_from_slice(b"\x41\x00\x10\x10UN\0\0\xff\xff\xff\xff");
    bytes.extend_from_slice(&[0xfe, 0xff, 0x00, 0xe0, 0xff, 0xff, 0xff, 0xff]);
    bytes.extend_from_slice(b"\x08\x00\x60\x00\x02\0\0\0MR");
    bytes.extend_from_slice(&[0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0, 0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]);
    bytes.extend_from_slice(b"\xe0\x7f\x10\x00OW\0\0\x02\0\0\0\x01\x02");
    let header = read(&bytes).unwrap();
    assert_eq!((header.modality.as_deref(), header.image), (Some("CT"), true));
}

#[test]
fn private_transfer_syntaxes_are_read_by_what_they_look_like() {
    let mut bytes = header(
        &SopClassUid::new(CT).unwrap(),
        &InstanceUid::new("1.2.3.4").unwrap(),
        &TransferSyntaxUid::new("1.2.840.113619.5.2").unwrap(),
        &AeTitle::new("CT-1").unwrap(),
    );
    let implicit = file_of(&object(CT), CT, IMPLICIT);
    let offset = FileMeta::read(&mut Cursor::new(&implicit)).unwrap().data_set_offset;
    bytes.extend_from_slice(&implicit[usize::try_from(offset).unwrap()..]);
    assert_eq!(read(&bytes).unwrap().modality.as_deref(), Some("CT"));
}

#[test]
fn errors_name_what_and_where() {
    assert_eq!(read(b"GIF89a").unwrap_err().to_string(), "not a DICOM file: no DICM after 128 bytes");

    let mut no_study = object(CT);
    no_study.remove_element(tags::STUDY_INSTANCE_UID);
    let error = read(&file_of(&no_study, CT, EXPLICIT)).unwrap_err();
    assert_eq!(error.to_string(), "(0020,000D) is absent or empty");

    let error = read(&file_of(&object(SR), CT, EXPLICIT)).unwrap_err();
    assert_eq!(error.to_string(), "(0008,0016) differs from the file meta information");

    let mut odd = object(CT);
    text(&mut odd, tags::STUDY_INSTANCE_UID, VR::UI, "DOE^JANE");
    let error = read(&file_of(&odd, CT, EXPLICIT)).unwrap_err();
    assert_eq!(error.to_string(), "(0020,000D) is not valid");
    assert_eq!(error.kind(), Kind::Invalid);

    let whole = file_of(&with_pixels(object(CT)), CT, EXPLICIT);
    let error = read(&whole[..whole.len() - 1]).unwrap_err();
    assert!(matches!(error, InspectError::Truncated { tag: tags::PIXEL_DATA, .. }), "{error}");
}

#[test]
fn nesting_beyond_any_report_is_refused_and_not_followed() {
    let mut bytes = file_of(&object(CT), CT, EXPLICIT);
    for _ in 0..100_000 {
        bytes.extend_from_slice(b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff");
        bytes.extend_from_slice(&[0xfe, 0xff, 0x00, 0xe0, 0xff, 0xff, 0xff, 0xff]);
    }
    assert!(matches!(read(&bytes), Err(InspectError::Malformed { .. })));
}

#[test]
fn digests_of_the_data_set_leave_the_meta_information_out() {
    let dir = tempfile::tempdir().unwrap();
    let ours = file_of(&with_pixels(object(CT)), CT, EXPLICIT);
    let offset = usize::try_from(FileMeta::read(&mut Cursor::new(&ours)).unwrap().data_set_offset).unwrap();
    let mut theirs = header(
        &SopClassUid::new(CT).unwrap(),
        &InstanceUid::new("1.2.3.4").unwrap(),
        &TransferSyntaxUid::new(EXPLICIT).unwrap(),
        &AeTitle::new("ANOTHER-STATION").unwrap(),
    );
    theirs.extend_from_slice(&ours[offset..]);
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    std::fs::write(&a, &ours).unwrap();
    std::fs::write(&b, &theirs).unwrap();
    let (a, b) = (dataset_digest(&a).unwrap(), dataset_digest(&b).unwrap());
    assert_eq!(a.data_set, b.data_set);
    assert_eq!(a.data_set, isocenter_domain::refs::Digest::of(&ours[offset..]));
    assert_eq!(a.file, isocenter_domain::refs::Digest::of(&ours));
    assert_eq!(a.file_len, ours.len() as u64);
    assert_ne!(a.file, b.file);
}

proptest! {
    /// Truncated and damaged files are read or refused; neither panics, and what is read has what is required.
    #[test]
    fn damaged_files_are_read_or_refused(
        syntax in prop::sample::select(vec![IMPLICIT, EXPLICIT, BIG, DEFLATED, JPEG]),
        cut in any::<prop::sample::Index>(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let mut bytes = if syntax == JPEG {
            file_of(&object(CT), CT, syntax)
        } else {
            file_of(&with_pixels(object(CT)), CT, syntax)
        };
        for (at, value) in flips {
            let at = 132 + at.index(bytes.len() - 132);
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        drop(read(&bytes));
    }

    #[test]
    fn any_bytes_after_the_meta_information_are_read_or_refused(
        syntax in prop::sample::select(vec![IMPLICIT, EXPLICIT, BIG, DEFLATED, "1.2.3"]),
        tail in proptest::collection::vec(any::<u8>(), 0..512),
    ) {
        let mut bytes = header(
            &SopClassUid::new(CT).unwrap(),
            &InstanceUid::new("1.2.3.4").unwrap(),
            &TransferSyntaxUid::new(syntax).unwrap(),
            &AeTitle::new("CT-1").unwrap(),
        );
        bytes.extend_from_slice(&tail);
        prop_assert!(read(&bytes).is_err());
    }
}
