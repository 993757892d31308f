//! Max-pooling, alone and fused with the convolution before it.
//!
//! After a 2x2 max-pool only one in four of a convolution's outputs has a gradient, and ReLU takes more. The
//! fused backward ops visit those outputs alone: each is a filter (for dx) or a window of the image (for dw) times
//! one number, summed in vector registers. Which outputs, the choice says that the forward op recorded.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::conv::{GROUP, Shape, scratch, sum_groups};
use super::vectorized;
use crate::tape::NO_CHOICE;

/// For each output of a 2x2 max-pool of `conv` `[h, w, k]`, calls `f(output, channel, maximum, first place of it)`.
#[inline(always)] // so that it is compiled for the caller's vector instructions
fn pool(conv: &[f32], w: usize, k: usize, mut f: impl FnMut(usize, usize, f32, u8)) {
    for (oy, rows) in conv.chunks_exact(2 * w * k).enumerate() {
        let (upper, lower) = rows.split_at(w * k);
        for (ox, (upper, lower)) in upper.chunks_exact(2 * k).zip(lower.chunks_exact(2 * k)).enumerate() {
            let ((a, b), (c, d)) = (upper.split_at(k), lower.split_at(k));
            let base = (oy * (w / 2) + ox) * k;
            for i in 0..k {
                let (mut best, mut choice) = (a[i], 0);
                for (value, place) in [(b[i], 1), (c[i], 2), (d[i], 3)] {
                    let more = value > best;
                    best = if more { value } else { best };
                    choice = if more { place } else { choice };
                }
                f(base + i, i, best, choice);
            }
        }
    }
}

/// out, choice `[n, h/2, w/2, c]` from x of dims `[n, h, w, c]`.
pub(super) fn max_pool2d(out: &mut [f32], choice: &mut [u8], x: &[f32], n: usize, dims: &[usize]) {
    let &[_, h, w, c] = dims else { unreachable!("shapes were checked when recorded") };
    let pooled = h * w * c / 4;
    let rows = out.par_chunks_mut(pooled).zip(choice.par_chunks_mut(pooled)).zip(x.par_chunks(h * w * c));
    rows.take(n).for_each(|((out, choice), x)| {
        pool(x, w, c, |at, _, best, place| (out[at], choice[at]) = (best, place));
    });
}

