//! The drawings: ellipses on a unit square, with a little seeded noise.
//!
//! Coordinates run from -1 to 1, x to the viewer's right, y downwards.

use std::ops::Range;

use isocenter_runtime::random::Seeded;

/// Stored values hold 12 bits.
const MAX: f32 = 4095.0;

/// An ellipse: centre and half axes.
#[derive(Clone, Copy)]
struct Ellipse(f32, f32, f32, f32);

impl Ellipse {
    /// Below 1 inside, 1 on the edge.
    fn at(&self, x: f32, y: f32) -> f32 {
        let (dx, dy) = ((x - self.0) / self.2, (y - self.1) / self.3);
        dx * dx + dy * dy
    }

    fn holds(&self, x: f32, y: f32) -> bool {
        self.at(x, y) < 1.0
    }

    /// 1 in the middle, falling off smoothly; about 0.37 on the edge.
    fn glow(&self, x: f32, y: f32) -> f32 {
        let r = self.at(x, y);
        if r > 9.0 { 0.0 } else { (-r).exp() }
    }
}

/// A number of `range`, evenly.
fn between(rng: &mut Seeded, range: Range<f32>) -> f32 {
    range.start + (range.end - range.start) * rng.unit() as f32
}

/// Fills a square image; `value` gives the stored value before noise of ± `noise`.
fn paint(side: u16, rng: &mut Seeded, noise: f32, value: impl Fn(f32, f32) -> f32) -> Vec<u16> {
    let mut grain = vec![0; usize::from(side) * usize::from(side)];
    rng.fill(&mut grain);
    let scale = 2.0 / f32::from(side);
    let mut grain = grain.into_iter();
    let mut pixels = Vec::with_capacity(grain.len());
    for row in 0..side {
        let y = (f32::from(row) + 0.5) * scale - 1.0;
        for column in 0..side {
            let x = (f32::from(column) + 0.5) * scale - 1.0;
            let jitter = f32::from(grain.next().unwrap_or(128)) / 127.5 - 1.0;
            pixels.push((value(x, y) + noise * jitter).clamp(0.0, MAX) as u16);
        }
    }
    pixels
}

/// An axial slice of a head in Hounsfield units plus 1024; `z` from -1 (skull base) to 1 (vertex).
pub(super) fn ct_head(side: u16, z: f32, bleed: bool, rng: &mut Seeded) -> Vec<u16> {
    let size = (1.0 - 0.35 * z * z).sqrt();
    let skull = Ellipse(0.0, 0.0, 0.68 * size, 0.86 * size);
    let brain = Ellipse(0.0, 0.0, 0.61 * size, 0.79 * size);
    let ventricles = [Ellipse(-0.12, -0.05, 0.08, 0.28), Ellipse(0.12, -0.05, 0.08, 0.28)];
    let lesion = Ellipse(0.30, 0.12, 0.16, 0.12);
    paint(side, rng, 8.0, |x, y| {
        let hounsfield = if !skull.holds(x, y) {
            -1000.0
        } else if !brain.holds(x, y) {
            950.0
        } else if z.abs() < 0.6 && ventricles.iter().any(|v| v.holds(x, y)) {
            6.0
        } else if bleed && z.abs() < 0.4 && lesion.holds(x, y) {
            68.0
        } else {
            34.0 + 4.0 * brain.at(x, y)
        };
        hounsfield + 1024.0
    })
}

/// Where an opacity lies in a chest film: in either lung, above the heart.
pub(super) struct Opacity(Ellipse);

impl Opacity {
    /// Draws a place and a size.
    pub fn anywhere(rng: &mut Seeded) -> Self {
        let side = if rng.chance(0.5) { 1.0 } else { -1.0 };
        let (x, y) = (between(rng, 0.40..0.52), between(rng, -0.40..-0.05));
        Self(Ellipse(side * x, y, between(rng, 0.13..0.18), between(rng, 0.13..0.20)))
    }
}

