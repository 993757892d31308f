//! Convolution, bias, ReLU and 2x2 max-pooling in one op.
//!
//! After a 2x2 max-pool at most one in four of the convolution's outputs has a gradient, and ReLU leaves fewer. The
//! backward ops visit those outputs alone; the choice that the forward op recorded names them. Each adds one number
//! times a filter to dx, or one number times a window of the image to dw, in vector registers.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::attack::{PointAlong, along_direction};
use super::conv::{ConvSizes, Forward, GROUP, sum_groups};
use super::half;
use super::pool::pool;
use super::scratch::scratch;
use super::simd::vectorized;
use crate::tape::NO_CHOICE;

/// Writes out and choice `[n, out_h/2, out_w/2, k]`.
pub(super) fn conv_pool(
    out: &mut [f32],
    choice: &mut [u8],
    x: &[f32],
    w: &[f32],
    bias: &[f32],
    n: usize,
    shape: &ConvSizes,
) {
    let pooled = shape.outputs() * shape.k / 4;
    let images = out.par_chunks_mut(pooled).zip(choice.par_chunks_mut(pooled)).zip(x.par_chunks(shape.image_len()));
    Forward::with(shape, w, |forward| {
        images.take(n).for_each(|((out, choice), image)| {
            scratch(shape.outputs() * shape.k, |conv| {
                forward.image(conv, image, false);
                vectorized(
                    #[inline(always)]
                    || {
                        let (out, choice) = (&mut out[..pooled], &mut choice[..pooled]);
                        pool(conv, shape.out_w, shape.k, |at, channel, best, place| {
                            // The bias is the same for all four, so it is added to the maximum.
                            let value = best + bias[channel];
                            out[at] = if value <= 0.0 { 0.0 } else { value };
                            choice[at] = if value > 0.0 { place } else { NO_CHOICE };
                        });
                    },
                );
            });
        });
    });
}

/// A layer with pooling: its weight, its bias and its sizes.
pub(super) struct PooledLayer<'a> {
    pub w: &'a [f32],
    pub bias: &'a [f32],
    pub shape: ConvSizes,
}

/// Writes out and choice of the second layer, and the choice of the first one, whose results are rounded. The images are
/// `x`, or points along a direction from there.
pub(super) fn two_conv_pools(
    out: &mut [f32],
    choices: [&mut [u8]; 2],
    x: &[f32],
    along: Option<PointAlong>,
    [first, second]: [&PooledLayer; 2],
    n: usize,
) {
    let [choice, first_choice] = choices;
    let points = along.map_or(0, |_| n * first.shape.image_len());
    scratch(n * second.shape.image_len() + points, |free| {
        let (points, between) = free.split_at_mut(points);
        if let Some((rule, [adv, ball, t])) = &along {
            along_direction(points, x, adv, ball, t, n, rule);
        }
        let x = if along.is_some() { points } else { x };
        conv_pool(between, first_choice, x, first.w, first.bias, n, &first.shape);
        half::round(between);
        conv_pool(out, choice, between, second.w, second.bias, n, &second.shape);
    });
}

/// Writes dx `[n, h, w, c]`, computed from dy and choice `[n, out_h/2, out_w/2, k]`.
pub(super) fn conv_pool_backward_input(
    dx: &mut [f32],
    dy: &[f32],
    choice: &[u8],
    w: &[f32],
    n: usize,
    shape: &ConvSizes,
) {
    let pooled = shape.outputs() * shape.k / 4;
    let layout = FilterLayout::new(shape);
    scratch(shape.k * layout.row(), |filters| {
        layout.pack(filters, w, shape);
        let images = dx.par_chunks_mut(shape.image_len()).zip(dy.par_chunks(pooled)).zip(choice.par_chunks(pooled));
        images.take(n).for_each(|((dx, dy), choice)| {
            let outputs = chosen_outputs(dy, choice, shape);
            scratch(layout.padded(shape), |padded| {
                padded.fill(0.0);
                layout.run(SumFilters { padded, filters, dy, outputs: &outputs, layout: &layout });
                shape.padded_image().crop(dx, padded, shape.w);
            });
        });
    });
}

