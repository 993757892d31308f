//! kernels/bias.cuh.

use super::desc::{Desc, rows_of};
use super::gemm::sum_splits;
use crate::device::cuda::launch::{Arg, Launch, Lowered, WARP};

/// Items that one block adds up: at least so many, and so many that there are at most [`MOST_SPLITS`] blocks of them.
const SPLIT_MULTIPLE: usize = 128;
const MOST_SPLITS: usize = 256;

/// Items of one split: a multiple of [`SPLIT_MULTIPLE`].
fn split(items: usize) -> usize {
    items.div_ceil(MOST_SPLITS).next_multiple_of(SPLIT_MULTIPLE).max(SPLIT_MULTIPLE)
}

/// The sum of dy over all but its last dimension, in splits, and the sum of those.
pub(super) fn sum_items(desc: &Desc, kernel: &'static str) -> Lowered {
    let ((n, row), k) = (rows_of(desc.input(0)), desc.output(0)[0]);
    let items = n * row / k;
    let (chunk, splits) = (split(items), items.div_ceil(split(items)).max(1));
    let to = if splits > 1 { Arg::Scratch(0) } else { Arg::Output(0) };
    let operands = [to].into_iter().chain((0..desc.inputs()).map(Arg::Input)).chain([Arg::Rows]);
    let args = operands.chain([n, row / k, k, chunk].map(Arg::size)).collect();
    let mut first = Launch::new(kernel, k.div_ceil(WARP), args, desc.cost((items * k) as u64));
    first.grid[1] = u32::try_from(splits).expect("splits are few");
    let launches = if splits > 1 { vec![first, sum_splits(k, splits)] } else { vec![first] };
    Lowered { launches, scratch: if splits > 1 { 4 * k * splits } else { 0 } }
}
