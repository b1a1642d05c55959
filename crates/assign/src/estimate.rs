//! How long reads take and what they are worth, learnt from what was signed.
//!
//! An estimate is a mean in which the prior counts as a few observations: with none it is the prior, with many it is
//! what was observed. Sums alone are kept, so that the order of observations does not matter.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use isocenter_domain::{Time, id::ReaderId};

use crate::{Absurd, Needs, ReaderProfile, Work, item::code};

/// What is read, as far as it decides how long that takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exam {
    modalities: BTreeSet<String>,
    body_part: String,
}

impl Exam {
    /// Images of one modality of a body part (empty: any); compared trimmed and in upper case.
    #[must_use]
    pub fn new(modality: &str, body_part: &str) -> Self {
        Self { modalities: BTreeSet::from([code(modality)]), body_part: code(body_part) }
    }

    /// What a read of these needs is a read of.
    #[must_use]
    pub fn of(needs: &Needs) -> Self {
        Self { modalities: needs.modalities().clone(), body_part: needs.body_part().to_owned() }
    }
}

/// What is assumed before anything was observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prior {
    /// By exam; an exam without body part holds for every part that has no entry of its own.
    pub exams: BTreeMap<Exam, Work>,
    /// For what is in no entry.
    pub otherwise: Work,
    /// How many observations of an exam it counts as.
    pub observations: u32,
    /// How much work of a reader it counts as, done at even pace.
    pub practice: Duration,
}

impl Default for Prior {
    /// Starting values of the order that time studies and fee schedules give: radiographs three minutes, CT and MR ten
    /// to twenty. A network's own reads replace them within days.
    fn default() -> Self {
        let work = |seconds, points| Work { minutes: Duration::from_secs(seconds), points };
        let exams = [
            ("CR", "", 180, 200),
            ("DX", "", 180, 200),
            ("RF", "", 480, 500),
            ("MG", "", 210, 760),
            ("BMD", "", 120, 200),
            ("US", "", 420, 700),
            ("CT", "", 840, 1_200),
            ("CT", "HEAD", 780, 850),
            ("CT", "CHEST", 840, 1_150),
            ("CT", "ABDOMEN", 960, 1_700),
            ("CT", "HEART", 1_200, 2_300),
            ("MR", "", 800, 1_500),
            ("MR", "HEAD", 720, 1_500),
            ("MR", "BRAIN", 720, 1_500),
            ("MR", "HEART", 1_200, 2_300),
            ("NM", "", 600, 800),
            ("PT", "", 1_200, 2_400),
            ("XA", "", 900, 1_200),
        ];
        Self {
            exams: exams.map(|(m, part, seconds, points)| (Exam::new(m, part), work(seconds, points))).into(),
            otherwise: work(372, 700),
            observations: 20,
            practice: Duration::from_secs(4 * 3600),
        }
    }
}

impl Prior {
    /// What is assumed of `exam`: its own entry, or that of its modality, the longest where it has several.
    #[must_use]
    pub fn work(&self, exam: &Exam) -> Work {
        let of_modality = |modality: &String| {
            let entry = |body_part: &str| self.exams.get(&Exam::new(modality, body_part));
            entry(&exam.body_part).or_else(|| entry(""))
        };
        let own = self.exams.get(exam);
        let longest = || exam.modalities.iter().filter_map(of_modality).max_by_key(|work| work.minutes);
        own.or_else(longest).copied().unwrap_or(self.otherwise)
    }
}

/// One read that was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// By whom.
    pub reader: ReaderId,
    /// What was read.
    pub exam: Exam,
    /// When it was first opened.
    pub opened_at: Time,
    /// When it was signed.
    pub signed_at: Time,
    /// How long it was set aside in between.
    pub suspended: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    observations: u64,
    micros: u64,
}

/// What is known of exams and readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimates {
    prior: Prior,
    exams: BTreeMap<Exam, Sum>,
    readers: BTreeMap<ReaderId, BTreeMap<Exam, Sum>>,
}

/// What an observation counts as is at most so many times the prior, and at least the same share of it: who goes to
/// lunch over an open read has not taken an hour for it.
const OUTLIER: u32 = 8;
/// Shorter, nothing was read.
const SHORTEST: Duration = Duration::from_secs(2);
/// Longer, it was forgotten.
const LONGEST: Duration = Duration::from_secs(8 * 3600);

impl Estimates {
    /// Nothing observed yet.
    #[must_use]
    pub fn new(prior: Prior) -> Self {
        Self { prior, exams: BTreeMap::new(), readers: BTreeMap::new() }
    }

    /// Learns from a read.
    ///
    /// # Errors
    /// A read signed before it was opened, set aside for longer than it was open, or read in less than two seconds or
    /// more than eight hours. Nothing is learnt from it.
    pub fn observe(&mut self, seen: &Observation) -> Result<(), Absurd> {
        if seen.signed_at < seen.opened_at {
            return Err(Absurd::new("signed_at", seen.signed_at.0, "a read is signed after it was opened"));
        }
        let open = seen.signed_at.since(seen.opened_at);
        let took = open.checked_sub(seen.suspended).ok_or_else(|| {
            Absurd::new("suspended", seen.suspended.as_secs_f64(), "a read is set aside while it is open")
        })?;
        if took < SHORTEST || took > LONGEST {
            let why = "reading takes from two seconds to eight hours";
            return Err(Absurd::new("took", took.as_secs_f64(), why));
        }
        let usual = self.prior.work(&seen.exam).minutes;
        let counted = micros(took.clamp(usual / OUTLIER, usual * OUTLIER));
        let reader = self.readers.entry(seen.reader.clone()).or_default();
        for sum in
            [self.exams.entry(seen.exam.clone()).or_default(), reader.entry(seen.exam.clone()).or_default()]
        {
            sum.observations = sum.observations.saturating_add(1);
            sum.micros = sum.micros.saturating_add(counted);
        }
        Ok(())
    }

    /// The work that a read of `exam` is expected to be, for a reader of even pace. Its points follow its minutes.
    #[must_use]
    pub fn work(&self, exam: &Exam) -> Work {
        let prior = self.prior.work(exam);
        let Some(seen) = self.exams.get(exam) else { return prior };
        let weight = u128::from(self.prior.observations);
        let count = (weight + u128::from(seen.observations)).max(1);
        let sum = weight * prior.minutes.as_micros() + u128::from(seen.micros);
        let mean = Duration::from_micros(u64::try_from(sum / count).unwrap_or(u64::MAX));
        let minutes = mean.clamp(Work::SHORTEST, Work::LONGEST);
        let points = u128::from(prior.points) * minutes.as_micros() / prior.minutes.as_micros().max(1);
        Work { minutes, points: u32::try_from(points).unwrap_or(u32::MAX).min(Work::MOST_POINTS) }
    }

    /// The time `reader` takes, in thousandths of what is expected of the same exams; of somebody unknown, 1000.
    #[must_use]
    pub fn pace(&self, reader: &ReaderId) -> u32 {
        let seen = self.readers.get(reader).into_iter().flatten();
        let practice = self.prior.practice.as_micros();
        let (mut took, mut expected) = (practice, practice);
        for (exam, sum) in seen {
            took += u128::from(sum.micros);
            expected += u128::from(sum.observations) * self.work(exam).minutes.as_micros();
        }
        if expected == 0 {
            return ReaderProfile::EVEN_PACE;
        }
        let even = u128::from(ReaderProfile::EVEN_PACE);
        u32::try_from(took * even / expected).unwrap_or(u32::MAX).max(1)
    }
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}
