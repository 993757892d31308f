//! Launches of kernels/elementwise.cu.

use super::bias::sum_items;
use super::desc::{Desc, rows_of};
use crate::device::cuda::launch::{Arg, Launch, Lowered};
use crate::tape::DType;

/// Elements that a thread reads and writes at once: 16 bytes of results, which are 4 numbers or 8 halves, if the length
/// of a row and all addresses allow it, else 1.
pub(super) fn width(desc: &Desc, row: usize) -> usize {
    let vector = if desc.output_dtype(0) == DType::F16 { 8 } else { 4 };
    if row.is_multiple_of(vector) && desc.aligned() { vector } else { 1 }
}

/// A launch of one thread an element, or a vector (`_x4`, `_x8`). `numbers` follow the operands in the arguments.
fn map(desc: &Desc, kernels: [&'static str; 2], numbers: &[Arg], flops: usize) -> Launch {
    let (n, row) = rows_of(desc.output(0));
    let width = width(desc, row);
    let mut args = vec![Arg::Output(0)];
    args.extend((0..desc.inputs()).map(Arg::Input));
    args.extend_from_slice(numbers);
    args.extend([Arg::Rows, Arg::size(n), Arg::size(row / width)]);
    Launch::each(kernels[usize::from(width > 1)], n * (row / width), args, desc.cost((flops * n * row) as u64))
}

pub(super) fn fill(desc: &Desc, value: f32) -> Launch {
    map(desc, ["fill", "fill_x4"], &[Arg::Float(value)], 0)
}

pub(super) fn bytes_to_unit(desc: &Desc) -> Launch {
    map(desc, ["bytes_to_unit", "bytes_to_unit_x4"], &[], 1)
}

pub(super) fn copy(desc: &Desc) -> Launch {
    map(desc, ["copy", "copy_x4"], &[], 0)
}

pub(super) fn add(desc: &Desc) -> Launch {
    map(desc, desc.by_result(["add", "add_x4"], ["add_half", "add_half_x8"]), &[], 1)
}

pub(super) fn scale(desc: &Desc, factor: f32) -> Launch {
    map(desc, ["scale", "scale_x4"], &[Arg::Float(factor)], 1)
}

pub(super) fn clamp_min(desc: &Desc, least: f32) -> Launch {
    map(desc, ["clamp_min", "clamp_min_x4"], &[Arg::Float(least)], 1)
}

pub(super) fn add_bias(desc: &Desc) -> Launch {
    let (n, row) = rows_of(desc.output(0));
    let k = desc.input(1)[0];
    let width = width(desc, k);
    let args = vec![
        Arg::Output(0),
        Arg::Input(0),
        Arg::Input(1),
        Arg::Rows,
        Arg::size(n),
        Arg::size(row / width),
        Arg::size(k / width),
    ];
    let kernels = desc.by_result(["add_bias", "add_bias_x4"], ["add_bias_half", "add_bias_half_x8"]);
    Launch::each(kernels[usize::from(width > 1)], n * (row / width), args, desc.cost((n * row) as u64))
}

pub(super) fn add_bias_backward_bias(desc: &Desc) -> Lowered {
    sum_items(desc, ["add_bias_backward_bias", "add_bias_backward_bias_from_half"])
}

pub(super) fn relu(desc: &Desc) -> Launch {
    map(desc, desc.by_result(["relu", "relu_x4"], ["relu_half", "relu_half_x8"]), &[], 1)
}

pub(super) fn relu_backward(desc: &Desc) -> Launch {
    let half = ["relu_backward_half", "relu_backward_half_x8"];
    map(desc, desc.by_result(["relu_backward", "relu_backward_x4"], half), &[], 1)
}
