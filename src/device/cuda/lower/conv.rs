//! Launches of kernels/conv.cu: sizes of convolutions, and their matrix products.

use super::desc::Desc;
use super::element_types::ElementTypes;
use super::gemm::{GemmKernels, GemmOperation, GemmProblem, vectorizable};
use super::gemm_half::{self, HalfKernels, HalfOperation, lower_weight_gradient};
use crate::device::cuda::abi::{
    ChannelStatistics, ConvShape, Divisor, Epilogue, HALO_COLUMNS, HALO_PIXELS_8, HALO_PIXELS_16, HALO_PIXELS_32,
    NormGradients, OperandNorm, Shortcut, ShortcutShape, WARP,
};
use crate::device::cuda::launch::{Arg, Launch, Lowered};
use crate::tape::{ConvWindow, DType};

impl Divisor {
    /// With l = ceil(log2 d), m = ceil(2^(31 + l) / d) exceeds the true ratio by less than 1, so that n m / 2^(31 + l)
    /// exceeds n / d by less than n / 2^(31 + l) < 1 / 2^l <= 1 / d: not enough to reach the next integer.
    fn new(divisor: usize) -> Divisor {
        let log = divisor.next_power_of_two().trailing_zeros();
        let multiplier = (1u64 << (31 + log)).div_ceil(divisor as u64);
        Divisor { multiplier: u32::try_from(multiplier).expect("at most 2^31 2^log / d"), shift: 31 + log }
    }
}

/// Terms and steps that are fused with a convolution, or with its gradient with respect to the input.
#[derive(Clone, Debug, Default)]
pub(super) struct FusedTerms {
    /// Stride of the shortcut, a 1 x 1 convolution whose results (or gradients) are added. Inputs 2 and 3 are its x (or
    /// dy) and its filters.
    pub shortcut: Option<usize>,
    pub epilogue: Epilogue,
    /// Batch norm of the operand, if the kernel [applies](AroundBatchNorm) it.
    pub norm: OperandNorm,
    /// Statistics of the results, if the kernel [adds](AroundBatchNorm) them.
    pub statistics: ChannelStatistics,
    /// Gradients of batch norm's weight and bias, if the kernel has a halo ([`has_halo_gradient`]).
    pub gradients: NormGradients,
}

/// Parts of batch norm in training mode that the kernel of a convolution computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AroundBatchNorm {
    /// `true`: batch norm of the operand.
    pub norm: bool,
    /// `true`: statistics of the results, as far as their sums are bounded.
    pub statistics: bool,
}

impl AroundBatchNorm {
    /// Parts that [`forward`] computes with the other terms of `fused`.
    pub fn of(desc: &Desc, window: ConvWindow, fused: &FusedTerms) -> AroundBatchNorm {
        let conv = ConvProblem::new(desc.input(0), desc.input(1), window, false);
        let half = desc.types == ElementTypes::Half;
        let norm = half && Halo::of(desc, &conv, fused).is_some();
        let whole = || !conv.half_operation(desc, conv.forward(), 0, HALF_FORWARD, fused).is_split(desc);
        AroundBatchNorm { norm, statistics: norm || half && whole() }
    }
}

/// Kernels of a convolution of halves without a halo.
const HALF_FORWARD: HalfKernels = ["conv2d_half_scalar", "conv2d_half_small", "conv2d_half_tall", "conv2d_half_narrow"];

impl FusedTerms {
    /// Number of terms that the shortcut adds to a sum.
    fn channels(&self, desc: &Desc) -> usize {
        self.shortcut.map_or(0, |_| desc.input(2)[3])
    }

    /// Argument of the kernels.
    fn shortcut(&self, desc: &Desc) -> Shortcut {
        let Some(stride) = self.shortcut else { return Shortcut::default() };
        let [_, h, w, channels] = [0, 1, 2, 3].map(|i| int(desc.input(2)[i]));
        let shape = ShortcutShape { h, w, channels, stride: int(stride) };
        Shortcut { x: Arg::Input(2), filters: Arg::Input(3), shape: Arg::of(shape) }
    }
}

