//! Random numbers whose sequence is part of what is published.
//!
//! A figure that names its seed has to come out the same for ever, so the generator is written out here instead of
//! taken from a library that may change its own: xoshiro256++ (Blackman and Vigna 2019), seeded by SplitMix64.

/// A generator whose whole sequence follows from its seed. Not fit for keys.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The generator of `seed` for the part called `label`: what one part draws does not shift what others draw, so
    /// that two policies compared under one seed meet the same studies and the same readers.
    #[must_use]
    pub fn new(seed: u64, label: &str) -> Self {
        // FNV-1a over the seed and the label: stable, and apart for different labels.
        let bytes = seed.to_le_bytes();
        let mut mix = bytes.iter().chain(label.as_bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut next = || {
            mix = mix.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let a = (mix ^ (mix >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            b ^ (b >> 31)
        };
        Self { state: [next(), next(), next(), next()] }
    }

    /// Any 64 bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number of 0 to 1, 1 excluded.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double")]
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True in `probability` of all draws.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Exponential of mean 1; finite.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (2.0 * self.exponential()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Log-normal of mean 1 whose logarithm has the standard deviation `sigma`.
    pub fn lognormal(&mut self, sigma: f64) -> f64 {
        sigma.mul_add(self.normal(), -sigma * sigma / 2.0).exp()
    }

    /// An index into `weights`, each in proportion to its weight; the last where all are zero.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut left = self.unit() * weights.iter().sum::<f64>();
        for (index, weight) in weights.iter().enumerate() {
            if left < *weight {
                return index;
            }
            left -= weight;
        }
        weights.len().saturating_sub(1)
    }

    /// Puts `items` in an even random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).expect("a length fits 64 bits");
        let draw = (u128::from(self.bits()) * u128::from(bound)) >> 64;
        usize::try_from(draw).expect("less than a length")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(n: u32, mut draw: impl FnMut() -> f64) -> f64 {
        (0..n).map(|_| draw()).sum::<f64>() / f64::from(n)
    }

    #[test]
    fn one_seed_gives_one_sequence_and_labels_stand_apart() {
        let (mut a, mut b) = (Random::new(7, "studies"), Random::new(7, "studies"));
        assert_eq!(a.bits(), b.bits());
        assert_ne!(Random::new(7, "readers").bits(), Random::new(7, "studies").bits());
        // The published sequence: a change of it would change every published figure.
        assert_eq!(Random::new(1, "").bits(), 18_285_595_482_699_281_654);
    }

    #[test]
    fn draws_have_their_moments() {
        let mut random = Random::new(3, "moments");
        assert!((mean(100_000, || random.exponential()) - 1.0).abs() < 0.02);
        assert!(mean(100_000, || random.normal()).abs() < 0.02);
        assert!((mean(100_000, || random.normal().powi(2)) - 1.0).abs() < 0.03);
        assert!((mean(100_000, || random.lognormal(0.5)) - 1.0).abs() < 0.02);
        let second = mean(100_000, || if random.weighted(&[1.0, 3.0]) == 1 { 1.0 } else { 0.0 });
        assert!((second - 0.75).abs() < 0.01);
        assert!((0..1000).all(|_| random.below(3) < 3));
    }
}
