//! Batch norm in both modes, with ReLU or without.
//!
//! Images are summed each on its own, in double precision, and their sums are put together in order.

use rayon::prelude::*;

use super::elementwise::relu_of;
use super::vectorized;
use crate::tape::{BATCH_NORM_EPS, BATCH_NORM_MOMENTUM};

/// Rows of channels that one task takes: never dependent on the thread count.
const ROWS: usize = 1024;

/// What batch norm is made of, each `[c]`.
#[derive(Clone, Copy)]
pub(super) struct Norm<'a> {
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub mean: &'a [f32],
    pub variance: &'a [f32],
}

/// What a channel is multiplied by, and what is added then.
pub(super) struct Affine {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Norm<'_> {
    pub(super) fn affine(&self) -> Affine {
        let scale = scale(self.weight, self.variance);
        let shift = self.bias.iter().zip(self.mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
        Affine { scale, shift }
    }
}

/// What evaluation mode multiplies a channel by.
pub(super) fn scale(weight: &[f32], variance: &[f32]) -> Vec<f32> {
    weight.iter().zip(variance).map(|(w, v)| w / (v + BATCH_NORM_EPS).sqrt()).collect()
}

impl Affine {
    /// y from x, on one thread.
    pub(super) fn apply(&self, y: &mut [f32], x: &[f32], relu: bool) {
        let c = self.scale.len();
        vectorized(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                    for (((y, x), scale), shift) in y.iter_mut().zip(x).zip(&self.scale).zip(&self.shift) {
                        let value = x * scale + shift;
                        *y = if relu { relu_of(value) } else { value };
                    }
                }
            },
        );
    }

    /// The same where x is.
    pub(super) fn apply_in_place(&self, x: &mut [f32], relu: bool) {
        let c = self.scale.len();
        vectorized(
            #[inline(always)]
            || {
                for x in x.chunks_exact_mut(c) {
                    for ((x, scale), shift) in x.iter_mut().zip(&self.scale).zip(&self.shift) {
                        let value = *x * scale + shift;
                        *x = if relu { relu_of(value) } else { value };
                    }
                }
            },
        );
    }
}

/// y `[.., c]`, as many rows as y has.
pub(super) fn batch_norm(y: &mut [f32], x: &[f32], norm: Norm, relu: bool) {
    let affine = norm.affine();
    let c = affine.scale.len();
    y.par_chunks_mut(ROWS * c).zip(x.par_chunks(ROWS * c)).for_each(|(y, x)| affine.apply(y, x, relu));
}

/// `dx = dx scale` where y is positive, else 0, on one thread.
pub(super) fn scale_passed(dx: &mut [f32], scale: &[f32], y: &[f32]) {
    vectorized(
        #[inline(always)]
        || {
            for (dx, y) in dx.chunks_exact_mut(scale.len()).zip(y.chunks_exact(scale.len())) {
                for ((dx, scale), y) in dx.iter_mut().zip(scale).zip(y) {
                    *dx = if *y > 0.0 { *dx * scale } else { 0.0 };
                }
            }
        },
    );
}

/// dx from dy and, where ReLU is part of it, y.
pub(super) fn batch_norm_backward_input(
    dx: &mut [f32],
    dy: &[f32],
    weight: &[f32],
    variance: &[f32],
    y: Option<&[f32]>,
) {
    let scale = scale(weight, variance);
    let c = scale.len();
    dx.par_chunks_mut(ROWS * c).enumerate().for_each(|(task, dx)| {
        let at = task * ROWS * c;
        let dy = &dy[at..][..dx.len()];
        let y = y.map(|y| &y[at..][..dx.len()]);
        vectorized(
            #[inline(always)]
            || {
                for (row, (dx, dy)) in dx.chunks_exact_mut(c).zip(dy.chunks_exact(c)).enumerate() {
                    match y.map(|y| &y[row * c..][..c]) {
                        Some(y) => {
                            for (((dx, dy), y), scale) in dx.iter_mut().zip(dy).zip(y).zip(&scale) {
                                *dx = if *y > 0.0 { dy * scale } else { 0.0 };
                            }
                        }
                        None => dx.iter_mut().zip(dy).zip(&scale).for_each(|((dx, dy), scale)| *dx = dy * scale),
                    }
                }
            },
        );
    });
}