/// A size as C++'s `int`.
fn int(n: usize) -> i32 {
    i32::try_from(n).expect("a size fits an int")
}

/// Sizes of a convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConvProblem {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub k: usize,
    pub kh: usize,
    pub kw: usize,
    pub out_h: usize,
    pub out_w: usize,
    pub window: ConvWindow,
    pub pooled: bool,
}

impl ConvProblem {
    /// Sizes from the dimensions of x and w; `pooled` if 2 x 2 max-pooling follows.
    pub fn new(x: &[usize], w: &[usize], window: ConvWindow, pooled: bool) -> ConvProblem {
        let (&[n, h, wide, c], &[k, kh, kw, _]) = (x, w) else { unreachable!("shapes were checked when recorded") };
        let [out_h, out_w] = [window.outputs(h, kh), window.outputs(wide, kw)];
        let conv = ConvProblem { n, h, w: wide, c, k, kh, kw, out_h, out_w, window, pooled };
        assert!(conv.outputs().max(n * h * wide) < 1 << 31, "a batch has less than 2^31 pixels");
        conv
    }

    /// Number of outputs of the convolution, in pixels.
    fn outputs(&self) -> usize {
        self.n * self.out_h * self.out_w
    }

    /// Number of elements of a filter.
    fn filter(&self) -> usize {
        self.kh * self.kw * self.c
    }

    /// Size of all filters in bytes.
    pub fn weights(&self) -> usize {
        4 * self.k * self.filter()
    }

    pub fn shape(&self, chunk: usize) -> Arg {
        let (rows, columns) = if self.pooled { (self.out_h / 2, self.out_w / 2) } else { (self.out_h, self.out_w) };
        Arg::of(ConvShape {
            h: int(self.h),
            w: int(self.w),
            c: int(self.c),
            k: int(self.k),
            kh: int(self.kh),
            kw: int(self.kw),
            out_h: int(self.out_h),
            out_w: int(self.out_w),
            padding: int(self.window.padding),
            stride: int(self.window.stride),
            chunk: int(chunk),
            by_c: Divisor::new(self.c),
            by_k: Divisor::new(self.k),
            by_kw: Divisor::new(self.kw),
            by_image: Divisor::new(rows * columns),
            by_row: Divisor::new(columns),
            by_more: Divisor::new(self.kw.div_ceil(self.window.stride)),
            by_less: Divisor::new((self.kw / self.window.stride).max(1)),
        })
    }

    /// The arguments after the outputs: inputs, what is `fused`, row count, capacity, sizes.
    pub fn args(
        &self,
        inputs: impl IntoIterator<Item = usize>,
        fused: impl IntoIterator<Item = Arg>,
        chunk: usize,
    ) -> Vec<Arg> {
        let operands = inputs.into_iter().map(Arg::Input).chain(fused);
        operands.chain([Arg::Rows, Arg::size(self.n), self.shape(chunk)]).collect()
    }

    /// True if everything may be read and written in vectors of four.
    pub fn vectors(&self, desc: &Desc, fused: &FusedTerms) -> bool {
        vectorizable(desc, &[self.c, self.k, fused.channels(desc)])
    }

    pub fn forward(&self) -> GemmProblem {
        GemmProblem::new(self.outputs(), self.k, self.filter())
    }

    /// Product of the gradient with respect to the input: one a class of pixels with the same taps, with the largest
    /// sizes.
    pub fn backward(&self) -> GemmProblem {
        let ConvProblem { n, h, w, c, k, kh, kw, window: ConvWindow { stride, .. }, .. } = *self;
        let [h, w, kh, kw] = [h, w, kh, kw].map(|size| size.div_ceil(stride));
        GemmProblem { count: stride * stride, ..GemmProblem::new(n * h * w, c, kh * kw * k) }
    }

