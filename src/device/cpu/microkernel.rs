//! Micro-kernels: sums of products in vector registers, from which every convolution of this device is made.
//!
//! The channels of a result lie in vectors, so one number of x is multiplied by a whole vector of weights. A register
//! tile, of rows times vectors, is summed over at most [`TERMS`] terms at a time. That keeps rounding errors small and
//! the weights in the L1 and L2 caches.

use std::array::from_fn;
use std::ops::Range;

use pulp::{Simd, WithSimd};

/// Maximum number of terms that are summed in registers before the sum is added to the result.
const TERMS: usize = 128;
/// Maximum number of pixels over which a weight gradient is summed in registers before it is added to the result.
const PIXELS: usize = 96;
/// Maximum number of vectors of a register tile.
const VECTORS: usize = 4;
/// Maximum number of rows of a register tile.
pub(super) const ROWS: usize = 12;

/// Channels of a result, divided into blocks of whole vectors.
///
/// An operand packed for these blocks holds, block by block, one row of channels a term. A row ends in zeros if the
/// block has fewer channels than its width.
pub(super) struct ChannelBlocks {
    pub blocks: Vec<ChannelBlock>,
    /// Sum of the blocks' widths.
    pub padded: usize,
}

/// Channels that one register tile holds.
#[derive(Clone)]
pub(super) struct ChannelBlock {
    /// The channels.
    pub channels: Range<usize>,
    /// Elements of the block's vectors: the number of channels, rounded up.
    pub width: usize,
    vectors: usize,
}

impl ChannelBlocks {
    pub(super) fn new(count: usize) -> ChannelBlocks {
        struct Registers;
        impl WithSimd for Registers {
            type Output = [usize; 2];
            fn with_simd<S: Simd>(self, _: S) -> [usize; 2] {
                [S::F32_LANES, if S::REGISTER_COUNT >= 32 { VECTORS } else { VECTORS / 2 }]
            }
        }
        let [lanes, most] = pulp::Arch::new().dispatch(Registers);
        let (mut blocks, mut first) = (Vec::new(), 0);
        while first < count {
            let left = (count - first).div_ceil(lanes).min(most);
            let vectors = if left == 3 { 2 } else { left };
            let width = vectors * lanes;
            blocks.push(ChannelBlock { channels: first..count.min(first + width), width, vectors });
            first += width;
        }
        ChannelBlocks { blocks, padded: first }
    }

    /// Each block with its part of a packed operand of `terms` rows of channels.
    pub(super) fn parts_mut<'a>(
        &'a self,
        packed: &'a mut [f32],
        terms: usize,
    ) -> impl Iterator<Item = (&'a ChannelBlock, &'a mut [f32])> {
        let mut rest = packed;
        self.blocks.iter().map(move |block| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(terms * block.width);
            rest = tail;
            (block, part)
        })
    }

    /// Packs rows of `count` channels.
    pub(super) fn pack_rows(&self, packed: &mut [f32], from: &[f32], count: usize) {
        for (block, part) in self.parts_mut(packed, from.len() / count) {
            for (to, row) in part.chunks_exact_mut(block.width).zip(from.chunks_exact(count)) {
                let (to, spare) = to.split_at_mut(block.channels.len());
                to.copy_from_slice(&row[block.channels.clone()]);
                spare.fill(0.0);
            }
        }
    }

    /// A block's part of a packed operand of `terms` rows of channels.
    fn part<'a>(&self, packed: &'a [f32], terms: usize, block: &ChannelBlock) -> &'a [f32] {
        &packed[terms * block.channels.start..][..terms * block.width]
    }
}

/// A sum over a register tile of `P` rows by `V` vectors, sizes that the compiler knows.
trait RegisterTile {
    fn run<S: Simd, const P: usize, const V: usize>(self, simd: S);
}

/// Runs `tile` with as many rows of `vectors` vectors as the registers hold beside the weights and one broadcast
/// number.
#[inline(always)]
fn tiled<S: Simd>(simd: S, vectors: usize, tile: impl RegisterTile) {
    match (vectors, S::REGISTER_COUNT >= 32) {
        (1, _) => tile.run::<S, ROWS, 1>(simd),
        (2, true) => tile.run::<S, ROWS, 2>(simd),
        (2, false) => tile.run::<S, { ROWS / 2 }, 2>(simd),
        (_, true) => tile.run::<S, { ROWS / 2 }, 4>(simd),
        (_, false) => unreachable!("a tile has at most two vectors where there are few registers"),
    }
}

