//! Launches of the kernels built on kernels/bias.cuh.

use super::desc::{Desc, rows_of};
use crate::device::cuda::launch::{Arg, COUNTERS, Launch, Lowered, WARP};
use crate::tape::DType;

/// Number that the items of a split are a multiple of.
const SPLIT_MULTIPLE: usize = 128;
/// Splits of a sum, at most.
const MOST_SPLITS: usize = 256;

/// Number of items of one split.
fn split(items: usize) -> usize {
    items.div_ceil(MOST_SPLITS).next_multiple_of(SPLIT_MULTIPLE).max(SPLIT_MULTIPLE)
}

/// Sums dy over all but its last dimension, by a kernel of dy in single or in half precision. Its blocks write splits to
/// scratch memory, and the last block of a group of channels adds them.
pub(super) fn sum_items(desc: &Desc, kernels: [&'static str; 2]) -> Lowered {
    let ((n, row), k) = (rows_of(desc.input(0)), desc.output(0)[0]);
    let items = n * row / k;
    let (chunk, splits) = (split(items), items.div_ceil(split(items)).max(1));
    let to = [Arg::Output(0), if splits > 1 { Arg::Scratch(0) } else { Arg::Null }, Arg::Counters];
    let operands = to.into_iter().chain((0..desc.inputs()).map(Arg::Input)).chain([Arg::Rows]);
    let args = operands.chain([n, row / k, k, chunk].map(Arg::size)).collect();
    let kernel = kernels[usize::from(desc.input_dtype(0) == DType::F16)];
    let mut launch = Launch::new(kernel, k.div_ceil(WARP), args, desc.cost((items * k) as u64));
    assert!(launch.grid[0] as usize <= COUNTERS, "a counter for a group of channels");
    launch.grid[1] = u32::try_from(splits).expect("splits are few");
    Lowered { launches: vec![launch], scratch: if splits > 1 { 4 * k * splits } else { 0 } }
}