    /// FLOPs of a gradient. If max-pooling follows, three of four products are zero and are not counted.
    pub fn backward_flops(&self) -> u64 {
        self.forward().flops() / if self.pooled { 4 } else { 1 }
    }

    /// True if everything may be read and written in eight halves at once.
    pub fn chunks(&self, desc: &Desc, fused: &FusedTerms) -> bool {
        gemm_half::vectorizable(desc, &[self.c, self.k, fused.channels(desc)])
    }

    /// As `lower`, on halves. `more` are the kernels' arguments after the epilogue.
    fn lower_half(
        &self,
        desc: &Desc,
        product: GemmProblem,
        flops: u64,
        kernels: HalfKernels,
        fused: FusedTerms,
        more: &[Arg],
    ) -> Lowered {
        let shortcut = Arg::from(fused.shortcut(desc));
        let work = self.half_operation(desc, product, flops, kernels, &fused);
        work.lower(desc, |chunk, epilogue| {
            let terms = [shortcut.clone(), epilogue].into_iter().chain(more.iter().cloned());
            self.args(0..2, terms, chunk)
        })
    }

    /// The product of halves with the terms of a shortcut.
    fn half_operation(
        &self,
        desc: &Desc,
        product: GemmProblem,
        flops: u64,
        kernels: HalfKernels,
        fused: &FusedTerms,
    ) -> HalfOperation {
        let product = GemmProblem { length: product.length + fused.channels(desc), ..product };
        HalfOperation { kernels, product, vectors: self.chunks(desc, fused), epilogue: fused.epilogue.clone(), flops }
    }

    /// Lowers a convolution, or its gradient with respect to the input, to `product` with `flops` operations.
    fn lower(&self, desc: &Desc, product: GemmProblem, flops: u64, kernels: GemmKernels, fused: FusedTerms) -> Lowered {
        let product = GemmProblem { length: product.length + fused.channels(desc), ..product };
        let (vectors, shortcut) = (self.vectors(desc, &fused), Arg::from(fused.shortcut(desc)));
        let epilogue = Some(fused.epilogue);
        let work = GemmOperation { kernels, product, vectors, epilogue, flops };
        work.lower(desc, |chunk, epilogue| self.args(0..2, [shortcut.clone(), epilogue], chunk))
    }

    /// The gradient with respect to the filters. `half` are the kernels of half operands.
    pub fn backward_weight(&self, desc: &Desc, kernels: GemmKernels, half: [&'static str; 2]) -> Lowered {
        let product = GemmProblem::new(self.k, self.filter(), self.outputs());
        let (fused, flops) = (FusedTerms::default(), self.backward_flops());
        if desc.types == ElementTypes::FromHalf {
            let args = |chunk| self.args(0..desc.inputs(), [], chunk);
            return lower_weight_gradient(desc, product, half, self.chunks(desc, &fused), flops, args);
        }
        let vectors = self.vectors(desc, &fused);
        let work = GemmOperation { kernels, product, vectors, epilogue: None, flops };
        work.lower(desc, |chunk, _| self.args(0..desc.inputs(), [], chunk))
    }
}

/// A 3 x 3 convolution of halves whose blocks load their pixels into shared memory once (kernels/conv_halo.cuh): for
/// images of one width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Halo {
    kernel: &'static str,
    /// Kernel of the gradient with respect to the input.
    gradient: &'static str,
    width: usize,
    /// Pixels of a block: whole rows of an image, or whole images.
    pixels: usize,
}

impl Halo {
    const ALL: [Halo; 3] = [
        Halo {
            kernel: "conv2d_half_halo32",
            gradient: "conv2d_backward_input_half_halo32",
            width: 32,
            pixels: HALO_PIXELS_32,
        },
        Halo {
            kernel: "conv2d_half_halo16",
            gradient: "conv2d_backward_input_half_halo16",
            width: 16,
            pixels: HALO_PIXELS_16,
        },
        Halo {
            kernel: "conv2d_half_halo8",
            gradient: "conv2d_backward_input_half_halo8",
            width: 8,
            pixels: HALO_PIXELS_8,
        },
    ];
    /// Channels of a step, and of a line in shared memory.
    const DEPTH: usize = 64;
    /// Steps of filters in shared memory.
    const STAGES: usize = 3;

