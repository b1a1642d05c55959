//! Means with their uncertainty, quantiles, inequality.

use serde::Serialize;

/// A mean over independent runs and the half-width of its 95 % confidence interval (Student's t).
///
/// Waits within one run are autocorrelated, so an interval over single studies would be far too narrow: only
/// independent runs (replications, seeds) are ever averaged here.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean over the runs.
    pub mean: f64,
    /// The half-width of the interval; absent where there is one run only.
    pub half_width: Option<f64>,
}

impl Estimate {
    /// The estimate from one value per independent run; `None` where there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let runs = u32::try_from(values.len()).ok().filter(|runs| *runs > 0)?;
        let n = f64::from(runs);
        let mean = values.iter().sum::<f64>() / n;
        let half_width = (runs > 1).then(|| {
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
            student_t975(runs - 1) * (variance / n).sqrt()
        });
        Some(Self { mean, half_width })
    }
}

/// The 97.5 % quantile of Student's t with `freedom` degrees of freedom, to three decimals.
#[must_use]
pub fn student_t975(freedom: u32) -> f64 {
    const SMALL: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    if let Some(value) =
        usize::try_from(freedom).ok().and_then(|f| f.checked_sub(1)).and_then(|index| SMALL.get(index))
    {
        return *value;
    }
    // Cornish-Fisher about the normal quantile; beyond ten degrees of freedom its error is below 0.001.
    let (z, v) = (1.959_964_f64, f64::from(freedom.max(1)));
    let (z3, z5, z7) = (z.powi(3), z.powi(5), z.powi(7));
    z + (z3 + z) / (4.0 * v)
        + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * v * v)
        + (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / (384.0 * v.powi(3))
}

/// The `share` quantile (0 to 1) of sorted values by nearest rank; 0 where there are none.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank lies within the slice")]
#[expect(clippy::cast_precision_loss, reason = "far fewer values than a double counts exactly")]
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// The mean; 0 where there are no values.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "far fewer values than a double counts exactly")]
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// Gini's coefficient of inequality: 0 where all are equal, towards 1 where one has all.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "far fewer values than a double counts exactly")]
pub fn gini(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (n, total) = (sorted.len() as f64, sorted.iter().sum::<f64>());
    if total <= 0.0 {
        return 0.0;
    }
    let ranked: f64 = sorted.iter().enumerate().map(|(i, value)| (i as f64 + 1.0) * value).sum();
    2.0 * ranked / (n * total) - (n + 1.0) / n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_students() {
        // Tables of Student's t, two-sided 95 %.
        for (freedom, expected) in
            [(1, 12.706), (9, 2.262), (11, 2.201), (19, 2.093), (30, 2.042), (120, 1.980)]
        {
            assert!((student_t975(freedom) - expected).abs() < 0.0015, "{freedom}");
        }
        let estimate = Estimate::of(&[1.0, 2.0, 3.0]).expect("three runs");
        let half = estimate.half_width.expect("more than one run");
        assert!((estimate.mean - 2.0).abs() < 1e-12 && (half - 4.303 / 3.0_f64.sqrt()).abs() < 1e-9);
        assert_eq!(Estimate::of(&[4.0]), Some(Estimate { mean: 4.0, half_width: None }));
        assert_eq!(Estimate::of(&[]), None);
    }

    #[test]
    fn quantiles_and_inequality() {
        let values = [1.0, 2.0, 3.0, 4.0];
        assert_eq!([0.0, 0.5, 0.95, 1.0].map(|share| quantile(&values, share)), [1.0, 2.0, 4.0, 4.0]);
        assert!(gini(&[3.0, 3.0, 3.0]).abs() < 1e-12);
        assert!((gini(&[0.0, 0.0, 0.0, 1.0]) - 0.75).abs() < 1e-12);
    }
}
