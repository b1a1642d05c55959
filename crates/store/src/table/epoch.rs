//! Which history of the store a process works on.

use isocenter_runtime::random;

use super::meta::{MetaError, meta};
use crate::{Compare, Key, Op, Revision};

/// An epoch, as `meta/epoch` holds it: `{number} {era}`.
///
/// Number and revision alone do not tell two histories apart: where one snapshot is put back twice, both are given a second
/// time. So each epoch has an era, a UUID that is drawn when it begins. Its key `meta/era/{era}` is put by the transaction
/// that puts `meta/epoch`, and exists in that one history alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Epoch {
    /// What `meta/epoch` holds.
    text: String,
    /// The revision that put `meta/epoch` and created the era's key.
    since: Revision,
    number: u64,
    /// `None` in a store whose epoch has a number alone.
    era: Option<Key>,
}

impl Epoch {
    /// The epoch that `meta/epoch` tells of, last changed at `since`.
    pub fn parse(text: String, since: Revision) -> Result<Self, MetaError> {
        let damaged = || MetaError::Damaged { key: "epoch", what: "a number and a name" };
        let (number, era) = match text.split_once(' ') {
            Some((number, era)) => (number, Some(era_key(era).ok_or_else(damaged)?)),
            None => (text.as_str(), None),
        };
        let number = number.parse().map_err(|_| damaged())?;
        Ok(Self { text, since, number, era })
    }

    /// What begins an epoch of this number, in an era of its own.
    pub fn begin(number: u64) -> [Op; 2] {
        let era = random::uuid_v7().to_string();
        let key = era_key(&era).expect("a UUID makes a valid key");
        [Op::put(&meta("epoch"), format!("{number} {era}")), Op::put(&key, number.to_string())]
    }

    /// What ends it. To be done together with what begins the next.
    pub fn end(&self) -> Option<Op> {
        self.era.as_ref().map(Op::delete)
    }

    /// Hold as long as the store is of this epoch, in this history.
    pub fn holds(&self) -> [Compare; 2] {
        let epoch = Compare::unchanged(&meta("epoch"), self.since);
        // Where there is no era, the second says the same in other words, so that there always are two.
        let era = self.era.as_ref().map_or_else(|| epoch.clone(), |era| Compare::created(era, self.since));
        [epoch, era]
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn since(&self) -> Revision {
        self.since
    }

    pub fn number(&self) -> u64 {
        self.number
    }
}

/// Whether `key` is where an era is kept, and so may be in a store.
pub(crate) fn is_era(key: &Key) -> bool {
    key.as_str().strip_prefix("meta/era/").is_some_and(|era| era_key(era).is_some())
}

/// Where the era that `meta/epoch` names is kept; `None` where the text is no text of an epoch.
pub(crate) fn era_of(epoch: &str) -> Option<Option<Key>> {
    Epoch::parse(epoch.to_owned(), Revision(0)).ok().map(|epoch| epoch.era)
}

fn era_key(era: &str) -> Option<Key> {
    let plain = !era.is_empty() && era.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    plain.then(|| meta(&format!("era/{era}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_read_with_its_era_and_as_a_number_alone() {
        let [Op::Put { value, .. }, Op::Put { key, .. }] = Epoch::begin(7) else { panic!("two puts") };
        let text = String::from_utf8(value.to_vec()).unwrap();
        let epoch = Epoch::parse(text.clone(), Revision(3)).unwrap();
        assert_eq!((epoch.number(), epoch.since(), epoch.text()), (7, Revision(3), text.as_str()));
        assert_eq!(epoch.holds()[1], Compare::created(&key, Revision(3)));
        assert_eq!(epoch.end(), Some(Op::delete(&key)));
        assert!(is_era(&key) && !is_era(&meta("epoch")) && !is_era(&meta("era/x/y")));
        assert_eq!(era_of(&text), Some(Some(key)));

        let alone = Epoch::parse("7".into(), Revision(3)).unwrap();
        assert_eq!((alone.number(), alone.end()), (7, None));
        for damaged in ["", "x", "7 ", "7 x/y", "7 ab cd", " ab"] {
            assert!(Epoch::parse(damaged.into(), Revision(3)).is_err(), "{damaged:?}");
        }
        assert_ne!(Epoch::begin(7), Epoch::begin(7), "no two are the same");
    }
}