/// Writes dw `[k, kh, kw, c]`, summed over n images of dy, choice and x.
pub(super) fn conv_pool_backward_weight(
    dw: &mut [f32],
    dy: &[f32],
    choice: &[u8],
    x: &[f32],
    n: usize,
    shape: &ConvSizes,
) {
    let pooled = shape.outputs() * shape.k / 4;
    let layout = FilterLayout::new(shape);
    scratch(shape.k * layout.row(), |total| {
        sum_groups(total, n, |filters, images| {
            debug_assert!(images.len() <= GROUP);
            filters.fill(0.0);
            for i in images {
                let (dy, choice) = (&dy[i * pooled..][..pooled], &choice[i * pooled..][..pooled]);
                let (terms, by_filter) = terms_by_filter(dy, choice, shape);
                scratch(layout.padded(shape), |padded| {
                    shape.padded_image().pad(padded, &x[i * shape.image_len()..][..shape.image_len()], shape.w);
                    layout.run(SumWindows { filters, padded, terms: &terms, by_filter: &by_filter, layout: &layout });
                });
            }
        });
        layout.unpack(dw, total, shape);
    });
}

/// Writes dbias `[k]`: the sum of dy over pooled outputs with a choice.
pub(super) fn conv_pool_backward_bias(dbias: &mut [f32], dy: &[f32], choice: &[u8]) {
    dbias.fill(0.0);
    for (dy, choice) in dy.chunks_exact(dbias.len()).zip(choice.chunks_exact(dbias.len())) {
        let chosen = dy.iter().zip(choice).map(|(&dy, &c)| if c == NO_CHOICE { 0.0 } else { dy });
        dbias.iter_mut().zip(chosen).for_each(|(b, dy)| *b += dy);
    }
}

/// Layout of filters for vector registers.
///
/// A kernel row (kw c elements) takes whole vectors. Elements of a vector beyond its kernel row are 0 in the packed
/// filter, so the sums are not changed by what the padded image holds there.
struct FilterLayout {
    /// Elements of a vector.
    lanes: usize,
    /// Vectors of a filter whose sums are held in registers at a time.
    block: usize,
    /// For each vector of a filter: its offset in the padded image from the window's first element.
    offsets: Vec<usize>,
}

/// Possible numbers of vectors of a block. The first that divides the number of a filter's vectors is used.
const BLOCKS: [usize; 9] = [10, 9, 8, 6, 5, 4, 3, 2, 1];

impl FilterLayout {
    fn new(shape: &ConvSizes) -> FilterLayout {
        struct Lanes;
        impl WithSimd for Lanes {
            type Output = usize;
            fn with_simd<S: Simd>(self, _: S) -> usize {
                S::F32_LANES
            }
        }
        let lanes = pulp::Arch::new().dispatch(Lanes);
        let pitch = shape.padded_image().pitch();
        let vectors = (shape.kw * shape.c).div_ceil(lanes);
        let offsets: Vec<usize> = (0..shape.kh * vectors).map(|v| v / vectors * pitch + v % vectors * lanes).collect();
        let block = BLOCKS.into_iter().find(|b| offsets.len().is_multiple_of(*b)).expect("1 divides");
        FilterLayout { lanes, block, offsets }
    }

    /// Number of elements of a packed filter.
    fn row(&self) -> usize {
        self.offsets.len() * self.lanes
    }

    /// Number of elements of a padded image, with one more vector: the last vectors reach beyond the image.
    fn padded(&self, shape: &ConvSizes) -> usize {
        shape.padded_image().len() + self.lanes
    }

    /// Index in the packed filters of the first element of vector `v` of filter `k`: they lie as
    /// `[v / block][k][v % block]`.
    fn place(&self, v: usize, k: usize, filters: usize) -> usize {
        ((v / self.block * filters + k) * self.block + v % self.block) * self.lanes
    }

