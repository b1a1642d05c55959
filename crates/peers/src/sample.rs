//! Two small algorithms that measure something real in pixels: how much of a breast is dense, and whether one lung is
//! whiter than the other.
//!
//! They are SAMPLES: they show the whole path from pixels to a promoted study and are no medical device. What they
//! cannot read they refuse, with the reason that the contract of AI services has for it.

mod density;
mod grid;
mod opacity;

use dicom_dictionary_std::{tags, uids};
use dicom_object::{DefaultDicomObject, OpenFileOptions};
use isocenter_dimse::part10::{Header, inspect_reader};
use isocenter_domain::id::InstanceUid;

/// Which algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// The dense share of the breast in mammograms (MG).
    Density,
    /// The largest one-sided opacity in chest films (CR, DX).
    Opacity,
}

/// What an algorithm found.
#[derive(Clone, Debug, PartialEq)]
pub struct Analysis {
    /// Probability that the study is abnormal, 0 to 1; not calibrated on patients.
    pub probability: f64,
    /// One sentence for readers; begins with `SAMPLE`.
    pub summary: String,
    /// At most one finding an image.
    pub findings: Vec<Finding>,
}

/// One finding.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What it is, by SNOMED CT.
    pub code: &'static str,
    /// What it is called.
    pub label: &'static str,
    /// Probability of this finding, 0 to 1.
    pub probability: f64,
    /// The image.
    pub instance_uid: InstanceUid,
    /// Left, top, right, bottom in pixels; right and bottom are the first outside.
    pub area: [u32; 4],
}

/// Why a study was not analysed. Only [`Refusal::Other`] is this program's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No image that the algorithm reads.
    #[error("the study has no {0} image")]
    ImageCount(&'static str),
    /// The modality is not one the algorithm reads.
    #[error("modality is not {0}")]
    Modality(&'static str),
    /// The body part is not one the algorithm reads.
    #[error("body part is not {0}")]
    BodyPart(&'static str),
    /// An attribute is absent, or has a value that the algorithm cannot use.
    #[error("{0}")]
    Attribute(String),
    /// The pixels cannot be decoded here, by transfer syntax or because they are damaged.
    #[error("{0}")]
    ImageQuality(String),
    /// A defect of this program.
    #[error("{0}")]
    Other(String),
}

/// One file of the study.
struct Object {
    header: Header,
    data_set: DefaultDicomObject,
}

/// What an algorithm made of one image.
struct Measured {
    probability: f64,
    area: Option<[u32; 4]>,
}

impl Algorithm {
    /// Values of Modality (0008,0060) that it reads.
    #[must_use]
    pub const fn modalities(self) -> &'static [&'static str] {
        match self {
            Self::Density => &["MG"],
            Self::Opacity => &["CR", "DX"],
        }
    }

    /// Values of Body Part Examined (0018,0015) that it reads. An absent value is not held against an image.
    #[must_use]
    pub const fn body_part(self) -> &'static str {
        match self {
            Self::Density => "BREAST",
            Self::Opacity => "CHEST",
        }
    }

    /// What the samples call themselves, e.g. `sample-density`.
    #[must_use]
    pub const fn model_id(self) -> &'static str {
        match self {
            Self::Density => "sample-density",
            Self::Opacity => "sample-opacity",
        }
    }

    /// Analyses the Part 10 files of one study. Objects of other modalities are passed over; it is refused where none is
    /// left, or where one cannot be read. Blocks for as long as decoding takes: call it off the async threads.
    ///
    /// # Errors
    /// The reason why the study is refused.
    pub fn analyse(self, files: &[impl AsRef<[u8]>]) -> Result<Analysis, Refusal> {
        let objects = files.iter().map(|f| read(f.as_ref())).collect::<Result<Vec<_>, _>>()?;
        let wanted = self.images(&objects)?;
        let mut probability = 0.0_f64;
        let mut findings = Vec::new();
        for object in wanted {
            let image = grid::Image::decode(&object.data_set)?;
            let measured = match self {
                Self::Density => density::measure(&image),
                Self::Opacity => opacity::measure(&image),
            };
            probability = probability.max(measured.probability);
            if let Some(area) = measured.area {
                let instance_uid = object.header.instance.clone();
                let (code, label) = self.finding();
                findings.push(Finding { code, label, probability: measured.probability, instance_uid, area });
            }
        }
        Ok(Analysis { probability, summary: self.summary(probability, findings.len()), findings })
    }

    /// The single-frame images that the algorithm reads, or why there is none.
    fn images(self, objects: &[Object]) -> Result<Vec<&Object>, Refusal> {
        let modality = self.modalities()[0];
        let is_image = |o: &&Object| o.header.image && o.header.frames == 1;
        let mut images = objects.iter().filter(is_image).peekable();
        if images.peek().is_none() {
            return Err(Refusal::ImageCount(modality));
        }
        let of_modality =
            |o: &&Object| o.header.modality.as_deref().is_some_and(|own| self.modalities().contains(&own));
        let mut images = images.filter(of_modality).peekable();
        if images.peek().is_none() {
            return Err(Refusal::Modality(modality));
        }
        let of_body_part =
            |o: &&Object| o.header.body_part.as_deref().is_none_or(|own| own == self.body_part());
        let images: Vec<_> = images.filter(of_body_part).collect();
        if images.is_empty() { Err(Refusal::BodyPart(self.body_part())) } else { Ok(images) }
    }

    const fn finding(self) -> (&'static str, &'static str) {
        match self {
            Self::Density => ("129717002", "dense breast tissue"),
            Self::Opacity => ("128477000", "opacity"),
        }
    }

    fn summary(self, probability: f64, findings: usize) -> String {
        let percent = probability * 100.0;
        let what = match self {
            Self::Density => "share of dense tissue in mammograms",
            Self::Opacity => "one-sided opacity in chest films",
        };
        format!(
            "SAMPLE, not a medical device. Measured: {what}. Score {percent:.0} %, images marked: {findings}."
        )
    }
}

/// Reads a file, its structure having been checked first: the DICOM library takes memory for as many bytes as a length
/// field claims, and follows nested sequences by recursion.
///
/// The library's own words are left out of every refusal: they may repeat what stands in the file.
fn read(file: &[u8]) -> Result<Object, Refusal> {
    let header = inspect_reader(file, Some(file.len() as u64))
        .map_err(|_| Refusal::ImageQuality("not a readable DICOM file".to_owned()))?;
    let syntax = header.transfer_syntax.as_str();
    if syntax == uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN {
        // How much it grows is known only once it has grown.
        return Err(Refusal::ImageQuality("deflated data sets are not read".to_owned()));
    }
    let data_set = OpenFileOptions::new().read_to(tags::PIXEL_DATA).from_reader(file);
    let data_set = data_set
        .map_err(|_| Refusal::ImageQuality(format!("cannot read a file of transfer syntax {syntax}")))?;
    Ok(Object { header, data_set })
}

/// The text of an attribute, empty where it is absent.
fn text(object: &DefaultDicomObject, tag: dicom_core::Tag) -> String {
    object.get(tag).and_then(|e| e.to_str().ok()).map(|t| t.trim().to_owned()).unwrap_or_default()
}

/// Maps a score to 0..1: one half at `middle`, steeper with `slope`.
fn logistic(score: f64, middle: f64, slope: f64) -> f64 {
    1.0 / (1.0 + (-(score - middle) * slope).exp())
}
