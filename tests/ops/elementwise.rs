//! Elementwise ops, and biases.

use maxmargin::tape::{DType, Op};

use super::support::half::stored;
use super::support::{Array, OpCase, Random, Sum, exact, rounded};

/// One element, an odd number, sizes around 8 and 16, and around a task's 16,384 elements.
const SHAPES: [&[usize]; 9] =
    [&[1], &[1, 1], &[5, 7], &[7, 8], &[3, 9], &[17, 15], &[16, 1031], &[2, 8192], &[3, 2, 5461]];

/// Random numbers with special values among them.
fn numbers(seed: u64, dims: &[usize]) -> Array {
    let corners = [0.0, -0.0, 1.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e-45, -1e-45, 3.4e38];
    let mut a = Random(seed).signed(dims);
    a.values.iter_mut().skip(1).step_by(2).zip(corners).for_each(|(v, corner)| *v = stored(corner));
    a
}

/// Checks an op of one operand.
fn map(op: Op, f: impl Fn(f64) -> Sum) {
    for (seed, dims) in SHAPES.iter().enumerate() {
        let a = numbers(seed as u64, dims);
        OpCase::new(op.clone())
            .rows(&a)
            .gives_rows(dims, DType::F32)
            .signed_zeros()
            .check(|n| vec![a.values[..n * a.row()].iter().map(|&a| f(a)).collect()]);
    }
}

/// Checks an op of two operands of one shape.
fn zip(op: Op, f: impl Fn(f64, f64) -> Sum) {
    for (seed, dims) in SHAPES.iter().enumerate() {
        let (a, b) = (numbers(seed as u64, dims), Random(77 + seed as u64).signed(dims));
        for (a, b) in [(&a, &b), (&b, &a)] {
            OpCase::new(op.clone())
                .rows(a)
                .rows(b)
                .gives_rows(dims, DType::F32)
                .signed_zeros()
                .check(|n| vec![a.values.iter().zip(&b.values).take(n * a.row()).map(|(&a, &b)| f(a, b)).collect()]);
        }
    }
}

#[test]
pub fn bytes_to_unit() {
    for dims in [&[256][..], &[1, 1], &[3, 17, 1031], &[2, 28, 28, 1]] {
        let bytes = Array::u8(dims, (0..dims.iter().product::<usize>()).map(|i| (i % 256) as u8));
        OpCase::new(Op::BytesToUnit)
            .rows(&bytes)
            .gives_rows(dims, DType::F32)
            .check(|n| vec![bytes.values[..n * bytes.row()].iter().map(|b| rounded(b / 255.0)).collect()]);
    }
}

#[test]
pub fn copy() {
    map(Op::Copy, exact);
}

#[test]
pub fn fill() {
    for value in [0.0, -1.5, 1e-38] {
        for dims in SHAPES {
            OpCase::new(Op::Fill { value }).gives_rows(dims, DType::F32).check(|n| {
                let row: usize = dims[1..].iter().product();
                vec![vec![exact(f64::from(value)); n * row]]
            });
        }
    }
}

#[test]
pub fn add() {
    zip(Op::Add, |a, b| rounded(a + b));
}

#[test]
pub fn scale() {
    for factor in [0.0, 1.0, -2.5, 0.1] {
        map(Op::Scale { factor }, |a| rounded(f64::from(factor) * a));
    }
}

/// NaN, an example's unknown margin, becomes the least value; -0 becomes 0 if that is the least value.
#[test]
pub fn clamp_min() {
    for least in [0.0, 0.1, -0.5] {
        map(Op::ClampMin { least }, |a| exact(if a > f64::from(least) { a } else { f64::from(least) }));
    }
}

/// NaN passes through: so a network that has diverged is noticed.
#[test]
pub fn relu() {
    map(Op::Relu, |x| exact(if x <= 0.0 { 0.0 } else { x }));
}

/// The gradient is 0 at 0.
#[test]
pub fn relu_backward() {
    zip(Op::ReluBackward, |dy, y| exact(if y > 0.0 { dy } else { 0.0 }));
}

/// Shapes with a bias along the last dimension.
const BIASED: [&[usize]; 10] = [
    &[1, 1],
    &[2, 1, 1, 7],
    &[3, 5, 8],
    &[5, 9],
    &[4, 15],
    &[2, 16],
    &[3, 17],
    &[2, 28, 28, 32],
    &[3, 1024],
    &[2, 3, 16_385],
];

#[test]
pub fn add_bias() {
    for dims in BIASED {
        let k = *dims.last().unwrap();
        let (x, bias) = (numbers(1, dims), Random(2).signed(&[k]));
        OpCase::new(Op::AddBias).rows(&x).whole(&bias).gives_rows(dims, DType::F32).check(|n| {
            let sum = |(i, &x): (usize, &f64)| rounded(x + bias.values[i % k]);
            vec![x.values[..n * x.row()].iter().enumerate().map(sum).collect()]
        });
    }
}

#[test]
pub fn add_bias_backward_bias() {
    for dims in BIASED {
        let k = *dims.last().unwrap();
        let dy = Random(3).signed(dims);
        OpCase::new(Op::AddBiasBackwardBias).rows(&dy).gives_whole(&[k], DType::F32).check(|n| {
            let mut sums = vec![Sum::default(); k];
            dy.values[..n * dy.row()].iter().enumerate().for_each(|(i, &dy)| sums[i % k] += dy);
            vec![sums]
        });
    }
}
