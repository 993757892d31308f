//! Max-pooling, alone and fused with the convolution before it.
//!
//! After a 2x2 max-pool only one in four of a convolution's outputs has a gradient, and ReLU takes more. The
//! fused backward ops visit those outputs alone: each is a filter (for dx) or a window of the image (for dw) times
//! one number, summed in vector registers. Which outputs, the choice says that the forward op recorded.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::conv::{Forward, GROUP, Shape, scratch, sum_groups};
use super::pool::pool;
use super::vectorized;
use crate::tape::NO_CHOICE;

/// out, choice `[n, out_h/2, out_w/2, k]`: convolution, bias, ReLU, max-pool.
pub(super) fn conv_pool(
    out: &mut [f32],
    choice: &mut [u8],
    x: &[f32],
    w: &[f32],
    bias: &[f32],
    n: usize,
    shape: &Shape,
) {
    let pooled = shape.windows() * shape.k / 4;
    let rows = out.par_chunks_mut(pooled).zip(choice.par_chunks_mut(pooled)).zip(x.par_chunks(shape.image()));
    Forward::with(shape, w, |forward| {
        rows.take(n).for_each(|((out, choice), image)| {
            scratch(shape.windows() * shape.k, |conv| {
                forward.image(conv, image, false);
                vectorized(
                    #[inline(always)]
                    || {
                        let (out, choice) = (&mut out[..pooled], &mut choice[..pooled]);
                        pool(conv, shape.out_w, shape.k, |at, channel, best, place| {
                            // The bias moves all four alike, so it may be added to the maximum.
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

/// dx `[n, h, w, c]` from dy and choice `[n, out_h/2, out_w/2, k]`.
pub(super) fn conv_pool_backward_input(dx: &mut [f32], dy: &[f32], choice: &[u8], w: &[f32], n: usize, shape: &Shape) {
    let pooled = shape.windows() * shape.k / 4;
    let layout = Layout::new(shape);
    scratch(shape.k * layout.row(), |filters| {
        layout.pack(filters, w, shape);
        let rows = dx.par_chunks_mut(shape.image()).zip(dy.par_chunks(pooled)).zip(choice.par_chunks(pooled));
        rows.take(n).for_each(|((dx, dy), choice)| {
            let outputs = outputs(dy, choice, shape);
            scratch(layout.padded(shape), |padded| {
                padded.fill(0.0);
                layout.run(SumFilters { padded, filters, dy, outputs: &outputs, layout: &layout });
                shape.frame().cut_out(dx, padded, shape.w);
            });
        });
    });
}

/// dw `[k, kh, kw, c]` over n images, from dy, choice and x.
pub(super) fn conv_pool_backward_weight(dw: &mut [f32], dy: &[f32], choice: &[u8], x: &[f32], n: usize, shape: &Shape) {
    let pooled = shape.windows() * shape.k / 4;
    let layout = Layout::new(shape);
    scratch(shape.k * layout.row(), |total| {
        sum_groups(total, n, |filters, images| {
            debug_assert!(images.len() <= GROUP);
            filters.fill(0.0);
            for i in images {
                let (dy, choice) = (&dy[i * pooled..][..pooled], &choice[i * pooled..][..pooled]);
                let (terms, by_filter) = by_filter(dy, choice, shape);
                scratch(layout.padded(shape), |padded| {
                    shape.frame().surround(padded, &x[i * shape.image()..][..shape.image()], shape.w);
                    layout.run(SumWindows { filters, padded, terms: &terms, by_filter: &by_filter, layout: &layout });
                });
            }
        });
        layout.unpack(dw, total, shape);
    });
}

/// dbias `[k]`: the sum of dy where a choice was made.
pub(super) fn conv_pool_backward_bias(dbias: &mut [f32], dy: &[f32], choice: &[u8]) {
    dbias.fill(0.0);
    for (dy, choice) in dy.chunks_exact(dbias.len()).zip(choice.chunks_exact(dbias.len())) {
        let chosen = dy.iter().zip(choice).map(|(&dy, &c)| if c == NO_CHOICE { 0.0 } else { dy });
        dbias.iter_mut().zip(chosen).for_each(|(b, dy)| *b += dy);
    }
}

/// How filters and padded images are laid out for vector registers: a kernel row (kw c elements) takes whole
/// vectors. What a vector holds beyond its row meets zeros of the filter, so the sums are not touched by it.
struct Layout {
    /// Elements of a vector.
    lanes: usize,
    /// Vectors whose sums are kept in registers at a time.
    block: usize,
    /// For each vector of a filter, its place relative to the window's first element in the padded image.
    offsets: Vec<usize>,
}

/// Numbers of registers that a block may take: what divides a filter's vectors is used.
const BLOCKS: [usize; 9] = [10, 9, 8, 6, 5, 4, 3, 2, 1];

impl Layout {
    fn new(shape: &Shape) -> Layout {
        struct Lanes;
        impl WithSimd for Lanes {
            type Output = usize;
            fn with_simd<S: Simd>(self, _: S) -> usize {
                S::F32_LANES
            }
        }
        let lanes = pulp::Arch::new().dispatch(Lanes);
        let pitch = shape.frame().pitch();
        let vectors = (shape.kw * shape.c).div_ceil(lanes);
        let offsets: Vec<usize> = (0..shape.kh * vectors).map(|v| v / vectors * pitch + v % vectors * lanes).collect();
        let block = BLOCKS.into_iter().find(|b| offsets.len().is_multiple_of(*b)).expect("1 divides");
        Layout { lanes, block, offsets }
    }

    /// Elements of a filter.
    fn row(&self) -> usize {
        self.offsets.len() * self.lanes
    }

    /// Elements of a padded image, and of what a last vector may touch beyond it.
    fn padded(&self, shape: &Shape) -> usize {
        shape.frame().len() + self.lanes
    }

    /// The element of packed filters where vector `v` of filter `k` begins: `[v / block][k][v % block]`.
    fn place(&self, v: usize, k: usize, filters: usize) -> usize {
        ((v / self.block * filters + k) * self.block + v % self.block) * self.lanes
    }

    /// Calls `f(place in packed filters, place in w, length)` for each vector of each filter.
    fn vectors(&self, shape: &Shape, mut f: impl FnMut(usize, usize, usize)) {
        let (run, per_row) = (shape.kw * shape.c, self.offsets.len() / shape.kh);
        for k in 0..shape.k {
            for v in 0..self.offsets.len() {
                let first = v % per_row * self.lanes;
                let from = k * shape.window() + v / per_row * run + first;
                f(self.place(v, k, shape.k), from, self.lanes.min(run - first));
            }
        }
    }

    fn pack(&self, filters: &mut [f32], w: &[f32], shape: &Shape) {
        filters.fill(0.0);
        self.vectors(shape, |to, from, len| filters[to..][..len].copy_from_slice(&w[from..][..len]));
    }

    fn unpack(&self, w: &mut [f32], filters: &[f32], shape: &Shape) {
        self.vectors(shape, |from, to, len| w[to..][..len].copy_from_slice(&filters[from..][..len]));
    }

    /// Runs a kernel with its block size known to the compiler.
    fn run(&self, kernel: impl Kernel) {
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
trait Kernel {
    fn run<S: Simd, const B: usize>(self, simd: S);
}

struct Blocked<const B: usize, K>(K);

impl<const B: usize, K: Kernel> WithSimd for Blocked<B, K> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.run::<S, B>(simd);
    }
}

/// Filters that one mask covers.
const MASK: usize = u64::BITS as usize;

/// Gradients of one output of the convolution, for up to [`MASK`] filters in a row.
struct Output {
    /// The window's place in the padded image.
    at: usize,
    /// The first of the gradients in dy.
    dy: usize,
    /// The first filter.
    filter: usize,
    /// Which of the filters have a gradient that is not zero.
    mask: u64,
}

/// The outputs of one image's convolution that have a gradient.
///
/// They come in an order in which neighbours are far apart: a processor waits where a load overlaps a store that has
/// just been made, and windows next to each other overlap.
fn outputs(dy: &[f32], choice: &[u8], shape: &Shape) -> Vec<Output> {
    const PLACES: usize = NO_CHOICE as usize;
    /// Rows of pooled outputs between two that are summed one after the other.
    const APART: usize = 3;
    let mut found: [Vec<Output>; PLACES] = Default::default();
    let (rows, columns) = (shape.out_h / 2, shape.out_w / 2);
    let order = (0..APART).flat_map(|phase| (0..columns).map(move |x| (phase, x)));
    for (y, x) in order.flat_map(|(phase, x)| (phase..rows).step_by(APART).map(move |y| (y, x))) {
        let pixel = (y * columns + x) * shape.k;
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
                let at = (2 * y + place / 2) * shape.frame().pitch() + (2 * x + place % 2) * shape.c;
                found[place].push(Output { at, dy: first, filter, mask });
            }
        }
    }
    found.into_iter().flatten().collect()
}

/// One number of dy, and the place in the padded image of the window it multiplies.
#[derive(Clone, Copy)]
struct Term {
    at: u32,
    g: f32,
}

/// The nonzero gradients of one image, filter by filter; for each filter, where its own are.
fn by_filter(dy: &[f32], choice: &[u8], shape: &Shape) -> (Vec<Term>, Vec<Range<usize>>) {
    let half = shape.out_w / 2;
    let mut terms = Vec::with_capacity(dy.len());
    let mut filters = Vec::with_capacity(shape.k);
    for k in 0..shape.k {
        let start = terms.len();
        for pixel in 0..shape.windows() / 4 {
            let (g, c) = (dy[pixel * shape.k + k], choice[pixel * shape.k + k]);
            if g != 0.0 && c != NO_CHOICE {
                let (y, x) = (2 * (pixel / half) + usize::from(c) / 2, 2 * (pixel % half) + usize::from(c) % 2);
                terms.push(Term { at: (y * shape.frame().pitch() + x * shape.c) as u32, g });
            }
        }
        filters.push(start..terms.len());
    }
    (terms, filters)
}

/// `padded[window] += sum of dy filter` for each output.
struct SumFilters<'a> {
    padded: &'a mut [f32],
    filters: &'a [f32],
    dy: &'a [f32],
    outputs: &'a [Output],
    layout: &'a Layout,
}

impl Kernel for SumFilters<'_> {
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
                    let to = &mut self.padded[output.at + offsets[j]..][..S::F32_LANES];
                    let to = &mut S::as_mut_simd_f32s(to).0[0];
                    *to = simd.add_f32s(*to, acc[j]);
                }
            }
        }
    }
}

/// `filter += sum of g padded[window]` for each filter.
struct SumWindows<'a> {
    filters: &'a mut [f32],
    padded: &'a [f32],
    terms: &'a [Term],
    by_filter: &'a [Range<usize>],
    layout: &'a Layout,
}

impl Kernel for SumWindows<'_> {
    #[inline(always)]
    fn run<S: Simd, const B: usize>(self, simd: S) {
        let filters = S::as_mut_simd_f32s(self.filters).0.as_chunks_mut::<B>().0;
        let blocks = self.layout.offsets.as_chunks::<B>().0;
        for (filters, offsets) in filters.chunks_exact_mut(self.by_filter.len()).zip(blocks) {
            for (filter, terms) in filters.iter_mut().zip(self.by_filter) {
                let mut acc = *filter;
                for term in &self.terms[terms.clone()] {
                    let g = simd.splat_f32s(term.g);
                    for j in 0..B {
                        let window = &self.padded[term.at as usize + offsets[j]..][..S::F32_LANES];
                        acc[j] = simd.mul_add_f32s(g, S::as_simd_f32s(window).0[0], acc[j]);
                    }
                }
                *filter = acc;
            }
        }
    }
}
