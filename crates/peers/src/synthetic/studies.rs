//! What each kind of study consists of.

use dicom_dictionary_std::{tags, uids};

use super::{
    Draft, StudyKind, SyntheticError,
    attributes::{Code, DataSet, axial, coded, common, image, mono16, pixel8},
    phantom::{self, Glands, Opacity},
};

/// Rows and columns of the square images: small, so that a demo needs neither time nor disk.
const SIDE: u16 = 192;
/// Slices of the first series of a CT or MR study.
const SLICES: u16 = 8;
/// Frames of an ultrasound loop.
const FRAMES: u16 = 8;

/// Explicit VR Big Endian (PS3.5 §A.3, retired in 2006 and still sent).
const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";

const BREAST: Code = ("76752008", "SCT", "Breast");
const CHEST: Code = ("51185008", "SCT", "Chest");

/// Draws all objects of the study into `draft`.
pub(super) fn draw(draft: &mut Draft) -> Result<(), SyntheticError> {
    match draft.kind {
        StudyKind::CtStroke => ct(draft, true),
        StudyKind::CtHead => ct(draft, false),
        StudyKind::CrChest => cr(draft, false, BIG_ENDIAN),
        StudyKind::CrChestOpacity => cr(draft, true, uids::EXPLICIT_VR_LITTLE_ENDIAN),
        StudyKind::DxChest => dx(draft, false),
        StudyKind::DxChestOpacity => dx(draft, true),
        StudyKind::MgFatty => mg(draft, false),
        StudyKind::MgDense => mg(draft, true),
        StudyKind::MrBrain => mr(draft),
        StudyKind::UsAbdomen => us(draft),
        StudyKind::SrOnly => sr(draft),
    }
}

/// CT Image (PS3.3 §A.3): thin slices, then a second series of half as many thick ones.
fn ct(draft: &mut Draft, bleed: bool) -> Result<(), SyntheticError> {
    let frame = draft.uid("frame of reference");
    for (series, slices, name) in [(1, SLICES, "Axial thin"), (2, SLICES / 2, "Axial thick")] {
        let step = 40.0 / f32::from(slices);
        for n in 1..=slices {
            let at = (series, n);
            let z = f32::from(n - 1) / f32::from(slices - 1) * 1.6 - 0.8;
            let mut ds = image(draft, at, uids::CT_IMAGE_STORAGE, "ORIGINAL\\PRIMARY\\AXIAL");
            ds.put(tags::SERIES_DESCRIPTION, name)
                .put(tags::KVP, "120")
                .put(tags::CONVOLUTION_KERNEL, "SYNTHETIC")
                .put(tags::RESCALE_INTERCEPT, "-1024")
                .put(tags::RESCALE_SLOPE, "1")
                .put(tags::RESCALE_TYPE, "HU");
            axial(&mut ds, frame.clone(), SIDE, 1.2, step * f32::from(n - 1), step);
            let pixels = phantom::ct_head(SIDE, z, bleed, &mut draft.rng);
            mono16(&mut ds, SIDE, pixels, ("40", "80"));
            draft.write(ds.0, at, uids::CT_IMAGE_STORAGE, uids::EXPLICIT_VR_LITTLE_ENDIAN)?;
        }
    }
    Ok(())
}

/// Computed Radiography Image (PS3.3 §A.2): one view.
fn cr(draft: &mut Draft, opacity: bool, syntax: &str) -> Result<(), SyntheticError> {
    let class = uids::COMPUTED_RADIOGRAPHY_IMAGE_STORAGE;
    let opacity = opacity.then(|| Opacity::anywhere(&mut draft.rng));
    let mut ds = image(draft, (1, 1), class, "ORIGINAL\\PRIMARY");
    ds.put(tags::SERIES_DESCRIPTION, "PA")
        .blank(tags::LATERALITY)
        .put(tags::VIEW_POSITION, "PA")
        .put(tags::PATIENT_ORIENTATION, "L\\F")
        .put(tags::KVP, "110")
        .put(tags::IMAGER_PIXEL_SPACING, "1.8\\1.8")
        .put(tags::PIXEL_SPACING, "1.8\\1.8");
    let pixels = phantom::chest(SIDE, opacity.as_ref(), &mut draft.rng);
    mono16(&mut ds, SIDE, pixels, ("1900", "3600"));
    draft.write(ds.0, (1, 1), class, syntax)
}

