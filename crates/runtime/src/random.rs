//! Randomness, from one place.
//!
//! What must be unpredictable (ids, tokens, keys) comes from the operating system. What must replay (the demo, the
//! simulator, tests) comes from a [`Seeded`] generator that is passed in.

use std::{ops::Range, time::Duration};

use data_encoding::BASE64URL_NOPAD;
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};
use uuid::Uuid;

/// A UUID version 7 (RFC 9562 §5.7): unique, and ordered by the millisecond it was made in.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place ids come from")]
pub fn uuid_v7() -> Uuid {
    Uuid::now_v7()
}

/// 128 unpredictable bits as 22 characters of the URL-safe base64 alphabet: an open token, a session.
#[must_use]
pub fn token() -> String {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    BASE64URL_NOPAD.encode(&bytes)
}

/// Fills `bytes` with unpredictable ones, fit for a key.
pub fn fill(bytes: &mut [u8]) {
    #[expect(clippy::disallowed_methods, reason = "the one place randomness comes from")]
    rand::rng().fill_bytes(bytes);
}

/// A duration drawn evenly from the upper half of `d`, so that many which wait for the same thing do not return at
/// the same instant, and none returns at once.
#[must_use]
pub fn jitter(d: Duration) -> Duration {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    spread(d, u64::from_le_bytes(bytes))
}

/// [`jitter`] for a draw that is passed in: 0 gives half of `d`, `u64::MAX` all of it.
#[must_use]
pub fn spread(d: Duration, draw: u64) -> Duration {
    let half = d / 2;
    // The low bits of a product of two 64-bit numbers are dropped: what stays is below the first factor.
    let span = half.as_nanos().min(u128::from(u64::MAX));
    let part = (span * u128::from(draw)) >> 64;
    d - half + Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX))
}

/// A generator whose whole sequence follows from its seed. Print the seed where it is made.
///
/// The sequence is the same for one build of this program, not across versions of its libraries. Not fit for keys.
#[derive(Debug, Clone)]
pub struct Seeded {
    seed: u64,
    rng: StdRng,
}

impl Seeded {
    /// The generator of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, rng: StdRng::seed_from_u64(seed) }
    }

    /// A generator of an unpredictable seed, which [`Seeded::seed`] tells.
    #[must_use]
    pub fn fresh() -> Self {
        let mut bytes = [0; 8];
        fill(&mut bytes);
        Self::new(u64::from_le_bytes(bytes))
    }

    /// The seed it was made of.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// A generator of its own for the part called `label`: what that part draws does not shift what others draw.
    #[must_use]
    pub fn fork(&self, label: &str) -> Self {
        // FNV-1a over the seed and the label: stable, and apart for different labels.
        let bytes = self.seed.to_le_bytes();
        let hash = bytes.iter().chain(label.as_bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self::new(hash)
    }

    /// Any 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.rng.fill_bytes(bytes);
    }

    /// A number of `range`, evenly; its start where the range is empty.
    pub fn range(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() { range.start } else { self.rng.random_range(range) }
    }

    /// A number of 0 to 1, 1 excluded.
    pub fn unit(&mut self) -> f64 {
        self.rng.random()
    }

    /// True in `probability` of all draws.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// One of `items`, evenly; `None` where there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let len = u64::try_from(items.len()).unwrap_or(u64::MAX);
        items.get(usize::try_from(self.range(0..len)).unwrap_or(usize::MAX))
    }

    /// Puts `items` in an even random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.rng.random_range(0..=i));
        }
    }

    /// A duration of `range`, evenly; its start where the range is empty. Durations beyond 584 years are cut.
    pub fn duration(&mut self, range: Range<Duration>) -> Duration {
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.range(nanos(range.start)..nanos(range.end)))
    }

    /// The time to the next arrival of a Poisson process whose mean gap is `mean`.
    pub fn gap(&mut self, mean: Duration) -> Duration {
        // 1 - unit() is above 0, so the logarithm is finite: at most 37 means.
        mean.mul_f64(-(1.0 - self.unit()).ln())
    }

    /// A UUID (version 4 in form) that follows from the seed.
    pub fn uuid(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_tokens_differ_and_ids_are_ordered() {
        let (a, b) = (uuid_v7(), uuid_v7());
        assert!(a < b && a.get_version_num() == 7);
        assert_ne!(token(), token());
        assert_eq!(token().len(), 22);
    }

    #[test]
    fn jitter_stays_in_the_upper_half() {
        let d = Duration::from_secs(10);
        assert_eq!(spread(d, 0), Duration::from_secs(5));
        assert!(spread(d, u64::MAX) <= d && spread(d, u64::MAX) > Duration::from_millis(9_999));
        assert!((0..100).all(|_| (Duration::from_secs(5)..=d).contains(&jitter(d))));
        assert_eq!(jitter(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn one_seed_gives_one_sequence_and_forks_stand_apart() {
        let (mut a, mut b) = (Seeded::new(7), Seeded::new(7));
        let mut fork = a.fork("modality");
        assert_eq!((a.next_u64(), a.uuid()), (b.next_u64(), b.uuid()));
        assert_eq!(fork.next_u64(), b.fork("modality").next_u64());
        assert_ne!(a.fork("modality").next_u64(), a.fork("vendor").next_u64());
    }

    #[test]
    fn draws_stay_in_their_bounds() {
        let mut rng = Seeded::new(1);
        assert!((0..100).all(|_| (3..9).contains(&rng.range(3..9))));
        assert_eq!(rng.pick::<u8>(&[]), None);
        assert!(rng.pick(&[1, 2, 3]).is_some());
        let mut items = [1, 2, 3, 4];
        rng.shuffle(&mut items);
        items.sort_unstable();
        assert_eq!(items, [1, 2, 3, 4]);
        let mean: f64 =
            (0..10_000).map(|_| rng.gap(Duration::from_secs(2)).as_secs_f64()).sum::<f64>() / 10_000.0;
        assert!((1.8..2.2).contains(&mean), "{mean}");
    }
}
