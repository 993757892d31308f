//! Launches of kernels/first_layer.cu.

use super::conv::{ConvProblem, turned};
use super::conv_pool::{backward_input_sums, direct_launch};
use super::desc::{Desc, InputCursor, rows_of};
use super::element_types::ElementTypes;
use super::elementwise::width;
use super::gemm::SplitSums;
use super::{attack, image, layer_pair, linear};
use crate::device::cuda::abi::Epilogue;
use crate::device::cuda::launch::{Arg, Cost, Launch, Lowered, THREADS};
use crate::tape::{FIRST_LAYER_FILTERS, FirstLayerFusion, L2Order, MOST_STEP_CHANNELS, Norm, PgdFusion, StepLayer};

/// A launch of a block an image.
pub(super) fn standardize_conv2d(desc: &Desc, fusion: &FirstLayerFusion) -> Launch {
    let FirstLayerFusion { along, layer, keeps_images } = *fusion;
    let conv = ConvProblem::new(desc.input(0), desc.input(1), layer.window, false);
    let half = desc.types == ElementTypes::ToHalf;
    let results = desc.outputs() - if keeps_images { 2 } else { 0 };
    let vectors = conv.k.is_multiple_of(if half { 8 } else { 4 }) && (0..results).all(|i| desc.output_aligned(i));
    let kernel = match (half, vectors) {
        (false, false) => "standardize_conv2d",
        (false, true) => "standardize_conv2d_x4",
        (true, false) => "standardize_conv2d_to_half",
        (true, true) => "standardize_conv2d_to_half_x8",
    };
    let mut inputs = InputCursor(2);
    let point: [Arg; 3] = inputs.next(along.is_some());
    let [weight, bias, mean, variance] = inputs.next(layer.norm);
    let sum = if results > 1 { Arg::Output(0) } else { Arg::Null };
    let relu = Arg::Int(layer.norm.into());
    let epilogue = Epilogue { sum, weight, variance, bias, mean, relu, ..Epilogue::default() };

    let images = [0, 1].map(|i| if keeps_images { Arg::Output(results + i) } else { Arg::Null });
    let mut args = vec![Arg::Output(results - 1)];
    args.extend(images.into_iter().chain([0, 1].map(Arg::Input)).chain(point));
    args.extend(attack::along_numbers(along));
    args.extend([epilogue.into(), Arg::Rows, Arg::size(conv.n), conv.shape(0)]);

    let (n, row) = rows_of(desc.input(0));
    let flops =
        (n * row * (image::flops::STANDARDIZE + attack::flops::of_point(along))) as u64 + conv.forward().flops();
    let numbers = conv.k.next_multiple_of(FIRST_LAYER_FILTERS) * (conv.kh * conv.kw * conv.c + 2) + row;
    let shared = u32::try_from(4 * numbers).expect("few bytes");
    Launch { shared, ..Launch::new(kernel, n, args, desc.cost(flops)) }
}

