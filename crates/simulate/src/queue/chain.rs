//! Two classes before c servers, the first preempting the second, each with exponential service of its own mean: the
//! mean number of the second class, by the matrix-geometric method (Neuts 1981; logarithmic reduction of Latouche and
//! Ramaswami 1993).
//!
//! The level is the number of the second class, the phase that of the first, cut off where its probability is below
//! 1e-12.

/// The most phases that are solved for: the work grows with the cube.
const MOST_PHASES: usize = 120;

/// A square matrix by rows.
#[derive(Clone)]
struct Matrix {
    n: usize,
    cells: Vec<f64>,
}

impl Matrix {
    fn new(n: usize, cell: impl Fn(usize, usize) -> f64) -> Self {
        let cells = (0..n * n).map(|i| cell(i / n, i % n)).collect();
        Self { n, cells }
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        self.cells[row * self.n + column]
    }

    fn times(&self, other: &Self) -> Self {
        let mut product = Self::new(self.n, |_, _| 0.0);
        for (row, out) in self.cells.chunks(self.n).zip(product.cells.chunks_mut(self.n)) {
            for (factor, other) in row.iter().zip(other.cells.chunks(self.n)) {
                if *factor != 0.0 {
                    out.iter_mut().zip(other).for_each(|(cell, value)| *cell += factor * value);
                }
            }
        }
        product
    }

    fn plus(&self, other: &Self) -> Self {
        Self { n: self.n, cells: self.cells.iter().zip(&other.cells).map(|(a, b)| a + b).collect() }
    }

    /// The inverse of I - self. Every matrix asked about is substochastic, so pivots on the diagonal do.
    fn resolvent(&self) -> Self {
        let n = self.n;
        let mut left = Self::new(n, |r, c| f64::from(u8::from(r == c)) - self.at(r, c));
        let mut right = Self::new(n, |r, c| f64::from(u8::from(r == c)));
        for pivot in 0..n {
            let scale = 1.0 / left.at(pivot, pivot);
            let span = pivot * n..(pivot + 1) * n;
            left.cells[span.clone()]
                .iter_mut()
                .chain(&mut right.cells[span.clone()])
                .for_each(|c| *c *= scale);
            let (own_left, own_right) = (left.cells[span.clone()].to_vec(), right.cells[span].to_vec());
            for row in (0..n).filter(|row| *row != pivot) {
                let factor = left.at(row, pivot);
                if factor == 0.0 {
                    continue;
                }
                let span = row * n..(row + 1) * n;
                left.cells[span.clone()].iter_mut().zip(&own_left).for_each(|(c, p)| *c -= factor * p);
                right.cells[span].iter_mut().zip(&own_right).for_each(|(c, p)| *c -= factor * p);
            }
        }
        right
    }

    fn apply(&self, row: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.n];
        for (factor, cells) in row.iter().zip(self.cells.chunks(self.n)) {
            out.iter_mut().zip(cells).for_each(|(cell, value)| *cell += factor * value);
        }
        out
    }
}

/// The chain made discrete by the uniform rate `tick`: up, within, down a level, at `level` (that of `c` stands for all
/// beyond).
struct Chain {
    servers: usize,
    phases: usize,
    first: (f64, f64),
    rate: f64,
    tick: f64,
}

#[expect(clippy::cast_precision_loss, reason = "at most a thousand servers")]
const fn float(number: usize) -> f64 {
    number as f64
}

impl Chain {
    fn up(&self) -> Matrix {
        Matrix::new(self.phases, |r, c| if r == c { self.rate / self.tick } else { 0.0 })
    }

    fn down(&self, level: usize) -> Matrix {
        Matrix::new(self.phases, |r, c| if r == c { self.served(level, r) / self.tick } else { 0.0 })
    }

    /// The rate at which the second class is finished (its mean service is 1).
    fn served(&self, level: usize, phase: usize) -> f64 {
        float(level.min(self.servers.saturating_sub(phase)))
    }

