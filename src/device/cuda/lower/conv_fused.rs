//! Launches of fused convolutions, on the kernels of kernels/conv.cu.

use super::conv::{FusedTerms, backward_input, forward};
use super::desc::{Desc, InputCursor};
use crate::device::cuda::abi::Epilogue;
use crate::device::cuda::launch::{Arg, Lowered};
use crate::tape::{ConvFusion, ConvGradientFusion};

pub(super) fn conv2d_fused(desc: &Desc, fusion: &ConvFusion) -> Lowered {
    let ConvFusion { window, shortcut, addend, sum, norm } = *fusion;
    let mut inputs = InputCursor(2);
    let [_, _] = inputs.next(shortcut.is_some());
    let [before] = inputs.next(addend);
    let [weight, bias, mean, variance] = inputs.next(norm);
    let sum = if sum && norm { Arg::Output(0) } else { Arg::Null };
    let epilogue =
        Epilogue { before, sum, weight, variance, bias, mean, relu: Arg::Int(norm.into()), ..Epilogue::default() };
    forward(desc, window, FusedTerms { shortcut, epilogue })
}

pub(super) fn conv2d_fused_backward_input(desc: &Desc, fusion: &ConvGradientFusion) -> Lowered {
    let ConvGradientFusion { window, shortcut, norm, addend } = *fusion;
    let mut inputs = InputCursor(2);
    let [_, _] = inputs.next(shortcut.is_some());
    let [weight, variance, y] = inputs.next(norm);
    let [after] = inputs.next(addend);
    backward_input(
        desc,
        window,
        FusedTerms { shortcut, epilogue: Epilogue { weight, variance, y, after, ..Epilogue::default() } },
    )
}
