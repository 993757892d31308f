//! Launches of kernels/conv_pool.cu.

use super::bias::sum_items;
use super::conv::{ConvProblem, FusedTerms, turned};
use super::desc::{Desc, InputCursor};
use super::element_types::ElementTypes;
use super::gemm::{GemmKernels, GemmOperation, GemmPlan, SplitSums};
use super::gemm_half::{HalfOperation, HalfPlan};
use super::{attack, layer_pair};
use crate::device::cuda::abi::Epilogue;
use crate::device::cuda::launch::{Arg, Cost, Launch, Lowered, THREADS, WARP};
use crate::tape::{AlongRule, ConvWindow, DType};

/// True if the direct kernel is faster for the gradient with respect to the input: a block tile would have few columns.
fn is_direct(conv: &ConvProblem) -> bool {
    const CHANNELS: usize = 4;
    const SHARED: usize = 48 * 1024;
    conv.c <= CHANNELS && conv.window.stride == 1 && conv.weights() <= SHARED
}

/// One launch, without splits: pooling compares whole sums.
pub(super) fn conv_pool(desc: &Desc, window: ConvWindow) -> Lowered {
    let conv = ConvProblem::new(desc.input(0), desc.input(1), window, true);
    let product = conv.forward();
    if desc.input_dtype(1) == DType::F16 {
        let plan = HalfPlan::new(product, conv.chunks(desc, &FusedTerms::default()), false, desc.multiprocessors);
        let args = [Arg::Output(0), Arg::Output(1)].into_iter().chain(conv.args(0..3, [], plan.chunk)).collect();
        let kernels = ["conv_pool_half_scalar", "conv_pool_half_small", "conv_pool_half_tall", "conv_pool_half_narrow"];
        return plan.launch(kernels, 1, args, desc.cost(product.flops())).into();
    }
    let plan = GemmPlan::new(product, conv.vectors(desc, &FusedTerms::default()), false, desc.multiprocessors);
    let args = [Arg::Output(0), Arg::Output(1)].into_iter().chain(conv.args(0..3, [], plan.chunk)).collect();
    let cost = desc.cost(product.flops());
    let kernels = GemmKernels {
        single: ["conv_pool_scalar", "conv_pool_narrow", "conv_pool_square"],
        mixed: "conv_pool_scalar_to_half",
    };
    plan.launch(kernels.of(&plan, desc.types), 1, args, cost).into()
}

/// One launch for both layers.
pub(super) fn two_conv_pools(desc: &Desc, along: Option<AlongRule>, first: ConvWindow, second: ConvWindow) -> Launch {
    let first = ConvProblem::new(desc.input(0), desc.input(1), first, true);
    // The first layer's choices have the shape of its results.
    let second = ConvProblem::new(desc.output(2), desc.input(3), second, true);
    let mut args: Vec<Arg> = [0, 1, 2].map(Arg::Output).into_iter().chain((0..5).map(Arg::Input)).collect();
    args.extend(InputCursor(5).next::<3>(along.is_some()).into_iter().chain(attack::along_numbers(along)));
    let of_layers: u64 = [&first, &second].iter().map(|conv| conv.forward().flops()).sum();
    let of_point = desc.input(0).iter().product::<usize>() * attack::flops::of_point(along);
    layer_pair::forward(&first, args, desc.cost(of_layers + of_point as u64))
}

pub(super) fn conv_pool_backward_input(desc: &Desc, window: ConvWindow) -> Lowered {
    let args = |conv: &ConvProblem, chunk| conv.args(0..3, [], chunk);
    if desc.input_dtype(2) == DType::F16 {
        let conv = ConvProblem::new(desc.output(0), &turned(desc.input(2)), window, true);
        return half_gradient(desc, &conv).lower(desc, |chunk, _| args(&conv, chunk));
    }
    let conv = ConvProblem::new(desc.output(0), desc.input(2), window, true);
    if is_direct(&conv) {
        return conv_pool_backward_input_direct(desc, &conv).into();
    }
    gradient(desc, &conv).lower(desc, |chunk, _| args(&conv, chunk))
}

