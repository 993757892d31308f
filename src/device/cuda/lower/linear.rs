//! kernels/linear.cu.

use super::gemm::{self, Product, Results, fours};
use super::{Arg, Desc, Lowered, rows_of};
use crate::device::cuda::launch::{Launch, THREADS};

/// Outputs for which a warp each is better than tiles.
const FEW: usize = 16;
const WARP: usize = 32;

pub(super) fn linear(desc: &Desc) -> Lowered {
    let ((n, inner), out) = (rows_of(desc.input(0)), desc.output(0)[1]);
    let sizes = [n, inner, out].map(Arg::size);
    let operands = [Arg::Input(0), Arg::Input(1), Arg::Rows].into_iter().chain(sizes);
    if out <= FEW {
        let args = [Arg::Output(0)].into_iter().chain(operands).collect();
        let cost = desc.cost(2 * (n * inner * out) as u64);
        return Launch::new("linear_warp", (n * out * WARP).div_ceil(THREADS as usize), args, cost).into();
    }
    let product = Product { rows: n, columns: out, length: inner };
    let vectors = fours(&[inner, out]) && aligned(desc, 2);
    let family = ["linear_scalar", "linear_narrow", "linear_square"];
    gemm::lower(desc, family, product, vectors, Results::Rows, |chunk| {
        operands.clone().chain([Arg::size(chunk)]).collect()
    })
}

pub(super) fn linear_backward_input(desc: &Desc) -> Lowered {
    let (&[n, out], &[_, inner]) = (desc.input(0), desc.input(1)) else { unreachable!("dy is [n, out], w [out, in]") };
    let product = Product { rows: n, columns: inner, length: out };
    let vectors = fours(&[inner, out]) && aligned(desc, 2);
    let family = ["linear_backward_input_scalar", "linear_backward_input_narrow", "linear_backward_input_square"];
    gemm::lower(desc, family, product, vectors, Results::Rows, |chunk| {
        let sizes = [n, inner, out, chunk].map(Arg::size);
        [Arg::Input(0), Arg::Input(1), Arg::Rows].into_iter().chain(sizes).collect()
    })
}

pub(super) fn linear_backward_weight(desc: &Desc) -> Lowered {
    let (&[n, out], &[_, inner]) = (desc.input(0), desc.output(0)) else {
        unreachable!("dy is [n, out], dw [out, in]")
    };
    let product = Product { rows: out, columns: inner, length: n };
    let vectors = fours(&[inner, out]) && aligned(desc, 2);
    let family = ["linear_backward_weight_scalar", "linear_backward_weight_narrow", "linear_backward_weight_square"];
    gemm::lower(desc, family, product, vectors, Results::Whole, |chunk| {
        let sizes = [n, inner, out, chunk].map(Arg::size);
        [Arg::Input(0), Arg::Input(1), Arg::Rows].into_iter().chain(sizes).collect()
    })
}

/// Whether the output and the first inputs may be read and written four elements at a time.
fn aligned(desc: &Desc, inputs: usize) -> bool {
    desc.output_aligned(0) && (0..inputs).all(|i| desc.input_aligned(i))
}