    /// The kernel for a convolution, if there is one.
    fn of(desc: &Desc, conv: &ConvProblem, fused: &FusedTerms) -> Option<Halo> {
        let form = (conv.kh, conv.kw, conv.window) == (3, 3, ConvWindow { padding: 1, stride: 1 });
        let groups = conv.c.is_multiple_of(Halo::DEPTH) && conv.k.is_multiple_of(Halo::DEPTH);
        let whole = |halo: &Halo| {
            let (images, rows) = halo.images_and_rows();
            halo.width == conv.w && if images > 1 { conv.h == rows } else { conv.h.is_multiple_of(rows) }
        };
        Halo::ALL.into_iter().find(|halo| form && groups && whole(halo) && conv.chunks(desc, fused))
    }

    /// The kernel for the gradient of a convolution with respect to its input, which is a convolution with the turned
    /// filters.
    fn of_gradient(desc: &Desc, conv: &ConvProblem, fused: &FusedTerms) -> Option<(Halo, ConvProblem)> {
        let turned = ConvProblem { c: conv.k, k: conv.c, ..*conv };
        let strides = fused.shortcut.is_none_or(|stride| stride == 1);
        Halo::of(desc, &turned, fused).filter(|_| strides).map(|halo| (halo, turned))
    }

    /// Images of a block, and rows of each.
    fn images_and_rows(&self) -> (usize, usize) {
        let rows = self.pixels / self.width;
        if self.width == 8 { (rows / 8, 8) } else { (1, rows) }
    }

    /// Bytes of shared memory: stages of filters, and two patches of pixels with their borders.
    fn shared(&self) -> usize {
        let (images, rows) = self.images_and_rows();
        let cells = images * (rows + 2) * (self.width + 2);
        2 * Halo::DEPTH * (Halo::STAGES * HALO_COLUMNS + 2 * cells)
    }

    /// A launch of `kernel` with what is `fused`: `more` are its arguments after the epilogue.
    fn launch(
        &self,
        kernel: &'static str,
        desc: &Desc,
        conv: &ConvProblem,
        (fused, more): (FusedTerms, Vec<Arg>),
        flops: u64,
    ) -> Launch {
        let terms = [fused.shortcut(desc).into(), fused.epilogue.into()].into_iter().chain(more);
        let args = [Arg::Output(desc.result())].into_iter().chain(conv.args(0..2, terms, 0)).collect();
        let blocks = conv.outputs().div_ceil(self.pixels) * (conv.k / HALO_COLUMNS);
        let [blocks, threads, shared] =
            [blocks, self.pixels / Halo::DEPTH * WARP, self.shared()].map(|n| u32::try_from(n).expect("few"));
        Launch { kernel, grid: [blocks, 1, 1], block: threads, shared, args, cost: desc.cost(flops) }
    }
}

pub(super) fn conv2d(desc: &Desc, window: ConvWindow) -> Lowered {
    forward(desc, window, FusedTerms::default())
}

pub(super) fn forward(desc: &Desc, window: ConvWindow, fused: FusedTerms) -> Lowered {
    let conv = ConvProblem::new(desc.input(0), desc.input(1), window, false);
    let product = conv.forward();
    let flops = GemmProblem { length: product.length + fused.channels(desc), ..product }.flops();
    if desc.input_dtype(1) == DType::F16 {
        if let Some(halo) = Halo::of(desc, &conv, &fused) {
            let around = vec![fused.norm.clone().into(), fused.statistics.clone().into()];
            return halo.launch(halo.kernel, desc, &conv, (fused, around), flops).into();
        }
        let statistics = fused.statistics.clone().into();
        return conv.lower_half(desc, product, flops, HALF_FORWARD, fused, &[statistics]);
    }
    let kernels =
        GemmKernels { single: ["conv2d_scalar", "conv2d_narrow", "conv2d_square"], mixed: "conv2d_scalar_to_half" };
    conv.lower(desc, product, flops, kernels, fused)
}

