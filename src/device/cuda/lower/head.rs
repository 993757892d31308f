//! Launches of kernels/head.cu.

use super::desc::{Desc, rows_of};
use super::loss::{FLOPS, rule_arguments};
use crate::device::cuda::launch::{Arg, Launch, THREADS};
use crate::tape::{DType, HeadFeatures, HeadFusion};

/// Bytes of dynamic shared memory that a block has without a setting of its own.
const MOST_SHARED: usize = 48 << 10;

/// A launch of a block an example.
pub(super) fn head_backward(desc: &Desc, fusion: &HeadFusion) -> Launch {
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
    let or_null = |given: bool, arg: Arg| if given { arg } else { Arg::Null };
    let normalized = fusion.features == HeadFeatures::MeanOfBatchNorm;
    let mut args = vec![Arg::Output(0), or_null(fusion.normalized, Arg::Output(1))];
    args.extend((0..5).map(Arg::Input));
    args.extend([5, 6].map(|i| or_null(normalized, Arg::Input(i))));
    args.extend(rule_arguments(fusion.rule));
    let relu = normalized || fusion.features == HeadFeatures::Relu;
    args.extend([fusion.features.are_averaged(), relu].map(|given| Arg::Int(i32::from(given))));
    args.extend([Arg::Rows].into_iter().chain([n, pixels, inner, classes].map(Arg::size)));
    let slices = (THREADS * if vectors { 4 } else { 1 } / inner).clamp(1, pixels);
    let shared = 4 * (slices * inner + 2 * classes);
    assert!(shared <= MOST_SHARED, "a head of {inner} inputs and {classes} classes");
    let flops = n * (2 * row + 4 * inner * classes) + n * classes * FLOPS[1] as usize;
    Launch { shared: shared as u32, ..Launch::new(kernel, n, args, desc.cost(flops as u64)) }
}
