//! Convolutions with what follows them, on the kernels of kernels/conv.cu.

use super::conv::{Fused, backward_input, forward};
use super::gemm::Finish;
use super::{Desc, Lowered};
use crate::tape::{ConvFusion, ConvGradientFusion};

/// The places of the operands of an op that has some of them, in their order.
struct Operands(usize);

impl Operands {
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
    let mut operands = Operands(2);
    let [_, _] = operands.next(shortcut.is_some());
    let [before] = operands.next(addend);
    let [weight, bias, mean, variance] = operands.next(norm);
    let sum = (sum && norm).then_some(0);
    let finish = Finish { before, sum, weight, variance, bias, mean, relu: norm, ..Finish::default() };
    forward(desc, window, Fused { shortcut, finish })
}

pub(super) fn conv2d_fused_backward_input(desc: &Desc, fusion: &ConvGradientFusion) -> Lowered {
    let ConvGradientFusion { window, shortcut, norm, addend } = *fusion;
    let mut operands = Operands(2);
    let [_, _] = operands.next(shortcut.is_some());
    let [weight, variance, y] = operands.next(norm);
    let [after] = operands.next(addend);
    backward_input(desc, window, Fused { shortcut, finish: Finish { weight, variance, y, after, ..Finish::default() } })
}
