//! Launches of kernels/linear.cu.

use super::desc::{Desc, rows_of};
use super::element_types::ElementTypes;
use super::gemm::{GemmKernels, GemmOperation, GemmProblem, SplitSums, vectorizable};
use super::gemm_half::{self, HalfKernels, HalfOperation};
use crate::device::cuda::abi::Epilogue;
use crate::device::cuda::launch::{Arg, Cost, Launch, Lowered, THREADS, WARP};
use crate::tape::{DType, ROW_WISE_OUTPUTS};

/// Kernels of a layer.
const KERNELS: GemmKernels =
    GemmKernels { single: ["linear_scalar", "linear_narrow", "linear_square"], mixed: "linear_scalar_from_half" };
/// Kernels of a layer on halves.
const HALF_KERNELS: HalfKernels = ["linear_half_scalar", "linear_half_small", "linear_half_tall", "linear_half_narrow"];
/// Kernels of a layer's input gradient on halves.
const HALF_BACKWARD_INPUT_KERNELS: HalfKernels = [
    "linear_backward_input_half_scalar",
    "linear_backward_input_half_small",
    "linear_backward_input_half_tall",
    "linear_backward_input_half_narrow",
];

/// Outputs of a layer, at most, for which a warp an output is faster than block tiles. Such a layer may be a step of a
/// row-wise op.
const MOST_WARP_OUTPUTS: usize = ROW_WISE_OUTPUTS;

/// Numbers of rows, inputs and outputs of a layer.
#[derive(Clone, Copy)]
struct LinearSizes {
    n: usize,
    inner: usize,
    out: usize,
}

impl LinearSizes {
    /// Arguments after the first. `epilogue` is given if the kernel takes one.
    fn args(self, epilogue: Option<Arg>) -> Vec<Arg> {
        self.args_of([0, 1], epilogue)
    }

    /// Arguments after the first, of operands with these numbers.
    fn args_of(self, operands: [usize; 2], epilogue: Option<Arg>) -> Vec<Arg> {
        let LinearSizes { n, inner, out } = self;
        let operands = operands.map(Arg::Input).into_iter().chain(epilogue);
        operands.chain([Arg::Rows]).chain([n, inner, out].map(Arg::size)).collect()
    }

    fn lower(self, desc: &Desc, product: GemmProblem, epilogue: Option<Epilogue>, kernels: GemmKernels) -> Lowered {
        let vectors = vectorizable(desc, &[self.inner, self.out]);
        let has_epilogue = epilogue.is_some();
        let work = GemmOperation { kernels, product, vectors, epilogue, flops: product.flops() };
        work.lower(desc, |chunk, epilogue| {
            self.args(has_epilogue.then_some(epilogue)).into_iter().chain([Arg::size(chunk)]).collect()
        })
    }

    /// As `lower`, on halves.
    fn lower_half(self, desc: &Desc, product: GemmProblem, epilogue: Epilogue, kernels: HalfKernels) -> Lowered {
        let vectors = gemm_half::vectorizable(desc, &[self.inner, self.out]);
        let work = HalfOperation { kernels, product, vectors, epilogue, flops: product.flops() };
        work.lower(desc, |chunk, epilogue| self.args(Some(epilogue)).into_iter().chain([Arg::size(chunk)]).collect())
    }
}

pub(super) fn linear(desc: &Desc) -> Lowered {
    layer(desc, Epilogue::default())
}

pub(super) fn linear_bias(desc: &Desc, relu: bool) -> Lowered {
    layer(desc, Epilogue { bias: Arg::Input(2), relu: Arg::Int(relu.into()), ..Epilogue::default() })
}

fn layer(desc: &Desc, epilogue: Epilogue) -> Lowered {
    let ((n, inner), out) = (rows_of(desc.input(0)), desc.output(0)[1]);
    let (sizes, product) = (LinearSizes { n, inner, out }, GemmProblem::new(n, out, inner));
    if desc.input_dtype(1) == DType::F16 {
        return sizes.lower_half(desc, product, epilogue, HALF_KERNELS);
    }
    if out <= MOST_WARP_OUTPUTS {
        let args = [Arg::Output(0)].into_iter().chain(sizes.args(Some(epilogue.into()))).collect();
        let warps_of_a_block = THREADS / WARP;
        let kernel = if desc.types == ElementTypes::FromHalf { "linear_warp_from_half" } else { "linear_warp" };
        return Launch::new(kernel, (n * out).div_ceil(warps_of_a_block), args, desc.cost(product.flops())).into();
    }
    sizes.lower(desc, product, Some(epilogue), KERNELS)
}

