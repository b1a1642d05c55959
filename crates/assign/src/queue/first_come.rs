//! How long reads would wait if they were taken in the order in which they came.

use std::{collections::BTreeMap, time::Duration};

use isocenter_domain::Time;

const HOUR_MICROS: i64 = 3_600_000_000;
const HOURS: usize = 24;

/// The line that order of arrival would make of the same arrivals and the same pulls: what comes joins its end, and
/// whichever read leaves the queue, the first in line has gone instead. It is as long as the queue.
#[derive(Debug, Default)]
pub(super) struct FirstCome {
    /// How many joined it at each time.
    line: BTreeMap<Time, u32>,
    /// When the last that has gone joined it.
    gone: Option<Time>,
    /// The longest wait of the first in line, by hour of the day, with the number of the hour that it is of.
    longest: [(i64, Duration); HOURS],
}

impl FirstCome {
    /// A read joins that waits since `since`. One that comes back would be gone by then where its turn has come before:
    /// it joins at the head, as the last that has gone would.
    pub fn join(&mut self, since: Time) {
        let since = self.gone.map_or(since, |gone| gone.max(since));
        *self.line.entry(since).or_default() += 1;
    }

    pub fn leave(&mut self) {
        let Some(mut first) = self.line.first_entry() else { return };
        self.gone = Some(*first.key());
        *first.get_mut() -= 1;
        if *first.get() == 0 {
            first.remove();
        }
    }

    /// The longest that the first in line has waited within a day of `now`, `now` included. What waited already when
    /// this began to look counts with the age it had: it may have been passed over, which makes this too long, never
    /// too short, until a day later.
    pub fn longest(&mut self, now: Time) -> Duration {
        let hour = now.0.div_euclid(HOUR_MICROS);
        let wait = self.line.keys().next().map_or(Duration::ZERO, |since| now.since(*since));
        let hours = i64::try_from(HOURS).expect("a day");
        let own = &mut self.longest[usize::try_from(hour.rem_euclid(hours)).expect("an hour of the day")];
        *own = if own.0 == hour { (hour, own.1.max(wait)) } else { (hour, wait) };
        let recent = self.longest.iter().filter(|(of, _)| (0..hours).contains(&(hour - of)));
        recent.map(|(_, wait)| *wait).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> Time {
        Time(minutes * 60_000_000)
    }

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(n * 60)
    }

    #[test]
    fn whichever_leaves_the_first_in_line_is_gone() {
        let mut line = FirstCome::default();
        [0, 10, 10, 30].map(at).into_iter().for_each(|since| line.join(since));
        line.leave();
        assert_eq!(line.longest(at(30)), minutes(20));
        line.leave();
        assert_eq!(line.longest(at(31)), minutes(21));
        line.leave();
        assert_eq!(line.longest(at(32)), minutes(21), "within a day the longest counts");
        // The read of minute 0 comes back, and with it the turn that it took from who came at minute 10.
        line.join(at(0));
        assert_eq!(line.longest(at(33)), minutes(23));
    }

    #[test]
    fn what_was_longest_is_forgotten_after_a_day_and_an_empty_line_waits_for_nobody() {
        let mut line = FirstCome::default();
        line.join(at(0));
        assert_eq!(line.longest(at(90)), minutes(90));
        line.leave();
        line.leave();
        assert_eq!(line.longest(at(24 * 60)), minutes(90));
        assert_eq!(line.longest(at(25 * 60)), Duration::ZERO);
        assert_eq!(line.longest(at(90)), Duration::ZERO, "a clock set back");
    }
}
