//! Two small algorithms that measure something real in pixels: how much of a breast is dense, and whether one lung is
//! whiter than the other.
//!
//! They are SAMPLES: they show the whole path from pixels to a promoted study and are no medical device. What they
//! cannot read they refuse, with the reason that the contract of AI services has for it.

mod density;
mod grid;
mod opacity;

use dicom_dictionary_std::tags;
use dicom_object::DefaultDicomObject;
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
            let image = grid::Image::decode(object)?;
            let measured = match self {
                Self::Density => density::measure(&image),
                Self::Opacity => opacity::measure(&image),
            };
            probability = probability.max(measured.probability);
            if let Some(area) = measured.area {
                let uid = text(object, tags::SOP_INSTANCE_UID);
                let instance_uid = InstanceUid::new(uid).map_err(|e| Refusal::Attribute(e.to_string()))?;
                let (code, label) = self.finding();
                findings.push(Finding { code, label, probability: measured.probability, instance_uid, area });
            }
        }
        Ok(Analysis { probability, summary: self.summary(probability, findings.len()), findings })
    }

    /// The objects that the algorithm reads, or why there is none.
    fn images(self, objects: &[DefaultDicomObject]) -> Result<Vec<&DefaultDicomObject>, Refusal> {
        let modality = self.modalities()[0];
        if objects.is_empty() {
            return Err(Refusal::ImageCount(modality));
        }
        let of_modality: Vec<_> = objects
            .iter()
            .filter(|o| self.modalities().contains(&text(o, tags::MODALITY).as_str()))
            .collect();
        if of_modality.is_empty() {
            return Err(Refusal::Modality(modality));
        }
        let wanted: Vec<_> = of_modality
            .into_iter()
            .filter(|o| ["", self.body_part()].contains(&text(o, tags::BODY_PART_EXAMINED).as_str()))
            .collect();
        if wanted.is_empty() { Err(Refusal::BodyPart(self.body_part())) } else { Ok(wanted) }
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

fn read(file: &[u8]) -> Result<DefaultDicomObject, Refusal> {
    dicom_object::from_reader(file)
        .map_err(|e| Refusal::ImageQuality(format!("not a readable DICOM file: {e}")))
}

/// The text of an attribute, empty where it is absent.
fn text(object: &DefaultDicomObject, tag: dicom_core::Tag) -> String {
    object.get(tag).and_then(|e| e.to_str().ok()).map(|t| t.trim().to_owned()).unwrap_or_default()
}

/// Maps a score to 0..1: one half at `middle`, steeper with `slope`.
fn logistic(score: f64, middle: f64, slope: f64) -> f64 {
    1.0 / (1.0 + (-(score - middle) * slope).exp())
}
