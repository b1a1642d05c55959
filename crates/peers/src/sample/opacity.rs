//! The largest one-sided opacity of a chest film.

use super::{
    Measured,
    grid::{CELLS, Image, otsu},
    logistic,
};

/// How much whiter than its mirror cell a cell must be, on the image's own scale.
const EXCESS: f32 = 0.12;
/// Cells this close to the midline belong to spine and great vessels, which are never symmetric.
const SPINE: usize = CELLS * 5 / 32;
/// The same for the lower half, where the heart lies to one side.
const HEART: usize = CELLS / 4;
/// The weight of a component at which opacity is as likely as not: cells times excess.
const MIDDLE: f64 = 9.0;

/// Compares each cell of the outer lung fields with its mirror image and weighs the largest patch that is whiter.
pub(super) fn measure(image: &Image) -> Measured {
    let lung = otsu(image.cells().iter().copied());
    let mut excess = vec![0.0_f32; CELLS * CELLS];
    // The outermost eighth has shoulders, arms, the edge of the body and burned-in markers.
    let margin = CELLS / 8;
    for row in margin..CELLS - margin {
        let central = if row < CELLS / 2 { SPINE } else { HEART };
        for column in margin..CELLS - margin {
            let mirror = image.cell(row, CELLS - 1 - column);
            let difference = image.cell(row, column) - mirror;
            if column.abs_diff(CELLS / 2) > central && mirror < lung && difference > EXCESS {
                excess[row * CELLS + column] = difference;
            }
        }
    }
    let (weight, cells) = heaviest(&mut excess);
    let probability = logistic(f64::from(weight), MIDDLE, 0.35);
    Measured { probability, area: image.area(&cells).filter(|_| probability >= 0.5) }
}

/// The four-connected patch with the greatest sum. Visited cells are set to zero.
fn heaviest(excess: &mut [f32]) -> (f32, Vec<(usize, usize)>) {
    let mut best = (0.0, Vec::new());
    for start in 0..excess.len() {
        let (mut weight, mut patch) = (0.0, Vec::new());
        let mut open = vec![start];
        while let Some(at) = open.pop() {
            let value = std::mem::take(&mut excess[at]);
            if value == 0.0 {
                continue;
            }
            weight += value;
            patch.push((at / CELLS, at % CELLS));
            // The margin is zero, so a neighbour on another row is never taken for one beside.
            open.extend([at.checked_sub(1), at.checked_sub(CELLS)].into_iter().flatten());
            open.extend([at + 1, at + CELLS].into_iter().filter(|n| *n < CELLS * CELLS));
        }
        if weight > best.0 {
            best = (weight, patch);
        }
    }
    best
}