/// The modules that DX and MG share (PS3.3 §A.26.3): DX Series, Detector, Image, Anatomy Imaged, Acquisition Context.
fn digital_x_ray(ds: &mut DataSet, region: Code, laterality: &str) {
    ds.put(tags::PRESENTATION_INTENT_TYPE, "FOR PRESENTATION")
        .put(tags::IMAGE_LATERALITY, laterality)
        .code(tags::ANATOMIC_REGION_SEQUENCE, region)
        .put(tags::DETECTOR_TYPE, "DIRECT")
        .put(tags::IMAGER_PIXEL_SPACING, "1.8\\1.8")
        .put(tags::PIXEL_INTENSITY_RELATIONSHIP, "LOG")
        .put(tags::PIXEL_INTENSITY_RELATIONSHIP_SIGN, -1_i16)
        .put(tags::RESCALE_INTERCEPT, "0")
        .put(tags::RESCALE_SLOPE, "1")
        .put(tags::RESCALE_TYPE, "US")
        .put(tags::PRESENTATION_LUT_SHAPE, "IDENTITY")
        .put(tags::LOSSY_IMAGE_COMPRESSION, "00")
        .blank(tags::ACQUISITION_CONTEXT_SEQUENCE);
}

/// Digital X-Ray Image, for presentation (PS3.3 §A.26): one view.
fn dx(draft: &mut Draft, opacity: bool) -> Result<(), SyntheticError> {
    let class = uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION;
    let opacity = opacity.then(|| Opacity::anywhere(&mut draft.rng));
    let mut ds = image(draft, (1, 1), class, "ORIGINAL\\PRIMARY");
    ds.put(tags::SERIES_DESCRIPTION, "PA")
        .put(tags::VIEW_POSITION, "PA")
        .put(tags::PATIENT_ORIENTATION, "L\\F")
        .put(tags::KVP, "110");
    digital_x_ray(&mut ds, CHEST, "U");
    let pixels = phantom::chest(SIDE, opacity.as_ref(), &mut draft.rng);
    mono16(&mut ds, SIDE, pixels, ("1900", "3600"));
    draft.write(ds.0, (1, 1), class, uids::EXPLICIT_VR_LITTLE_ENDIAN)
}

/// Digital Mammography X-Ray Image, for presentation (PS3.3 §A.27): right and left, CC and MLO.
fn mg(draft: &mut Draft, dense: bool) -> Result<(), SyntheticError> {
    const CC: Code = ("399162004", "SCT", "cranio-caudal");
    const MLO: Code = ("399368009", "SCT", "medio-lateral oblique");
    let class = uids::DIGITAL_MAMMOGRAPHY_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION;
    let glands = Glands::new(dense, &mut draft.rng);
    let views = [("R", CC, "CC"), ("L", CC, "CC"), ("R", MLO, "MLO"), ("L", MLO, "MLO")];
    for (n, (laterality, code, view)) in (1..).zip(views) {
        let mut ds = image(draft, (1, n), class, "ORIGINAL\\PRIMARY");
        let mut code = coded(code);
        code.blank(tags::VIEW_MODIFIER_CODE_SEQUENCE);
        let head_or_lateral = if view == "CC" { "R" } else { "F" };
        let towards = if laterality == "R" { "P" } else { "A" };
        ds.put(tags::SERIES_DESCRIPTION, "Screening, four views")
            .put(tags::VIEW_POSITION, view)
            .items(tags::VIEW_CODE_SEQUENCE, vec![code])
            .put(tags::PATIENT_ORIENTATION, format!("{towards}\\{head_or_lateral}"))
            .put(tags::POSITIONER_TYPE, "MAMMOGRAPHIC")
            .put(tags::POSITIONER_PRIMARY_ANGLE, if view == "CC" { "0" } else { "45" })
            .put(tags::ORGAN_EXPOSED, "BREAST")
            .put(tags::BREAST_IMPLANT_PRESENT, "NO")
            .put(tags::KVP, "28")
            .put(tags::COMPRESSION_FORCE, "100")
            .put(tags::BODY_PART_THICKNESS, "55");
        digital_x_ray(&mut ds, BREAST, laterality);
        let pixels = phantom::breast(SIDE, &glands, view == "MLO", laterality == "R", &mut draft.rng);
        mono16(&mut ds, SIDE, pixels, ("1800", "2600"));
        draft.write(ds.0, (1, n), class, uids::EXPLICIT_VR_LITTLE_ENDIAN)?;
    }
    Ok(())
}