    fn within(&self, level: usize) -> Matrix {
        let (arrives, service) = self.first;
        Matrix::new(self.phases, |r, c| {
            let grows = if r + 1 < self.phases { arrives } else { 0.0 };
            let shrinks = float(r.min(self.servers)) / service;
            if c == r + 1 {
                grows / self.tick
            } else if c + 1 == r {
                shrinks / self.tick
            } else if c == r {
                1.0 - (grows + shrinks + self.rate + self.served(level, r)) / self.tick
            } else {
                0.0
            }
        })
    }
}

/// The mean number in the system of a second class of arrivals `rate` and mean service 1, below a first of
/// `(rate, mean service)`; `None` where the first is so many that too many phases would be needed.
pub(super) fn mean_in_system(servers: usize, first: (f64, f64), rate: f64) -> Option<f64> {
    let busy = first.0 * first.1 / float(servers);
    let mut phases = servers + 1;
    let mut tail = 1.0;
    while tail > 1e-12 {
        tail *= busy;
        phases += 1;
        if phases > MOST_PHASES {
            return None;
        }
    }
    let tick = first.0 + rate + float(servers) * (1.0 + 1.0 / first.1) + 1.0;
    let chain = Chain { servers, phases, first, rate, tick };
    let beyond = rate_matrix(&chain);
    // R of each level below the servers: pi_{l+1} = pi_l R_l.
    let mut links = vec![beyond.clone()];
    for level in (1..servers).rev() {
        let next = links.last().expect("never empty");
        let inner = chain.within(level).plus(&next.times(&chain.down(level + 1)));
        links.push(chain.up().times(&inner.resolvent()));
    }
    links.reverse();
    let zero = chain.within(0).plus(&links[0].times(&chain.down(1)));
    let mut level = stationary(&zero);
    let (mut mass, mut number) = (0.0, 0.0);
    for (n, link) in links.iter().enumerate() {
        let weight: f64 = level.iter().sum();
        mass += weight;
        number += float(n) * weight;
        level = link.apply(&level);
    }
    // Level c and beyond: a geometric series with the ratio R.
    let sum = beyond.resolvent();
    let once = sum.apply(&level);
    let twice: f64 = sum.apply(&beyond.apply(&once)).iter().sum();
    let tail: f64 = once.iter().sum();
    mass += tail;
    number += float(links.len()) * tail + twice;
    Some(number / mass)
}

/// R of the levels where all servers could be at work.
fn rate_matrix(chain: &Chain) -> Matrix {
    let level = chain.servers;
    let inner = chain.within(level).resolvent();
    let (mut up, mut down) = (inner.times(&chain.up()), inner.times(&chain.down(level)));
    // G, the probability of the phase in which the level below is first reached.
    let (mut reached, mut passed) = (down.clone(), up.clone());
    for _ in 0..60 {
        let middle = up.times(&down).plus(&down.times(&up)).resolvent();
        (up, down) = (middle.times(&up.times(&up)), middle.times(&down.times(&down)));
        reached = reached.plus(&passed.times(&down));
        passed = passed.times(&up);
        if passed.cells.iter().all(|cell| *cell < 1e-15) {
            break;
        }
    }
    let inner = chain.within(level).plus(&chain.up().times(&reached));
    chain.up().times(&inner.resolvent())
}

/// The stationary row of a stochastic matrix, by state reduction (Grassmann, Taksar, Heyman 1985).
fn stationary(matrix: &Matrix) -> Vec<f64> {
    let n = matrix.n;
    let mut cells = matrix.clone();
    for last in (1..n).rev() {
        let leaves: f64 = (0..last).map(|c| cells.at(last, c)).sum();
        for row in 0..last {
            cells.cells[row * n + last] /= leaves;
            let factor = cells.at(row, last);
            for column in 0..last {
                cells.cells[row * n + column] += factor * cells.at(last, column);
            }
        }
    }
    let mut row = vec![1.0; n];
    for state in 1..n {
        row[state] = (0..state).map(|before| row[before] * cells.at(before, state)).sum();
    }
    row
}
