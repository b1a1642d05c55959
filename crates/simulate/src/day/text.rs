//! The shape of a scenario's YAML, with the place of every value that is checked later.

use std::fmt;

use serde::Deserialize;
use serde_saphyr::Spanned;

/// A value with its place in the text.
pub(super) type At<T> = Spanned<T>;

/// A scenario that cannot be run: the first problem found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct ScenarioError {
    /// Line in the text, from 1.
    pub line: u64,
    /// Column in that line, from 1.
    pub column: u64,
    /// What is wrong, with the field, and what to do.
    pub problem: String,
}

impl ScenarioError {
    pub(super) fn at<T>(value: &At<T>, problem: impl fmt::Display) -> Self {
        Self { line: value.defined.line(), column: value.defined.column(), problem: problem.to_string() }
    }
}

/// The whole. What is absent is as in the scenario `base`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScenarioText {
    pub schema: At<u64>,
    pub name: At<String>,
    pub about: At<String>,
    #[serde(default)]
    pub days: Option<DaysText>,
    #[serde(default)]
    pub studies_per_day: Option<At<f64>>,
    #[serde(default)]
    pub hourly: Option<At<Vec<f64>>>,
    #[serde(default)]
    pub night: Option<WindowText>,
    #[serde(default)]
    pub surges: Option<Vec<SurgeText>>,
    #[serde(default)]
    pub classes: Option<At<Vec<ClassText>>>,
    #[serde(default)]
    pub categories: Option<At<Vec<CategoryText>>>,
    #[serde(default)]
    pub reading: Option<ReadingText>,
    #[serde(default)]
    pub sites: Option<At<Vec<SiteText>>>,
    #[serde(default)]
    pub readers: Option<ReadersText>,
    #[serde(default)]
    pub ai: Option<AiText>,
    #[serde(default)]
    pub drop_out: Option<DropOutText>,
    #[serde(default)]
    pub flapping: Option<FlappingText>,
    #[serde(default)]
    pub waiting_at_start: Option<At<f64>>,
    #[serde(default)]
    pub visits: Option<VisitsText>,
}

/// Days of warm-up, measured, and after.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DaysText {
    #[serde(default)]
    pub warm_up: Option<At<f64>>,
    #[serde(default)]
    pub measured: Option<At<f64>>,
    #[serde(default)]
    pub drain: Option<At<f64>>,
}

/// Between two times of day.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WindowText {
    pub from: At<String>,
    pub to: At<String>,
}

/// More arrivals.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SurgeText {
    pub day: At<f64>,
    pub from: At<String>,
    pub to: At<String>,
    pub factor: At<f64>,
}

/// A class.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClassText {
    pub name: At<String>,
    pub deadline: At<String>,
    pub day: At<f64>,
    pub night: At<f64>,
    pub critical: At<f64>,
    pub priority: At<f64>,
    #[serde(default)]
    pub immediate: Option<bool>,
    pub weight: At<f64>,
    pub kappa: At<f64>,
    pub cost: At<f64>,
    #[serde(default)]
    pub only: Option<Vec<At<String>>>,
    #[serde(rename = "else")]
    #[serde(default)]
    pub instead: Option<At<String>>,
}

/// A category of studies.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CategoryText {
    pub name: At<String>,
    pub modality: At<String>,
    #[serde(default)]
    pub body_part: Option<String>,
    pub share: At<f64>,
    pub minutes: At<f64>,
    pub readers: At<f64>,
    #[serde(default)]
    pub paediatric: Option<bool>,
}

/// How readers read.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadingText {
    #[serde(default)]
    pub sigma: Option<At<f64>>,
    #[serde(default)]
    pub pace_sigma: Option<At<f64>>,
    #[serde(default)]
    pub reader_sigma: Option<At<f64>>,
    #[serde(default)]
    pub estimate_sigma: Option<At<f64>>,
    #[serde(default)]
    pub points_per_minute: Option<At<f64>>,
}

/// A site.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SiteText {
    pub name: At<String>,
    pub share: At<f64>,
    pub readers: At<f64>,
    #[serde(default)]
    pub zone: Option<At<String>>,
}

/// Who reads, and when.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadersText {
    #[serde(default)]
    pub count: Option<At<f64>>,
    #[serde(default)]
    pub hours: Option<At<String>>,
    #[serde(default)]
    pub shifts: Option<At<Vec<ShiftText>>>,
}

/// A shift.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShiftText {
    pub start: At<String>,
    pub share: At<f64>,
}

/// What AI says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AiText {
    #[serde(default)]
    pub d_prime: Option<At<f64>>,
    #[serde(default)]
    pub answers: Option<At<f64>>,
    #[serde(default)]
    pub delay: Option<At<String>>,
    #[serde(default)]
    pub outages: Option<Vec<OutageText>>,
    #[serde(default)]
    pub logit_scale: Option<At<f64>>,
    #[serde(default)]
    pub logit_shift: Option<At<f64>>,
    #[serde(default)]
    pub flag: Option<FlagText>,
}

/// When AI says nothing; every day.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutageText {
    pub from: At<String>,
    pub to: At<String>,
}

/// An AI that only flags.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FlagText {
    pub sensitivity: At<f64>,
    pub flagged: At<f64>,
}

/// Readers who leave and do not come back that day.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DropOutText {
    pub day: At<f64>,
    pub at: At<String>,
    pub share: At<f64>,
}

/// Readers whose line breaks again and again.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FlappingText {
    pub share: At<f64>,
    pub every: At<String>,
    pub away: At<String>,
}

/// Visits of several studies.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VisitsText {
    pub share: At<f64>,
    pub studies: At<f64>,
    pub saves: At<f64>,
}