    /// Calls `f(index in packed filters, index in w, length)` for each vector of each filter.
    fn vectors(&self, shape: &ConvSizes, mut f: impl FnMut(usize, usize, usize)) {
        let (run, per_row) = (shape.kw * shape.c, self.offsets.len() / shape.kh);
        for k in 0..shape.k {
            for v in 0..self.offsets.len() {
                let first = v % per_row * self.lanes;
                let from = k * shape.filter_len() + v / per_row * run + first;
                f(self.place(v, k, shape.k), from, self.lanes.min(run - first));
            }
        }
    }

    fn pack(&self, filters: &mut [f32], w: &[f32], shape: &ConvSizes) {
        filters.fill(0.0);
        self.vectors(shape, |to, from, len| filters[to..][..len].copy_from_slice(&w[from..][..len]));
    }

    fn unpack(&self, w: &mut [f32], filters: &[f32], shape: &ConvSizes) {
        self.vectors(shape, |from, to, len| w[to..][..len].copy_from_slice(&filters[from..][..len]));
    }

    /// Runs a kernel with the block size as a constant.
    fn run(&self, kernel: impl BlockKernel) {
        let arch = pulp::Arch::new();
        match self.block {
            10 => arch.dispatch(Blocked::<10, _>(kernel)),
            9 => arch.dispatch(Blocked::<9, _>(kernel)),
            8 => arch.dispatch(Blocked::<8, _>(kernel)),
            6 => arch.dispatch(Blocked::<6, _>(kernel)),
            5 => arch.dispatch(Blocked::<5, _>(kernel)),
            4 => arch.dispatch(Blocked::<4, _>(kernel)),
            3 => arch.dispatch(Blocked::<3, _>(kernel)),
            2 => arch.dispatch(Blocked::<2, _>(kernel)),
            _ => arch.dispatch(Blocked::<1, _>(kernel)),
        }
    }
}

/// A kernel over blocks of `B` vectors.
trait BlockKernel {
    fn run<S: Simd, const B: usize>(self, simd: S);
}

struct Blocked<const B: usize, K>(K);

impl<const B: usize, K: BlockKernel> WithSimd for Blocked<B, K> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.run::<S, B>(simd);
    }
}

/// Number of filters that one mask covers.
const MASK: usize = u64::BITS as usize;

/// Gradients of one output pixel of the convolution, for up to [`MASK`] consecutive filters.
struct ChosenOutputs {
    /// Index of the window's first element in the padded image.
    window: usize,
    /// Index of the first filter's gradient in dy.
    dy: usize,
    /// First filter.
    filter: usize,
    /// Bit i is set if filter `filter + i` has a gradient other than 0.
    mask: u64,
}

/// Outputs of one image's convolution that have a gradient.
///
/// Consecutive ones are far apart in the image. Neighbouring windows overlap, and a processor stalls on a load that
/// overlaps a store it has just made.
fn chosen_outputs(dy: &[f32], choice: &[u8], shape: &ConvSizes) -> Vec<ChosenOutputs> {
    const PLACES: usize = NO_CHOICE as usize;
    /// Distance, in lines of pooled outputs, between consecutive outputs.
    const APART: usize = 3;
    let mut found: [Vec<ChosenOutputs>; PLACES] = Default::default();
    let (height, width) = (shape.out_h / 2, shape.out_w / 2);
    let order = (0..APART).flat_map(|phase| (0..width).map(move |x| (phase, x)));
    for (y, x) in order.flat_map(|(phase, x)| (phase..height).step_by(APART).map(move |y| (y, x))) {
        let pixel = (y * width + x) * shape.k;
        for filter in (0..shape.k).step_by(MASK) {
            let first = pixel + filter;
            let filters = first..first + MASK.min(shape.k - filter);
            let mut masks = [0u64; PLACES];
            for (bit, (&g, &c)) in dy[filters.clone()].iter().zip(&choice[filters]).enumerate() {
                for (place, mask) in masks.iter_mut().enumerate() {
                    *mask |= u64::from(usize::from(c) == place && g != 0.0) << bit;
                }
            }
            for (place, mask) in masks.into_iter().enumerate().filter(|(_, mask)| *mask != 0) {
                let window = (2 * y + place / 2) * shape.padded_image().pitch() + (2 * x + place % 2) * shape.c;
                found[place].push(ChosenOutputs { window, dy: first, filter, mask });
            }
        }
    }
    found.into_iter().flatten().collect()
}

