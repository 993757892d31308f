//! Linear layers, as sums of products.

use maxmargin::tape::{DType, Op};

use super::support::{Case, Random, Sum};

/// Rows, inputs, outputs: around the 256 columns of a task, and LeNet5's layers.
const SIZES: [[usize; 3]; 14] = [
    [1, 1, 1],
    [3, 7, 5],
    [8, 9, 7],
    [17, 16, 15],
    [9, 8, 17],
    [5, 3136, 1024],
    [4, 1024, 10],
    [3, 255, 257],
    [2, 256, 256],
    [4, 257, 255],
    [3, 511, 513],
    [3, 769, 1],
    [1, 1, 769],
    [50, 200, 13],
];

/// Calls `f` with the elements of y, w and x of every product that `n` rows sum.
fn products(n: usize, [_, inner, out]: [usize; 3], mut f: impl FnMut(usize, usize, usize)) {
    for (row, o) in (0..n).flat_map(|row| (0..out).map(move |o| (row, o))) {
        (0..inner).for_each(|i| f(row * out + o, o * inner + i, row * inner + i));
    }
}

#[test]
pub fn linear() {
    for size @ [n, inner, out] in SIZES {
        let (x, w) = (Random(1).signed(&[n, inner]), Random(2).signed(&[out, inner]));
        Case::new(Op::Linear).rows(&x).whole(&w).gives_rows(&[n, out], DType::F32).check(|n| {
            let mut y = vec![Sum::default(); n * out];
            products(n, size, |y_at, w_at, x_at| y[y_at] += x.values[x_at] * w.values[w_at]);
            vec![y]
        });
    }
}

/// x may be images: its rows are taken as they lie.
#[test]
fn linear_takes_images_as_rows() {
    let (x, w) = (Random(1).signed(&[3, 2, 2, 5]), Random(2).signed(&[7, 20]));
    Case::new(Op::Linear).rows(&x).whole(&w).gives_rows(&[3, 7], DType::F32).check(|n| {
        let mut y = vec![Sum::default(); n * 7];
        products(n, [3, 20, 7], |y_at, w_at, x_at| y[y_at] += x.values[x_at] * w.values[w_at]);
        vec![y]
    });
}

#[test]
pub fn linear_backward_input() {
    for size @ [n, inner, out] in SIZES {
        let (dy, w) = (Random(1).signed(&[n, out]), Random(2).signed(&[out, inner]));
        Case::new(Op::LinearBackwardInput).rows(&dy).whole(&w).gives_rows(&[n, inner], DType::F32).check(|n| {
            let mut dx = vec![Sum::default(); n * inner];
            products(n, size, |y_at, w_at, x_at| dx[x_at] += dy.values[y_at] * w.values[w_at]);
            vec![dx]
        });
    }
}

#[test]
pub fn linear_backward_weight() {
    for size @ [n, inner, out] in SIZES {
        let (dy, x) = (Random(1).signed(&[n, out]), Random(2).signed(&[n, inner]));
        Case::new(Op::LinearBackwardWeight).rows(&dy).rows(&x).gives_whole(&[out, inner], DType::F32).check(|n| {
            let mut dw = vec![Sum::default(); out * inner];
            products(n, size, |y_at, w_at, x_at| dw[w_at] += dy.values[y_at] * x.values[x_at]);
            vec![dw]
        });
    }
}