/// dx of dims `[n, h, w, c]` from dy and choice `[n, h/2, w/2, c]`.
pub(super) fn max_pool2d_backward(dx: &mut [f32], dy: &[f32], choice: &[u8], n: usize, dims: &[usize]) {
    let &[_, h, w, c] = dims else { unreachable!("shapes were checked when recorded") };
    let pooled = h * w * c / 4;
    let rows = dx.par_chunks_mut(h * w * c).zip(dy.par_chunks(pooled)).zip(choice.par_chunks(pooled));
    rows.take(n).for_each(|((dx, dy), choice)| {
        dx.fill(0.0);
        for (at, (&dy, &choice)) in dy.iter().zip(choice).enumerate() {
            let (pixel, channel) = (at / c, at % c);
            let (y, x) =
                (2 * (pixel / (w / 2)) + usize::from(choice) / 2, 2 * (pixel % (w / 2)) + usize::from(choice) % 2);
            dx[(y * w + x) * c + channel] = dy;
        }
    });
}

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
    shape.with_transposed(w, |w| {
        rows.take(n).for_each(|((out, choice), image)| {
            scratch(shape.windows() * shape.k, |conv| {
                shape.forward(conv, image, w);
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
            let (terms, sums) = by_output(dy, choice, shape, &layout);
            scratch(layout.padded(shape), |padded| {
                padded.fill(0.0);
                layout.run(SumFilters { padded, filters, terms: &terms, sums: &sums, layout: &layout });
                let inside = padded.chunks_exact(layout.pitch).skip(shape.padding);
                for (dx, row) in dx.chunks_exact_mut(shape.w * shape.c).zip(inside) {
                    dx.copy_from_slice(&row[shape.padding * shape.c..][..dx.len()]);
                }
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
                let (terms, sums) = by_filter(dy, choice, shape, &layout);
                scratch(layout.padded(shape), |padded| {
                    padded.fill(0.0);
                    let inside = padded.chunks_exact_mut(layout.pitch).skip(shape.padding);
                    for (row, x) in inside.zip(x[i * shape.image()..][..shape.image()].chunks_exact(shape.w * shape.c))
                    {
                        row[shape.padding * shape.c..][..x.len()].copy_from_slice(x);
                    }
                    layout.run(SumWindows { filters, padded, terms: &terms, sums: &sums, layout: &layout });
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
    /// Elements of a padded image's row.
    pitch: usize,
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
        let pitch = (shape.w + 2 * shape.padding) * shape.c;
        let vectors = (shape.kw * shape.c).div_ceil(lanes);
        let offsets: Vec<usize> = (0..shape.kh * vectors).map(|v| v / vectors * pitch + v % vectors * lanes).collect();
        let block = BLOCKS.into_iter().find(|b| offsets.len().is_multiple_of(*b)).expect("1 divides");
        Layout { pitch, lanes, block, offsets }
    }

    /// Elements of a filter.
    fn row(&self) -> usize {
        self.offsets.len() * self.lanes
    }

    /// Elements of a padded image, and of what a last vector may touch beyond it.
    fn padded(&self, shape: &Shape) -> usize {
        (shape.h + 2 * shape.padding) * self.pitch + self.lanes
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

/// One number of dy, and what it multiplies: a filter's number, or a window's place in the padded image.
#[derive(Clone, Copy)]
struct Term {
    at: u32,
    g: f32,
}

/// Terms that are summed together, and where the sum goes: a window's place, or a filter's number.
struct Sum {
    terms: std::ops::Range<usize>,
    at: usize,
}

/// The nonzero gradients of one image by output of the convolution.
fn by_output(dy: &[f32], choice: &[u8], shape: &Shape, layout: &Layout) -> (Vec<Term>, Vec<Sum>) {
    const PLACES: usize = NO_CHOICE as usize + 1;
    let mut terms = vec![Term { at: 0, g: 0.0 }; dy.len()];
    let mut sums = Vec::with_capacity(shape.windows());
    let half = shape.out_w / 2;
    let mut start = 0;
    for (pixel, (dy, choice)) in dy.chunks_exact(shape.k).zip(choice.chunks_exact(shape.k)).enumerate() {
        // A counting sort by place; zeros go with those that no gradient reaches.
        let place = |dy: f32, choice: u8| usize::from(if dy == 0.0 { NO_CHOICE } else { choice });
        let mut counts = [0usize; PLACES];
        dy.iter().zip(choice).for_each(|(&dy, &c)| counts[place(dy, c)] += 1);
        let mut next = [start; PLACES];
        for i in 1..PLACES {
            next[i] = next[i - 1] + counts[i - 1];
        }
        let starts = next;
        for (k, (&g, &c)) in dy.iter().zip(choice).enumerate() {
            let to = &mut next[place(g, c)];
            terms[*to] = Term { at: k as u32, g };
            *to += 1;
        }
        for i in 0..usize::from(NO_CHOICE) {
            if counts[i] > 0 {
                let (y, x) = (2 * (pixel / half) + i / 2, 2 * (pixel % half) + i % 2);
                sums.push(Sum { terms: starts[i]..next[i], at: y * layout.pitch + x * shape.c });
            }
        }
        start = starts[usize::from(NO_CHOICE)];
    }
    (terms, sums)
}

/// The nonzero gradients of one image by filter.
fn by_filter(dy: &[f32], choice: &[u8], shape: &Shape, layout: &Layout) -> (Vec<Term>, Vec<Sum>) {
    let half = shape.out_w / 2;
    let mut terms = Vec::with_capacity(dy.len());
    let mut sums = Vec::with_capacity(shape.k);
    for k in 0..shape.k {
        let start = terms.len();
        for pixel in 0..shape.windows() / 4 {
            let (g, c) = (dy[pixel * shape.k + k], usize::from(choice[pixel * shape.k + k]));
            if g != 0.0 && c != usize::from(NO_CHOICE) {
                let (y, x) = (2 * (pixel / half) + c / 2, 2 * (pixel % half) + c % 2);
                terms.push(Term { at: (y * layout.pitch + x * shape.c) as u32, g });
            }
        }
        sums.push(Sum { terms: start..terms.len(), at: k });
    }
    (terms, sums)
}

/// `padded[window at] += sum of g filter[k]` for each sum.
struct SumFilters<'a> {
    padded: &'a mut [f32],
    filters: &'a [f32],
    terms: &'a [Term],
    sums: &'a [Sum],
    layout: &'a Layout,
}

impl Kernel for SumFilters<'_> {
    #[inline(always)]
    fn run<S: Simd, const B: usize>(self, simd: S) {
        let filters = S::as_simd_f32s(self.filters).0.as_chunks::<B>().0;
        let blocks = self.layout.offsets.as_chunks::<B>().0;
        for (filters, offsets) in filters.chunks_exact(filters.len() / blocks.len()).zip(blocks) {
            for sum in self.sums {
                let mut acc = [simd.splat_f32s(0.0); B];
                for term in &self.terms[sum.terms.clone()] {
                    let (g, filter) = (simd.splat_f32s(term.g), &filters[term.at as usize]);
                    for j in 0..B {
                        acc[j] = simd.mul_add_f32s(g, filter[j], acc[j]);
                    }
                }
                for j in 0..B {
                    let to = &mut self.padded[sum.at + offsets[j]..][..S::F32_LANES];
                    let to = &mut S::as_mut_simd_f32s(to).0[0];
                    *to = simd.add_f32s(*to, acc[j]);
                }
            }
        }
    }
}

/// `filter[k] += sum of g padded[window at]` for each sum.
struct SumWindows<'a> {
    filters: &'a mut [f32],
    padded: &'a [f32],
    terms: &'a [Term],
    sums: &'a [Sum],
    layout: &'a Layout,
}

impl Kernel for SumWindows<'_> {
    #[inline(always)]
    fn run<S: Simd, const B: usize>(self, simd: S) {
        let filters = S::as_mut_simd_f32s(self.filters).0.as_chunks_mut::<B>().0;
        let blocks = self.layout.offsets.as_chunks::<B>().0;
        let each = filters.len() / blocks.len();
        for (filters, offsets) in filters.chunks_exact_mut(each).zip(blocks) {
            for sum in self.sums {
                let mut acc = filters[sum.at];
                for term in &self.terms[sum.terms.clone()] {
                    let g = simd.splat_f32s(term.g);
                    for j in 0..B {
                        let window = &self.padded[term.at as usize + offsets[j]..][..S::F32_LANES];
                        acc[j] = simd.mul_add_f32s(g, S::as_simd_f32s(window).0[0], acc[j]);
                    }
                }
                filters[sum.at] = acc;
            }
        }
    }
}
