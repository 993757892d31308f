//! kernels/conv.cu and conv_pool.cu.

use bytemuck::{Pod, Zeroable};

use super::gemm::{Family, Finish, Plan, Product, Results, Work, fours};
use super::{Arg, Desc, Lowered};
use crate::device::cuda::launch::{Launch, Struct, THREADS};
use crate::tape::Window;

/// Divides numbers below 2^31 by one: a multiplication and a shift.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Divisor {
    multiplier: u32,
    shift: u32,
}

impl Divisor {
    /// With l = ceil(log2 d), m = ceil(2^(31 + l) / d) exceeds the true ratio by less than 1, so that n m / 2^(31 + l)
    /// exceeds n / d by less than n / 2^(31 + l) < 1 / 2^l <= 1 / d: not enough to reach the next integer.
    fn new(divisor: usize) -> Divisor {
        let log = divisor.next_power_of_two().trailing_zeros();
        let multiplier = (1u64 << (31 + log)).div_ceil(divisor as u64);
        Divisor { multiplier: u32::try_from(multiplier).expect("at most 2^31 2^log / d"), shift: 31 + log }
    }
}

/// Sizes of a convolution, as its kernels take them: `ConvShape` in kernels/conv.cuh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct ConvShape {
    h: u32,
    w: u32,
    c: u32,
    k: u32,
    kh: u32,
    kw: u32,
    out_h: u32,
    out_w: u32,
    padding: u32,
    stride: u32,
    chunk: u32,
    by_c: Divisor,
    by_k: Divisor,
    by_kw: Divisor,
    by_stride: Divisor,
    by_image: Divisor,
    by_row: Divisor,
}

impl Struct for ConvShape {
    const NAME: &'static str = "ConvShape";
}

/// Sizes of a convolution.
#[derive(Clone, Copy, Debug)]
struct Conv {
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    k: usize,
    kh: usize,
    kw: usize,
    out_h: usize,
    out_w: usize,
    window: Window,
    pooled: bool,
}

impl Conv {
    /// From the dimensions of x and w; `pooled` if a 2x2 max-pool follows.
    fn new(x: &[usize], w: &[usize], window: Window, pooled: bool) -> Conv {
        let (&[n, h, wide, c], &[k, kh, kw, _]) = (x, w) else { unreachable!("shapes were checked when recorded") };
        let out = |size: usize, kernel: usize| (size + 2 * window.padding - kernel) / window.stride + 1;
        let conv = Conv { n, h, w: wide, c, k, kh, kw, out_h: out(h, kh), out_w: out(wide, kw), window, pooled };
        assert!(conv.outputs().max(n * h * wide) < 1 << 31, "a batch has less than 2^31 pixels");
        conv
    }

    /// Outputs of the convolution, in pixels.
    fn outputs(&self) -> usize {
        self.n * self.out_h * self.out_w
    }

    /// Elements of a filter.
    fn filter(&self) -> usize {
        self.kh * self.kw * self.c
    }

    /// Bytes of all filters.
    fn weights(&self) -> usize {
        4 * self.k * self.filter()
    }

    /// Whether a pooled gradient's chosen outputs are better visited one by one: a tile would have few columns.
    fn few(&self) -> bool {
        const CHANNELS: usize = 4;
        const SHARED: usize = 48 * 1024;
        self.c <= CHANNELS && self.window.stride == 1 && self.weights() <= SHARED
    }

    fn shape(&self, chunk: usize) -> Arg {
        let (rows, columns) = if self.pooled { (self.out_h / 2, self.out_w / 2) } else { (self.out_h, self.out_w) };
        let int = |n: usize| u32::try_from(n).expect("a size fits an int");
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
            by_stride: Divisor::new(self.window.stride),
            by_image: Divisor::new(rows * columns),
            by_row: Divisor::new(columns),
        })
    }

    /// The arguments after the outputs: inputs, row count, capacity, sizes.
    fn args(&self, inputs: usize, chunk: usize) -> Vec<Arg> {
        (0..inputs).map(Arg::Input).chain([Arg::Rows, Arg::size(self.n), self.shape(chunk)]).collect()
    }

    /// Whether everything may be read and written four elements at a time.
    fn vectors(&self, desc: &Desc) -> bool {
        fours(&[self.c, self.k]) && desc.output_aligned(0) && (0..desc.inputs()).all(|i| desc.input_aligned(i))
    }

    fn forward(&self) -> Product {
        Product { rows: self.outputs(), columns: self.k, length: self.filter() }
    }

    /// Operations of a gradient. Three of four products are zero whatever the numbers are, if a max-pool follows.
    fn backward_flops(&self) -> u64 {
        self.forward().flops() / if self.pooled { 4 } else { 1 }
    }

    fn backward_input(&self, desc: &Desc, family: Family) -> Lowered {
        let Conv { n, h, w, c, k, kh, kw, .. } = *self;
        let product = Product { rows: n * h * w, columns: c, length: kh * kw * k };
        let (vectors, flops) = (self.vectors(desc), self.backward_flops());
        let work = Work { family, product, vectors, results: Results::Rows(Finish::default()), flops };
        work.lower(desc, |chunk, _| self.args(desc.inputs(), chunk))
    }

    fn backward_weight(&self, desc: &Desc, family: Family) -> Lowered {
        let product = Product { rows: self.k, columns: self.filter(), length: self.outputs() };
        let (vectors, flops) = (self.vectors(desc), self.backward_flops());
        let work = Work { family, product, vectors, results: Results::Whole, flops };
        work.lower(desc, |chunk, _| self.args(desc.inputs(), chunk))
    }
}

