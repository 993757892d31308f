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
    /// The arguments after the first. `finish` are those of the operands and numbers that finish a result.
    fn args(self, finish: impl IntoIterator<Item = Arg>) -> Vec<Arg> {
        let Sizes { n, inner, out } = self;
        let operands = [Arg::Input(0), Arg::Input(1)].into_iter().chain(finish);
        operands.chain([Arg::Rows]).chain([n, inner, out].map(Arg::size)).collect()
    }

    /// `args(finish)` are the arguments after the first and before the last.
    fn lower(
        self,
        desc: &Desc,
        (product, results): (Product, Results),
        family: Family,
        args: impl Fn(Finish) -> Vec<Arg>,
    ) -> Lowered {
        let aligned = desc.output_aligned(0) && desc.input_aligned(0) && desc.input_aligned(1);
        let vectors = fours(&[self.inner, self.out]) && aligned;
        let work = Work { family, product, vectors, results, flops: product.flops() };
        work.lower(desc, |chunk, finish| args(finish).into_iter().chain([Arg::size(chunk)]).collect())
    }
}

pub(super) fn linear(desc: &Desc) -> Lowered {
    layer(desc, Finish::default())
}

pub(super) fn linear_bias(desc: &Desc, relu: bool) -> Lowered {
    layer(desc, Finish { bias: Some(2), relu, y: None })
}

fn layer(desc: &Desc, finish: Finish) -> Lowered {
    let ((n, inner), out) = (rows_of(desc.input(0)), desc.output(0)[1]);
    let (sizes, product) = (Sizes { n, inner, out }, Product { rows: n, columns: out, length: inner });
    let args = |Finish { bias, relu, .. }: Finish| sizes.args([Finish::operand(bias), Arg::Int(relu.into())]);
    if out <= FEW {
        let args = [Arg::Output(0)].into_iter().chain(args(finish)).collect();
        let warps_of_a_block = THREADS as usize / 32;
        return Launch::new("linear_warp", (n * out).div_ceil(warps_of_a_block), args, desc.cost(product.flops()))
            .into();
    }
    let family = ["linear_scalar", "linear_narrow", "linear_square"];
    sizes.lower(desc, (product, Results::Rows(finish)), family, args)
}

pub(super) fn linear_backward_input(desc: &Desc) -> Lowered {
    let (&[n, out], &[_, inner]) = (desc.input(0), desc.input(1)) else { unreachable!("dy is [n, out], w [out, in]") };
    let family = ["linear_backward_input_scalar", "linear_backward_input_narrow", "linear_backward_input_square"];
    let (sizes, product) = (Sizes { n, inner, out }, Product { rows: n, columns: inner, length: out });
    let finish = Finish { y: (desc.inputs() > 2).then_some(2), ..Finish::default() };
    let args = |finish: Finish| sizes.args([Finish::operand(finish.y)]);
    sizes.lower(desc, (product, Results::Rows(finish)), family, args)
}

pub(super) fn linear_backward_weight(desc: &Desc) -> Lowered {
    let (&[n, out], &[_, inner]) = (desc.input(0), desc.output(0)) else {
        unreachable!("dy is [n, out], dw [out, in]")
    };
    let family = ["linear_backward_weight_scalar", "linear_backward_weight_narrow", "linear_backward_weight_square"];
    let (sizes, product) = (Sizes { n, inner, out }, Product { rows: out, columns: inner, length: n });
    sizes.lower(desc, (product, Results::Whole), family, |_| sizes.args([]))
}
