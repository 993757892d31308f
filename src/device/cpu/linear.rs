//! Linear layers: matrix products cut into fixed blocks of output features. Bias and ReLU, and ReLU's gradient, are
//! applied to a block while it is in the core's cache.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par, unzip, zip};
use rayon::prelude::*;

use super::conv::{scratch, transpose};
use super::elementwise::{relu_gradient, relu_of};
use super::vectorized;

/// Columns of a product that one task computes.
const COLUMNS: usize = 128;

/// `out = a b`, in blocks of columns; with y, 0 where y is not positive.
fn product(mut out: MatMut<'_, f32>, a: MatRef<'_, f32>, b: MatRef<'_, f32>, y: Option<MatRef<'_, f32>>) {
    let blocks = out.ncols().div_ceil(COLUMNS);
    if blocks > 1 {
        let middle = blocks / 2 * COLUMNS;
        let ((left, right), (b_left, b_right)) = (out.split_at_col_mut(middle), b.split_at_col(middle));
        let (y_left, y_right) = y.map(|y| y.split_at_col(middle)).unzip();
        rayon::join(|| product(left, a, b_left, y_left), || product(right, a, b_right, y_right));
    } else {
        matmul(out.as_mut(), Accum::Replace, a, b, 1.0, Par::Seq);
        if let Some(y) = y {
            zip!(out, y).for_each(|unzip!(dx, y)| *dx = relu_gradient(*dx, *y));
        }
    }
}

/// y `[n, out]` = x `[n, in]` w^T, w `[out, in]`.
pub(super) fn linear(y: &mut [f32], x: &[f32], w: &[f32], n: usize, w_dims: &[usize]) {
    layer(y, x, w, n, w_dims, |_, _| {});
}

/// y `[n, out]` = x `[n, in]` w^T + bias `[out]`, then ReLU if `relu`.
pub(super) fn linear_bias(y: &mut [f32], x: &[f32], w: &[f32], bias: &[f32], n: usize, w_dims: &[usize], relu: bool) {
    layer(y, x, w, n, w_dims, |first, columns| {
        vectorized(
            #[inline(always)]
            || {
                for (column, b) in columns.chunks_exact_mut(n).zip(&bias[first..]) {
                    if relu {
                        column.iter_mut().for_each(|v| *v = relu_of(*v + b));
                    } else {
                        column.iter_mut().for_each(|v| *v += b);
                    }
                }
            },
        );
    });
}

/// y = x w^T. `finish(first, columns)` sees each block of columns `[.., n]`, of which the first is number `first`.
fn layer(y: &mut [f32], x: &[f32], w: &[f32], n: usize, w_dims: &[usize], finish: impl Fn(usize, &mut [f32]) + Sync) {
    let &[out, inner] = w_dims else { unreachable!("w is [out, in]") };
    let x = MatRef::from_row_major_slice(&x[..n * inner], n, inner);
    // As w x^T: so the library multiplies w as it lies in memory, with no rearranged copy of it.
    scratch(out * n, |columns| {
        let blocks = columns.par_chunks_mut(COLUMNS * n.max(1)).zip(w.par_chunks(COLUMNS * inner));
        blocks.enumerate().for_each(|(block, (columns, w))| {
            let rows = w.len() / inner;
            let w = MatRef::from_row_major_slice(w, rows, inner);
            let product = MatMut::from_row_major_slice_mut(columns, rows, n);
            matmul(product, Accum::Replace, w, x.transpose(), 1.0, Par::Seq);
            finish(block * COLUMNS, columns);
        });
        transpose(&mut y[..n * out], columns, n, out);
    });
}

/// dx `[n, in]` = dy `[n, out]` w; with y `[n, in]`, 0 where y is not positive.
pub(super) fn linear_backward_input(
    dx: &mut [f32],
    dy: &[f32],
    w: &[f32],
    y: Option<&[f32]>,
    n: usize,
    w_dims: &[usize],
) {
    let &[out, inner] = w_dims else { unreachable!("w is [out, in]") };
    let dx = MatMut::from_row_major_slice_mut(&mut dx[..n * inner], n, inner);
    let dy = MatRef::from_row_major_slice(&dy[..n * out], n, out);
    let y = y.map(|y| MatRef::from_row_major_slice(&y[..n * inner], n, inner));
    product(dx, dy, MatRef::from_row_major_slice(w, out, inner), y);
}

/// dw `[out, in]` = dy^T x over n rows.
pub(super) fn linear_backward_weight(dw: &mut [f32], dy: &[f32], x: &[f32], n: usize, w_dims: &[usize]) {
    let &[out, inner] = w_dims else { unreachable!("w is [out, in]") };
    let dy = MatRef::from_row_major_slice(&dy[..n * out], n, out);
    let x = MatRef::from_row_major_slice(&x[..n * inner], n, inner);
    product(MatMut::from_row_major_slice_mut(dw, out, inner), dy.transpose(), x, None);
}
