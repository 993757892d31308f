//! Batch norm in both modes, with ReLU or without.
//!
//! Sums run over blocks of pixels in double precision; the blocks' sums are added in order. Here a pixel is the `c`
//! channels of one position of one row.

use rayon::prelude::*;

use super::elementwise::{add_to, larger, relu_of};
use super::simd::vectorized;
use crate::tape::{BATCH_NORM_EPS, BATCH_NORM_MOMENTUM};

/// Elements of one task. It never depends on the number of threads.
const ELEMENTS: usize = 1 << 15;

/// Elements of one task, in whole pixels of `c` channels.
fn block(c: usize) -> usize {
    (ELEMENTS / c).max(1) * c
}

/// Operands of batch norm beside x, each `[c]`.
#[derive(Clone, Copy)]
pub(super) struct BatchNormOperands<'a> {
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub mean: &'a [f32],
    pub variance: &'a [f32],
}

/// Batch norm with known statistics: `x scale + shift`, each `[c]`.
pub(super) struct Affine {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl BatchNormOperands<'_> {
    pub(super) fn affine(&self) -> Affine {
        let scale = scale(self.weight, self.variance);
        let shift = self.bias.iter().zip(self.mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
        Affine { scale, shift }
    }
}

/// `weight / sqrt(variance + eps)`, a number a channel.
pub(super) fn scale(weight: &[f32], variance: &[f32]) -> Vec<f32> {
    weight.iter().zip(variance).map(|(w, v)| w / (v + BATCH_NORM_EPS).sqrt()).collect()
}

impl Affine {
    /// Writes y, computed from x, on one thread.
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

