//! Launch of kernels/hyperplane.cu.

use super::desc::{Desc, rows_of};
use crate::device::cuda::launch::{Arg, Launch};
use crate::tape::Norm;

/// FLOPs a number of an image, as the kernel's comment counts them.
const FLOPS: usize = 50;

/// A launch of a block a row.
pub(super) fn project_hyperplane(desc: &Desc, norm: Norm) -> Launch {
    let (n, row) = rows_of(desc.output(0));
    let mut args = vec![Arg::Output(0)];
    args.extend((0..4).map(Arg::Input));
    args.extend([Arg::Int(i32::from(norm == Norm::L2)), Arg::Rows, Arg::size(n), Arg::size(row)]);
    Launch::new("project_hyperplane", n, args, desc.cost((FLOPS * n * row) as u64))
}
