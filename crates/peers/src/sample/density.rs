//! The dense share of a breast.

use super::{
    Measured,
    grid::{CELLS, Image, otsu},
    logistic,
};

/// Above this share of dense tissue an image is more likely than not called dense.
const MIDDLE: f64 = 0.35;

/// Separates breast from air, then counts the cells nearer to the brightest tissue than to the darkest.
pub(super) fn measure(image: &Image) -> Measured {
    let air = otsu(image.cells().iter().copied());
    let mut tissue: Vec<_> = image.cells().iter().copied().filter(|c| *c > air).collect();
    tissue.sort_by(f32::total_cmp);
    let Some(last) = tissue.len().checked_sub(1) else {
        return Measured { probability: 0.0, area: None };
    };
    let fat = tissue[last / 20];
    let dense = fat + (tissue[last - last / 50] - fat) / 2.0;
    let cells: Vec<_> = (0..CELLS * CELLS)
        .map(|i| (i / CELLS, i % CELLS))
        .filter(|(r, c)| image.cell(*r, *c) > dense)
        .collect();
    let probability = logistic(cells.len() as f64 / tissue.len() as f64, MIDDLE, 12.0);
    Measured { probability, area: image.area(&cells).filter(|_| probability >= 0.5) }
}
