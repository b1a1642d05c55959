//! An image reduced to a small grid of block means: what both samples work on.
//!
//! Reducing first makes them quick on a 50-megapixel mammogram and deaf to noise and ribs.

use dicom_dictionary_std::tags;
use dicom_object::DefaultDicomObject;
use dicom_pixeldata::{ConvertOptions, ModalityLutOption, PixelDecoder};

use super::{Refusal, text};

/// Cells along each side of the grid.
pub(super) const CELLS: usize = 64;
/// Rows times columns above this are refused: decoding would take gigabytes. The largest detectors have 60 million.
const MAX_PIXELS: u64 = 100_000_000;

/// Block means of an image, scaled so that 0 is its 2nd and 1 its 98th percentile, white high.
pub(super) struct Image {
    /// Row by row, [`CELLS`] squared.
    cells: Vec<f32>,
    rows: u32,
    columns: u32,
}

impl Image {
    /// Decodes the first frame of an object.
    pub fn decode(object: &DefaultDicomObject) -> Result<Self, Refusal> {
        let number = |tag| text(object, tag).parse::<u64>().unwrap_or(0);
        let (rows, columns) = (number(tags::ROWS), number(tags::COLUMNS));
        let cells = CELLS as u64;
        if rows < cells || columns < cells || rows * columns > MAX_PIXELS {
            return Err(Refusal::Attribute(format!("{rows} rows and {columns} columns cannot be analysed")));
        }
        let (allocated, bits) = (number(tags::BITS_ALLOCATED), number(tags::BITS_STORED));
        if !matches!(allocated, 8 | 16)
            || !(1..=allocated).contains(&bits)
            || number(tags::SAMPLES_PER_PIXEL) != 1
        {
            return Err(Refusal::Attribute(format!("{bits} of {allocated} bits cannot be analysed")));
        }
        let photometric = text(object, tags::PHOTOMETRIC_INTERPRETATION);
        if !photometric.starts_with("MONOCHROME") {
            return Err(Refusal::Attribute("photometric interpretation is not MONOCHROME1 or 2".to_owned()));
        }
        let unreadable = |_| {
            let syntax = object.meta().transfer_syntax();
            Refusal::ImageQuality(format!("cannot decode pixel data of transfer syntax {syntax}"))
        };
        let decoded = object.decode_pixel_data().map_err(unreadable)?;
        // Stored values will do: they are scaled to the image's own range below.
        let stored = ConvertOptions::new().with_modality_lut(ModalityLutOption::None);
        let pixels: Vec<f32> = decoded.to_vec_frame_with_options(0, &stored).map_err(unreadable)?;
        let (rows, columns) = (decoded.rows(), decoded.columns());
        if pixels.len() as u64 != u64::from(rows) * u64::from(columns) {
            return Err(Refusal::ImageQuality(
                "pixel data has another length than rows and columns".to_owned(),
            ));
        }
        let mut cells = block_means(&pixels, rows as usize, columns as usize);
        normalise(&mut cells);
        if photometric == "MONOCHROME1" {
            cells.iter_mut().for_each(|c| *c = 1.0 - *c);
        }
        Ok(Self { cells, rows, columns })
    }

    /// The mean of a cell; most are between 0 and 1, the extremes a little outside.
    pub fn cell(&self, row: usize, column: usize) -> f32 {
        self.cells[row * CELLS + column]
    }

    /// All cells, row by row.
    pub fn cells(&self) -> &[f32] {
        &self.cells
    }

    /// The pixels that `cells` (row, column) cover together: left, top, right, bottom.
    pub fn area(&self, cells: &[(usize, usize)]) -> Option<[u32; 4]> {
        let (top, bottom) = (cells.iter().map(|c| c.0).min()?, cells.iter().map(|c| c.0).max()? + 1);
        let (left, right) = (cells.iter().map(|c| c.1).min()?, cells.iter().map(|c| c.1).max()? + 1);
        let pixel = |cell: usize, side: u32| u32::try_from(cell * side as usize / CELLS).unwrap_or(side);
        Some([
            pixel(left, self.columns),
            pixel(top, self.rows),
            pixel(right, self.columns),
            pixel(bottom, self.rows),
        ])
    }
}

fn block_means(pixels: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut sums = vec![(0.0_f32, 0_u32); CELLS * CELLS];
    for (r, row) in pixels.chunks_exact(columns).enumerate() {
        let start = r * CELLS / rows * CELLS;
        for (c, pixel) in row.iter().enumerate() {
            let (sum, n) = &mut sums[start + c * CELLS / columns];
            *sum += pixel;
            *n += 1;
        }
    }
    sums.into_iter().map(|(sum, n)| sum / n.max(1) as f32).collect()
}

fn normalise(cells: &mut [f32]) {
    let mut sorted = cells.to_vec();
    sorted.sort_by(f32::total_cmp);
    let low = sorted[sorted.len() / 50];
    let range = sorted[sorted.len() - 1 - sorted.len() / 50] - low;
    // An image of one grey has no range and becomes all zero.
    cells.iter_mut().for_each(|c| *c = if range > 0.0 { (*c - low) / range } else { 0.0 });
}

/// Otsu's threshold of `values` in 0..1: the grey that best separates two classes.
pub(super) fn otsu(values: impl Iterator<Item = f32>) -> f32 {
    const BINS: usize = 64;
    let mut histogram = [0.0_f64; BINS];
    for value in values {
        histogram[((value.clamp(0.0, 1.0) * BINS as f32) as usize).min(BINS - 1)] += 1.0;
    }
    let total: f64 = histogram.iter().sum();
    let moment: f64 = histogram.iter().enumerate().map(|(i, n)| i as f64 * n).sum();
    let (mut below, mut below_moment, mut best) = (0.0, 0.0, (0.0, BINS / 2));
    for (i, n) in histogram.iter().enumerate() {
        below += n;
        below_moment += i as f64 * n;
        let above = total - below;
        if below > 0.0 && above > 0.0 {
            let distance = below_moment / below - (moment - below_moment) / above;
            let separation = below * above * distance * distance;
            if separation > best.0 {
                best = (separation, i);
            }
        }
    }
    (best.1 + 1) as f32 / BINS as f32
}
