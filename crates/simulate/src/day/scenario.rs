//! A network over some days, as a scenario file describes it.

use super::check;
pub use super::text::ScenarioError;

/// Microseconds of a minute: the unit of every time here.
pub const MINUTE: i64 = 60_000_000;
/// Microseconds of an hour.
pub const HOUR: i64 = 60 * MINUTE;
/// Microseconds of a day.
pub const DAY: i64 = 24 * HOUR;

/// The shipped scenarios, by name.
pub const SHIPPED: [(&str, &str); 14] = [
    ("base", include_str!("../../scenarios/base.yaml")),
    ("tight", include_str!("../../scenarios/tight.yaml")),
    ("surge", include_str!("../../scenarios/surge.yaml")),
    ("drop-out", include_str!("../../scenarios/drop-out.yaml")),
    ("ai-outage", include_str!("../../scenarios/ai-outage.yaml")),
    ("ai-outage-midday", include_str!("../../scenarios/ai-outage-midday.yaml")),
    ("ai-miscalibrated", include_str!("../../scenarios/ai-miscalibrated.yaml")),
    ("ai-flags-two-thirds", include_str!("../../scenarios/ai-flags-two-thirds.yaml")),
    ("scarce-skill", include_str!("../../scenarios/scarce-skill.yaml")),
    ("estimate-error", include_str!("../../scenarios/estimate-error.yaml")),
    ("flapping-reader", include_str!("../../scenarios/flapping-reader.yaml")),
    ("overload-start", include_str!("../../scenarios/overload-start.yaml")),
    ("multi-study-visit", include_str!("../../scenarios/multi-study-visit.yaml")),
    ("night-across-time-zones", include_str!("../../scenarios/night-across-time-zones.yaml")),
];

/// A scenario that can be run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What it is, in a line.
    pub about: String,
    /// Days before measuring, measured, and after, in which what arrived may still be read.
    pub days: [u32; 3],
    /// Studies that arrive on a day without a surge.
    pub studies_per_day: f64,
    /// Arrivals by local hour, in proportion.
    pub hourly: Vec<f64>,
    /// The night: from, to, microseconds since local midnight.
    pub night: (i64, i64),
    /// More arrivals.
    pub surges: Vec<Surge>,
    /// Classes in order of precedence.
    pub classes: Vec<Class>,
    /// Categories of studies.
    pub categories: Vec<Category>,
    /// How readers read.
    pub reading: Reading,
    /// Sites; the first is the center.
    pub sites: Vec<Site>,
    /// Who reads.
    pub readers: Readers,
    /// What AI says.
    pub ai: Ai,
    /// Readers who leave: the day from 0 and its time, their share.
    pub drop_out: Option<(i64, f64)>,
    /// Readers whose line breaks: their share, how often, how long.
    pub flapping: Option<(f64, i64, i64)>,
    /// Studies that wait at the beginning.
    pub waiting_at_start: u32,
    /// Visits of several studies.
    pub visits: Option<Visits>,
}

/// More arrivals for some hours.
#[derive(Clone, Copy, Debug)]
pub struct Surge {
    /// From, in microseconds since the beginning.
    pub from: i64,
    /// Until.
    pub to: i64,
    /// By how much.
    pub factor: f64,
}

/// A class.
#[derive(Clone, Debug)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// From complete to signed.
    pub deadline: i64,
    /// Share of the arrivals by day and by night.
    pub share: [f64; 2],
    /// Share of its studies that are critical.
    pub critical: f64,
    /// The level by which a plain worklist orders it, 1 first: HL7 has S, A and R.
    pub priority: u32,
    /// Never leased ahead.
    pub immediate: bool,
    /// The engine's weight.
    pub weight: u32,
    /// The engine's weight of the probability of being critical.
    pub kappa: u32,
    /// The weight of its waits in the mean over all classes.
    pub cost: f64,
    /// The only categories it has, as bits, and the class that others are of instead.
    pub only: Option<(u32, usize)>,
}

/// A category of studies: one kind of work, one skill.
#[derive(Clone, Debug)]
pub struct Category {
    /// Its name.
    pub name: String,
    /// DICOM modality.
    pub modality: String,
    /// DICOM body part; empty where none.
    pub body_part: String,
    /// Whether competence in children is asked for.
    pub paediatric: bool,
    /// Share of the arrivals.
    pub share: f64,
    /// Expected minutes.
    pub minutes: f64,
    /// Share of the readers who read it.
    pub readers: f64,
}

/// How readers read.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Of the logarithm of a study's time.
    pub sigma: f64,
    /// Of the logarithm of a reader's pace in one category beside the same reader's in others.
    pub pace_sigma: f64,
    /// Of the logarithm of a reader's pace in everything.
    pub reader_sigma: f64,
    /// Of the logarithm of the error of what policies are told.
    pub estimate_sigma: f64,
    /// Relative value units of an expected minute.
    pub points_per_minute: f64,
}

/// A site.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Share of the arrivals.
    pub share: f64,
    /// Share of the readers.
    pub readers: f64,
    /// How far its clock is before the center's.
    pub zone: i64,
}

/// Who reads, and when.
#[derive(Clone, Debug)]
pub struct Readers {
    /// How many.
    pub count: u32,
    /// Length of a shift.
    pub hours: i64,
    /// Start by the local clock, and share.
    pub shifts: Vec<(i64, f64)>,
}

/// What AI says.
#[derive(Clone, Debug)]
pub struct Ai {
    /// Distance of the scores of critical and other studies.
    pub d_prime: f64,
    /// Share of the studies it answers.
    pub answers: f64,
    /// Mean time to its answer.
    pub delay: i64,
    /// Every day from, to: no answers.
    pub outages: Vec<(i64, i64)>,
    /// What miscalibration makes of the posterior's logit: times, plus.
    pub distortion: (f64, f64),
    /// An AI that only flags: sensitivity, share flagged of all.
    pub flag: Option<(f64, f64)>,
}

/// Visits of several studies, which one reader reads faster than several do.
#[derive(Clone, Copy, Debug)]
pub struct Visits {
    /// Share of the arrivals that begin one.
    pub share: f64,
    /// Studies of a visit.
    pub studies: u32,
    /// Share of the reading time that the second and later ones save if the same reader has them.
    pub saves: f64,
}

impl Scenario {
    /// The shipped scenario called `name`.
    #[must_use]
    pub fn shipped(name: &str) -> Option<Self> {
        let (_, text) = SHIPPED.iter().find(|(shipped, _)| *shipped == name)?;
        Some(Self::parse(text).expect("what is shipped is tested"))
    }

    /// Reads a scenario; what it leaves out is as in `base`.
    ///
    /// # Errors
    /// The first problem, with its line, the field and what to do.
    pub fn parse(yaml: &str) -> Result<Self, ScenarioError> {
        check::scenario(yaml)
    }

    /// When everything ends.
    #[must_use]
    pub fn horizon(&self) -> i64 {
        i64::from(self.days.iter().sum::<u32>()) * DAY
    }

    /// What is measured: studies that arrive from, until.
    #[must_use]
    pub fn measured(&self) -> (i64, i64) {
        (i64::from(self.days[0]) * DAY, i64::from(self.days[0] + self.days[1]) * DAY)
    }
}

#[cfg(test)]
#[path = "scenario_tests.rs"]
mod tests;
