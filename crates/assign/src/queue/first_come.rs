//! How long reads would wait if they were taken in the order in which they came.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use isocenter_domain::{Time, id::PoolId};

use crate::item::{Competence, Needs};

const HOUR_MICROS: i64 = 3_600_000_000;
const HOURS: usize = 24;

/// The lines that order of arrival would make of the same arrivals and the same pulls: what comes joins the line of its
/// kind, and whichever read a reader is handed, the oldest of all that this reader could take has gone instead. So a read that
/// many can take, handed to one of the many, says nothing of how long what few can take would wait.
#[derive(Debug, Default)]
pub(super) struct FirstCome {
    /// By what reads have in common that the same readers may take, but for privileges and licences: pools first, since of
    /// the many lists of pools a reader is in few.
    lines: BTreeMap<Arc<Vec<PoolId>>, BTreeMap<Arc<Competence>, Line>>,
    /// The longest wait of a first in line, by hour of the day, with the number of the hour that it is of.
    longest: [(i64, Duration); HOURS],
}

#[derive(Debug, Default)]
struct Line {
    /// How many joined it at each time.
    joined: BTreeMap<Time, u32>,
    /// The first of them: kept beside, because a look at a line has to be cheap.
    first: Option<Time>,
    /// When the last that has gone had joined.
    gone: Option<Time>,
}

impl Line {
    fn leave(&mut self) {
        if let Some(mut first) = self.joined.first_entry() {
            self.gone = Some(*first.key());
            *first.get_mut() -= 1;
            if *first.get() == 0 {
                first.remove();
            }
            self.first = self.joined.keys().next().copied();
        }
    }
}

impl FirstCome {
    /// A read joins that waits since `since`. One that comes back would be gone by then where its turn has come before:
    /// it joins at the head, as the last that has gone would.
    pub fn join(&mut self, needs: &Needs, since: Time) {
        let line = self.lines.entry(Arc::clone(&needs.pools)).or_default();
        let line = line.entry(Arc::clone(&needs.competence)).or_default();
        let since = line.gone.map_or(since, |gone| gone.max(since));
        *line.joined.entry(since).or_default() += 1;
        line.first = Some(line.first.map_or(since, |first| first.min(since)));
    }

    /// A read is not to be read any more, or became of another kind: its line is shorter by one.
    pub fn leave(&mut self, needs: &Needs) {
        let lines = self.lines.get_mut(&needs.pools);
        if let Some(line) = lines.and_then(|lines| lines.get_mut(&needs.competence)) {
            line.leave();
        }
    }

    /// Some read was handed to a reader, who is `of` those pools and `can` read what asks for those competences.
    pub fn hand(&mut self, of: impl Fn(&[PoolId]) -> bool, can: impl Fn(&Competence) -> bool) {
        let mut oldest: Option<(Time, &mut Line)> = None;
        for (pools, lines) in &mut self.lines {
            let mut theirs = None;
            for (competence, line) in lines {
                let Some(first) = line.first else { continue };
                if oldest.as_ref().is_some_and(|(known, _)| *known <= first) {
                    continue;
                }
                // Asked where it matters alone: there are hundreds of lines, and this is done for each read that is handed out.
                if *theirs.get_or_insert_with(|| of(pools)) && can(competence) {
                    oldest = Some((first, line));
                }
            }
        }
        if let Some((_, line)) = oldest {
            line.leave();
        }
    }

    /// Nothing waits any more.
    pub fn clear(&mut self) {
        self.lines.clear();
    }

    /// The longest that a first in line has been seen to wait within a day of `now`, `now` included. What waited already
    /// when this began to look counts with the age it had, though it may have been passed over.
    pub fn longest(&mut self, now: Time) -> Duration {
        let mut wait = Duration::ZERO;
        for line in self.lines.values_mut().flat_map(BTreeMap::values_mut) {
            // A clock that was ahead must not make all waits that follow seem short.
            line.gone = line.gone.map(|gone| gone.min(now));
            wait = line.first.map_or(wait, |since| wait.max(now.since(since)));
        }
        let hour = now.0.div_euclid(HOUR_MICROS);
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

    fn needs(modality: &str) -> Needs {
        Needs::new([modality], "", "north".parse().unwrap(), vec!["everybody".parse().unwrap()])
    }

    fn at(minutes: i64) -> Time {
        Time(minutes * 60_000_000)
    }

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(n * 60)
    }

    #[test]
    fn whichever_leaves_the_first_of_its_kind_is_gone() {
        let mut line = FirstCome::default();
        [0, 10, 10, 30].map(at).into_iter().for_each(|since| line.join(&needs("CT"), since));
        line.leave(&needs("CT"));
        assert_eq!(line.longest(at(30)), minutes(20));
        line.leave(&needs("CT"));
        assert_eq!(line.longest(at(31)), minutes(21));
        line.leave(&needs("CT"));
        assert_eq!(line.longest(at(32)), minutes(21), "within a day the longest counts");
        // The read of minute 0 comes back, and with it the turn that it took from who came at minute 10.
        line.join(&needs("CT"), at(0));
        assert_eq!(line.longest(at(33)), minutes(23));
    }

    #[test]
    fn who_is_handed_anything_would_have_taken_the_oldest_of_what_that_reader_may() {
        let mut line = FirstCome::default();
        for (modality, since) in [("MR", 0), ("CT", 10), ("CT", 20), ("MR", 30)] {
            line.join(&needs(modality), at(since));
        }
        let longest_at = |line: &mut FirstCome, minute: i64| line.longest(at(minute));
        line.hand(|_| true, |competence| competence.modalities.contains("CT"));
        assert_eq!(longest_at(&mut line, 60), minutes(60), "of what this one may not nothing has gone");
        line.hand(|_| true, |_| true);
        assert_eq!(longest_at(&mut line, 26 * 60), minutes(26 * 60 - 20));
        line.hand(|_| true, |_| true);
        line.hand(|_| true, |_| true);
        line.hand(|_| true, |_| true);
        assert_eq!(longest_at(&mut line, 52 * 60), Duration::ZERO);
    }

    #[test]
    fn what_was_longest_is_forgotten_after_a_day_and_an_empty_line_waits_for_nobody() {
        let mut line = FirstCome::default();
        line.join(&needs("CT"), at(0));
        assert_eq!(line.longest(at(90)), minutes(90));
        line.leave(&needs("CT"));
        line.leave(&needs("CT"));
        assert_eq!(line.longest(at(24 * 60)), minutes(90));
        assert_eq!(line.longest(at(25 * 60)), Duration::ZERO);
        assert_eq!(line.longest(at(90)), Duration::ZERO, "a clock set back");
    }

    #[test]
    fn a_clock_that_was_ahead_is_forgotten() {
        let mut line = FirstCome::default();
        [at(1_000_000), at(2_000_000)].into_iter().for_each(|since| line.join(&needs("CT"), since));
        line.leave(&needs("CT"));
        assert_eq!(line.longest(at(100)), Duration::ZERO);
        line.join(&needs("CT"), at(110));
        assert_eq!(line.longest(at(150)), minutes(40));
    }
}
