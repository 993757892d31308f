//! Convolutions with what follows them, on the kernels of kernels/conv.cu.

use super::conv::{FusedTerms, backward_input, forward};
use super::gemm::Epilogue;
use super::{Desc, Lowered};
use crate::tape::{ConvFusion, ConvGradientFusion};

/// The places of the operands of an op that has some of them, in their order.
struct OperandCursor(usize);

impl OperandCursor {
    /// The next `N`, if they are there.
    fn next<const N: usize>(&mut self, there: bool) -> [Option<usize>; N] {
        [(); N].map(|()| {
            self.0 += usize::from(there);
            there.then_some(self.0 - 1)
        })
    }
}

pub(super) fn conv2d_fused(desc: &Desc, fusion: &ConvFusion) -> Lowered {
    let ConvFusion { window, shortcut, addend, sum, norm } = *fusion;
    let mut operands = OperandCursor(2);
    let [_, _] = operands.next(shortcut.is_some());
    let [before] = operands.next(addend);
    let [weight, bias, mean, variance] = operands.next(norm);
    let sum = (sum && norm).then_some(0);
    let epilogue = Epilogue { before, sum, weight, variance, bias, mean, relu: norm, ..Epilogue::default() };
    forward(desc, window, FusedTerms { shortcut, epilogue })
}

pub(super) fn conv2d_fused_backward_input(desc: &Desc, fusion: &ConvGradientFusion) -> Lowered {
    let ConvGradientFusion { window, shortcut, norm, addend } = *fusion;
    let mut operands = OperandCursor(2);
    let [_, _] = operands.next(shortcut.is_some());
    let [weight, variance, y] = operands.next(norm);
    let [after] = operands.next(addend);
    backward_input(
        desc,
        window,
        FusedTerms { shortcut, epilogue: Epilogue { weight, variance, y, after, ..Epilogue::default() } },
    )
}
