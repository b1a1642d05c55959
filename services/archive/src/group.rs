//! The shards that are journaled together.

use isocenter_store::Range;

use crate::{Error, item::shard_of};

/// Sixteen neighbouring shards: those that have their first digit in common.
///
/// At any rate that matters something waits in every shard every second. A journal object, a transaction of the records and
/// three calls to the store for each would cost more than the workflow itself; a sixteenth of that does not show. Everything
/// of a record is still in one place, so that whoever looks for it reads a sixteenth of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Group(u8);

impl Group {
    /// Every group, in the order of their shards.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..16).map(Self)
    }

    /// The group of a shard.
    pub const fn of_shard(shard: u8) -> Self {
        Self(shard >> 4)
    }

    /// The group in which a record's events are.
    pub fn of(record: &str) -> Self {
        Self::of_shard(shard_of(record))
    }

    /// Its place among all, from 0 to 15.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The first of its shards, which stands for all where one is named: in the names of journal objects, in notes, for the
    /// turn of appliers, and for whose work it is.
    pub const fn shard(self) -> u8 {
        self.0 << 4
    }

    /// What waits in the outbox of its shards.
    pub fn outbox(self) -> Result<Range, Error> {
        Ok(Range::prefix(format!("outbox/{:x}", self.0))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_is_of_one_group_which_its_first_shard_stands_for() {
        assert_eq!(Group::all().count(), 16);
        for shard in 0..=u8::MAX {
            let group = Group::of_shard(shard);
            assert_eq!(Group::all().filter(|other| *other == group).count(), 1);
            assert_eq!(Group::of_shard(group.shard()), group);
            assert!(group.shard() <= shard && shard - group.shard() < 16);
            let key =
                isocenter_store::Key::new(format!("outbox/{shard:02x}/study/{shard:02x}/t/1/1")).unwrap();
            let of: Vec<_> = Group::all().filter(|g| g.outbox().unwrap().contains(&key)).collect();
            assert_eq!(of, [group], "an event is drained by one group");
        }
    }
}
