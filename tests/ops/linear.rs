//! Linear layers, as sums of products, with bias and ReLU; inputs of ReLU that are 0 or NaN are among the cases.

use maxmargin::tape::{DType, Op};

use super::support::fake::runs_long_tests;
use super::support::half::least;
use super::support::{Array, OpCase, Random, Sum, exact};

/// Rows, inputs, outputs: around the 256 columns of two tasks, as many inputs and outputs as in LeNet5's layers, and
/// sums of few terms, which are not split, in more than one tile.
const SIZES: [[usize; 3]; 19] = [
    [1, 1, 1],
    [3, 7, 5],
    [8, 9, 7],
    [17, 16, 15],
    [9, 8, 17],
    [5, 3136, 33],
    [5, 33, 1024],
    [4, 1024, 10],
    [3, 255, 257],
    [2, 256, 256],
    [4, 257, 255],
    [3, 511, 513],
    [3, 769, 1],
    [1, 1, 769],
    [50, 200, 13],
    [70, 16, 68],
    [70, 5, 67],
    [70, 68, 16],
    [70, 67, 5],
];

/// LeNet5's first linear layer.
const LENET5: [usize; 3] = [5, 3136, 1024];

/// Calls `f` with the indices in y, w and x of every product of `n` rows.
fn products(n: usize, [_, inner, out]: [usize; 3], mut f: impl FnMut(usize, usize, usize)) {
    for (row, o) in (0..n).flat_map(|row| (0..out).map(move |o| (row, o))) {
        (0..inner).for_each(|i| f(row * out + o, o * inner + i, row * inner + i));
    }
}

#[test]
pub fn linear() {
    for size @ [n, inner, out] in SIZES {
        let (x, w) = (Random(1).signed(&[n, inner]), Random(2).signed(&[out, inner]));
        OpCase::new(Op::Linear).rows(&x).whole(&w).gives_rows(&[n, out], DType::F32).check(|n| {
            let mut y = vec![Sum::default(); n * out];
            products(n, size, |y_at, w_at, x_at| y[y_at] += x.values[x_at] * w.values[w_at]);
            vec![y]
        });
    }
}

/// With coarse numbers all results are exact, zeros and NaN included. With random numbers they are near.
fn with_bias(relu: bool, size: [usize; 3]) {
    let [n, inner, out] = size;
    let (mut x, w, mut bias) =
        (Random(1).coarse(&[n, inner]), Random(2).coarse(&[out, inner]), Random(3).coarse(&[out]));
    if n * out > 1 {
        x.values[(n - 1) * inner] = f64::NAN;
        bias.values[out / 2] = f64::NAN;
    }
    let real = (Random(4).signed(&[n, inner]), Random(5).signed(&[out, inner]), Random(6).signed(&[out]));
    for (x, w, bias, coarse) in [(x, w, bias, true), (real.0, real.1, real.2, false)] {
        let case = OpCase::new(Op::LinearBias { relu }).rows(&x).whole(&w).whole(&bias);
        case.gives_rows(&[n, out], DType::F32).check(|n| {
            let mut y = vec![Sum::default(); n * out];
            products(n, size, |y_at, w_at, x_at| y[y_at] += x.values[x_at] * w.values[w_at]);
            y.iter_mut().enumerate().for_each(|(i, sum)| *sum += bias.values[i % out]);
            let results = y.into_iter().map(|Sum { value, size }| {
                let value = if relu && value <= 0.0 { 0.0 } else { value };
                if coarse { exact(value) } else { Sum { value, size } }
            });
            vec![results.collect()]
        });
    }
}

#[test]
pub fn linear_bias() {
    SIZES.iter().for_each(|&size| with_bias(false, size));
}

#[test]
pub fn linear_bias_relu() {
    SIZES.iter().for_each(|&size| with_bias(true, size));
}

