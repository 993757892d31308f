//! Linear layers: matrix products cut into fixed blocks of output features.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// Columns of a product that one task computes.
const COLUMNS: usize = 256;

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
    let y = MatMut::from_row_major_slice_mut(&mut y[..n * out], n, out);
    let x = MatRef::from_row_major_slice(&x[..n * inner], n, inner);
    product(y, x, MatRef::from_row_major_slice(w, out, inner).transpose());
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