/// Index of a pixel's first element in x and in the result.
#[derive(Clone, Copy)]
pub(super) struct Pixel {
    pub x: usize,
    pub out: usize,
}

/// A run of consecutive terms of a pixel: the index of the first, counted from the pixel's, and their number.
#[derive(Clone, Copy)]
pub(super) struct TermRun {
    pub x: usize,
    pub len: usize,
}

/// `count` runs of `len` terms, `pitch` elements apart. A run of more than [`TERMS`] terms is divided.
pub(super) fn term_runs(count: usize, len: usize, pitch: usize) -> Vec<TermRun> {
    let longest = len.div_ceil(len.div_ceil(TERMS).max(1)).max(1);
    let cut = |at: usize| (0..len).step_by(longest).map(move |i| TermRun { x: at + i, len: longest.min(len - i) });
    (0..count).flat_map(|run| cut(run * pitch)).collect()
}

/// Number of leading `lengths` whose sum is at most `most`, but at least one; and that sum.
fn together(lengths: impl Iterator<Item = usize>, most: usize) -> (usize, usize) {
    let (mut count, mut terms) = (0, 0);
    for len in lengths {
        if count > 0 && terms + len > most {
            break;
        }
        (count, terms) = (count + 1, terms + len);
    }
    (count, terms)
}

/// `out[pixel][channel] = sum of x[pixel + term] w[term][channel]` over the terms of all runs.
pub(super) struct SumTerms<'a> {
    pub out: &'a mut [f32],
    pub x: &'a [f32],
    /// Packed weights.
    pub w: &'a [f32],
    pub channels: &'a ChannelBlocks,
    pub pixels: &'a [Pixel],
    pub runs: &'a [TermRun],
    /// `true`: adds the sum to `out`; `false`: replaces it.
    pub add: bool,
}

impl WithSimd for SumTerms<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let all = self.runs.iter().map(|run| run.len).sum();
        for block in &self.channels.blocks {
            let (mut w, mut runs) = (self.channels.part(self.w, all, block), self.runs);
            let mut add = self.add;
            while !runs.is_empty() {
                let (count, terms) = together(runs.iter().map(|run| run.len), TERMS);
                let (now, later) = runs.split_at(count);
                let (w_now, w_later) = w.split_at(terms * block.width);
                let (x, pixels) = (self.x, self.pixels);
                let channels = block.channels.clone();
                tiled(simd, block.vectors, PixelTile { out: self.out, x, w: w_now, channels, pixels, runs: now, add });
                (runs, w, add) = (later, w_later, true);
            }
        }
    }
}

/// [`SumTerms`] of one channel block over at most [`TERMS`] terms.
struct PixelTile<'a> {
    out: &'a mut [f32],
    x: &'a [f32],
    w: &'a [f32],
    channels: Range<usize>,
    pixels: &'a [Pixel],
    runs: &'a [TermRun],
    add: bool,
}

impl RegisterTile for PixelTile<'_> {
    #[inline(always)]
    fn run<S: Simd, const P: usize, const V: usize>(self, simd: S) {
        let w = S::as_simd_f32s(self.w).0.as_chunks::<V>().0;
        for pixels in self.pixels.chunks(P) {
            let at: [usize; P] = from_fn(|p| pixels[p.min(pixels.len() - 1)].x);
            let mut acc = [[simd.splat_f32s(0.0); V]; P];
            let mut w = w;
            for run in self.runs {
                let (now, later) = w.split_at(run.len);
                let x: [&[f32]; P] = from_fn(|p| &self.x[at[p] + run.x..][..now.len()]);
                for (j, w) in now.iter().enumerate() {
                    for p in 0..P {
                        let x = simd.splat_f32s(x[p][j]);
                        for v in 0..V {
                            acc[p][v] = simd.mul_add_f32s(x, w[v], acc[p][v]);
                        }
                    }
                }
                w = later;
            }
            for p in 0..P {
                if p < pixels.len() {
                    let out = &mut self.out[pixels[p].out..][self.channels.clone()];
                    store(simd, out, acc[p], self.add);
                }
            }
        }
    }
}