/// x may be images: each is one row of inputs.
#[test]
fn linear_takes_images_as_rows() {
    let (x, w) = (Random(1).signed(&[3, 2, 2, 5]), Random(2).signed(&[7, 20]));
    OpCase::new(Op::Linear).rows(&x).whole(&w).gives_rows(&[3, 7], DType::F32).check(|n| {
        let mut y = vec![Sum::default(); n * 7];
        products(n, [3, 20, 7], |y_at, w_at, x_at| y[y_at] += x.values[x_at] * w.values[w_at]);
        vec![y]
    });
    let dy = Random(3).signed(&[3, 7]);
    OpCase::new(Op::LinearBackwardInput).rows(&dy).whole(&w).gives_rows(&x.dims, DType::F32).check(|n| {
        let mut dx = vec![Sum::default(); n * 20];
        products(n, [3, 20, 7], |y_at, w_at, x_at| dx[x_at] += dy.values[y_at] * w.values[w_at]);
        vec![dx]
    });
}

fn backward_input(size: [usize; 3]) {
    let [n, inner, out] = size;
    let (dy, w) = (Random(1).signed(&[n, out]), Random(2).signed(&[out, inner]));
    OpCase::new(Op::LinearBackwardInput).rows(&dy).whole(&w).gives_rows(&[n, inner], DType::F32).check(|n| {
        let mut dx = vec![Sum::default(); n * inner];
        products(n, size, |y_at, w_at, x_at| dx[x_at] += dy.values[y_at] * w.values[w_at]);
        vec![dx]
    });
}

#[test]
pub fn linear_backward_input() {
    SIZES.into_iter().for_each(backward_input);
}

/// Possible results of ReLU (zeros of both signs, the least number, infinity, NaN), and negative numbers, which it
/// never returns.
fn rectified(dims: &[usize]) -> Array {
    let corners = [0.0, -0.0, least(), f64::INFINITY, f64::NAN];
    let mut y = Random(3).signed(dims);
    y.values.iter_mut().step_by(3).zip(corners.into_iter().cycle()).for_each(|(v, c)| *v = c);
    y
}

#[test]
pub fn linear_backward_input_is_0_where_the_result_of_relu_is_not_positive() {
    for size @ [n, inner, out] in SIZES {
        let (dy, w, y) = (Random(1).signed(&[n, out]), Random(2).signed(&[out, inner]), rectified(&[n, inner]));
        let case = OpCase::new(Op::LinearBackwardInput).rows(&dy).whole(&w).rows(&y);
        case.gives_rows(&[n, inner], DType::F32).check(|n| {
            let mut dx = vec![Sum::default(); n * inner];
            products(n, size, |y_at, w_at, x_at| dx[x_at] += dy.values[y_at] * w.values[w_at]);
            let masked = dx.into_iter().zip(&y.values).map(|(sum, &y)| if y > 0.0 { sum } else { exact(0.0) });
            vec![masked.collect()]
        });
    }
}

fn backward_weight(size: [usize; 3]) {
    let [n, inner, out] = size;
    let (dy, x) = (Random(1).signed(&[n, out]), Random(2).signed(&[n, inner]));
    OpCase::new(Op::LinearBackwardWeight).rows(&dy).rows(&x).gives_whole(&[out, inner], DType::F32).check(|n| {
        let mut dw = vec![Sum::default(); out * inner];
        products(n, size, |y_at, w_at, x_at| dw[w_at] += dy.values[y_at] * x.values[x_at]);
        vec![dw]
    });
}

#[test]
pub fn linear_backward_weight() {
    SIZES.into_iter().for_each(backward_weight);
}

#[test]
fn linear_in_large_layers() {
    if !runs_long_tests("large layers") {
        return;
    }
    with_bias(true, LENET5);
    backward_input(LENET5);
    backward_weight(LENET5);
}

/// A layer of so many rows, and so few inputs and outputs, that a GPU takes the narrow tile of halves.
pub fn narrow_layer() {
    with_bias(true, [17_000, 8, 24]);
    backward_input([17_000, 24, 8]);
}
