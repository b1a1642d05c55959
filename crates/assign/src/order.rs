//! What comes before what.
//!
//! A delay costs more the longer it has lasted: the index of a read is how fast its cost rises, divided by the time it
//! takes to end that. Serving the greatest index first is the generalised c-mu rule, which minimises the cost of all
//! delays together when readers are busy.

use std::time::Duration;

use isocenter_domain::{Time, id::ReadId};

use crate::{Item, Params, ReaderProfile, Urgency, Work};

/// Which of the two lanes a read waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Most of its target has passed, or it has waited longer than order of arrival would have let anything like it: ahead
    /// of the regular lane, by deadline. What completes after its deadline can therefore not overtake it any more,
    /// whatever its index. As the waits of all grow, a read that is here for its wait alone may become regular again.
    Front,
    /// By index.
    Regular,
}

/// The place of a read among others at one moment: less is sooner. Age and read id settle ties, so that it is total.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// 0 for immediate classes where they go first, else 1.
    tier: u8,
    lane: Lane,
    /// In the front lane the deadline; in the regular lane the index, negated.
    place: i64,
    complete_at: Time,
    /// Whose place it is.
    pub read: ReadId,
}

impl Rank {
    /// The rank in numbers, for who has to write it down: compare them in order, then the read ids.
    #[must_use]
    pub const fn numbers(&self) -> (u8, i64, i64) {
        let lane = match self.lane {
            Lane::Front => 0,
            Lane::Regular => 1,
        };
        (self.tier * 2 + lane, self.place, self.complete_at.0)
    }

    /// The lane.
    #[must_use]
    pub const fn lane(&self) -> Lane {
        self.lane
    }
}

/// The probability and the minutes of a read as the order counts them: at their levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Level {
    /// Parts per million.
    pub probability: u64,
    /// Expected microseconds at even pace.
    pub micros: u64,
}

impl Level {
    pub(crate) fn of(item: &Item, params: &Params) -> Self {
        let minutes = item.work.minutes.clamp(Work::SHORTEST, Work::LONGEST);
        let micros = u64::try_from(minutes.as_micros()).expect("a day of microseconds is below 2^64");
        Self { probability: params.level(u64::from(item.posterior().parts())), micros: params.level(micros) }
    }
}

/// The parts of an index, each in cost per minute of reading but for the factors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Index {
    /// What the class's delay adds.
    pub urgency: f64,
    /// What the probability of being critical adds.
    pub critical: f64,
    /// The minutes the reader is expected to take.
    pub minutes: f64,
    /// The product of locality, preference and fatigue.
    pub factor: f64,
    /// `(urgency + critical) / minutes * factor`.
    pub value: f64,
}

const MICROS_A_MINUTE: f64 = 6e7;

impl Params {
    /// The index at `now` of a read of `urgency`, complete at `complete_at`, for a reader of even pace and with
    /// `factor`. Never falls as `now`, weight, probability or factor rise, nor as target or minutes fall: also not by
    /// rounding, since each operation is monotone.
    pub(crate) fn index(
        &self,
        urgency: &Urgency,
        level: Level,
        complete_at: Time,
        factor: f64,
        now: Time,
    ) -> Index {
        let age = self.age(complete_at, now);
        let waited = age / micros(urgency.target.max(Duration::from_secs(1)));
        let slope =
            if waited <= self.knee { waited } else { self.knee + (waited - self.knee) * self.steepness };
        let delay = f64::from(urgency.weight) * slope;
        let probability = whole(level.probability) / 1e6;
        let critical = f64::from(urgency.critical) * probability * (age / (60.0 * MICROS_A_MINUTE));
        let minutes = whole(level.micros) / MICROS_A_MINUTE;
        Index { urgency: delay, critical, minutes, factor, value: (delay + critical) / minutes * factor }
    }

    /// The age that counts, in microseconds: head start included, never 0.
    fn age(&self, complete_at: Time, now: Time) -> f64 {
        micros(now.since(complete_at).saturating_add(self.head_start)).max(1.0)
    }