pub(super) fn conv2d_backward_input(desc: &Desc, window: ConvWindow) -> Lowered {
    backward_input(desc, window, FusedTerms::default())
}

/// True if [`backward_input`] computes the gradients of batch norm's weight and bias with the other terms of `fused`.
pub(super) fn has_halo_gradient(desc: &Desc, window: ConvWindow, fused: &FusedTerms) -> bool {
    desc.types == ElementTypes::Half && {
        let conv = ConvProblem::new(desc.output(0), &turned(desc.input(1)), window, false);
        Halo::of_gradient(desc, &conv, fused).is_some()
    }
}

pub(super) fn backward_input(desc: &Desc, window: ConvWindow, fused: FusedTerms) -> Lowered {
    let half = desc.input_dtype(1) == DType::F16;
    let filters = if half { turned(desc.input(1)) } else { desc.input(1).to_vec() };
    let conv = ConvProblem::new(desc.output(0), &filters, window, false);
    let kernels = GemmKernels {
        single: ["conv2d_backward_input_scalar", "conv2d_backward_input_narrow", "conv2d_backward_input_square"],
        mixed: "conv2d_backward_input_scalar_from_half",
    };
    let shortcut = fused.shortcut.map_or(0, |_| 2 * desc.input(2).iter().product::<usize>() * conv.c);
    let flops = conv.backward_flops() + shortcut as u64;
    if half {
        if let Some((halo, turned)) = Halo::of_gradient(desc, &conv, &fused) {
            let gradients = vec![fused.gradients.clone().into()];
            return halo.launch(halo.gradient, desc, &turned, (fused, gradients), flops).into();
        }
        let kernels = [
            "conv2d_backward_input_half_scalar",
            "conv2d_backward_input_half_small",
            "conv2d_backward_input_half_tall",
            "conv2d_backward_input_half_narrow",
        ];
        return conv.lower_half(desc, conv.backward(), flops, kernels, fused, &[]);
    }
    conv.lower(desc, conv.backward(), flops, kernels, fused)
}

/// Dimensions of filters, from those of their turned copy: `[c, kh, kw, k]` to `[k, kh, kw, c]`.
pub(super) fn turned(copy: &[usize]) -> Vec<usize> {
    let &[c, kh, kw, k] = copy else { unreachable!("shapes were checked when recorded") };
    vec![k, kh, kw, c]
}

pub(super) fn conv2d_backward_weight(desc: &Desc, window: ConvWindow) -> Lowered {
    let conv = ConvProblem::new(desc.input(1), desc.output(0), window, false);
    let kernels = GemmKernels {
        single: ["conv2d_backward_weight_scalar", "conv2d_backward_weight_narrow", "conv2d_backward_weight_square"],
        mixed: "conv2d_backward_weight_scalar_half_gradient",
    };
    conv.backward_weight(desc, kernels, ["conv2d_backward_weight_half_scalar", "conv2d_backward_weight_half_wide"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_divisor_divides_every_number_below_2_31() {
        let most = (1u64 << 31) - 1;
        let divisors = (1..200).chain([784, 1023, 1024, 1025, 65537, (1 << 30) - 1, 1 << 30, most]);
        for divisor in divisors {
            let Divisor { multiplier, shift } = Divisor::new(divisor as usize);
            let quotients = [0, 1, 2, 3, 1000, most / divisor / 2, most / divisor - 1, most / divisor];
            let around =
                quotients.into_iter().flat_map(|q| [(q * divisor).saturating_sub(1), q * divisor, q * divisor + 1]);
            for number in around.chain([most]).filter(|&number| number <= most) {
                assert_eq!((number * u64::from(multiplier)) >> shift, number / divisor, "{number} / {divisor}");
            }
        }
    }
}
