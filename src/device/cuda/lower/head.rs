//! Launches of kernels/head.cu.

use super::desc::{Desc, rows_of};
use super::gemm::SplitSums;
use super::linear::layer_sums;
use super::loss::{FLOPS, rule_arguments};
use crate::device::cuda::launch::{Arg, Cost, Launch, Lowered, THREADS};
use crate::tape::{DType, HeadFeatures, HeadFusion};

/// Bytes of dynamic shared memory that a block has without a setting of its own.
const MOST_SHARED: usize = 48 << 10;

pub(super) fn head_backward(desc: &Desc, fusion: &HeadFusion) -> Lowered {
    if fusion.features == HeadFeatures::Hidden {
        return hidden_backward(desc, fusion);
    }
    stored_backward(desc, fusion).into()
}

/// Bytes of shared memory of a head whose block keeps `numbers` beside the logits and their gradient.
fn shared(numbers: usize, classes: usize) -> u32 {
    let bytes = 4 * (numbers + 2 * classes);
    assert!(bytes <= MOST_SHARED, "a head that keeps {numbers} numbers, with {classes} classes");
    bytes as u32
}

/// FLOPs of a head on `n` rows of `row` features, of which the last layer reads `inner` means.
fn flops([n, row, inner, classes]: [usize; 4]) -> u64 {
    (n * (2 * row + 4 * inner * classes) + n * classes * FLOPS[1] as usize) as u64
}

fn or_null(given: bool, arg: Arg) -> Arg {
    if given { arg } else { Arg::Null }
}

/// A launch of a block an example, on features that are stored.
fn stored_backward(desc: &Desc, fusion: &HeadFusion) -> Launch {
    let &[classes, inner] = desc.input(1) else { unreachable!("w is [classes, in]") };
    let (n, row) = rows_of(desc.input(0));
    let pixels = row / inner;
    let vectors = inner.is_multiple_of(4) && desc.input_aligned(0) && desc.output_aligned(0);
    let kernel = match (desc.input_dtype(0), vectors) {
        (DType::F16, false) => "head_backward_half",
        (DType::F16, true) => "head_backward_half_x4",
        (_, false) => "head_backward",
        (_, true) => "head_backward_x4",
    };
    let normalized = fusion.features == HeadFeatures::MeanOfBatchNorm;
    let mut args = vec![Arg::Output(0), or_null(fusion.normalized, Arg::Output(1))];
    args.extend((0..5).map(Arg::Input));
    args.extend([5, 6].map(|i| or_null(normalized, Arg::Input(i))));
    args.extend(rule_arguments(fusion.rule));
    let relu = normalized || fusion.features == HeadFeatures::Relu;
    args.extend([fusion.features.are_averaged(), relu].map(|given| Arg::Int(i32::from(given))));
    args.extend([Arg::Rows].into_iter().chain([n, pixels, inner, classes].map(Arg::size)));
    let slices = (THREADS * if vectors { 4 } else { 1 } / inner).clamp(1, pixels);
    let cost = desc.cost(flops([n, row, inner, classes]));
    Launch { shared: shared(slices * inner, classes), ..Launch::new(kernel, n, args, cost) }
}

/// Two launches: the product of the hidden layer, and a block an example, which adds the splits.
fn hidden_backward(desc: &Desc, fusion: &HeadFusion) -> Lowered {
    let SplitSums { launch, splits, scratch } = layer_sums(desc);
    let &[classes, inner] = desc.input(3) else { unreachable!("w is [classes, in]") };
    let n = desc.input(0)[0];
    let mut args = vec![Arg::Output(0), or_null(fusion.normalized, Arg::Output(1)), Arg::Scratch(0)];
    args.extend((2..7).map(Arg::Input));
    args.extend(rule_arguments(fusion.rule));
    args.extend([Arg::Rows].into_iter().chain([n, inner, classes, splits].map(Arg::size)));
    let operands = desc.bytes() - desc.input_bytes(0) - desc.input_bytes(1);
    let cost = Cost {
        bytes: operands + scratch as u64,
        flops: flops([n, inner, inner, classes]) + (n * inner * (splits - 1)) as u64,
    };
    let kernel = desc.by_result("head_backward_hidden", "head_backward_hidden_half");
    let head = Launch { shared: shared(inner, classes), ..Launch::new(kernel, n, args, cost) };
    Lowered { launches: vec![launch, head], scratch }
}