/// A launch of a block an image; with a pooled first layer, of a warp for each channel of 2 x 2 pixels. A second layer's
/// product is a launch before it. With a linear layer, whose product is a launch before it, one kernel has both layers.
pub(super) fn pgd_step_fused(desc: &Desc, fusion: PgdFusion) -> Lowered {
    let PgdFusion { layer, from_norm, standardized, rule } = fusion;
    let (n, row) = rows_of(desc.output(0));
    let problem = |window, pooled| ConvProblem::new(desc.output(0), desc.input(4), window, pooled);
    let operands = 4 + layer.map_or(0, StepLayer::operands);
    let norm = if from_norm { Arg::Input(operands) } else { Arg::Null };
    let is_l2 = rule.norm == Norm::L2;
    let step = if is_l2 { attack::flops::L2_STEP } else { attack::flops::LINF_STEP };
    let of_number = step + usize::from(from_norm) + if standardized { image::flops::STANDARDIZE_BACKWARD } else { 0 };
    let of_step = (of_number * n * row) as u64;
    let (conv, second) = match layer {
        None => (None, None),
        Some(StepLayer::Conv(window)) => (Some(problem(window, false)), None),
        Some(StepLayer::ConvPool(window)) => (Some(problem(window, true)), None),
        // The first layer's choices have the shape of its results.
        Some(StepLayer::TwoConvPools { first, second, linear: true }) => {
            let (first, second) =
                (problem(first, true), ConvProblem::new(desc.input(5), &turned(desc.input(6)), second, true));
            let cost = desc.cost_of_update(of_step + first.backward_flops() + second.backward_flops());
            let SplitSums { launch, splits, scratch } = linear::backward_input_sums(desc, 1, 8);
            let of_linear: u64 = [1, 8].map(|i| desc.input_bytes(i)).iter().sum();
            let cost = Cost { bytes: cost.bytes - of_linear + scratch as u64, ..cost };
            let args = [Arg::Output(0), Arg::Input(0), Arg::Scratch(0)].into_iter().chain((2..8).map(Arg::Input));
            let step = layer_pair::step(&first, splits, args.chain([norm]).collect(), cost);
            return Lowered { launches: vec![launch, step], scratch };
        }
        Some(StepLayer::TwoConvPools { first, second, linear: false }) => {
            (Some(problem(first, true)), Some(backward_input_sums(desc, desc.input(5), [1, 7, 6], second)))
        }
    };
    let cost = desc.cost_of_update(of_step + conv.as_ref().map_or(0, ConvProblem::backward_flops));
    let mut args = vec![Arg::Output(0)];
    args.extend((0..operands.min(6)).map(Arg::Input));
    args.push(norm);
    if let Some(conv) = conv.filter(|conv| conv.pooled) {
        args.extend([Arg::Rows, Arg::size(n), conv.shape(0)]);
        if let Some(SplitSums { mut launch, splits, scratch }) = second {
            args[2] = Arg::Scratch(0);
            let of_second: u64 = [1, 6, 7].map(|i| desc.input_bytes(i)).iter().sum();
            launch.cost.bytes = of_second + scratch as u64;
            let cost = Cost { bytes: cost.bytes - of_second + scratch as u64, ..cost };
            let mut step = direct_launch("pgd_step_fused_pooled_splits", &conv, args, cost);
            step.args.push(Arg::size(splits));
            return Lowered { launches: vec![launch, step], scratch };
        }
        let kernel = match desc.types {
            ElementTypes::FromHalf => "pgd_step_fused_pooled_from_half",
            _ => "pgd_step_fused_pooled",
        };
        return direct_launch(kernel, &conv, args, cost).into();
    }
    let width = if conv.is_some() { 1 } else { width(desc, row) };
    let (kernel, width) = match (&conv, (row / width).div_ceil(THREADS)) {
        (Some(conv), _) => {
            let vectors = conv.k.is_multiple_of(4) && desc.input_aligned(1);
            let kernel = match (desc.types, vectors) {
                (ElementTypes::FromHalf, true) => "pgd_step_fused_direct_from_half_x4",
                (ElementTypes::FromHalf, false) => "pgd_step_fused_direct_from_half",
                (_, true) => "pgd_step_fused_direct_x4",
                (_, false) => "pgd_step_fused_direct",
            };
            (kernel, 1)
        }
        (None, 1) if width > 1 => ("pgd_step_fused_registers1", width),
        (None, 2..=3) if width > 1 => ("pgd_step_fused_registers3", width),
        (None, _) => ("pgd_step_fused", 1),
    };
    let first = operands + usize::from(from_norm);
    args.extend([first, first + 1].map(|i| if standardized { Arg::Input(i) } else { Arg::Null }));
    let numbers = [is_l2, rule.l2_order == L2Order::BoxBall].map(|is| Arg::Int(i32::from(is)));
    args.push(Arg::Float(rule.l2_grad_floor));
    args.extend(numbers.into_iter().chain([Arg::Rows, Arg::size(n)]));
    args.push(conv.as_ref().map_or(Arg::size(row / width), |conv| conv.shape(0)));
    let shared = conv.map_or(0, |conv| 4 * (row + conv.kh * conv.kw * conv.k * MOST_STEP_CHANNELS));
    Launch { shared: u32::try_from(shared).expect("few bytes"), ..Launch::new(kernel, n, args, cost) }.into()
}
