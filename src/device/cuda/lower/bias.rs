//! kernels/bias.cuh.

use super::gemm::{SUMMED, sum_splits};
use super::{Arg, Desc, Lowered, rows_of};
use crate::device::cuda::launch::Launch;

/// Items that one block adds up: at least so many, and so many that there are at most [`MOST_SHARES`] blocks of them.
const SHARE: usize = 128;
const MOST_SHARES: usize = 256;

/// Items of one share: a multiple of [`SHARE`].
fn share(items: usize) -> usize {
    items.div_ceil(MOST_SHARES).next_multiple_of(SHARE).max(SHARE)
}

/// The sum of dy over all but its last dimension, in shares, and the sum of those.
pub(super) fn sum_items(desc: &Desc, kernel: &'static str) -> Lowered {
    let ((n, row), k) = (rows_of(desc.input(0)), desc.output(0)[0]);
    let items = n * row / k;
    let (chunk, shares) = (share(items), items.div_ceil(share(items)).max(1));
    let to = if shares > 1 { Arg::Scratch(0) } else { Arg::Output(0) };
    let operands = [to].into_iter().chain((0..desc.inputs()).map(Arg::Input)).chain([Arg::Rows]);
    let args = operands.chain([n, row / k, k, chunk].map(Arg::size)).collect();
    let mut first = Launch::new(kernel, k.div_ceil(SUMMED), args, desc.cost((items * k) as u64));
    first.grid[1] = u32::try_from(shares).expect("shares are few");
    let launches = if shares > 1 { vec![first, sum_splits(k, shares)] } else { vec![first] };
    Lowered { launches, scratch: if shares > 1 { 4 * k * shares } else { 0 } }
}