pub(super) fn conv2d(desc: &Desc, window: Window) -> Lowered {
    let conv = Conv::new(desc.input(0), desc.input(1), window, false);
    let family = ["conv2d_scalar", "conv2d_narrow", "conv2d_square"];
    let (product, vectors) = (conv.forward(), conv.vectors(desc));
    let work = Work { family, product, vectors, results: Results::Rows(Finish::default()), flops: product.flops() };
    work.lower(desc, |chunk, _| conv.args(2, chunk))
}

pub(super) fn conv2d_backward_input(desc: &Desc, window: Window) -> Lowered {
    let conv = Conv::new(desc.output(0), desc.input(1), window, false);
    let family = ["conv2d_backward_input_scalar", "conv2d_backward_input_narrow", "conv2d_backward_input_square"];
    conv.backward_input(desc, family)
}

pub(super) fn conv2d_backward_weight(desc: &Desc, window: Window) -> Lowered {
    let conv = Conv::new(desc.input(1), desc.output(0), window, false);
    let family = ["conv2d_backward_weight_scalar", "conv2d_backward_weight_narrow", "conv2d_backward_weight_square"];
    conv.backward_weight(desc, family)
}

/// In one launch: the four sums that are compared must be whole.
pub(super) fn conv_pool(desc: &Desc, window: Window) -> Lowered {
    let conv = Conv::new(desc.input(0), desc.input(1), window, true);
    let product = conv.forward();
    let plan = Plan::new(product, conv.vectors(desc), false);
    let args = [Arg::Output(0), Arg::Output(1)].into_iter().chain(conv.args(3, plan.chunk)).collect();
    let cost = desc.cost(product.flops());
    plan.launch(["conv_pool_scalar", "conv_pool_narrow", "conv_pool_square"], args, cost).into()
}

pub(super) fn conv_pool_backward_input(desc: &Desc, window: Window) -> Lowered {
    let conv = Conv::new(desc.output(0), desc.input(2), window, true);
    if conv.few() {
        return conv_pool_backward_input_few(desc, &conv).into();
    }
    let family =
        ["conv_pool_backward_input_scalar", "conv_pool_backward_input_narrow", "conv_pool_backward_input_square"];
    conv.backward_input(desc, family)
}

/// A warp for each channel of 2 x 2 pixels, several in turn.
fn conv_pool_backward_input_few(desc: &Desc, conv: &Conv) -> Launch {
    const WARPS: usize = THREADS as usize / 32;
    const TURNS: usize = 4;
    let args = [Arg::Output(0)].into_iter().chain(conv.args(3, 0)).chain([Arg::size(TURNS)]).collect();
    let blocks = conv.n * conv.h.div_ceil(2) * conv.w.div_ceil(2) * conv.c;
    assert!(blocks < 1 << 31, "a batch has less than 2^31 pixels");
    let cost = desc.cost(conv.backward_flops());
    let launch = Launch::new("conv_pool_backward_input_few", blocks.div_ceil(WARPS * TURNS), args, cost);
    Launch { shared: u32::try_from(conv.weights()).expect("few bytes"), ..launch }
}

pub(super) fn conv_pool_backward_weight(desc: &Desc, window: Window) -> Lowered {
    let conv = Conv::new(desc.input(2), desc.output(0), window, true);
    let family =
        ["conv_pool_backward_weight_scalar", "conv_pool_backward_weight_narrow", "conv_pool_backward_weight_square"];
    conv.backward_weight(desc, family)
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
