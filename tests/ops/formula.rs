//! Elementwise programs: every instruction and every kind of input, against the same arithmetic in double precision.

use maxmargin::tape::formula::{FORMULA_DEPTH, FORMULA_INPUTS, FORMULA_LENGTH};
use maxmargin::tape::{DType, Formula, Op, Reduction};

use super::support::{Array, OpCase, Random, Sum, exact, near, rounded};

/// Rows of one element, of about a warp, a block of threads and a block of lanes, and an image.
const SHAPES: [&[usize]; 8] = [&[1, 1], &[5], &[3, 31], &[2, 33], &[4, 255], &[3, 257], &[2, 4, 4, 3], &[2, 1027]];

/// Input `i`.
fn x(i: usize) -> Formula {
    Formula::input(i)
}

/// A formula of two inputs, and its value in double precision with its tolerance.
type Expected = (Formula, fn(f64, f64) -> Sum);

/// Formulas that use each instruction, with operands for which it is defined.
fn instructions() -> Vec<Expected> {
    let root = || (x(1).abs() + 0.25, 0.25);
    let (positive, _) = root();
    vec![
        (x(0), |a, _| exact(a)),
        (x(0) + x(1), |a, b| rounded(a + b)),
        (x(0) - x(1), |a, b| rounded(a - b)),
        (x(0) * x(1), |a, b| rounded(a * b)),
        (x(0) / x(1), |a, b| rounded(a / b)),
        (x(0).min(x(1)), |a, b| exact(if b < a { b } else { a })),
        (x(0).max(x(1)), |a, b| exact(if a < b { b } else { a })),
        (x(0).less(x(1)), |a, b| exact(f64::from(a < b))),
        (-x(0), |a, _| exact(-a)),
        (x(0).abs(), |a, _| exact(a.abs())),
        (x(0).sign(), |a, _| {
            exact(if a > 0.0 {
                1.0
            } else if a < 0.0 {
                -1.0
            } else {
                0.0
            })
        }),
        (positive.sqrt(), |_, b| {
            let sum = f64::from((b.abs() + 0.25) as f32);
            rounded(sum.sqrt())
        }),
        (positive.ln(), |_, b| {
            let sum = f64::from((b.abs() + 0.25) as f32);
            near(sum.ln(), 1.0)
        }),
        (x(1).exp(), |_, b| near(b.exp(), b.exp())),
        (x(1).tanh(), |_, b| near(b.tanh(), b.tanh().abs())),
        (x(1).cos(), |_, b| near(b.cos(), 1.0)),
        (x(0).floor(), |a, _| exact(a.floor())),
        ((x(0) * 2.0).round(), |a, _| exact((2.0 * a).round_ties_even())),
        (x(0).less(0.0).select(x(0), x(1)), |a, b| exact(if a < 0.0 { a } else { b })),
        (x(0).clamp(-0.5, 0.5), |a, _| exact(a.clamp(-0.5, 0.5))),
    ]
}

