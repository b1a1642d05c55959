//! What a scripted reader writes: plausible in form, and plainly not about anybody.

use isocenter_runtime::random::Seeded;
use isocenter_wire::v1::Read;

/// The two parts of a report.
pub(super) struct Text {
    pub findings: String,
    pub impression: String,
}

/// By modality: what was looked at, what is said of it where all is well, and where it is not.
struct Phrases {
    modality: &'static str,
    technique: &'static str,
    normal: [&'static str; 2],
    abnormal: [&'static str; 2],
}

const PHRASES: [Phrases; 6] = [
    Phrases {
        modality: "CT",
        technique: "Axial images of the head without contrast.",
        normal: ["No haemorrhage. Ventricles of normal width.", "No acute intracranial finding."],
        abnormal: ["Hyperdense lesion near the basal ganglia.", "Intracerebral haemorrhage suspected."],
    },
    Phrases {
        modality: "MR",
        technique: "Axial T2-weighted images of the brain.",
        normal: ["Symmetric ventricles, no signal change.", "Normal examination of the brain."],
        abnormal: ["Focal signal change of the white matter.", "Focal lesion, follow-up advised."],
    },
    Phrases {
        modality: "MG",
        technique: "Both breasts in two views.",
        normal: ["No mass, no suspicious calcification.", "BI-RADS 1. Routine screening."],
        abnormal: ["Dense tissue, which may hide a mass.", "BI-RADS 0. Additional imaging advised."],
    },
    Phrases {
        modality: "US",
        technique: "Ultrasound of the abdomen.",
        normal: ["Organs of normal size and echogenicity.", "No sonographic abnormality."],
        abnormal: ["Anechoic lesion, sharply defined.", "Simple cyst."],
    },
    Phrases {
        modality: "SR",
        technique: "Document without images.",
        normal: ["The document was read.", "No images to report on."],
        abnormal: ["The document was read.", "No images to report on."],
    },
    // Whatever is not named above: CR, DX and the rest.
    Phrases {
        modality: "",
        technique: "Frontal radiograph.",
        normal: ["Lungs clear, heart of normal size.", "No acute finding."],
        abnormal: ["One-sided opacity in the upper field.", "Consolidation suspected."],
    },
];

/// Writes the report of a read; an AI answer above one half makes an abnormal one likely.
pub(super) fn report(read: &Read, rng: &mut Seeded) -> Text {
    let named = |p: &&Phrases| read.modalities.iter().any(|m| m == p.modality);
    let phrases = PHRASES.iter().find(named).unwrap_or(&PHRASES[PHRASES.len() - 1]);
    let share = match read.abnormal_probability {
        Some(p) if p >= 0.5 => 0.9,
        Some(_) => 0.05,
        None => 0.2,
    };
    let [findings, impression] = if rng.chance(share) { phrases.abnormal } else { phrases.normal };
    Text {
        findings: format!("SYNTHETIC REPORT, about no person.\n{}\n{findings}", phrases.technique),
        impression: impression.to_owned(),
    }
}
