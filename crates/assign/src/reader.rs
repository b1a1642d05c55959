//! Who reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use isocenter_domain::{
    Time,
    id::{JurisdictionId, PoolId, ReaderId, SiteId},
};

use crate::item::code;

/// A modality and a body part that a reader reads. `*` is any, absent ones too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skill {
    modality: String,
    body_part: String,
}

impl Skill {
    /// A skill in images of `modality` of `body_part`; compared trimmed and in upper case.
    #[must_use]
    pub fn new(modality: &str, body_part: &str) -> Self {
        Self { modality: code(modality), body_part: code(body_part) }
    }

    /// Modality (0008,0060) in upper case, or `*`.
    #[must_use]
    pub fn modality(&self) -> &str {
        &self.modality
    }

    /// Body Part Examined (0018,0015) in upper case, or `*`.
    #[must_use]
    pub fn body_part(&self) -> &str {
        &self.body_part
    }

    /// Whether it covers images of `modality` (empty: unknown) of `body_part` (empty: unknown).
    pub(crate) fn covers(&self, modality: &str, body_part: &str) -> bool {
        (self.modality == "*" || self.modality == modality)
            && (self.body_part == "*" || self.body_part == body_part)
    }
}

/// The sites whose studies a reader is authorised to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sites {
    /// Every site of the tenant.
    All,
    /// These.
    Only(BTreeSet<SiteId>),
}

/// How many reads a reader has in hand, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Offered and not yet opened; beside an open read it is the next-up lease.
    pub offered: u32,
    /// Open.
    pub open: u32,
    /// Suspended: set aside, which leaves the hands free for another.
    pub suspended: u32,
}

/// Whether a reader is at work, by the roster; resolved to instants before it comes here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Not on shift.
    Off,
    /// On shift: from `since`, included, to `until`, excluded.
    On {
        /// When the shift began.
        since: Time,
        /// When it ends.
        until: Time,
    },
    /// On a break of the shift that ends at `until`; the shift goes on after it.
    Break {
        /// When the break ends.
        until: Time,
    },
}

impl Duty {
    /// Of a reader without a roster: at work whenever present.
    pub const ALWAYS: Self = Self::On { since: Time(i64::MIN), until: Time(i64::MAX) };
}

/// What a reader did this shift. Points are thousandths of a relative value unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// The points signed.
    pub points: u32,
    /// The time on shift so far, breaks left out.
    pub on_shift: Duration,
    /// The points an hour that are this reader's share; 0: none is set.
    pub target_rate: u32,
}

impl Load {
    /// What was done beside what the share asks for, in thousandths: 1000 is as asked, less is behind. Without a share
    /// or without time on shift, 1000.
    #[must_use]
    pub fn share_done(&self) -> u64 {
        let asked = u128::from(self.target_rate) * self.on_shift.as_micros();
        if asked == 0 {
            return 1000;
        }
        let hour = Duration::from_secs(3600).as_micros();
        u64::try_from(u128::from(self.points) * 1000 * hour / asked).unwrap_or(u64::MAX)
    }
}

/// How much of one shift a reader is given. Past the soft bound the reader is spared; past the hard one nothing more
/// is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Time on shift after which no read is leased ahead and heavy ones rank lower.
    pub soft_time: Duration,
    /// Points signed after which the same holds; none: no such bound.
    pub soft_points: Option<u32>,
    /// Time on shift after which nothing more is given.
    pub hard_time: Duration,
    /// Points signed after which the same holds; none: no such bound.
    pub hard_points: Option<u32>,
}

impl Default for Capacity {
    /// Spared after 8 hours on shift, done after 10; points are not bounded.
    fn default() -> Self {
        let hours = |n: u64| Duration::from_secs(n * 3600);
        Self { soft_time: hours(8), soft_points: None, hard_time: hours(10), hard_points: None }
    }
}

/// A reader as the queue sees one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderProfile {
    /// The reader.
    pub id: ReaderId,
    /// What they read. A study of several modalities needs a skill for each.
    pub skills: BTreeSet<Skill>,
    /// Where from.
    pub sites: Sites,
    /// Sites they have an interest in, whatever `sites` says.
    pub conflicts: BTreeSet<SiteId>,
    /// The site whose studies are theirs by preference, softly.
    pub home: Option<SiteId>,
    /// Where they are licensed, and until when (excluded); none: without end.
    pub licences: BTreeMap<JurisdictionId, Option<Time>>,
    /// The pools they belong to.
    pub pools: BTreeSet<PoolId>,
    /// Whether they read children.
    pub paediatric: bool,
    /// Whether their signature is final.
    pub attending: bool,
    /// Whether their workstation is connected.
    pub present: bool,
    /// Whether they take new reads.
    pub accepting: bool,
    /// Whether they are at work.
    pub duty: Duty,
    /// The time they take, in thousandths of what is expected: 1500 is half as long again.
    pub pace: u32,
    /// What they did this shift.
    pub load: Load,
    /// How much of one shift they are given.
    pub capacity: Capacity,
    /// What they have in hand.
    pub holding: Holding,
}

impl ReaderProfile {
    /// The pace of a reader who takes as long as expected.
    pub const EVEN_PACE: u32 = 1000;

    /// A reader of whom nothing but the name is known: absent, without skills, sites, pools or licences; attending, at
    /// work whenever present, of even pace, with empty hands.
    #[must_use]
    pub fn new(id: ReaderId) -> Self {
        Self {
            id,
            skills: BTreeSet::new(),
            sites: Sites::Only(BTreeSet::new()),
            conflicts: BTreeSet::new(),
            home: None,
            licences: BTreeMap::new(),
            pools: BTreeSet::new(),
            paediatric: false,
            attending: true,
            present: false,
            accepting: false,
            duty: Duty::ALWAYS,
            pace: Self::EVEN_PACE,
            load: Load::default(),
            capacity: Capacity::default(),
            holding: Holding::default(),
        }
    }

    /// The same reader, present, with nothing in hand but `open` reads that are open.
    #[must_use]
    pub fn at_hand(self, accepting: bool, open: u32) -> Self {
        Self { present: true, accepting, holding: Holding { open, ..Holding::default() }, ..self }
    }

    /// Whether the soft bound of the shift is passed.
    #[must_use]
    pub fn is_spared(&self) -> bool {
        self.load.on_shift >= self.capacity.soft_time
            || self.capacity.soft_points.is_some_and(|most| self.load.points >= most)
    }

    /// Whether the hard bound of the shift is passed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.load.on_shift >= self.capacity.hard_time
            || self.capacity.hard_points.is_some_and(|most| self.load.points >= most)
    }

    /// How long this reader is expected to take for work of `minutes`.
    #[must_use]
    pub fn expected(&self, minutes: Duration) -> Duration {
        minutes.saturating_mul(self.pace.max(1)) / Self::EVEN_PACE
    }
}