/// The product of the gradient with respect to images of `dims`, whose sums another kernel adds. `inputs`: dy, choice
/// and w.
pub(super) fn backward_input_sums(desc: &Desc, dims: &[usize], inputs: [usize; 3], window: ConvWindow) -> SplitSums {
    let (w, results) = (inputs[2], dims.iter().product());
    if desc.input_dtype(w) == DType::F16 {
        let conv = ConvProblem::new(dims, &turned(desc.input(w)), window, true);
        return half_gradient(desc, &conv).sums(desc, results, |chunk, _| conv.args(inputs, [], chunk));
    }
    let conv = ConvProblem::new(dims, desc.input(w), window, true);
    gradient(desc, &conv).sums(desc, results, |chunk, _| conv.args(inputs, [], chunk))
}

/// The product of an input gradient of halves.
fn half_gradient(desc: &Desc, conv: &ConvProblem) -> HalfOperation {
    let kernels = [
        "conv_pool_backward_input_half_scalar",
        "conv_pool_backward_input_half_small",
        "conv_pool_backward_input_half_tall",
        "conv_pool_backward_input_half_narrow",
    ];
    let (product, flops) = (conv.backward(), conv.backward_flops());
    let vectors = conv.chunks(desc, &FusedTerms::default());
    HalfOperation { kernels, product, vectors, epilogue: Epilogue::default(), flops }
}

/// The product of an input gradient.
fn gradient(desc: &Desc, conv: &ConvProblem) -> GemmOperation {
    let kernels = GemmKernels {
        single: [
            "conv_pool_backward_input_scalar",
            "conv_pool_backward_input_narrow",
            "conv_pool_backward_input_square",
        ],
        mixed: "conv_pool_backward_input_scalar_from_half",
    };
    let (product, flops, vectors) =
        (conv.backward(), conv.backward_flops(), conv.vectors(desc, &FusedTerms::default()));
    GemmOperation { kernels, product, vectors, epilogue: Some(Epilogue::default()), flops }
}

fn conv_pool_backward_input_direct(desc: &Desc, conv: &ConvProblem) -> Launch {
    let kernel = match desc.types {
        ElementTypes::FromHalf => "conv_pool_backward_input_direct_from_half",
        _ => "conv_pool_backward_input_direct",
    };
    let args = [Arg::Output(0)].into_iter().chain(conv.args(0..3, [], 0)).collect();
    direct_launch(kernel, conv, args, desc.cost(conv.backward_flops()))
}

/// A launch of a warp for each channel of 2 x 2 pixels (kernels/conv_pool_direct.cuh); each warp takes several of them in
/// turn. The number of turns is the last argument.
pub(super) fn direct_launch(kernel: &'static str, conv: &ConvProblem, mut args: Vec<Arg>, cost: Cost) -> Launch {
    const WARPS: usize = THREADS / WARP;
    const TURNS: usize = 2;
    args.push(Arg::size(TURNS));
    let blocks = conv.n * conv.h.div_ceil(2) * conv.w.div_ceil(2) * conv.c;
    assert!(blocks < 1 << 31, "a batch has less than 2^31 pixels");
    let launch = Launch::new(kernel, blocks.div_ceil(WARPS * TURNS), args, cost);
    Launch { shared: u32::try_from(conv.weights()).expect("few bytes"), ..launch }
}

pub(super) fn conv_pool_backward_weight(desc: &Desc, window: ConvWindow) -> Lowered {
    let conv = ConvProblem::new(desc.input(2), desc.output(0), window, true);
    let kernels = GemmKernels {
        single: [
            "conv_pool_backward_weight_scalar",
            "conv_pool_backward_weight_narrow",
            "conv_pool_backward_weight_square",
        ],
        mixed: "conv_pool_backward_weight_scalar_half_gradient",
    };
    conv.backward_weight(
        desc,
        kernels,
        ["conv_pool_backward_weight_half_scalar", "conv_pool_backward_weight_half_wide"],
    )
}

pub(super) fn conv_pool_backward_bias(desc: &Desc) -> Lowered {
    sum_items(desc, ["conv_pool_backward_bias", "conv_pool_backward_bias_from_half"])
}
