//! What the order is tuned with.

use std::time::Duration;

use crate::absurd::{Absurd, within};

/// The numbers of the order that are no class's own. [`Params::default`] is what was tuned with the simulator.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// Added to every age, so that a study that has just come has an index by which it competes.
    pub head_start: Duration,
    /// The share of its target up to which a delay's cost rises evenly.
    pub knee: f64,
    /// How many times faster the cost rises past the knee; 1: evenly throughout.
    pub steepness: f64,
    /// The factor of the index for studies of the reader's home site.
    pub locality: f64,
    /// The factor of the index for a read that prefers this reader.
    pub preferred: f64,
    /// The factor of the index of heavy reads for a reader who is spared.
    pub fatigue: f64,
    /// The points (thousandths of a relative value unit) from which a read is heavy.
    pub heavy_points: u32,
    /// The share of its target, in percent, after which a read joins the front lane; none: nothing does.
    pub front_percent: Option<u32>,
    /// How much longer than in order of arrival a read is left to wait; none: as long as `front_percent` says.
    pub patience: Option<Patience>,
    /// What comes of patience: the age at which a read that is not immediate joins the front lane at the latest. A
    /// [`Queue`](crate::Queue) keeps it up; none: not known yet.
    pub front_after: Option<Duration>,
    /// Whether reads of immediate classes go before all others, or by index among them.
    pub immediate_first: bool,
    /// How many binary digits of a probability and of the expected minutes count: reads that differ less are ranked by
    /// age. The value counted is at most a share of 2^(1 - bits) below the exact one.
    pub level_bits: u32,
    /// When a read leased ahead is taken back for a better use.
    pub recall: Recall,
}

/// How much longer than in order of arrival a read is left to wait. What goes first by index lets others wait, and on a
/// day that is nearly full the deadlines are too far off to bound that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// In percent of the longest that order of arrival would have let any read wait within the last day.
    pub percent: u32,
    /// What nobody is moved forward for.
    pub least: Duration,
}

/// When a read leased ahead is taken back for a better use: each of the three must allow it.
#[derive(Clone, Debug, PartialEq)]
pub struct Recall {
    /// How many times the index of what the other reader would get instead.
    pub gain: f64,
    /// How long a lease stands at least.
    pub rest: Duration,
    /// Within how long a read is taken back at most once.
    pub window: Duration,
}

impl Default for Params {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self {
            head_start: minutes(5),
            knee: 0.6,
            steepness: 1.0,
            locality: 1.1,
            preferred: 1.5,
            fatigue: 0.5,
            heavy_points: 3_000,
            front_percent: Some(80),
            patience: Some(Patience { percent: 200, least: minutes(60) }),
            front_after: None,
            immediate_first: true,
            level_bits: 4,
            recall: Recall { gain: 1.2, rest: minutes(5), window: minutes(15) },
        }
    }
}

impl Params {
    /// The parameters, if they make an order.
    ///
    /// # Errors
    /// The first field by which an index would be no number, or would fall as a read ages or grows more urgent.
    pub fn checked(self) -> Result<Self, Absurd> {
        within("knee", self.knee, 0.0, 1e3, "the knee is a share of the target from 0")?;
        within("steepness", self.steepness, 1.0, 1e6, "a cost never rises more slowly for who waits longer")?;
        for (field, factor) in
            [("locality", self.locality), ("preferred", self.preferred), ("recall.gain", self.recall.gain)]
        {
            within(field, factor, 1.0, 1e3, "a factor that favours is a number from 1 to 1000")?;
        }
        within("fatigue", self.fatigue, 1e-3, 1.0, "a factor that spares is a number from 0.001 to 1")?;
        if let Some(percent) = self.front_percent.filter(|percent| !(1..=100).contains(percent)) {
            return Err(Absurd::new(
                "front_percent",
                percent,
                "a share of the target is from 1 to 100 percent",
            ));
        }
        if let Some(patience) = self.patience.filter(|patience| !(100..=100_000).contains(&patience.percent))
        {
            return Err(Absurd::new(
                "patience.percent",
                patience.percent,
                "a wait is bound at 100 to 100000 percent of the longest in order of arrival",
            ));
        }
        if !(1..=20).contains(&self.level_bits) {
            return Err(Absurd::new("level_bits", self.level_bits, "from 1 to 20 binary digits count"));
        }
        Ok(self)
    }

    /// `value` with as many leading binary digits as count, the others 0: at most `value`, and never falling as it
    /// rises.
    pub(crate) fn level(&self, value: u64) -> u64 {
        let digits = u64::BITS - value.leading_zeros();
        let dropped = digits.saturating_sub(self.level_bits);
        value >> dropped << dropped
    }
}