/// A gradient of dy, and the index in the padded image of the window that it multiplies.
#[derive(Clone, Copy)]
struct GradientTerm {
    window: u32,
    gradient: f32,
}

/// Gradients of one image other than 0, ordered by filter; and each filter's range of them.
fn terms_by_filter(dy: &[f32], choice: &[u8], shape: &ConvSizes) -> (Vec<GradientTerm>, Vec<Range<usize>>) {
    let half = shape.out_w / 2;
    let mut terms = Vec::with_capacity(dy.len());
    let mut filters = Vec::with_capacity(shape.k);
    for k in 0..shape.k {
        let start = terms.len();
        for pixel in 0..shape.outputs() / 4 {
            let (g, c) = (dy[pixel * shape.k + k], choice[pixel * shape.k + k]);
            if g != 0.0 && c != NO_CHOICE {
                let (y, x) = (2 * (pixel / half) + usize::from(c) / 2, 2 * (pixel % half) + usize::from(c) % 2);
                terms.push(GradientTerm {
                    window: (y * shape.padded_image().pitch() + x * shape.c) as u32,
                    gradient: g,
                });
            }
        }
        filters.push(start..terms.len());
    }
    (terms, filters)
}

/// `padded[window] += sum of dy filter` for each chosen output.
struct SumFilters<'a> {
    padded: &'a mut [f32],
    filters: &'a [f32],
    dy: &'a [f32],
    outputs: &'a [ChosenOutputs],
    layout: &'a FilterLayout,
}

impl BlockKernel for SumFilters<'_> {
    #[inline(always)]
    fn run<S: Simd, const B: usize>(self, simd: S) {
        let filters = S::as_simd_f32s(self.filters).0.as_chunks::<B>().0;
        let blocks = self.layout.offsets.as_chunks::<B>().0;
        for (filters, offsets) in filters.chunks_exact(filters.len() / blocks.len()).zip(blocks) {
            for output in self.outputs {
                let (dy, filters) = (&self.dy[output.dy..], &filters[output.filter..]);
                let mut mask = output.mask;
                let mut acc = [simd.splat_f32s(0.0); B];
                while mask != 0 {
                    let k = mask.trailing_zeros() as usize;
                    mask &= mask - 1;
                    let (g, filter) = (simd.splat_f32s(dy[k]), &filters[k]);
                    for j in 0..B {
                        acc[j] = simd.mul_add_f32s(g, filter[j], acc[j]);
                    }
                }
                for j in 0..B {
                    let to = &mut self.padded[output.window + offsets[j]..][..S::F32_LANES];
                    let to = &mut S::as_mut_simd_f32s(to).0[0];
                    *to = simd.add_f32s(*to, acc[j]);
                }
            }
        }
    }
}

/// `filter += sum of gradient padded[window]` for each filter.
struct SumWindows<'a> {
    filters: &'a mut [f32],
    padded: &'a [f32],
    terms: &'a [GradientTerm],
    by_filter: &'a [Range<usize>],
    layout: &'a FilterLayout,
}

impl BlockKernel for SumWindows<'_> {
    #[inline(always)]
    fn run<S: Simd, const B: usize>(self, simd: S) {
        let filters = S::as_mut_simd_f32s(self.filters).0.as_chunks_mut::<B>().0;
        let blocks = self.layout.offsets.as_chunks::<B>().0;
        for (filters, offsets) in filters.chunks_exact_mut(self.by_filter.len()).zip(blocks) {
            for (filter, terms) in filters.iter_mut().zip(self.by_filter) {
                let mut acc = *filter;
                for term in &self.terms[terms.clone()] {
                    let g = simd.splat_f32s(term.gradient);
                    for j in 0..B {
                        let window = &self.padded[term.window as usize + offsets[j]..][..S::F32_LANES];
                        acc[j] = simd.mul_add_f32s(g, S::as_simd_f32s(window).0[0], acc[j]);
                    }
                }
                *filter = acc;
            }
        }
    }
}
