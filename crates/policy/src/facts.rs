//! What a condition may ask about a study.

use cel::{Context, Value};
use isocenter_domain::{Phi, id::SiteId};

/// What the network knows of a study when it is routed, without saying whose it is.
///
/// Absent attributes are empty text, an empty list, 0, or -1 for the age. Text is compared trimmed, and codes
/// (modalities, body part, priority, patient class) in upper case, whatever the device sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Distinct Modality (0008,0060) of the series.
    pub modalities: Vec<String>,
    /// Body Part Examined (0018,0015) of the first series that has one.
    pub body_part: String,
    /// The site the study came from, as the registry knows the sender.
    pub site: SiteId,
    /// AE title of the sender.
    pub calling_ae: String,
    /// Distinct SOP Class UID (0008,0016).
    pub sop_classes: Vec<String>,
    /// Instances with pixels to look at.
    pub image_count: u32,
    /// All instances.
    pub instance_count: u32,
    /// Series.
    pub series_count: u32,
    /// Priority of the order: HL7 TQ1-9 or ORC-7.6, else Requested Procedure Priority (0040,1003).
    pub order_priority: String,
    /// Code Value of Procedure Code Sequence (0008,1032), else of the order's OBR-4.1.
    pub procedure_code: String,
    /// Study Description (0008,1030). Free text which may hold anything: usable in a condition, never printed.
    pub study_description: Phi<String>,
    /// Institution Name (0008,0080).
    pub institution: String,
    /// Whole years from Patient's Birth Date (0010,0030) to the study's completion; `None` where it is unknown.
    pub patient_age_years: Option<u32>,
    /// Revision of the study, from 1.
    pub revision: u32,
    /// Whether the study was declared complete with a doubt.
    pub doubt: bool,
}

impl Facts {
    /// Facts of a study of `site` about which nothing else is known.
    #[must_use]
    pub fn of(site: SiteId) -> Self {
        Self {
            modalities: Vec::new(),
            body_part: String::new(),
            site,
            calling_ae: String::new(),
            sop_classes: Vec::new(),
            image_count: 0,
            instance_count: 0,
            series_count: 0,
            order_priority: String::new(),
            procedure_code: String::new(),
            study_description: Phi::default(),
            institution: String::new(),
            patient_age_years: None,
            revision: 1,
            doubt: false,
        }
    }

    /// Binds every name of [`FACT_NAMES`].
    pub(crate) fn bind(&self, context: &mut Context<'_, '_>) {
        let mut bind = |name: &str, value: Value| context.add_variable_from_value(name, value);
        bind("modalities", codes(&self.modalities));
        bind("body_part", code(&self.body_part).into());
        bind("site", self.site.as_str().into());
        bind("calling_ae", self.calling_ae.trim().into());
        bind("sop_classes", codes(&self.sop_classes));
        bind("image_count", Value::Int(self.image_count.into()));
        bind("instance_count", Value::Int(self.instance_count.into()));
        bind("series_count", Value::Int(self.series_count.into()));
        bind("order_priority", code(&self.order_priority).into());
        bind("procedure_code", self.procedure_code.trim().into());
        bind("study_description", self.study_description.reveal().trim().into());
        bind("institution", self.institution.trim().into());
        bind("patient_age_years", Value::Int(self.patient_age_years.map_or(-1, i64::from)));
        bind("revision", Value::Int(self.revision.into()));
        bind("doubt", Value::Bool(self.doubt));
    }
}

fn code(text: &str) -> String {
    text.trim().to_uppercase()
}

fn codes(texts: &[String]) -> Value {
    texts.iter().map(|text| code(text)).collect::<Vec<_>>().into()
}

/// The type of a name in a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactKind {
    /// Text.
    Text,
    /// A list of texts.
    Texts,
    /// A whole number.
    Number,
    /// True or false.
    Truth,
}

/// Every name a condition may use, with its type. `docs/policy.md` explains each.
pub const FACT_NAMES: &[(&str, FactKind)] = &[
    ("modalities", FactKind::Texts),
    ("body_part", FactKind::Text),
    ("site", FactKind::Text),
    ("calling_ae", FactKind::Text),
    ("sop_classes", FactKind::Texts),
    ("image_count", FactKind::Number),
    ("instance_count", FactKind::Number),
    ("series_count", FactKind::Number),
    ("order_priority", FactKind::Text),
    ("procedure_code", FactKind::Text),
    ("study_description", FactKind::Text),
    ("institution", FactKind::Text),
    ("patient_age_years", FactKind::Number),
    ("revision", FactKind::Number),
    ("doubt", FactKind::Truth),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_bound_and_explained_to_the_operator() {
        let mut context = Context::default();
        Facts::of(SiteId::new("north").unwrap()).bind(&mut context);
        let docs = include_str!("../../../docs/policy.md");
        for (name, _) in FACT_NAMES {
            assert!(context.get_variable(name).is_some(), "{name}");
            assert!(docs.contains(&format!("| `{name}` |")), "docs/policy.md lacks {name}");
        }
    }

    #[test]
    fn debug_output_keeps_the_description_to_itself() {
        let mut facts = Facts::of(SiteId::new("north").unwrap());
        facts.study_description = Phi::new("CT HEAD DOE JANE".into());
        assert!(!format!("{facts:?}").contains("DOE"));
    }
}