/// MR Image (PS3.3 §A.4): T2-weighted axial slices.
fn mr(draft: &mut Draft) -> Result<(), SyntheticError> {
    let frame = draft.uid("frame of reference");
    for n in 1..=SLICES {
        let z = f32::from(n - 1) / f32::from(SLICES - 1) * 1.6 - 0.8;
        let mut ds = image(draft, (1, n), uids::MR_IMAGE_STORAGE, "ORIGINAL\\PRIMARY\\M");
        ds.put(tags::SERIES_DESCRIPTION, "T2 axial")
            .put(tags::SCANNING_SEQUENCE, "SE")
            .put(tags::SEQUENCE_VARIANT, "SK")
            .blank(tags::SCAN_OPTIONS)
            .put(tags::MR_ACQUISITION_TYPE, "2D")
            .put(tags::REPETITION_TIME, "4000")
            .put(tags::ECHO_TIME, "90")
            .put(tags::ECHO_TRAIN_LENGTH, "12")
            .put(tags::MAGNETIC_FIELD_STRENGTH, "1.5");
        axial(&mut ds, frame.clone(), SIDE, 1.2, 5.0 * f32::from(n - 1), 5.0);
        let pixels = phantom::mr_brain(SIDE, z, &mut draft.rng);
        mono16(&mut ds, SIDE, pixels, ("1000", "2000"));
        draft.write(ds.0, (1, n), uids::MR_IMAGE_STORAGE, uids::IMPLICIT_VR_LITTLE_ENDIAN)?;
    }
    Ok(())
}

/// Ultrasound Image and Ultrasound Multi-frame Image (PS3.3 §A.6, §A.7): one RGB image, one JPEG loop.
fn us(draft: &mut Draft) -> Result<(), SyntheticError> {
    const ROWS: u16 = 120;
    const COLUMNS: u16 = 160;
    let still = uids::ULTRASOUND_IMAGE_STORAGE;
    let mut ds = image(draft, (1, 1), still, "ORIGINAL\\PRIMARY\\ABDOMINAL\\0001");
    ds.put(tags::SERIES_DESCRIPTION, "Still").blank(tags::PATIENT_ORIENTATION);
    let grey = phantom::sector(ROWS, COLUMNS, 0.0, &mut draft.rng);
    let rgb = grey.iter().flat_map(|g| [*g, *g, g.saturating_add(10)]).collect();
    pixel8(&mut ds, (ROWS, COLUMNS), 3, rgb);
    ds.put(tags::LOSSY_IMAGE_COMPRESSION, "00");
    draft.write(ds.0, (1, 1), still, uids::EXPLICIT_VR_LITTLE_ENDIAN)?;

    let multi = uids::ULTRASOUND_MULTI_FRAME_IMAGE_STORAGE;
    let mut ds = image(draft, (2, 1), multi, "ORIGINAL\\PRIMARY\\ABDOMINAL\\0001");
    ds.put(tags::SERIES_DESCRIPTION, "Loop")
        .blank(tags::PATIENT_ORIENTATION)
        .put(tags::NUMBER_OF_FRAMES, FRAMES.to_string())
        .put(tags::FRAME_TIME, "40")
        .put(tags::FRAME_INCREMENT_POINTER, tags::FRAME_TIME);
    let frame = |n| phantom::sector(ROWS, COLUMNS, f32::from(n) * 0.7, &mut draft.rng);
    let pixels: Vec<u8> = (0..FRAMES).flat_map(frame).collect();
    pixel8(&mut ds, (ROWS, COLUMNS), 1, pixels);
    draft.write(ds.0, (2, 1), multi, uids::JPEG_BASELINE8_BIT)
}

/// Basic Text SR (PS3.3 §A.35.1): a note and nothing to look at.
fn sr(draft: &mut Draft) -> Result<(), SyntheticError> {
    let class = uids::BASIC_TEXT_SR_STORAGE;
    let mut ds = common(draft, (1, 1), class);
    let mut text = DataSet::empty();
    text.put(tags::RELATIONSHIP_TYPE, "CONTAINS")
        .put(tags::VALUE_TYPE, "TEXT")
        .code(tags::CONCEPT_NAME_CODE_SEQUENCE, ("121106", "DCM", "Comment"))
        .put(tags::TEXT_VALUE, "Synthetic note: the patient did not come, no image was made.");
    ds.put(tags::SERIES_DESCRIPTION, "Note")
        .blank(tags::REFERENCED_PERFORMED_PROCEDURE_STEP_SEQUENCE)
        .put(tags::CONTENT_DATE, draft.subject.study_date.as_str())
        .put(tags::CONTENT_TIME, draft.subject.study_time.as_str())
        .put(tags::COMPLETION_FLAG, "COMPLETE")
        .put(tags::VERIFICATION_FLAG, "UNVERIFIED")
        .blank(tags::PERFORMED_PROCEDURE_CODE_SEQUENCE)
        .put(tags::VALUE_TYPE, "CONTAINER")
        .code(tags::CONCEPT_NAME_CODE_SEQUENCE, ("121070", "DCM", "Findings"))
        .put(tags::CONTINUITY_OF_CONTENT, "SEPARATE")
        .items(tags::CONTENT_SEQUENCE, vec![text]);
    draft.write(ds.0, (1, 1), class, uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
}
