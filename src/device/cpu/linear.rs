//! Linear layers: matrix products cut into fixed blocks of output features.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::conv::{scratch, transpose};

/// Columns of a product that one task computes.
const COLUMNS: usize = 128;

/// `out = a b`, in blocks of columns.
fn product(out: MatMut<'_, f32>, a: MatRef<'_, f32>, b: MatRef<'_, f32>) {
    let blocks = out.ncols().div_ceil(COLUMNS);
    if blocks > 1 {
        let middle = blocks / 2 * COLUMNS;
        let ((left, right), (b_left, b_right)) = (out.split_at_col_mut(middle), b.split_at_col(middle));
        rayon::join(|| product(left, a, b_left), || product(right, a, b_right));
    } else {
        matmul(out, Accum::Replace, a, b, 1.0, Par::Seq);
    }
}

/// y `[n, out]` = x `[n, in]` w^T, w `[out, in]`.
pub(super) fn linear(y: &mut [f32], x: &[f32], w: &[f32], n: usize, w_dims: &[usize]) {
    let &[out, inner] = w_dims else { unreachable!("w is [out, in]") };
    let x = MatRef::from_row_major_slice(&x[..n * inner], n, inner);
    // As w x^T: so the library multiplies w as it lies in memory, with no rearranged copy of it.
    scratch(out * n, |columns| {
        let blocks = columns.par_chunks_mut(COLUMNS * n.max(1)).zip(w.par_chunks(COLUMNS * inner));
        blocks.for_each(|(columns, w)| {
            let rows = w.len() / inner;
            let w = MatRef::from_row_major_slice(w, rows, inner);
            let columns = MatMut::from_row_major_slice_mut(columns, rows, n);
            matmul(columns, Accum::Replace, w, x.transpose(), 1.0, Par::Seq);
        });
        transpose(&mut y[..n * out], columns, n);
    });
}

/// dx `[n, in]` = dy `[n, out]` w.
pub(super) fn linear_backward_input(dx: &mut [f32], dy: &[f32], w: &[f32], n: usize, w_dims: &[usize]) {
    let &[out, inner] = w_dims else { unreachable!("w is [out, in]") };
    let dx = MatMut::from_row_major_slice_mut(&mut dx[..n * inner], n, inner);
    let dy = MatRef::from_row_major_slice(&dy[..n * out], n, out);
    product(dx, dy, MatRef::from_row_major_slice(w, out, inner));
}

/// dw `[out, in]` = dy^T x over n rows.
pub(super) fn linear_backward_weight(dw: &mut [f32], dy: &[f32], x: &[f32], n: usize, w_dims: &[usize]) {
    let &[out, inner] = w_dims else { unreachable!("w is [out, in]") };
    let dy = MatRef::from_row_major_slice(&dy[..n * out], n, out);
    let x = MatRef::from_row_major_slice(&x[..n * inner], n, inner);
    product(MatMut::from_row_major_slice_mut(dw, out, inner), dy.transpose(), x);
}