/// Sums of a layer that is a part of another op, whose first operands are x and w: before bias and ReLU.
pub(super) fn layer_sums(desc: &Desc) -> SplitSums {
    let ((n, inner), out) = (rows_of(desc.input(0)), desc.input(1)[0]);
    let (sizes, product) = (LinearSizes { n, inner, out }, GemmProblem::new(n, out, inner));
    let aligned = desc.input_aligned(0) && desc.input_aligned(1);
    let multiples_of = |vector: usize| aligned && [inner, out].iter().all(|size| size.is_multiple_of(vector));
    let args =
        |chunk, epilogue| -> Vec<Arg> { sizes.args(Some(epilogue)).into_iter().chain([Arg::size(chunk)]).collect() };
    let flops = product.flops();
    let mut sums = if desc.input_dtype(1) == DType::F16 {
        let (vectors, epilogue) = (multiples_of(8), Epilogue::default());
        let work = HalfOperation { kernels: HALF_KERNELS, product, vectors, epilogue, flops };
        work.sums(desc, product.results(), args)
    } else {
        let vectors = desc.input_dtype(0) == DType::F32 && multiples_of(4);
        let work = GemmOperation { kernels: KERNELS, product, vectors, epilogue: None, flops };
        work.sums(desc, product.results(), args)
    };
    sums.launch.cost = Cost { bytes: desc.input_bytes(0) + desc.input_bytes(1) + sums.scratch as u64, flops };
    sums
}

pub(super) fn linear_backward_input(desc: &Desc) -> Lowered {
    let ((n, out), (_, inner)) = (rows_of(desc.input(0)), rows_of(desc.output(0)));
    let (sizes, product) = (LinearSizes { n, inner, out }, GemmProblem::new(n, inner, out));
    let y = if desc.inputs() > 2 { Arg::Input(2) } else { Arg::Null };
    let epilogue = Epilogue { y, ..Epilogue::default() };
    if desc.input_dtype(1) == DType::F16 {
        return sizes.lower_half(desc, product, epilogue, HALF_BACKWARD_INPUT_KERNELS);
    }
    let kernels = GemmKernels {
        single: ["linear_backward_input_scalar", "linear_backward_input_narrow", "linear_backward_input_square"],
        mixed: "linear_backward_input_scalar_to_half",
    };
    sizes.lower(desc, product, Some(epilogue), kernels)
}

/// Sums of the input gradient of a layer that is a part of another op: of operands `dy` and `w`, halves.
pub(super) fn backward_input_sums(desc: &Desc, dy: usize, w: usize) -> SplitSums {
    let ((n, out), (inner, _)) = (rows_of(desc.input(dy)), rows_of(desc.input(w)));
    let (sizes, product) = (LinearSizes { n, inner, out }, GemmProblem::new(n, inner, out));
    let vectors = [inner, out].iter().all(|size| size.is_multiple_of(8));
    let vectors = vectors && desc.input_aligned(dy) && desc.input_aligned(w);
    let (kernels, epilogue, flops) = (HALF_BACKWARD_INPUT_KERNELS, Epilogue::default(), product.flops());
    let work = HalfOperation { kernels, product, vectors, epilogue, flops };
    let mut sums = work.sums(desc, product.results(), |chunk, epilogue| {
        sizes.args_of([dy, w], Some(epilogue)).into_iter().chain([Arg::size(chunk)]).collect()
    });
    sums.launch.cost = Cost { bytes: desc.input_bytes(dy) + desc.input_bytes(w) + sums.scratch as u64, flops };
    sums
}

pub(super) fn linear_backward_weight(desc: &Desc) -> Lowered {
    let (&[n, out], &[_, inner]) = (desc.input(0), desc.output(0)) else {
        unreachable!("dy is [n, out], dw [out, in]")
    };
    let (sizes, product) = (LinearSizes { n, inner, out }, GemmProblem::new(out, inner, n));
    if desc.types == ElementTypes::FromHalf {
        let kernels = ["linear_backward_weight_half_scalar", "linear_backward_weight_half_wide"];
        let vectors = gemm_half::vectorizable(desc, &[inner, out]);
        let args = |chunk| sizes.args(None).into_iter().chain([Arg::size(chunk)]).collect();
        return gemm_half::lower_weight_gradient(desc, product, kernels, vectors, product.flops(), args);
    }
    let kernels = GemmKernels {
        single: ["linear_backward_weight_scalar", "linear_backward_weight_narrow", "linear_backward_weight_square"],
        mixed: "linear_backward_weight_scalar_half_activations",
    };
    sizes.lower(desc, product, None, kernels)
}