    /// The index of `item` at `now`, for `reader` or, where none is named, without anybody's factors.
    #[must_use]
    pub fn index_of(&self, item: &Item, reader: Option<&ReaderProfile>, now: Time) -> Index {
        let factor = reader.map_or(1.0, |reader| self.factor(item, reader));
        self.index(&item.urgency, Level::of(item, self), item.complete_at, factor, now)
    }

    /// The rank of `item` at `now`, for `reader` or, where none is named, in the whole queue.
    #[must_use]
    pub fn rank(&self, item: &Item, reader: Option<&ReaderProfile>, now: Time) -> Rank {
        let lane = self.lane(&item.urgency, item.complete_at, now);
        let place = match lane {
            Lane::Front => item.deadline_at().0,
            Lane::Regular => descending(self.index_of(item, reader, now).value),
        };
        let tier = self.tier(&item.urgency);
        Rank { tier, lane, place, complete_at: item.complete_at, read: item.read.clone() }
    }

    /// What `reader` makes of the index of `item`: locality, preference, fatigue. Pace is the same for all that one
    /// reader could get and is left out.
    #[must_use]
    pub fn factor(&self, item: &Item, reader: &ReaderProfile) -> f64 {
        let local = reader.home.as_ref() == Some(item.needs.site());
        let preferred = item.prefers.as_ref() == Some(&reader.id);
        self.product(local, preferred, self.is_heavy(item) && reader.is_spared())
    }

    /// The factors that hold, multiplied.
    pub(crate) fn product(&self, local: bool, preferred: bool, spared: bool) -> f64 {
        let factor = |holds, factor| if holds { factor } else { 1.0 };
        factor(local, self.locality) * factor(preferred, self.preferred) * factor(spared, self.fatigue)
    }

    pub(crate) const fn is_heavy(&self, item: &Item) -> bool {
        item.work.points >= self.heavy_points
    }

    /// When most of a read's target has passed; `None`: where that does not count.
    #[must_use]
    pub fn nears_deadline_at(&self, urgency: &Urgency, complete_at: Time) -> Option<Time> {
        let percent = self.front_percent?;
        Some(complete_at.plus(urgency.target.saturating_mul(percent) / 100))
    }

    /// When a read joins the front lane; `None`: never.
    #[must_use]
    pub fn front_at(&self, urgency: &Urgency, complete_at: Time) -> Option<Time> {
        let outwaited = self.front_after.filter(|_| urgency.may_outwait).map(|age| complete_at.plus(age));
        self.nears_deadline_at(urgency, complete_at).into_iter().chain(outwaited).min()
    }

    /// The lane at `now` of a read that was complete at `complete_at`.
    #[must_use]
    pub fn lane(&self, urgency: &Urgency, complete_at: Time, now: Time) -> Lane {
        match self.front_at(urgency, complete_at) {
            Some(front_at) if front_at <= now => Lane::Front,
            Some(_) | None => Lane::Regular,
        }
    }

    pub(crate) const fn tier(&self, urgency: &Urgency) -> u8 {
        if self.immediate_first && !urgency.next_up { 0 } else { 1 }
    }
}

/// Numbers that fall as `index` rises. The bits of floating-point numbers that are not negative are ordered as they are.
pub(crate) fn descending(index: f64) -> i64 {
    -i64::try_from(index.max(0.0).to_bits()).expect("the sign bit of what is not negative is clear")
}

/// The microseconds from `from` to `to`, at least 0.
pub(crate) fn elapsed(from: Time, to: Time) -> f64 {
    whole(u64::try_from(to.0.saturating_sub(from.0)).unwrap_or(0))
}

/// The microseconds of `d`. The product is exact for three centuries, so that more is never less.
fn micros(d: Duration) -> f64 {
    whole(d.as_secs()) * 1e6 + f64::from(d.subsec_micros())
}

#[expect(clippy::cast_precision_loss, reason = "what is rounded is rounded by less than a millionth")]
const fn whole(n: u64) -> f64 {
    n as f64
}
