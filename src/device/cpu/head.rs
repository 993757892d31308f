//! Gradient of a network's head: the functions of its ops in their order, with scratch memory between them.

use rayon::prelude::*;

use super::batch_norm::{scale, scale_passed};
use super::formula::{BoundFormula, InputNumbers, map, reduce};
use super::scratch::scratch;
use super::{image, linear, loss};
use crate::tape::gradient_norm::{norm_term, to_norm};
use crate::tape::{HeadFeatures, HeadFusion, Reduction};

/// Operands of [`head_backward`].
pub(super) struct HeadOperands<'a> {
    pub features: &'a [f32],
    pub w: &'a [f32],
    pub bias: &'a [f32],
    pub labels: &'a [u32],
    pub dvalue: &'a [f32],
    /// Weight and variance of the batch norm that gave the features.
    pub norm: Option<[&'a [f32]; 2]>,
}

/// Calls `f` with features that the op computes itself: ReLU of x `[n, in]` w^T + bias, in scratch memory.
pub(super) fn with_hidden(x: &[f32], w: &[f32], bias: &[f32], n: usize, w_dims: &[usize], f: impl FnOnce(&[f32])) {
    scratch(n * w_dims[0], |features| {
        linear::linear_bias(features, x, w, bias, n, w_dims, true);
        f(features);
    });
}

/// Brings rows of `row` numbers to the norm, and writes the norm that they had.
fn normalize(out: &mut [f32], norm: &mut [f32], gradient: &[f32], row: usize) {
    let n = norm.len();
    let rows = (InputNumbers::F32(gradient), &[n, row][..]);
    reduce(norm, Reduction::Sum, &BoundFormula::new(&norm_term(), vec![rows], n, row));
    let rows = (InputNumbers::F32(gradient), &[n, row][..]);
    let norms = (InputNumbers::F32(norm), &[n][..]);
    map(out, &BoundFormula::new(&to_norm(), vec![rows, norms], n, row));
}

/// Writes dx of `n` rows of features and, if the gradient is normalized, its norm; w is `[classes, in]`.
pub(super) fn head_backward(
    dx: &mut [f32],
    norm: Option<&mut [f32]>,
    operands: &HeadOperands,
    n: usize,
    w_dims: &[usize],
    fusion: &HeadFusion,
) {
    let HeadOperands { features, w, bias, labels, dvalue, norm: batch_norm } = *operands;
    let &[classes, inner] = w_dims else { unreachable!("w is [classes, in]") };
    if n == 0 {
        return;
    }
    scratch(2 * n * (classes + inner), |free| {
        let (logits, free) = free.split_at_mut(n * classes);
        let (dlogits, free) = free.split_at_mut(n * classes);
        let (means, dmeans) = free.split_at_mut(n * inner);
        if fusion.features.are_averaged() {
            let pixels = dx.len() / (n * inner);
            image::global_mean(means, features, pixels, inner);
            linear::linear_bias(logits, means, w, bias, n, w_dims, false);
            loss::loss_backward(dlogits, logits, labels, dvalue, fusion.rule);
            linear::linear_backward_input(dmeans, dlogits, w, None, n, w_dims);
            let gradient = match norm {
                Some(norm) => {
                    normalize(means, norm, dmeans, inner);
                    means
                }
                None => dmeans,
            };
            image::global_mean_backward(dx, gradient, pixels, inner);
            if let Some([weight, variance]) = batch_norm {
                let (scale, row) = (scale(weight, variance), pixels * inner);
                let images = dx.par_chunks_mut(row).zip(features.par_chunks(row));
                images.for_each(|(dx, y)| scale_passed(dx, &scale, y));
            }
        } else {
            linear::linear_bias(logits, features, w, bias, n, w_dims, false);
            loss::loss_backward(dlogits, logits, labels, dvalue, fusion.rule);
            let gradient = match norm {
                Some(norm) => {
                    normalize(logits, norm, dlogits, classes);
                    logits
                }
                None => dlogits,
            };
            let y = (fusion.features != HeadFeatures::Plain).then_some(features);
            linear::linear_backward_input(dx, gradient, w, y, n, w_dims);
        }
    });
}