/// A postero-anterior chest film: high values are white.
pub(super) fn chest(side: u16, opacity: Option<&Opacity>, rng: &mut Seeded) -> Vec<u16> {
    let body = Ellipse(0.0, 0.1, 0.92, 1.25);
    let lungs = [Ellipse(-0.44, -0.05, 0.30, 0.66), Ellipse(0.44, -0.05, 0.30, 0.66)];
    let heart = Ellipse(0.14, 0.28, 0.30, 0.26);
    paint(side, rng, 60.0, |x, y| {
        if !body.holds(x, y) {
            return 120.0;
        }
        let lung = lungs.iter().any(|l| l.holds(x, y));
        let mut value = if heart.holds(x, y) {
            2900.0
        } else if lung {
            900.0 + 120.0 * (y * 28.0 + x.abs() * 5.0).sin()
        } else if x.abs() < 0.09 {
            3200.0
        } else {
            2500.0
        };
        if let Some(Opacity(place)) = opacity.filter(|_| lung) {
            value += 1600.0 * place.glow(x, y);
        }
        value
    })
}

/// Where glandular tissue lies in a breast; the share of it makes the breast dense or fatty.
pub(super) struct Glands(Vec<Ellipse>);

impl Glands {
    /// Few and small lobes, or many and large.
    pub fn new(dense: bool, rng: &mut Seeded) -> Self {
        let (lobes, size) = if dense { (14, 0.30..0.42) } else { (3, 0.06..0.10) };
        let lobe = |_| {
            let (x, y) = (between(rng, 0.25..0.85), between(rng, -0.45..0.45));
            Ellipse(x, y, between(rng, size.clone()), between(rng, size.clone()))
        };
        Self((0..lobes).map(lobe).collect())
    }
}

/// One mammogram: the chest wall is at the left edge, or at the right one where `mirrored`.
pub(super) fn breast(
    side: u16,
    glands: &Glands,
    oblique: bool,
    mirrored: bool,
    rng: &mut Seeded,
) -> Vec<u16> {
    let skin = Ellipse(0.0, 0.0, 1.5, 0.88);
    paint(side, rng, 25.0, |x, y| {
        // Distance from the chest wall, 0 to 2.
        let depth = if mirrored { 1.0 - x } else { 1.0 + x };
        if !skin.holds(depth, y) {
            return 10.0;
        }
        if oblique && depth < 0.5 * (-y) {
            return 2600.0;
        }
        let gland = glands.0.iter().map(|g| g.glow(depth, y)).fold(0.0, f32::max);
        1100.0 + 1500.0 * (gland * 1.6).min(1.0)
    })
}

/// An axial T2-weighted slice of a brain.
pub(super) fn mr_brain(side: u16, z: f32, rng: &mut Seeded) -> Vec<u16> {
    let size = (1.0 - 0.35 * z * z).sqrt();
    let scalp = Ellipse(0.0, 0.0, 0.70 * size, 0.88 * size);
    let fluid = Ellipse(0.0, 0.0, 0.62 * size, 0.80 * size);
    let brain = Ellipse(0.0, 0.0, 0.58 * size, 0.76 * size);
    let ventricles = [Ellipse(-0.12, -0.05, 0.08, 0.28), Ellipse(0.12, -0.05, 0.08, 0.28)];
    paint(side, rng, 20.0, |x, y| {
        if !scalp.holds(x, y) {
            20.0
        } else if !fluid.holds(x, y) {
            350.0
        } else if !brain.holds(x, y) || (z.abs() < 0.6 && ventricles.iter().any(|v| v.holds(x, y))) {
            1900.0
        } else {
            800.0 + 200.0 * brain.at(x, y)
        }
    })
}

/// One frame of an ultrasound sector, `rows` × `columns`, one byte a pixel; `phase` moves the dark vessel.
pub(super) fn sector(rows: u16, columns: u16, phase: f32, rng: &mut Seeded) -> Vec<u8> {
    let mut speckle = vec![0; usize::from(rows) * usize::from(columns)];
    rng.fill(&mut speckle);
    let vessel = Ellipse(0.15 * phase.sin(), 0.55, 0.14 + 0.03 * phase.cos(), 0.10);
    let mut speckle = speckle.into_iter();
    let mut pixels = Vec::with_capacity(speckle.len());
    for row in 0..rows {
        let depth = f32::from(row) / f32::from(rows);
        for column in 0..columns {
            let x = f32::from(column) / f32::from(columns) * 2.0 - 1.0;
            let grain = f32::from(speckle.next().unwrap_or(0)) / 255.0;
            let inside = x.abs() < 0.15 + 0.75 * depth && depth > 0.05;
            let tissue = if vessel.holds(x, depth) { 12.0 } else { 150.0 - 70.0 * depth };
            pixels.push(if inside { (tissue * (0.5 + 0.5 * grain)) as u8 } else { 0 });
        }
    }
    pixels
}
