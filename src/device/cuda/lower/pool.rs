//! Launches of kernels/pool.cu.

use super::desc::{Desc, rows_of};
use crate::device::cuda::launch::{Arg, Launch, Lowered};

pub(super) fn max_pool2d(desc: &Desc) -> Lowered {
    let args = vec![Arg::Output(0), Arg::Output(1), Arg::Input(0)];
    pool(desc, desc.by_result("max_pool2d", "max_pool2d_half"), desc.output(0), args)
}

pub(super) fn max_pool2d_backward(desc: &Desc) -> Lowered {
    let args = vec![Arg::Output(0), Arg::Input(0), Arg::Input(1)];
    pool(desc, desc.by_result("max_pool2d_backward", "max_pool2d_backward_half"), desc.input(0), args)
}

/// A launch of a thread a pooled output; `dims` are the dimensions of the pooled outputs.
fn pool(desc: &Desc, kernel: &'static str, dims: &[usize], operands: Vec<Arg>) -> Lowered {
    let (n, row) = rows_of(dims);
    let sizes = [n, row, dims[2], dims[3]].map(Arg::size);
    let args = operands.into_iter().chain([Arg::Rows]).chain(sizes).collect();
    Launch::each(kernel, n * row, args, desc.cost(0)).into()
}
