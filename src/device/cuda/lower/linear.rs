//! kernels/linear.cu.

use super::gemm::{Product, Results, Work, fours};
use super::{Arg, Desc, Lowered, rows_of};
use crate::device::cuda::launch::{Launch, THREADS};

/// Outputs for which a warp each is better than tiles.
const FEW: usize = 16;

/// Rows, inputs and outputs of the layer.
#[derive(Clone, Copy)]
struct Sizes {
    n: usize,
    inner: usize,
    out: usize,
}

impl Sizes {
    /// The arguments after the first.
    fn args(self) -> Vec<Arg> {
        let Sizes { n, inner, out } = self;
        [Arg::Input(0), Arg::Input(1), Arg::Rows].into_iter().chain([n, inner, out].map(Arg::size)).collect()
    }

    fn lower(self, desc: &Desc, product: Product, results: Results, family: [&'static str; 3]) -> Lowered {
        let aligned = desc.output_aligned(0) && desc.input_aligned(0) && desc.input_aligned(1);
        let vectors = fours(&[self.inner, self.out]) && aligned;
        let work = Work { family, product, vectors, results, flops: product.flops() };
        work.lower(desc, |chunk| self.args().into_iter().chain([Arg::size(chunk)]).collect())
    }
}

pub(super) fn linear(desc: &Desc) -> Lowered {
    let ((n, inner), out) = (rows_of(desc.input(0)), desc.output(0)[1]);
    let (sizes, product) = (Sizes { n, inner, out }, Product { rows: n, columns: out, length: inner });
    if out <= FEW {
        let args = [Arg::Output(0)].into_iter().chain(sizes.args()).collect();
        let warps_of_a_block = THREADS as usize / 32;
        return Launch::new("linear_warp", (n * out).div_ceil(warps_of_a_block), args, desc.cost(product.flops()))
            .into();
    }
    sizes.lower(desc, product, Results::Rows, ["linear_scalar", "linear_narrow", "linear_square"])
}

pub(super) fn linear_backward_input(desc: &Desc) -> Lowered {
    let (&[n, out], &[_, inner]) = (desc.input(0), desc.input(1)) else { unreachable!("dy is [n, out], w [out, in]") };
    let family = ["linear_backward_input_scalar", "linear_backward_input_narrow", "linear_backward_input_square"];
    let product = Product { rows: n, columns: inner, length: out };
    Sizes { n, inner, out }.lower(desc, product, Results::Rows, family)
}

pub(super) fn linear_backward_weight(desc: &Desc) -> Lowered {
    let (&[n, out], &[_, inner]) = (desc.input(0), desc.output(0)) else {
        unreachable!("dy is [n, out], dw [out, in]")
    };
    let family = ["linear_backward_weight_scalar", "linear_backward_weight_narrow", "linear_backward_weight_square"];
    let product = Product { rows: out, columns: inner, length: n };
    Sizes { n, inner, out }.lower(desc, product, Results::Whole, family)
}
