//! Elementwise ops, and biases.

use rayon::prelude::*;

use super::simd::vectorized;

/// Elements of one task: enough to be worth a task. It never depends on the number of threads.
const BLOCK: usize = 1 << 16;

/// `out = byte / 255`.
pub(super) fn bytes_to_unit(out: &mut [f32], bytes: &[u8]) {
    out.par_chunks_mut(BLOCK).zip(bytes.par_chunks(BLOCK)).for_each(|(out, bytes)| {
        vectorized(
            #[inline(always)]
            || out.iter_mut().zip(bytes).for_each(|(o, &b)| *o = f32::from(b) / 255.0),
        );
    });
}

/// `out = a`.
pub(super) fn copy(out: &mut [f32], a: &[f32]) {
    out.par_chunks_mut(BLOCK).zip(a.par_chunks(BLOCK)).for_each(|(out, a)| out.copy_from_slice(&a[..out.len()]));
}

/// `out = f(a)`.
fn map(out: &mut [f32], a: &[f32], f: impl Fn(f32) -> f32 + Sync) {
    out.par_chunks_mut(BLOCK).zip(a.par_chunks(BLOCK)).for_each(|(out, a)| {
        vectorized(
            #[inline(always)]
            || out.iter_mut().zip(a).for_each(|(o, &a)| *o = f(a)),
        );
    });
}

/// `out = f(a, b)`.
fn zip(out: &mut [f32], a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    out.par_chunks_mut(BLOCK).zip(a.par_chunks(BLOCK)).zip(b.par_chunks(BLOCK)).for_each(|((out, a), b)| {
        vectorized(
            #[inline(always)]
            || out.iter_mut().zip(a).zip(b).for_each(|((o, &a), &b)| *o = f(a, b)),
        );
    });
}

/// `out = a + b`.
pub(super) fn add(out: &mut [f32], a: &[f32], b: &[f32]) {
    zip(out, a, b, |a, b| a + b);
}

/// `a += b` on one thread.
pub(super) fn add_to(a: &mut [f32], b: &[f32]) {
    vectorized(
        #[inline(always)]
        || a.iter_mut().zip(b).for_each(|(a, b)| *a += b),
    );
}

/// `out = value`.
pub(super) fn fill(out: &mut [f32], value: f32) {
    out.fill(value);
}

/// `out = factor * a`.
pub(super) fn scale(out: &mut [f32], a: &[f32], factor: f32) {
    map(out, a, |a| factor * a);
}

/// The larger of two numbers; `b` if they are equal, zeros of both signs included, or if one is NaN. `f32::max` may
/// return either zero.
#[inline(always)]
pub(super) fn larger<T: PartialOrd>(a: T, b: T) -> T {
    if a > b { a } else { b }
}

/// The smaller of two numbers; `b` if they are equal, zeros of both signs included, or if one is NaN.
#[inline(always)]
pub(super) fn smaller<T: PartialOrd>(a: T, b: T) -> T {
    if a < b { a } else { b }
}

/// `out = max(a, least)`; NaN becomes `least`, and so does -0 if `least` is 0.
pub(super) fn clamp_min(out: &mut [f32], a: &[f32], least: f32) {
    map(out, a, |a| larger(a, least));
}

/// `max(x, 0)`. NaN passes through.
#[inline(always)]
pub(super) fn relu_of(x: f32) -> f32 {
    if x <= 0.0 { 0.0 } else { x }
}

/// `out = max(x, 0)`. NaN passes through.
pub(super) fn relu(out: &mut [f32], x: &[f32]) {
    map(out, x, relu_of);
}

/// Gradient of ReLU with respect to its input: `dy` if `y > 0`, else 0.
#[inline(always)]
pub(super) fn relu_gradient(dy: f32, y: f32) -> f32 {
    if y > 0.0 { dy } else { 0.0 }
}

/// Writes dx: `dy` where `y > 0`, else 0.
pub(super) fn relu_backward(dx: &mut [f32], dy: &[f32], y: &[f32]) {
    zip(dx, dy, y, relu_gradient);
}

/// `out = x + bias` along the last dimension.
pub(super) fn add_bias(out: &mut [f32], x: &[f32], bias: &[f32]) {
    let block = bias.len() * (BLOCK / bias.len()).max(1);
    out.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(out, x)| {
        vectorized(
            #[inline(always)]
            || {
                for (out, x) in out.chunks_exact_mut(bias.len()).zip(x.chunks_exact(bias.len())) {
                    out.iter_mut().zip(x).zip(bias).for_each(|((o, &x), &b)| *o = x + b);
                }
            },
        );
    });
}

/// Writes dbias: the sum of dy over all dimensions but the last.
pub(super) fn add_bias_backward_bias(dbias: &mut [f32], dy: &[f32]) {
    dbias.fill(0.0);
    vectorized(
        #[inline(always)]
        || {
            for dy in dy.chunks_exact(dbias.len()) {
                dbias.iter_mut().zip(dy).for_each(|(b, &dy)| *b += dy);
            }
        },
    );
}
