//! Ops on whole images: standardization, the mean over pixels, augmentation.

use rayon::prelude::*;

use super::elementwise::larger;
use super::simd::vectorized;
use crate::rng::{Purpose, philox};

/// Writes y and deviation of rows of `row` elements; deviation has one element a row.
pub(super) fn standardize(y: &mut [f32], deviation: &mut [f32], x: &[f32], row: usize) {
    let least = 1.0 / (row as f32).sqrt();
    let images = y.par_chunks_mut(row).zip(x.par_chunks(row)).zip(deviation);
    images.for_each(|((y, x), deviation)| {
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / row as f64;
        let squares: f64 = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
        let found = (squares / larger(row as f64 - 1.0, 1.0)).sqrt() as f32;
        *deviation = if found < least { least } else { found };
        let (mean, deviation) = (mean as f32, *deviation);
        y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - mean) / deviation);
    });
}

/// Writes dx of rows of `row` elements; deviation has one element a row.
pub(super) fn standardize_backward(dx: &mut [f32], dy: &[f32], y: &[f32], deviation: &[f32], row: usize) {
    let least = 1.0 / (row as f32).sqrt();
    let images = dx.par_chunks_mut(row).zip(dy.par_chunks(row)).zip(y.par_chunks(row)).zip(deviation);
    images.for_each(|(((dx, dy), y), &deviation)| {
        let mean = dy.iter().map(|&d| f64::from(d)).sum::<f64>() / row as f64;
        let along: f64 = dy.iter().zip(y).map(|(&d, &y)| f64::from(d) * f64::from(y)).sum();
        let along = if deviation > least { along / (row as f64 - 1.0) } else { 0.0 };
        let (mean, along) = (mean as f32, along as f32);
        dx.iter_mut().zip(dy).zip(y).for_each(|((dx, dy), y)| *dx = (dy - mean - y * along) / deviation);
    });
}

/// Writes out `[n, c]`, the mean over the pixels of x `[n, pixels, c]`.
pub(super) fn global_mean(out: &mut [f32], x: &[f32], pixels: usize, c: usize) {
    out.par_chunks_mut(c).zip(x.par_chunks(pixels * c)).for_each(|(out, x)| {
        vectorized(
            #[inline(always)]
            || {
                out.fill(0.0);
                x.chunks_exact(c).for_each(|x| out.iter_mut().zip(x).for_each(|(o, x)| *o += x));
                out.iter_mut().for_each(|o| *o /= pixels as f32);
            },
        );
    });
}

/// Writes dx `[n, pixels, c]`, computed from dy `[n, c]`.
pub(super) fn global_mean_backward(dx: &mut [f32], dy: &[f32], pixels: usize, c: usize) {
    dx.par_chunks_mut(pixels * c).zip(dy.par_chunks(c)).for_each(|(dx, dy)| {
        dx.chunks_exact_mut(c).for_each(|dx| dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy / pixels as f32));
    });
}

/// Writes the three choices of each example of `index`: row, column and mirroring of its crop.
pub(super) fn draw_augmentation(choice: &mut [u32], index: &[u32], seed: u64, step: u32, reach: u32) {
    for (choice, &example) in choice.chunks_exact_mut(3).zip(index) {
        let [top, left, mirror, _] = philox(seed, Purpose::Augment, step, example, 0);
        let below = |word: u32, n: u32| ((u64::from(word) * u64::from(n)) >> 32) as u32;
        choice.copy_from_slice(&[below(top, 2 * reach + 1), below(left, 2 * reach + 1), below(mirror, 2)]);
    }
}

/// Writes `n` images `[h, w, c]`, cropped and mirrored by their choices.
pub(super) fn gather_augmented(
    out: &mut [u8],
    src: &[u8],
    index: &[u32],
    choice: &[u32],
    [n, h, w, c]: [usize; 4],
    reach: usize,
) {
    // Index in the image of pixel `at` of the reflected image. The reflection does not repeat the edge.
    let reflected = |at: usize, size: usize| {
        let inside = at.abs_diff(reach);
        if inside < size { inside } else { 2 * (size - 1) - inside }
    };
    let images = out.par_chunks_mut(h * w * c).zip(index).zip(choice.par_chunks(3)).take(n);
    images.for_each(|((out, &at), choice)| {
        let [top, left, mirror] = [choice[0] as usize, choice[1] as usize, choice[2] as usize];
        let image = &src[at as usize * h * w * c..][..h * w * c];
        for (y, row) in out.chunks_exact_mut(w * c).enumerate() {
            let from = &image[reflected(y + top, h) * w * c..][..w * c];
            for (x, pixel) in row.chunks_exact_mut(c).enumerate() {
                let x = if mirror == 1 { w - 1 - x } else { x };
                pixel.copy_from_slice(&from[reflected(x + left, w) * c..][..c]);
            }
        }
    });
}
