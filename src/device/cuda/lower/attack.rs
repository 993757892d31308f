//! Launches of kernels/attack.cu.

use super::desc::{Desc, rows_of};
use super::elementwise::width;
use crate::device::cuda::launch::{Arg, Launch, THREADS};
use crate::rng::Purpose;
use crate::tape::{AlongRule, Direction, L2Order, Norm, Op, PgdRule};

/// FLOPs a number of an image, as the kernels' comments count them.
pub(super) mod flops {
    use crate::tape::{AlongRule, Direction};

    pub const UNIFORM: usize = 2;
    pub const LINF_START: usize = 25;
    pub const LINF_STEP: usize = 26;
    pub const L2_START: usize = 14;
    pub const L2_STEP: usize = 20;
    const ALONG_EPS: usize = 6;
    const ALONG_UNIT: usize = 9;

    /// Those of a point along a direction, if there is one.
    pub fn of_point(along: Option<AlongRule>) -> usize {
        along.map_or(0, |rule| match rule.direction {
            Direction::Eps => ALONG_EPS,
            Direction::Unit => ALONG_UNIT,
        })
    }
}

/// Arguments of a kernel that may include a point along a direction: unit, l2 and box.
pub(super) fn along_numbers(along: Option<AlongRule>) -> [Arg; 3] {
    let is = |rule: fn(&AlongRule) -> bool| Arg::Int(i32::from(along.as_ref().is_some_and(rule)));
    [is(|rule| rule.direction == Direction::Unit), is(|rule| rule.norm == Norm::L2), is(|rule| rule.clamp)]
}

/// Blocks that work on one row of the batch.
#[derive(Clone, Copy)]
enum BlocksPerRow {
    /// A block for each [`THREADS`] numbers, or vectors of four, of a row: `RowPosition` in the kernels.
    Many,
    /// A block a row.
    One,
}

/// A launch whose arguments are the output, `inputs`, `numbers`, the count of active rows, the capacity in rows and the
/// elements of a row: numbers, or vectors of four.
fn launch(
    desc: &Desc,
    kernel: &'static str,
    width: usize,
    blocks: BlocksPerRow,
    inputs: &[usize],
    numbers: &[Arg],
    flops: usize,
) -> Launch {
    let (n, row) = rows_of(desc.output(0));
    let wide = row / width;
    let mut args = vec![Arg::Output(0)];
    args.extend(inputs.iter().copied().map(Arg::Input));
    args.extend_from_slice(numbers);
    args.extend([Arg::Rows, Arg::size(n), Arg::size(wide)]);
    let blocks = match blocks {
        BlocksPerRow::Many => n * wide.div_ceil(THREADS),
        BlocksPerRow::One => n,
    };
    let flops = (flops * n * row) as u64;
    let cost = if matches!(desc.op, Op::PgdStep(_)) { desc.cost_of_update(flops) } else { desc.cost(flops) };
    Launch::new(kernel, blocks, args, cost)
}

pub(super) fn uniform(desc: &Desc, seed: u64, purpose: Purpose, signed: bool) -> Launch {
    let (n, row) = rows_of(desc.output(0));
    let seed = [seed as u32, (seed >> 32) as u32].map(Arg::Unsigned);
    let mut args = vec![Arg::Output(0), Arg::Input(0), Arg::Input(1)];
    args.extend(seed);
    args.extend([Arg::Unsigned(purpose as u32), Arg::Int(i32::from(signed)), Arg::Rows, Arg::size(n)]);
    let (kernel, wide) = if width(desc, row) > 1 { ("uniform_x4", row / 4) } else { ("uniform", row) };
    args.push(Arg::size(wide));
    Launch::each(kernel, n * row.div_ceil(4), args, desc.cost((flops::UNIFORM * n * row) as u64))
}

pub(super) fn pgd_start(desc: &Desc, norm: Norm) -> Launch {
    let width = width(desc, rows_of(desc.output(0)).1);
    let (kernel, blocks, flops) = match (norm, width) {
        (Norm::Linf, 1) => ("pgd_start_linf", BlocksPerRow::Many, flops::LINF_START),
        (Norm::Linf, _) => ("pgd_start_linf_x4", BlocksPerRow::Many, flops::LINF_START),
        (Norm::L2, 1) => ("pgd_start_l2", BlocksPerRow::One, flops::L2_START),
        (Norm::L2, _) => ("pgd_start_l2_x4", BlocksPerRow::One, flops::L2_START),
    };
    launch(desc, kernel, width, blocks, &[0, 1, 2], &[], flops)
}

pub(super) fn pgd_step(desc: &Desc, rule: PgdRule) -> Launch {
    let row = rows_of(desc.output(0)).1;
    let width = width(desc, row);
    let inputs = [0, 1, 2, 3];
    match rule.norm {
        Norm::Linf => {
            let kernel = if width > 1 { "pgd_step_linf_x4" } else { "pgd_step_linf" };
            launch(desc, kernel, width, BlocksPerRow::Many, &inputs, &[], flops::LINF_STEP)
        }
        Norm::L2 => {
            // A thread holds up to three vectors of four in registers; longer rows are read again from memory.
            let (kernel, width) = match (row / width).div_ceil(THREADS) {
                1 if width > 1 => ("pgd_step_l2_registers1", width),
                2..=3 if width > 1 => ("pgd_step_l2_registers3", width),
                _ => ("pgd_step_l2", 1),
            };
            let box_first = rule.l2_order == L2Order::BoxBall;
            let numbers = [Arg::Float(rule.l2_grad_floor), Arg::Int(i32::from(box_first))];
            launch(desc, kernel, width, BlocksPerRow::One, &inputs, &numbers, flops::L2_STEP)
        }
    }
}

pub(super) fn along_direction(desc: &Desc, rule: AlongRule) -> Launch {
    let clamp = Arg::Int(i32::from(rule.clamp));
    match rule.direction {
        Direction::Eps => {
            let width = width(desc, rows_of(desc.output(0)).1);
            let kernel = if width > 1 { "along_direction_eps_x4" } else { "along_direction_eps" };
            launch(desc, kernel, width, BlocksPerRow::Many, &[0, 1, 2, 3], &[clamp], flops::of_point(Some(rule)))
        }
        Direction::Unit => {
            let numbers = [Arg::Int(i32::from(rule.norm == Norm::L2)), clamp];
            launch(
                desc,
                "along_direction_unit",
                1,
                BlocksPerRow::One,
                &[0, 1, 3],
                &numbers,
                flops::of_point(Some(rule)),
            )
        }
    }
}

pub(super) fn bisect(desc: &Desc, max_eps: f32) -> Launch {
    let n = desc.output(0)[0];
    let mut args: Vec<Arg> = (0..3).map(Arg::Output).collect();
    args.extend([Arg::Input(0), Arg::Float(max_eps), Arg::Rows, Arg::size(n)]);
    Launch::each("bisect", n, args, desc.cost_of_update(4 * n as u64))
}
