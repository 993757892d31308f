//! Launches of kernels/image.cu.

use super::desc::{Desc, rows_of};
use super::element_types::ElementTypes;
use super::elementwise::width;
use crate::device::cuda::launch::{Arg, Cost, Launch};
use crate::rng::Purpose;

/// FLOPs a number of an image, as the kernels' comments count them.
pub(super) mod flops {
    pub const STANDARDIZE: usize = 6;
    pub const STANDARDIZE_BACKWARD: usize = 9;
}

/// A launch of a block an image. Arguments: `operands`, the count of active rows, the capacity in rows, and the numbers
/// or vectors of four of an image.
fn by_rows(desc: &Desc, [one, x4]: [&'static str; 2], operands: Vec<Arg>, flops: usize) -> Launch {
    let (n, row) = rows_of(desc.input(0));
    let width = width(desc, row);
    let args = operands.into_iter().chain([Arg::Rows]).chain([n, row / width].map(Arg::size)).collect();
    Launch::new(if width > 1 { x4 } else { one }, n, args, desc.cost((flops * n * row) as u64))
}

pub(super) fn standardize(desc: &Desc) -> Launch {
    let operands = vec![Arg::Output(0), Arg::Output(1), Arg::Input(0)];
    by_rows(desc, ["standardize", "standardize_x4"], operands, flops::STANDARDIZE)
}

pub(super) fn standardize_backward(desc: &Desc) -> Launch {
    let operands = [Arg::Output(0)].into_iter().chain((0..3).map(Arg::Input)).collect();
    let kernels = ["standardize_backward", "standardize_backward_x4"];
    by_rows(desc, kernels, operands, flops::STANDARDIZE_BACKWARD)
}

/// Numbers of rows, pixels and channels of images.
fn sizes(dims: &[usize]) -> [usize; 3] {
    let (&[n, c], pixels) = (&[dims[0], dims[3]], dims[1] * dims[2]);
    [n, pixels, c]
}

pub(super) fn global_mean(desc: &Desc) -> Launch {
    let [n, pixels, c] = sizes(desc.input(0));
    let args = [Arg::Output(0), Arg::Input(0), Arg::Rows].into_iter().chain([n, pixels, c].map(Arg::size)).collect();
    let kernel = if desc.types == ElementTypes::FromHalf { "global_mean_from_half" } else { "global_mean" };
    Launch::each(kernel, n * c, args, desc.cost((n * pixels * c) as u64))
}

pub(super) fn global_mean_backward(desc: &Desc) -> Launch {
    let [n, pixels, c] = sizes(desc.output(0));
    let vector = width(desc, c);
    let sizes = [n, pixels, c / vector].map(Arg::size);
    let args = [Arg::Output(0), Arg::Input(0), Arg::Rows].into_iter().chain(sizes).collect();
    let half = ["global_mean_backward_to_half", "global_mean_backward_to_half_x8"];
    let kernels = desc.by_result(["global_mean_backward", "global_mean_backward_x4"], half);
    Launch::each(kernels[usize::from(vector > 1)], n * pixels * (c / vector), args, desc.cost((n * pixels * c) as u64))
}

pub(super) fn draw_augmentation(desc: &Desc, seed: u64, reach: u32) -> Launch {
    let n = desc.output(0)[0];
    let numbers = [seed as u32, (seed >> 32) as u32, Purpose::Augment as u32, reach].map(Arg::Unsigned);
    let operands = [Arg::Output(0), Arg::Input(0), Arg::Input(1)];
    let args = operands.into_iter().chain(numbers).chain([Arg::Rows, Arg::size(n)]).collect();
    Launch::each("draw_augmentation", n, args, desc.cost(0))
}

/// The cost counts only the rows that the index names.
pub(super) fn gather_augmented(desc: &Desc, reach: u32) -> Launch {
    let &[n, h, w, c] = desc.output(0) else { unreachable!("images are [n, h, w, c]") };
    let operands = [Arg::Output(0), Arg::Input(0), Arg::Input(1), Arg::Input(2)];
    let numbers = [Arg::size(reach as usize), Arg::Rows].into_iter().chain([n, h, w, c].map(Arg::size));
    let args = operands.into_iter().chain(numbers).collect();
    let cost = Cost { bytes: (n * (2 * h * w * c + 16)) as u64, flops: 0 };
    Launch::each("gather_augmented", n * h * w * c, args, cost)
}
