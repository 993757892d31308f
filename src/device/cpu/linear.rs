//! Linear layers: matrix products over fixed blocks of output features. Bias, ReLU and the gradient of ReLU are applied
//! to a block while it is in the core's cache.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par, unzip, zip};
use rayon::prelude::*;

use super::elementwise::{relu_gradient, relu_of};
use super::scratch::{scratch, transpose};
use super::simd::vectorized;

/// Columns of a product, or features of a layer, of one task.
const COLUMNS: usize = 128;

/// `out = a b` in blocks of columns; if y is given, 0 where y is not positive.
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

/// Writes y `[n, out]` = x `[n, in]` w^T, with w `[out, in]`.
pub(super) fn linear(y: &mut [f32], x: &[f32], w: &[f32], n: usize, w_dims: &[usize]) {
    layer(y, x, w, n, w_dims, |_, _| {});
}

/// Writes y `[n, out]` = x `[n, in]` w^T + bias `[out]`, followed by ReLU if `relu`.
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

/// Writes y = x w^T. `epilogue(first, columns)` is applied to each block of columns `[.., n]` of y; `first` is the
/// number of its first column.
fn layer(y: &mut [f32], x: &[f32], w: &[f32], n: usize, w_dims: &[usize], epilogue: impl Fn(usize, &mut [f32]) + Sync) {
    let &[out, inner] = w_dims else { unreachable!("w is [out, in]") };
    let x = MatRef::from_row_major_slice(&x[..n * inner], n, inner);
    // The product is computed as w x^T: so the library reads w in its order in memory, without a transposed copy.
    scratch(out * n, |columns| {
        let blocks = columns.par_chunks_mut(COLUMNS * n.max(1)).zip(w.par_chunks(COLUMNS * inner));
        blocks.enumerate().for_each(|(block, (columns, w))| {
            let features = w.len() / inner;
            let w = MatRef::from_row_major_slice(w, features, inner);
            let product = MatMut::from_row_major_slice_mut(columns, features, n);
            matmul(product, Accum::Replace, w, x.transpose(), 1.0, Par::Seq);
            epilogue(block * COLUMNS, columns);
        });
        transpose(&mut y[..n * out], columns, n, out);
    });
}

/// Writes dx `[n, in]` = dy `[n, out]` w; if y `[n, in]` is given, 0 where y is not positive.
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

/// Writes dw `[out, in]` = dy^T x, over n active rows.
pub(super) fn linear_backward_weight(dw: &mut [f32], dy: &[f32], x: &[f32], n: usize, w_dims: &[usize]) {
    let &[out, inner] = w_dims else { unreachable!("w is [out, in]") };
    let dy = MatRef::from_row_major_slice(&dy[..n * out], n, out);
    let x = MatRef::from_row_major_slice(&x[..n * inner], n, inner);
    product(MatMut::from_row_major_slice_mut(dw, out, inner), dy.transpose(), x, None);
}
