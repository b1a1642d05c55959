//! Who reads.

use std::collections::BTreeSet;

use isocenter_domain::id::{PoolId, ReaderId, SiteId};

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
    /// Offered and not yet opened.
    pub offered: u32,
    /// Open.
    pub open: u32,
    /// Suspended: set aside, which leaves the hands free for another.
    pub suspended: u32,
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
    /// The pools they belong to.
    pub pools: BTreeSet<PoolId>,
    /// Whether their workstation is connected.
    pub present: bool,
    /// Whether they take new reads.
    pub accepting: bool,
    /// What they have in hand.
    pub holding: Holding,
}
