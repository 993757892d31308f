//! Interpreter of elementwise programs ([`Formula`]): a stack machine that runs each instruction for a block of
//! elements.

use rayon::prelude::*;

use super::elementwise::{larger, smaller};
use super::simd::vectorized;
use crate::tape::Reduction;
use crate::tape::formula::{FORMULA_DEPTH, Formula, Instruction};

/// Elements of a block. The stack of a block fits the L1 cache.
const LANES: usize = 256;
/// Elements of one task, in whole rows.
const TASK: usize = 1 << 14;

/// Stack of the machine: a number an element at each depth.
type Stack = [[f32; LANES]; FORMULA_DEPTH];

/// Element type that formulas read and write. They compute in single precision.
pub(super) trait Number: Copy + Send + Sync {
    fn to_f32(self) -> f32;
    fn of_f32(value: f32) -> Self;
}

impl Number for f32 {
    fn to_f32(self) -> f32 {
        self
    }
    fn of_f32(value: f32) -> f32 {
        value
    }
}

impl Number for u32 {
    fn to_f32(self) -> f32 {
        self as f32
    }
    /// Drops the fraction. Negative numbers and NaN become 0.
    fn of_f32(value: f32) -> u32 {
        value as u32
    }
}

/// Elements of an input.
#[derive(Clone, Copy)]
pub(super) enum InputNumbers<'a> {
    F32(&'a [f32]),
    U32(&'a [u32]),
}

impl InputNumbers<'_> {
    #[inline(always)]
    fn at(self, i: usize) -> f32 {
        match self {
            InputNumbers::F32(values) => values[i],
            InputNumbers::U32(values) => values[i].to_f32(),
        }
    }

    fn len(self) -> usize {
        match self {
            InputNumbers::F32(values) => values.len(),
            InputNumbers::U32(values) => values.len(),
        }
    }
}

/// Access to an input.
#[derive(Clone, Copy)]
enum InputAccess {
    /// One number an element.
    Elements,
    /// One number a row.
    Rows,
    /// One number for all elements.
    One,
    /// By index, in a table of so many numbers a row.
    TableByRow(usize),
    /// By index, in one table for all rows.
    Table,
}

/// A formula with its inputs, for rows of `row` elements.
pub(super) struct BoundFormula<'a> {
    code: &'a [Instruction],
    inputs: Vec<(InputNumbers<'a>, InputAccess)>,
    row: usize,
}

