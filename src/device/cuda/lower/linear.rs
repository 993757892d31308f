//! kernels/linear.cu.

use super::gemm::{Family, Finish, Product, Results, Work, fours};
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
    /// The arguments after the first. `finish` is one only where a kernel takes it.
    fn args(self, finish: Option<Arg>) -> Vec<Arg> {
        let Sizes { n, inner, out } = self;
        let operands = [Arg::Input(0), Arg::Input(1)].into_iter().chain(finish);
        operands.chain([Arg::Rows]).chain([n, inner, out].map(Arg::size)).collect()
    }

    fn lower(self, desc: &Desc, product: Product, results: Results, family: Family) -> Lowered {
        let vectors = fours(desc, &[self.inner, self.out]);
        let work = Work { family, product, vectors, results, flops: product.flops() };
        work.lower(desc, |chunk, finish| {
            let finish = matches!(results, Results::Rows(_)).then_some(finish);
            self.args(finish).into_iter().chain([Arg::size(chunk)]).collect()
        })
    }
}

pub(super) fn linear(desc: &Desc) -> Lowered {
    layer(desc, Finish::default())
}

pub(super) fn linear_bias(desc: &Desc, relu: bool) -> Lowered {
    layer(desc, Finish { bias: Some(2), relu, ..Finish::default() })
}

fn layer(desc: &Desc, finish: Finish) -> Lowered {
    let ((n, inner), out) = (rows_of(desc.input(0)), desc.output(0)[1]);
    let (sizes, product) = (Sizes { n, inner, out }, Product::new(n, out, inner));
    if out <= FEW {
        let args = [Arg::Output(0)].into_iter().chain(sizes.args(Some(finish.arg()))).collect();
        let warps_of_a_block = THREADS as usize / 32;
        return Launch::new("linear_warp", (n * out).div_ceil(warps_of_a_block), args, desc.cost(product.flops()))
            .into();
    }
    let family = ["linear_scalar", "linear_narrow", "linear_square"];
    sizes.lower(desc, product, Results::Rows(finish), family)
}

pub(super) fn linear_backward_input(desc: &Desc) -> Lowered {
    let (&[n, out], &[_, inner]) = (desc.input(0), desc.input(1)) else { unreachable!("dy is [n, out], w [out, in]") };
    let family = ["linear_backward_input_scalar", "linear_backward_input_narrow", "linear_backward_input_square"];
    let (sizes, product) = (Sizes { n, inner, out }, Product::new(n, inner, out));
    let finish = Finish { y: (desc.inputs() > 2).then_some(2), ..Finish::default() };
    sizes.lower(desc, product, Results::Rows(finish), family)
}

pub(super) fn linear_backward_weight(desc: &Desc) -> Lowered {
    let (&[n, out], &[_, inner]) = (desc.input(0), desc.output(0)) else {
        unreachable!("dy is [n, out], dw [out, in]")
    };
    let family = ["linear_backward_weight_scalar", "linear_backward_weight_narrow", "linear_backward_weight_square"];
    let (sizes, product) = (Sizes { n, inner, out }, Product::new(out, inner, n));
    sizes.lower(desc, product, Results::Whole, family)
}
