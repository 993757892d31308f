//! Batch norm in both modes, with ReLU or without.
//!
//! Rows are summed a block at a time, in double precision, and the blocks' sums are put together in order.

use rayon::prelude::*;

use super::elementwise::relu_of;
use super::vectorized;
use crate::tape::{BATCH_NORM_EPS, BATCH_NORM_MOMENTUM};

/// Elements that one task takes: never dependent on the thread count.
const ELEMENTS: usize = 1 << 15;

/// Elements of the rows of `c` channels that one task takes.
fn block(c: usize) -> usize {
    (ELEMENTS / c).max(1) * c
}

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
    let block = block(affine.scale.len());
    y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| affine.apply(y, x, relu));
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
    dx.par_chunks_mut(block(c)).enumerate().for_each(|(task, dx)| {
        let at = task * block(c);
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

/// How many rows there are, and their channels' means and sums of squares around these.
struct Moments {
    count: f64,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Moments {
    /// Of the rows x of `c` channels.
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

    /// Of these rows and others (Chan, Golub and LeVeque 1979).
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

/// Mean and variance of the channels of x (all of its rows are active), and the running ones after them.
pub(super) fn statistics(
    mean: &mut [f32],
    variance: &mut [f32],
    running_mean: &mut [f32],
    running_variance: &mut [f32],
    x: &[f32],
) {
    let c = mean.len();
    let blocks: Vec<Moments> = x.par_chunks(block(c)).map(|x| Moments::of(x, c)).collect();
    let Some(Moments { count, mean: exact, squares }) = blocks.into_iter().reduce(|all, next| all.and(&next)) else {
        return;
    };
    for i in 0..c {
        mean[i] = exact[i] as f32;
        variance[i] = (squares[i] / count) as f32;
        let unbiased = (squares[i] / (count - 1.0).max(1.0)) as f32;
        let moved = |from: f32, to: f32| (1.0 - BATCH_NORM_MOMENTUM) * from + BATCH_NORM_MOMENTUM * to;
        running_mean[i] = moved(running_mean[i], mean[i]);
        running_variance[i] = moved(running_variance[i], unbiased);
    }
}

/// What the gradients of batch norm with its statistics need of a channel: all `[c]`.
struct Channel<'a> {
    affine: Affine,
    mean: &'a [f32],
    /// 1 / deviation.
    inverse: Vec<f32>,
}

impl<'a> Channel<'a> {
    fn new(norm: Norm<'a>) -> Channel<'a> {
        let inverse = norm.variance.iter().map(|v| 1.0 / (v + BATCH_NORM_EPS).sqrt()).collect();
        Channel { affine: norm.affine(), mean: norm.mean, inverse }
    }

    /// What ReLU, if it is part of it, lets pass of a row of dy.
    #[inline(always)]
    fn passed(&self, passed: &mut [f32], dy: &[f32], x: &[f32], relu: bool) {
        let Affine { scale, shift } = &self.affine;
        for ((((p, dy), x), scale), shift) in passed.iter_mut().zip(dy).zip(x).zip(scale).zip(shift) {
            *p = if !relu | (x * scale + shift > 0.0) { *dy } else { 0.0 };
        }
    }
}

/// dweight and dbias, over the rows of dy. ReLU's part is known from x.
pub(super) fn batch_norm_backward_weight(
    dweight: &mut [f32],
    dbias: &mut [f32],
    dy: &[f32],
    x: &[f32],
    norm: Norm,
    relu: bool,
) {
    let channel = Channel::new(norm);
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

/// dx of batch norm in training mode, over the rows of dx.
pub(super) fn batch_norm_training_backward_input(
    dx: &mut [f32],
    dy: &[f32],
    x: &[f32],
    norm: Norm,
    [dweight, dbias]: [&[f32]; 2],
    relu: bool,
) {
    let channel = Channel::new(norm);
    let c = dweight.len();
    let count = (dx.len() / c) as f32;
    // dx = scale (dy - dbias / n - (x - mean) along), where along = inverse dweight / n.
    let mean_of_dy: Vec<f32> = dbias.iter().map(|sum| sum / count).collect();
    let along: Vec<f32> = dweight.iter().zip(&channel.inverse).map(|(sum, inverse)| inverse * sum / count).collect();
    let block = block(c);
    dx.par_chunks_mut(block).zip(dy.par_chunks(block)).zip(x.par_chunks(block)).for_each(|((dx, dy), x)| {
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
    });
}
