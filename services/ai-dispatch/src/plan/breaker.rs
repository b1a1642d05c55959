//! When a service that keeps failing is left alone, and when it is looked at again. Each process judges for itself.

use std::time::Duration;

use isocenter_domain::Time;

/// How soon a service is left alone, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tolerance {
    /// Failed calls in a row, from 1.
    pub failures: u32,
    /// How long it is left alone then, before one call shows whether it is well.
    pub open: Duration,
}

/// What a call says of the service, beside what it says of its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It answered as the contract says.
    Well,
    /// It failed.
    Ill,
    /// Nothing: it was busy, or the call was not awaited long enough.
    Nothing,
}

/// What the breaker says of a call that is to begin now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It may be called.
    Ready,
    /// It is left alone until then; the first call after that is a probe.
    Open {
        /// When.
        until: Time,
    },
    /// One call is under way to see whether it is well again; the others wait for that.
    Probing,
}

/// The breaker of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Breaker {
    failures: u32,
    standing: Standing,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 0, standing: Standing::Ready }
    }
}

impl Breaker {
    /// Where it stands. An open one stays open after its time until a call begins.
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// Failures since the last success.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether a call that begins now would be let through.
    pub fn admits(&self, now: Time) -> bool {
        match self.standing {
            Standing::Ready => true,
            Standing::Open { until } => now >= until,
            Standing::Probing => false,
        }
    }

    /// A call that was admitted begins. Whether it is the probe.
    pub fn begin(&mut self) -> bool {
        match self.standing {
            Standing::Ready => false,
            Standing::Open { .. } | Standing::Probing => {
                self.standing = Standing::Probing;
                true
            }
        }
    }

    /// A call has ended; `probe` says what [`Breaker::begin`] said of it. A call of before that ends while the breaker is
    /// open closes it where it went well, and leaves it as it is where it did not.
    pub fn end(&mut self, probe: bool, verdict: Verdict, tolerance: &Tolerance, now: Time) {
        match (verdict, self.standing) {
            (Verdict::Well, _) => *self = Self::default(),
            (Verdict::Ill, Standing::Ready) => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= tolerance.failures {
                    self.standing = Standing::Open { until: now.plus(tolerance.open) };
                }
            }
            (Verdict::Ill, Standing::Probing) if probe => {
                self.failures = self.failures.saturating_add(1);
                self.standing = Standing::Open { until: now.plus(tolerance.open) };
            }
            // The probe came to nothing: the next call is one.
            (Verdict::Nothing, Standing::Probing) if probe => self.standing = Standing::Open { until: now },
            (Verdict::Ill | Verdict::Nothing, Standing::Open { .. } | Standing::Probing)
            | (Verdict::Nothing, Standing::Ready) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOLERANCE: Tolerance = Tolerance { failures: 3, open: Duration::from_micros(10) };

    fn after(verdicts: &[Verdict]) -> Breaker {
        let mut breaker = Breaker::default();
        for verdict in verdicts {
            assert!(breaker.admits(Time(0)));
            let probe = breaker.begin();
            breaker.end(probe, *verdict, &TOLERANCE, Time(0));
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_call_shows_whether_it_is_well() {
        use Verdict::{Ill, Nothing, Well};
        assert_eq!(after(&[Ill, Ill, Well, Ill, Ill, Nothing]).standing(), Standing::Ready);
        let open = after(&[Ill, Nothing, Ill, Ill]);
        assert_eq!((open.standing(), open.failures()), (Standing::Open { until: Time(10) }, 3));
        assert!(!open.admits(Time(9)) && open.admits(Time(10)));

        let mut probed = open;
        assert!(probed.begin());
        assert!(!probed.admits(Time(99)), "one at a time");
        let mut ill = probed;
        ill.end(true, Ill, &TOLERANCE, Time(12));
        assert_eq!(ill.standing(), Standing::Open { until: Time(22) });
        let mut dropped = probed;
        dropped.end(true, Nothing, &TOLERANCE, Time(12));
        assert!(dropped.admits(Time(12)) && dropped.begin(), "the next call is a probe again");
        probed.end(true, Well, &TOLERANCE, Time(12));
        assert_eq!(probed, Breaker::default());
    }

    #[test]
    fn what_began_before_closes_an_open_one_and_does_not_prolong_it() {
        let open = after(&[Verdict::Ill; 3]);
        let mut late = open;
        late.end(false, Verdict::Ill, &TOLERANCE, Time(8));
        late.end(false, Verdict::Nothing, &TOLERANCE, Time(8));
        assert_eq!(late, open);
        late.begin();
        late.end(false, Verdict::Ill, &TOLERANCE, Time(11));
        assert_eq!(late.standing(), Standing::Probing);
        late.end(false, Verdict::Well, &TOLERANCE, Time(12));
        assert_eq!(late.standing(), Standing::Ready);
    }

    proptest! {
        /// Whatever calls do, a call is let through, or will be at a time that is near, or a probe is under way.
        #[test]
        fn there_is_always_a_way_back(steps in prop::collection::vec((0..3_u8, 0..12_i64, any::<bool>()), 0..200)) {
            let (mut breaker, mut now) = (Breaker::default(), Time(0));
            let mut calls: Vec<bool> = Vec::new();
            for (verdict, pause, ends) in steps {
                now = Time(now.0 + pause);
                let verdict = [Verdict::Well, Verdict::Ill, Verdict::Nothing][usize::from(verdict)];
                if ends && !calls.is_empty() {
                    let probe = calls.remove(0);
                    breaker.end(probe, verdict, &TOLERANCE, now);
                } else if breaker.admits(now) {
                    calls.push(breaker.begin());
                }
                match breaker.standing() {
                    Standing::Ready => {}
                    Standing::Open { until } => prop_assert!(until <= now.plus(TOLERANCE.open)),
                    Standing::Probing => prop_assert!(calls.contains(&true)),
                }
            }
        }
    }
}