    /// [`Affine::apply`] in place.
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

/// Writes y `[.., c]`, computed from as many elements of x as y has.
pub(super) fn batch_norm(y: &mut [f32], x: &[f32], norm: BatchNormOperands, relu: bool) {
    let affine = norm.affine();
    let block = block(affine.scale.len());
    y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| affine.apply(y, x, relu));
}

/// `dx = dx scale` where y is positive, else `dx = 0`; in place, on one thread.
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

/// Writes dx, computed from dy. `y` is given if ReLU is part of the op.
pub(super) fn batch_norm_backward_input(
    dx: &mut [f32],
    dy: &[f32],
    weight: &[f32],
    variance: &[f32],
    y: Option<&[f32]>,
) {
    let scale = scale(weight, variance);
    let c = scale.len();
    dx.par_chunks_mut(block(c)).enumerate().for_each(|(task, dx)| {
        let at = task * block(c);
        let dy = &dy[at..][..dx.len()];
        let y = y.map(|y| &y[at..][..dx.len()]);
        vectorized(
            #[inline(always)]
            || {
                for (pixel, (dx, dy)) in dx.chunks_exact_mut(c).zip(dy.chunks_exact(c)).enumerate() {
                    match y.map(|y| &y[pixel * c..][..c]) {
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

/// Moments of the channels over some pixels.
struct Moments {
    /// Number of pixels.
    count: f64,
    /// Mean `[c]`.
    mean: Vec<f64>,
    /// Sum of squared distances from the mean `[c]`.
    squares: Vec<f64>,
}

impl Moments {
    /// Moments of pixels `x` of `c` channels.
    fn of(x: &[f32], c: usize) -> Moments {
        let count = (x.len() / c) as f64;
        let (mut mean, mut squares) = (vec![0.0; c], vec![0.0; c]);
        vectorized(
            #[inline(always)]
            || {
                for x in x.chunks_exact(c) {
                    mean.iter_mut().zip(x).for_each(|(m, x)| *m += f64::from(*x));
                }
                mean.iter_mut().for_each(|m| *m /= count);
                for x in x.chunks_exact(c) {
                    for ((s, m), x) in squares.iter_mut().zip(&mean).zip(x) {
                        *s += (f64::from(*x) - m) * (f64::from(*x) - m);
                    }
                }
            },
        );
        Moments { count, mean, squares }
    }

    /// Moments of the union with other pixels (Chan, Golub and LeVeque 1979).
    fn and(mut self, other: &Moments) -> Moments {
        let count = self.count + other.count;
        for i in 0..self.mean.len() {
            let apart = other.mean[i] - self.mean[i];
            self.mean[i] += apart * other.count / count;
            self.squares[i] += other.squares[i] + apart * apart * self.count * other.count / count;
        }
        Moments { count, ..self }
    }
}

/// Mean and variance of the channels, each `[c]`, to be written.
pub(super) struct ChannelStatistics<'a> {
    pub mean: &'a mut [f32],
    pub variance: &'a mut [f32],
}

/// Writes the statistics of x, whose rows are all active, and moves the running statistics towards them. Without a row
/// nothing changes.
pub(super) fn update_statistics(batch: &mut ChannelStatistics, running: &mut ChannelStatistics, x: &[f32]) {
    let c = batch.mean.len();
    let blocks: Vec<Moments> = x.par_chunks(block(c)).map(|x| Moments::of(x, c)).collect();
    let Some(Moments { count, mean, squares }) = blocks.into_iter().reduce(|all, next| all.and(&next)) else {
        return;
    };
    for i in 0..c {
        batch.mean[i] = mean[i] as f32;
        batch.variance[i] = (squares[i] / count) as f32;
        let unbiased = (squares[i] / larger(count - 1.0, 1.0)) as f32;
        let moved = |from: f32, to: f32| (1.0 - BATCH_NORM_MOMENTUM) * from + BATCH_NORM_MOMENTUM * to;
        running.mean[i] = moved(running.mean[i], batch.mean[i]);
        running.variance[i] = moved(running.variance[i], unbiased);
    }
}

/// Writes y `[.., c]` and the statistics of as many elements of x as y has; moves the running statistics.
pub(super) fn batch_norm_training(
    y: &mut [f32],
    mut statistics: ChannelStatistics,
    mut running: ChannelStatistics,
    x: &[f32],
    [weight, bias]: [&[f32]; 2],
    relu: bool,
) {
    let x = &x[..y.len()];
    update_statistics(&mut statistics, &mut running, x);
    let ChannelStatistics { mean, variance } = statistics;
    batch_norm(y, x, BatchNormOperands { weight, bias, mean, variance }, relu);
}

/// Terms of the gradients of batch norm with known statistics, each `[c]`.
struct ChannelNormalizer<'a> {
    affine: Affine,
    mean: &'a [f32],
    /// 1 / standard deviation.
    inverse: Vec<f32>,
}

impl<'a> ChannelNormalizer<'a> {
    fn new(norm: BatchNormOperands<'a>) -> ChannelNormalizer<'a> {
        let inverse = norm.variance.iter().map(|v| 1.0 / (v + BATCH_NORM_EPS).sqrt()).collect();
        ChannelNormalizer { affine: norm.affine(), mean: norm.mean, inverse }
    }

    /// Writes the gradient that ReLU passes of one pixel of dy: all of dy if the op is without ReLU.
    #[inline(always)]
    fn passed(&self, passed: &mut [f32], dy: &[f32], x: &[f32], relu: bool) {
        let Affine { scale, shift } = &self.affine;
        for ((((p, dy), x), scale), shift) in passed.iter_mut().zip(dy).zip(x).zip(scale).zip(shift) {
            *p = if !relu | (x * scale + shift > 0.0) { *dy } else { 0.0 };
        }
    }
}

/// Writes dweight and dbias, summed over the pixels of dy. The sign of ReLU's input is computed again from x.
pub(super) fn batch_norm_backward_weight(
    dweight: &mut [f32],
    dbias: &mut [f32],
    dy: &[f32],
    x: &[f32],
    norm: BatchNormOperands,
    relu: bool,
) {
    let channel = ChannelNormalizer::new(norm);
    let c = dweight.len();
    let sums = |(dy, x): (&[f32], &[f32])| {
        let (mut of_weight, mut of_bias, mut passed) = (vec![0f64; c], vec![0f64; c], vec![0f32; c]);
        vectorized(
            #[inline(always)]
            || {
                for (dy, x) in dy.chunks_exact(c).zip(x.chunks_exact(c)) {
                    channel.passed(&mut passed, dy, x, relu);
                    of_bias.iter_mut().zip(&passed).for_each(|(sum, dy)| *sum += f64::from(*dy));
                    let normalized = x.iter().zip(channel.mean).zip(&channel.inverse);
                    for ((sum, dy), ((x, mean), inverse)) in of_weight.iter_mut().zip(&passed).zip(normalized) {
                        *sum += f64::from(dy * ((x - mean) * inverse));
                    }
                }
            },
        );
        (of_weight, of_bias)
    };
    let blocks: Vec<_> = dy.par_chunks(block(c)).zip(x.par_chunks(block(c))).map(sums).collect();
    for i in 0..c {
        dweight[i] = blocks.iter().map(|(of_weight, _)| of_weight[i]).sum::<f64>() as f32;
        dbias[i] = blocks.iter().map(|(_, of_bias)| of_bias[i]).sum::<f64>() as f32;
    }
}

/// Writes dx of batch norm in training mode, to which the addend is added; all rows of dx are active.
pub(super) fn batch_norm_training_backward_input(
    dx: &mut [f32],
    [dy, x]: [&[f32]; 2],
    norm: BatchNormOperands,
    [dweight, dbias]: [&[f32]; 2],
    addend: Option<&[f32]>,
    relu: bool,
) {
    let channel = ChannelNormalizer::new(norm);
    let c = dweight.len();
    let count = (dx.len() / c) as f32;
    // dx = scale (dy - dbias / n - (x - mean) along), where along = inverse dweight / n.
    let mean_of_dy: Vec<f32> = dbias.iter().map(|sum| sum / count).collect();
    let along: Vec<f32> = dweight.iter().zip(&channel.inverse).map(|(sum, inverse)| inverse * sum / count).collect();
    let block = block(c);
    let blocks = dx.par_chunks_mut(block).zip(dy.par_chunks(block)).zip(x.par_chunks(block));
    blocks.enumerate().for_each(|(i, ((dx, dy), x))| {
        vectorized(
            #[inline(always)]
            || {
                for ((dx, dy), x) in dx.chunks_exact_mut(c).zip(dy.chunks_exact(c)).zip(x.chunks_exact(c)) {
                    channel.passed(dx, dy, x, relu);
                    let terms = x.iter().zip(channel.mean).zip(&along).zip(&mean_of_dy).zip(&channel.affine.scale);
                    for (dx, ((((x, mean), along), mean_of_dy), scale)) in dx.iter_mut().zip(terms) {
                        *dx = scale * (*dx - mean_of_dy - (x - mean) * along);
                    }
                }
            },
        );
        if let Some(addend) = addend {
            add_to(dx, &addend[i * block..][..dx.len()]);
        }
    });
}