/// Random numbers with ties, zeros of both signs, infinities and NaN among them.
fn numbers(seed: u64, dims: &[usize]) -> Array {
    let corners = [0.0, -0.0, 0.5, -0.5, 1.25, 2.75, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    let mut a = Random(seed).signed(dims);
    a.values.iter_mut().skip(1).step_by(3).zip(corners).for_each(|(v, corner)| *v = corner);
    a
}

#[test]
pub fn map() {
    // Every instruction at one shape, a few at every shape.
    for (seed, dims) in SHAPES.iter().enumerate() {
        let (a, b) = (numbers(seed as u64, dims), Random(99 + seed as u64).coarse(dims));
        for (formula, expected) in instructions().into_iter().step_by(if dims.len() > 2 { 1 } else { 9 }) {
            OpCase::new(Op::Map(formula)).rows(&a).rows(&b).gives_rows(dims, DType::F32).signed_zeros().check(|n| {
                vec![a.values.iter().zip(&b.values).take(n * a.row()).map(|(&a, &b)| expected(a, b)).collect()]
            });
        }
    }
}

#[test]
fn a_formula_reads_a_number_an_element_a_number_a_row_and_one_number_for_all() {
    for dims in SHAPES {
        let (full, by_row, one) = (Random(1).signed(dims), Random(2).signed(&dims[..1]), Random(3).signed(&[1]));
        OpCase::new(Op::Map(x(0) + x(1) * x(2)))
            .rows(&by_row)
            .whole(&one)
            .rows(&full)
            .gives_rows(dims, DType::F32)
            .check(|n| {
                let of = |i: usize| {
                    let product = f64::from((one.values[0] * full.values[i]) as f32);
                    rounded(by_row.values[i / full.row()] + product)
                };
                vec![(0..n * full.row()).map(of).collect()]
            });
    }
}

#[test]
fn a_formula_in_place_reads_the_former_content() {
    for dims in SHAPES {
        let (old, a) = (Random(4).signed(dims), Random(5).signed(dims));
        OpCase::new(Op::Map(x(0).less(Formula::old()).select(x(0), Formula::old()))).rows(&a).updates_rows(&old).check(
            |n| vec![old.values.iter().zip(&a.values).take(n * a.row()).map(|(&o, &a)| exact(o.min(a))).collect()],
        );
    }
}

/// An index before the table reads its first entry, one behind it the last, and NaN the first.
#[test]
fn a_formula_reads_tables_by_index() {
    let table = Random(6).signed(&[7]);
    for dims in SHAPES {
        let mut index = Random(7).coarse(dims);
        index.values.iter_mut().for_each(|v| *v *= 8.0);
        index.values[0] = f64::NAN;
        OpCase::new(Op::Map(x(0).index_into(&x(1)))).rows(&index).whole(&table).gives_rows(dims, DType::F32).check(
            |n| {
                let at = |&v: &f64| exact(table.values[(v.max(0.0) as usize).min(6)]);
                vec![index.values[..n * index.row()].iter().map(at).collect()]
            },
        );
    }
}

#[test]
fn each_row_reads_its_own_table() {
    for dims in SHAPES {
        let (table, index) =
            (Random(12).signed(&[dims[0], 5]), Array::f32(dims, (0..dims.iter().product()).map(|i| (i % 7) as f64)));
        OpCase::new(Op::Map(x(0).index_into(&x(1)))).rows(&index).rows(&table).gives_rows(dims, DType::F32).check(
            |n| {
                let at = |i: usize| exact(table.values[i / index.row() * 5 + (index.values[i] as usize).min(4)]);
                vec![(0..n * index.row()).map(at).collect()]
            },
        );
    }
}

#[test]
fn integers_are_read_as_numbers_and_written_without_a_fraction() {
    let (counts, one) = (Array::u32([0, 7, 1 << 20]), Array::u32([3]));
    let dims = [3, 2];
    let full = Array::f32(&dims, [0.0, 1.0, 2.5, -3.0, f64::NAN, 7.9]);
    OpCase::new(Op::Map(x(0) + x(1) * x(2)))
        .rows(&counts)
        .whole(&one)
        .rows(&full)
        .gives_rows(&dims, DType::F32)
        .check(|n| vec![(0..2 * n).map(|i| rounded(counts.values[i / 2] + 3.0 * full.values[i])).collect()]);
    let step = Array::f32(&[3], [-9.0, 0.75, f64::NAN]);
    let written = [0.0, 7.0, 0.0];
    OpCase::new(Op::Map(Formula::old() + x(0)))
        .rows(&step)
        .updates_rows(&counts)
        .check(|n| vec![written[..n].iter().copied().map(exact).collect()]);
}

#[test]
fn an_element_knows_its_place_in_its_row() {
    for dims in SHAPES {
        let a = Random(8).coarse(dims);
        OpCase::new(Op::Map(x(0) + Formula::element()))
            .rows(&a)
            .gives_rows(dims, DType::F32)
            .check(|n| vec![(0..n * a.row()).map(|i| rounded(a.values[i] + (i % a.row()) as f64)).collect()]);
    }
}

#[test]
fn formulas_of_the_most_instructions_inputs_and_stacked_values_are_computed() {
    let dims = &[3, 40][..];
    let arrays: Vec<Array> = (0..FORMULA_INPUTS).map(|i| Random(20 + i as u64).coarse(dims)).collect();
    let wide = (1..FORMULA_INPUTS).fold(x(0), |sum, i| sum + x(i));
    let deep = (1..FORMULA_DEPTH).rev().fold(x(0), |sum, i| x(i) + sum);
    let long = (0..FORMULA_LENGTH - wide.code().len()).fold(wide.clone(), |sum, _| -sum);
    let signs = [1.0, 1.0, if (FORMULA_LENGTH - wide.code().len()).is_multiple_of(2) { 1.0 } else { -1.0 }];
    assert_eq!(long.code().len(), FORMULA_LENGTH);
    for (formula, sign) in [wide, deep, long].into_iter().zip(signs) {
        let case = arrays.iter().fold(OpCase::new(Op::Map(formula)), |case, a| case.rows(a));
        case.gives_rows(dims, DType::F32).check(|n| {
            let sum = |i: usize| exact(sign * arrays.iter().map(|a| a.values[i]).sum::<f64>());
            vec![(0..n * 40).map(sum).collect()]
        });
    }
}

#[test]
pub fn reduce() {
    for dims in SHAPES {
        let (a, by_row) = (Random(9).signed(dims), Random(10).signed(&dims[..1]));
        let rows = |n: usize| (0..n).map(|r| (&a.values[r * a.row()..][..a.row()], by_row.values[r]));
        let product = |v: f64, w: f64| f64::from((v * w) as f32);
        OpCase::new(Op::Reduce(Reduction::Sum, x(0) * x(1)))
            .rows(&by_row)
            .rows(&a)
            .gives_rows(&dims[..1], DType::F32)
            .check(|n| {
                let sum = |(row, w): (&[f64], f64)| {
                    let mut sum = Sum::default();
                    row.iter().for_each(|&v| sum += product(v, w));
                    sum
                };
                vec![rows(n).map(sum).collect()]
            });
        for (reduction, least) in [(Reduction::Max, false), (Reduction::Min, true)] {
            OpCase::new(Op::Reduce(reduction, x(1) + x(0) * 0.0))
                .rows(&by_row)
                .rows(&a)
                .gives_rows(&dims[..1], DType::F32)
                .check(|n| {
                    let of =
                        |(row, _): (&[f64], f64)| row.iter().copied().reduce(if least { f64::min } else { f64::max });
                    vec![rows(n).map(|row| exact(of(row).unwrap())).collect()]
                });
        }
    }
}

/// Zeros of both signs, in either order, in one thread's elements or in two threads'.
#[test]
fn a_maximum_or_minimum_of_zeros_is_positive_zero() {
    for (reduction, beyond) in [(Reduction::Max, -1.0), (Reduction::Min, 1.0)] {
        let mut a = Array::f32(&[4, 600], vec![beyond; 4 * 600]);
        for (row, [first, second]) in [[0, 1], [40, 300], [7, 263], [8, 9]].into_iter().enumerate() {
            a.values[row * 600 + first] = -0.0;
            a.values[row * 600 + second] = if row < 3 { 0.0 } else { -0.0 };
        }
        OpCase::new(Op::Reduce(reduction, x(0)))
            .rows(&a)
            .gives_rows(&[4], DType::F32)
            .signed_zeros()
            .check(|n| vec![vec![exact(0.0); n]]);
    }
}

/// A maximum or minimum ignores NaN; a sum does not.
#[test]
fn a_maximum_or_minimum_ignores_nan() {
    let a = Array::f32(&[2, 3], [f64::NAN, 2.0, -1.0, f64::NAN, f64::NAN, f64::NAN]);
    for (reduction, expected) in [
        (Reduction::Max, [2.0, f64::NEG_INFINITY]),
        (Reduction::Min, [-1.0, f64::INFINITY]),
        (Reduction::Sum, [f64::NAN; 2]),
    ] {
        OpCase::new(Op::Reduce(reduction, x(0)))
            .rows(&a)
            .gives_rows(&[2], DType::F32)
            .check(|n| vec![expected[..n].iter().copied().map(exact).collect()]);
    }
}
