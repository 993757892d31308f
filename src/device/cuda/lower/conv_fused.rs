//! Launches of fused convolutions, on the kernels of kernels/conv.cu.

use super::batch_norm::{batch_norm_of_operand, statistics_of_output, sums_are_bounded, weight_gradient_of_output};
use super::conv::{AroundBatchNorm, FusedTerms, backward_input, forward, has_halo_gradient};
use super::desc::{Desc, InputCursor};
use crate::device::cuda::abi::{ChannelStatistics, Epilogue, NormGradients, OperandNorm};
use crate::device::cuda::launch::{Arg, Launch, Lowered};
use crate::tape::{ConvFusion, ConvGradientFusion};

/// Alignment of an operand in scratch memory, in bytes.
const ALIGN: usize = 16;

pub(super) fn conv2d_fused(desc: &Desc, fusion: &ConvFusion) -> Lowered {
    let ConvFusion { window, normalized, keeps_operand, shortcut, addend, sum, norm, statistics } = *fusion;
    let kept = desc.result() + 1;
    let result = if keeps_operand { Arg::Output(kept) } else { Arg::Null };
    let of_sum = [0, 1, 2, 3].map(|i| kept + usize::from(keeps_operand) + i);
    let mut inputs = InputCursor(2);
    let [_, _] = inputs.next(shortcut.is_some());
    let [before] = inputs.next(addend);
    let [weight, bias, mean, variance] = inputs.next(norm);
    let of_operand = inputs.next(normalized);
    let sum = if sum && norm { Arg::Output(0) } else { Arg::Null };
    let epilogue =
        Epilogue { before, sum, weight, variance, bias, mean, relu: Arg::Int(norm.into()), ..Epilogue::default() };
    let mut terms = FusedTerms { shortcut, epilogue, ..FusedTerms::default() };
    let within = AroundBatchNorm::of(desc, window, &terms);
    if normalized && within.norm {
        let [weight, bias, mean, variance] = of_operand.clone();
        terms.norm = OperandNorm { weight, bias, mean, variance, result: result.clone() };
    }
    let sums_within = statistics && within.statistics && sums_are_bounded(desc);
    if sums_within {
        let [mean, variance, running_mean, running_variance] = of_sum.map(Arg::Output);
        let (sums, counters) = (Arg::ChannelSums, Arg::Counters);
        terms.statistics = ChannelStatistics { mean, variance, running_mean, running_variance, sums, counters };
    }
    let mut lowered = forward(desc, window, terms);
    if normalized && !within.norm {
        let offset = lowered.scratch.next_multiple_of(ALIGN);
        let operand = if keeps_operand { result } else { Arg::Scratch(offset) };
        let norm = batch_norm_of_operand(desc, operand.clone(), of_operand);
        let read = |launch: Launch| launch.with(&Arg::Input(0), &operand);
        lowered.launches = [norm].into_iter().chain(lowered.launches.into_iter().map(read)).collect();
        lowered.scratch = if keeps_operand { lowered.scratch } else { offset + desc.input_bytes(0) as usize };
    }
    if statistics && !sums_within {
        let Lowered { launches, scratch } = statistics_of_output(desc, of_sum);
        lowered.launches.extend(launches);
        lowered.scratch = lowered.scratch.max(scratch);
    }
    lowered
}

pub(super) fn conv2d_fused_backward_input(desc: &Desc, fusion: &ConvGradientFusion) -> Lowered {
    let ConvGradientFusion { window, shortcut, norm, addend, norm_weight } = *fusion;
    let mut inputs = InputCursor(2);
    let [_, _] = inputs.next(shortcut.is_some());
    let [weight, variance, y] = inputs.next(norm);
    let [after] = inputs.next(addend);
    let [x, norm @ ..]: [Arg; 5] = inputs.next(norm_weight);
    let epilogue = Epilogue { weight, variance, y, after, ..Epilogue::default() };
    let mut terms = FusedTerms { shortcut, epilogue, ..FusedTerms::default() };
    let within = norm_weight && has_halo_gradient(desc, window, &terms) && sums_are_bounded(desc);
    if within {
        let [weight, bias, mean, variance] = norm.clone();
        let [dweight, dbias] = [1, 2].map(Arg::Output);
        let (sums, counters) = (Arg::ChannelSums, Arg::Counters);
        terms.gradients = NormGradients { x: x.clone(), weight, bias, mean, variance, dweight, dbias, sums, counters };
    }
    let mut lowered = backward_input(desc, window, terms);
    if norm_weight && !within {
        let Lowered { launches, scratch } = weight_gradient_of_output(desc, x, norm);
        lowered.launches.extend(launches);
        lowered.scratch = lowered.scratch.max(scratch);
    }
    lowered
}