/// Mean and variance of the channels of x (all of its rows are active), and the running ones after them.
pub(super) fn statistics(
    mean: &mut [f32],
    variance: &mut [f32],
    running_mean: &mut [f32],
    running_variance: &mut [f32],
    x: &[f32],
) {
    let c = mean.len();
    let count = (x.len() / c) as f64;
    if x.is_empty() {
        return;
    }
    let sums = sum_tasks(x, c, |x, sum, _| x.iter().zip(sum).for_each(|(x, s)| *s += f64::from(*x)));
    let exact: Vec<f64> = sums[..c].iter().map(|sum| sum / count).collect();
    let squares = sum_tasks(x, c, |x, sum, _| {
        x.iter().zip(&exact).zip(sum).for_each(|((x, m), s)| *s += (f64::from(*x) - m) * (f64::from(*x) - m));
    });
    for i in 0..c {
        mean[i] = exact[i] as f32;
        variance[i] = (squares[i] / count) as f32;
        let unbiased = (squares[i] / (count - 1.0).max(1.0)) as f32;
        let moved = |from: f32, to: f32| (1.0 - BATCH_NORM_MOMENTUM) * from + BATCH_NORM_MOMENTUM * to;
        running_mean[i] = moved(running_mean[i], mean[i]);
        running_variance[i] = moved(running_variance[i], unbiased);
    }
}

/// Two sums a channel over the rows of x in a fixed order: `f` adds a row, whose number it is told, to them.
fn sum_tasks(x: &[f32], c: usize, f: impl Fn(&[f32], &mut [f64], usize) + Sync) -> Vec<f64> {
    let task = |(task, x): (usize, &[f32])| {
        let mut sums = vec![0f64; 2 * c];
        vectorized(
            #[inline(always)]
            || x.chunks_exact(c).enumerate().for_each(|(row, x)| f(x, &mut sums, task * ROWS + row)),
        );
        sums
    };
    let parts: Vec<Vec<f64>> = x.par_chunks(ROWS * c).enumerate().map(task).collect();
    let mut sums = vec![0f64; 2 * c];
    parts.iter().for_each(|part| sums.iter_mut().zip(part).for_each(|(s, p)| *s += p));
    sums
}

/// dweight and dbias, over the rows of dy. ReLU's part is known from x.
pub(super) fn batch_norm_backward_weight(
    dweight: &mut [f32],
    dbias: &mut [f32],
    dy: &[f32],
    x: &[f32],
    norm: Norm,
    with_relu: bool,
) {
    let Affine { scale, shift } = norm.affine();
    let c = scale.len();
    let inverse: Vec<f32> = norm.variance.iter().map(|v| 1.0 / (v + BATCH_NORM_EPS).sqrt()).collect();
    let sums = sum_tasks(dy, c, |dy, sums, row| {
        let x = &x[row * c..][..c];
        let (of_weight, of_bias) = sums.split_at_mut(c);
        for i in 0..c {
            let passes = !with_relu || x[i] * scale[i] + shift[i] > 0.0;
            let dy = if passes { dy[i] } else { 0.0 };
            of_weight[i] += f64::from(dy * ((x[i] - norm.mean[i]) * inverse[i]));
            of_bias[i] += f64::from(dy);
        }
    });
    for i in 0..c {
        (dweight[i], dbias[i]) = (sums[i] as f32, sums[c + i] as f32);
    }
}

/// dx of batch norm in training mode, over the rows of dx.
pub(super) fn batch_norm_training_backward_input(
    dx: &mut [f32],
    dy: &[f32],
    x: &[f32],
    norm: Norm,
    [dweight, dbias]: [&[f32]; 2],
    with_relu: bool,
) {
    let Affine { scale, shift } = norm.affine();
    let c = scale.len();
    let count = (dx.len() / c) as f32;
    let inverse: Vec<f32> = norm.variance.iter().map(|v| 1.0 / (v + BATCH_NORM_EPS).sqrt()).collect();
    let [by_weight, by_bias] = [dweight, dbias].map(|sum| sum.iter().map(|s| s / count).collect::<Vec<_>>());
    dx.par_chunks_mut(ROWS * c).enumerate().for_each(|(task, dx)| {
        let (dy, x) = (&dy[task * ROWS * c..][..dx.len()], &x[task * ROWS * c..][..dx.len()]);
        vectorized(
            #[inline(always)]
            || {
                for ((dx, dy), x) in dx.chunks_exact_mut(c).zip(dy.chunks_exact(c)).zip(x.chunks_exact(c)) {
                    for i in 0..c {
                        let passes = !with_relu || x[i] * scale[i] + shift[i] > 0.0;
                        let dy = if passes { dy[i] } else { 0.0 };
                        let normalized = (x[i] - norm.mean[i]) * inverse[i];
                        dx[i] = scale[i] * (dy - by_bias[i] - normalized * by_weight[i]);
                    }
                }
            },
        );
    });
}