/// Writes a row of sums, or adds it to `out`.
#[inline(always)]
fn store<S: Simd, const V: usize>(simd: S, out: &mut [f32], acc: [S::f32s; V], add: bool) {
    let (vectors, tail) = S::as_mut_simd_f32s(out);
    for v in 0..V {
        if v < vectors.len() {
            vectors[v] = if add { simd.add_f32s(vectors[v], acc[v]) } else { acc[v] };
        } else if v == vectors.len() && !tail.is_empty() {
            let sum = if add { simd.add_f32s(simd.partial_load_f32s(tail), acc[v]) } else { acc[v] };
            simd.partial_store_f32s(tail, sum);
        }
    }
}

/// A row of pixels of the result: index of its first element in x, and number of pixels.
#[derive(Clone, Copy)]
pub(super) struct PixelRow {
    pub x: usize,
    pub len: usize,
}

/// `out[term][channel] = sum of x[pixel + term] dy[pixel][channel]` over the pixels of all `pixel_rows`: the gradient
/// of [`SumTerms`] with respect to its weights, in their packed layout.
pub(super) struct SumPixels<'a> {
    pub out: &'a mut [f32],
    /// The padded images, followed by [`ROWS`] more elements.
    pub x: &'a [f32],
    /// Packed gradient, a row of channels a pixel.
    pub dy: &'a [f32],
    pub channels: &'a ChannelBlocks,
    pub pixel_rows: &'a [PixelRow],
    /// Elements of x from one pixel of a row to the next.
    pub step: usize,
    pub runs: &'a [TermRun],
    /// `true`: adds the sum to `out`; `false`: replaces it.
    pub add: bool,
}

impl WithSimd for SumPixels<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let pixels = self.pixel_rows.iter().map(|row| row.len).sum();
        let terms = self.runs.iter().map(|run| run.len).sum();
        for (block, out) in self.channels.parts_mut(self.out, terms) {
            let (mut dy, mut pixel_rows) = (self.channels.part(self.dy, pixels, block), self.pixel_rows);
            let mut add = self.add;
            while !pixel_rows.is_empty() {
                let (count, pixels) = together(pixel_rows.iter().map(|row| row.len), PIXELS);
                let (now, later) = pixel_rows.split_at(count);
                let (dy_now, dy_later) = dy.split_at(pixels * block.width);
                let (x, step, runs) = (self.x, self.step, self.runs);
                tiled(simd, block.vectors, TermTile { out, x, dy: dy_now, pixel_rows: now, step, runs, add });
                (pixel_rows, dy, add) = (later, dy_later, true);
            }
        }
    }
}

/// [`SumPixels`] of one channel block over at most [`PIXELS`] pixels.
struct TermTile<'a> {
    out: &'a mut [f32],
    x: &'a [f32],
    dy: &'a [f32],
    pixel_rows: &'a [PixelRow],
    step: usize,
    runs: &'a [TermRun],
    add: bool,
}

impl RegisterTile for TermTile<'_> {
    #[inline(always)]
    fn run<S: Simd, const P: usize, const V: usize>(self, simd: S) {
        let dy = S::as_simd_f32s(self.dy).0.as_chunks::<V>().0;
        let mut out = S::as_mut_simd_f32s(self.out).0.as_chunks_mut::<V>().0;
        for run in self.runs {
            let (now, later) = std::mem::take(&mut out).split_at_mut(run.len);
            out = later;
            for (tile, out) in now.chunks_mut(P).enumerate() {
                let mut acc = [[simd.splat_f32s(0.0); V]; P];
                let mut dy = dy;
                for row in self.pixel_rows {
                    let (now, later) = dy.split_at(row.len);
                    let mut x = &self.x[row.x + run.x + tile * P..];
                    for dy in now {
                        let (values, _) = x.split_first_chunk::<P>().expect("x has ROWS more elements");
                        for p in 0..P {
                            let x = simd.splat_f32s(values[p]);
                            for v in 0..V {
                                acc[p][v] = simd.mul_add_f32s(x, dy[v], acc[p][v]);
                            }
                        }
                        x = x.get(self.step..).unwrap_or_default();
                    }
                    dy = later;
                }
                for p in 0..P {
                    if p < out.len() {
                        for v in 0..V {
                            out[p][v] = if self.add { simd.add_f32s(out[p][v], acc[p][v]) } else { acc[p][v] };
                        }
                    }
                }
            }
        }
    }
}
