//! Probabilities and amounts of work, as whole numbers.

use std::{fmt, time::Duration};

use crate::absurd::{Absurd, within};

/// A probability in parts per million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ppm(u32);

impl Ppm {
    /// Impossible.
    pub const ZERO: Self = Self(0);
    /// Certain.
    pub const ONE: Self = Self(1_000_000);

    /// The probability `p`, rounded to the nearest part per million.
    ///
    /// # Errors
    /// NaN, and what is not within 0 and 1.
    pub fn of(p: f64) -> Result<Self, Absurd> {
        let p = within("probability", p, 0.0, 1.0, "a probability is a number from 0 to 1")?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and a million")]
        Ok(Self((p * 1e6).round() as u32))
    }

    /// `n` parts per million.
    ///
    /// # Errors
    /// More than a million.
    pub fn from_parts(n: u32) -> Result<Self, Absurd> {
        if n <= Self::ONE.0 {
            Ok(Self(n))
        } else {
            Err(Absurd::new("probability", n, "a probability is at most 1000000 parts per million"))
        }
    }

    /// In parts per million.
    #[must_use]
    pub const fn parts(self) -> u32 {
        self.0
    }

    /// As a number from 0 to 1.
    #[must_use]
    pub fn value(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}

impl fmt::Display for Ppm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.value())
    }
}

/// How much work one read is expected to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Work {
    /// The time a reader of pace 1 is expected to take.
    pub minutes: Duration,
    /// Its complexity in thousandths of a relative value unit: what load and capacity are counted in.
    pub points: u32,
}

impl Work {
    /// The longest that one read can be expected to take.
    pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
    /// The shortest: less would let a mistaken estimate outrank everything.
    pub const SHORTEST: Duration = Duration::from_secs(1);
    /// The most points one read can bear: a thousand relative value units.
    pub const MOST_POINTS: u32 = 1_000_000;

    /// Work of `minutes` and `value_units` (relative value units).
    ///
    /// # Errors
    /// `minutes` that are NaN, negative, shorter than [`Work::SHORTEST`] or longer than [`Work::LONGEST`];
    /// `value_units` that are NaN, negative or more than a thousand.
    pub fn of(minutes: f64, value_units: f64) -> Result<Self, Absurd> {
        let (shortest, longest) = (Self::SHORTEST.as_secs_f64() / 60.0, Self::LONGEST.as_secs_f64() / 60.0);
        let minutes =
            within("minutes", minutes, shortest, longest, "a read takes from a second to 24 hours")?;
        let units =
            within("value_units", value_units, 0.0, 1e3, "a read is worth 0 to 1000 relative value units")?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and a million")]
        Ok(Self { minutes: Duration::from_secs_f64(minutes * 60.0), points: (units * 1e3).round() as u32 })
    }

    /// Whole work that two numbers describe which are already integers.
    ///
    /// # Errors
    /// As [`Work::of`].
    pub fn new(minutes: Duration, points: u32) -> Result<Self, Absurd> {
        if minutes < Self::SHORTEST || minutes > Self::LONGEST {
            let seconds = minutes.as_secs_f64();
            return Err(Absurd::new("minutes", seconds / 60.0, "a read takes from a second to 24 hours"));
        }
        if points > Self::MOST_POINTS {
            return Err(Absurd::new("points", points, "a read is worth at most 1000000 thousandths"));
        }
        Ok(Self { minutes, points })
    }
}