impl<'a> BoundFormula<'a> {
    /// Binds inputs, whole, with their dimensions, to a formula over `capacity` rows of `row` elements.
    pub fn new(
        formula: &'a Formula,
        inputs: Vec<(InputNumbers<'a>, &[usize])>,
        capacity: usize,
        row: usize,
    ) -> BoundFormula<'a> {
        let reading = |(i, (values, dims)): (usize, (InputNumbers<'a>, &[usize]))| match values.len() {
            len if formula.is_table(i) && dims.len() > 1 => (values, InputAccess::TableByRow(len / dims[0])),
            _ if formula.is_table(i) => (values, InputAccess::Table),
            len if len == capacity * row => (values, InputAccess::Elements),
            len if len == capacity => (values, InputAccess::Rows),
            _ => (values, InputAccess::One),
        };
        BoundFormula { code: formula.code(), inputs: inputs.into_iter().enumerate().map(reading).collect(), row }
    }

    /// Evaluates `lanes` (at most [`LANES`]) elements of a row from `element` on. The results are the first `lanes`
    /// numbers at the bottom of the stack.
    #[inline(always)]
    fn run<T: Number>(&self, stack: &mut Stack, old: &[T], row: usize, element: usize, lanes: usize) {
        let mut held = 0;
        for instruction in self.code {
            let (below, above) = stack.split_at_mut(held);
            match *instruction {
                Instruction::Input(i) => match self.inputs[usize::from(i)] {
                    (InputNumbers::F32(values), InputAccess::Elements) => {
                        above[0][..lanes].copy_from_slice(&values[row * self.row + element..][..lanes]);
                    }
                    (InputNumbers::U32(values), InputAccess::Elements) => {
                        let values = &values[row * self.row + element..][..lanes];
                        above[0].iter_mut().zip(values).for_each(|(v, from)| *v = from.to_f32());
                    }
                    (values, InputAccess::Rows) => above[0].fill(values.at(row)),
                    (values, _) => above[0].fill(values.at(0)),
                },
                Instruction::Old => above[0].iter_mut().zip(&old[..lanes]).for_each(|(v, old)| *v = old.to_f32()),
                Instruction::Element => (0..).zip(&mut above[0]).for_each(|(i, v)| *v = (element as u32 + i) as f32),
                Instruction::Number(number) => above[0].fill(number),
                Instruction::At(i) => {
                    let (table, reading) = self.inputs[usize::from(i)];
                    let (from, len) = match reading {
                        InputAccess::TableByRow(len) => (row * len, len),
                        _ => (0, table.len()),
                    };
                    // The cast saturates, and makes NaN 0.
                    below[held - 1].iter_mut().for_each(|v| *v = table.at(from + (*v as usize).min(len - 1)));
                }
                Instruction::Add => two(below, |a, b| a + b),
                Instruction::Sub => two(below, |a, b| a - b),
                Instruction::Mul => two(below, |a, b| a * b),
                Instruction::Div => two(below, |a, b| a / b),
                Instruction::Min => two(below, |a, b| if b < a { b } else { a }),
                Instruction::Max => two(below, |a, b| if a < b { b } else { a }),
                Instruction::Less => two(below, |a, b| f32::from(a < b)),
                Instruction::Neg => one(below, |a| -a),
                Instruction::Abs => one(below, f32::abs),
                Instruction::Sign => one(below, |a| f32::from(a > 0.0) - f32::from(a < 0.0)),
                Instruction::Sqrt => one(below, f32::sqrt),
                Instruction::Exp => one(below, f32::exp),
                Instruction::Ln => one(below, f32::ln),
                Instruction::Tanh => one(below, f32::tanh),
                Instruction::Cos => one(below, f32::cos),
                Instruction::Floor => one(below, f32::floor),
                Instruction::Round => one(below, f32::round_ties_even),
                Instruction::Select => {
                    let [.., choice, yes, no] = below else { unreachable!("checked when recorded") };
                    for ((c, yes), no) in choice.iter_mut().zip(yes).zip(no) {
                        *c = if *c != 0.0 { *yes } else { *no };
                    }
                }
            }
            held = held + 1 - instruction.operands();
        }
    }
}

/// Applies `f` to the top of the stack.
#[inline(always)]
fn one(stack: &mut [[f32; LANES]], f: impl Fn(f32) -> f32) {
    let [.., a] = stack else { unreachable!("checked when recorded") };
    a.iter_mut().for_each(|a| *a = f(*a));
}

/// Applies `f` to the two uppermost numbers of the stack; the result replaces the lower.
#[inline(always)]
fn two(stack: &mut [[f32; LANES]], f: impl Fn(f32, f32) -> f32) {
    let [.., a, b] = stack else { unreachable!("checked when recorded") };
    a.iter_mut().zip(b).for_each(|(a, b)| *a = f(*a, *b));
}

/// `out = formula`. The formula may read the former content of `out`.
pub(super) fn map<T: Number>(out: &mut [T], bound: &BoundFormula) {
    if out.is_empty() {
        return;
    }
    // Rows of one element are computed as one long row, unless an instruction depends on the row.
    let by_row = |i: &Instruction| matches!(i, Instruction::Element | Instruction::At(_));
    let single = bound.row == 1 && !bound.code.iter().any(by_row);
    let width = if single { out.len() } else { bound.row };
    let rows = (TASK / width).max(1);
    out.par_chunks_mut(rows * width).enumerate().for_each(|(task, out)| {
        vectorized(
            #[inline(always)]
            || {
                let mut stack = [[0.0; LANES]; FORMULA_DEPTH];
                for (i, out) in out.chunks_mut(width).enumerate() {
                    for (block, out) in out.chunks_mut(LANES).enumerate() {
                        bound.run(&mut stack, out, task * rows + i, block * LANES, out.len());
                        out.iter_mut().zip(&stack[0]).for_each(|(out, v)| *out = T::of_f32(*v));
                    }
                }
            },
        );
    });
}

/// Reduces the formula's numbers along each row; `out` has one result a row.
pub(super) fn reduce(out: &mut [f32], reduction: Reduction, bound: &BoundFormula) {
    if out.is_empty() {
        return;
    }
    let rows = (TASK / bound.row).max(1);
    out.par_chunks_mut(rows).enumerate().for_each(|(task, out)| {
        vectorized(
            #[inline(always)]
            || {
                let mut stack = [[0.0; LANES]; FORMULA_DEPTH];
                for (i, out) in out.iter_mut().enumerate() {
                    let mut sums = [0f64; 16];
                    let mut extreme = match reduction {
                        Reduction::Max => f32::NEG_INFINITY,
                        Reduction::Sum | Reduction::Min => f32::INFINITY,
                    };
                    for from in (0..bound.row).step_by(LANES) {
                        let lanes = LANES.min(bound.row - from);
                        bound.run::<f32>(&mut stack, &[], task * rows + i, from, lanes);
                        let values = &stack[0][..lanes];
                        match reduction {
                            Reduction::Sum => values.chunks(16).for_each(|values| {
                                sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += f64::from(*v));
                            }),
                            Reduction::Max => values.iter().for_each(|&v| extreme = larger(v, extreme)),
                            Reduction::Min => values.iter().for_each(|&v| extreme = smaller(v, extreme)),
                        }
                    }
                    // By the addition, a zero of either sign becomes 0, as on the GPU.
                    *out = if reduction == Reduction::Sum { sums.iter().sum::<f64>() as f32 } else { extreme + 0.0 };
                }
            },
        );
    });
}
