//! Sums of products in vector registers: what every convolution of this device is made of.
//!
//! The channels of a result lie in vectors, so that one number meets a whole vector of weights. A tile of rows times
//! vectors is summed in registers, over a few hundred terms at a time: so few that rounding errors stay small and that
//! the weights stay in the nearest caches.

use std::array::from_fn;
use std::ops::Range;

use pulp::{Simd, WithSimd};

/// Most terms that are summed in registers before they are added to the result.
const TERMS: usize = 128;
/// Most pixels over which a weight's gradient is summed in registers before it is added to the result.
const PIXELS: usize = 96;
/// Most vectors that are summed side by side.
const VECTORS: usize = 4;
/// Most rows of a tile.
pub(super) const ROWS: usize = 12;

/// How the channels of a result are cut into blocks of vectors. What is packed for it has, block by block, a row of
/// channels for each of its terms, with zeros after the last channel.
pub(super) struct Channels {
    pub blocks: Vec<Block>,
    /// Channels that the blocks have room for.
    pub padded: usize,
}

/// Channels that are summed side by side.
#[derive(Clone)]
pub(super) struct Block {
    /// Those that there are.
    pub channels: Range<usize>,
    /// Those that there is room for.
    pub width: usize,
    vectors: usize,
}

impl Channels {
    pub(super) fn new(count: usize) -> Channels {
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
            blocks.push(Block { channels: first..count.min(first + width), width, vectors });
            first += width;
        }
        Channels { blocks, padded: first }
    }

    /// Each block's part of what is packed for it, with `terms` rows of channels.
    pub(super) fn parts_mut<'a>(
        &'a self,
        packed: &'a mut [f32],
        terms: usize,
    ) -> impl Iterator<Item = (&'a Block, &'a mut [f32])> {
        let mut rest = packed;
        self.blocks.iter().map(move |block| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(terms * block.width);
            rest = tail;
            (block, part)
        })
    }

    /// Packs `rows`, which have `count` channels each.
    pub(super) fn pack_rows(&self, packed: &mut [f32], rows: &[f32], count: usize) {
        for (block, part) in self.parts_mut(packed, rows.len() / count) {
            for (to, row) in part.chunks_exact_mut(block.width).zip(rows.chunks_exact(count)) {
                let (to, spare) = to.split_at_mut(block.channels.len());
                to.copy_from_slice(&row[block.channels.clone()]);
                spare.fill(0.0);
            }
        }
    }

    fn part<'a>(&self, packed: &'a [f32], terms: usize, block: &Block) -> &'a [f32] {
        &packed[terms * block.channels.start..][..terms * block.width]
    }
}

/// A sum whose tile has its size known to the compiler.
trait Tile {
    fn run<S: Simd, const P: usize, const V: usize>(self, simd: S);
}

/// Runs `tile` with as many rows of `vectors` as the registers hold beside the weights and one number.
#[inline(always)]
fn tiled<S: Simd>(simd: S, vectors: usize, tile: impl Tile) {
    match (vectors, S::REGISTER_COUNT >= 32) {
        (1, _) => tile.run::<S, ROWS, 1>(simd),
        (2, true) => tile.run::<S, ROWS, 2>(simd),
        (2, false) => tile.run::<S, { ROWS / 2 }, 2>(simd),
        (_, true) => tile.run::<S, { ROWS / 2 }, 4>(simd),
        (_, false) => unreachable!("so many vectors are never side by side in few registers"),
    }
}

/// Where a pixel begins in x and in the result.
#[derive(Clone, Copy)]
pub(super) struct Pixel {
    pub x: usize,
    pub out: usize,
}

/// Consecutive terms of a pixel: the place of the first one after that of the pixel, and their number.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub x: usize,
    pub len: usize,
}

/// `rows` runs of `len` terms, `pitch` apart, cut where they are too long to be summed at once.
pub(super) fn runs(rows: usize, len: usize, pitch: usize) -> Vec<Run> {
    let longest = len.div_ceil(len.div_ceil(TERMS).max(1)).max(1);
    let cut = |at: usize| (0..len).step_by(longest).map(move |i| Run { x: at + i, len: longest.min(len - i) });
    (0..rows).flat_map(|row| cut(row * pitch)).collect()
}

/// How many of the first lengths are summed at once, and what they add up to: at most `most`, if the first is not more.
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
    /// Packed for `channels`.
    pub w: &'a [f32],
    pub channels: &'a Channels,
    pub pixels: &'a [Pixel],
    pub runs: &'a [Run],
    /// Whether the sum is added to what is there.
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

/// [`SumTerms`] of one block and of few terms.
struct PixelTile<'a> {
    out: &'a mut [f32],
    x: &'a [f32],
    w: &'a [f32],
    channels: Range<usize>,
    pixels: &'a [Pixel],
    runs: &'a [Run],
    add: bool,
}

impl Tile for PixelTile<'_> {
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

/// Writes a row's sums, or adds them to it.
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

/// Consecutive pixels of the result: where their first one begins in x, and their number.
#[derive(Clone, Copy)]
pub(super) struct PixelRow {
    pub x: usize,
    pub len: usize,
}

/// `out[term][channel] = sum of x[pixel + term] dy[pixel][channel]` over the pixels of all rows: [`SumTerms`]' gradient
/// by its weights, packed as they are.
pub(super) struct SumPixels<'a> {
    pub out: &'a mut [f32],
    /// With [`ROWS`] elements to spare.
    pub x: &'a [f32],
    /// Packed for `channels`, pixel by pixel.
    pub dy: &'a [f32],
    pub channels: &'a Channels,
    pub rows: &'a [PixelRow],
    /// From one pixel of a row to the next in x.
    pub step: usize,
    pub runs: &'a [Run],
    /// Whether the sum is added to what is there.
    pub add: bool,
}

impl WithSimd for SumPixels<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let pixels = self.rows.iter().map(|row| row.len).sum();
        let terms = self.runs.iter().map(|run| run.len).sum();
        for (block, out) in self.channels.parts_mut(self.out, terms) {
            let (mut dy, mut rows) = (self.channels.part(self.dy, pixels, block), self.rows);
            let mut add = self.add;
            while !rows.is_empty() {
                let (count, pixels) = together(rows.iter().map(|row| row.len), PIXELS);
                let (now, later) = rows.split_at(count);
                let (dy_now, dy_later) = dy.split_at(pixels * block.width);
                let (x, step, runs) = (self.x, self.step, self.runs);
                tiled(simd, block.vectors, TermTile { out, x, dy: dy_now, rows: now, step, runs, add });
                (rows, dy, add) = (later, dy_later, true);
            }
        }
    }
}

/// [`SumPixels`] of one block and of few pixels.
struct TermTile<'a> {
    out: &'a mut [f32],
    x: &'a [f32],
    dy: &'a [f32],
    rows: &'a [PixelRow],
    step: usize,
    runs: &'a [Run],
    add: bool,
}

impl Tile for TermTile<'_> {
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
                for row in self.rows {
                    let (now, later) = dy.split_at(row.len);
                    let mut x = &self.x[row.x + run.x + tile * P..];
                    for dy in now {
                        let (values, _) = x.split_first_chunk::<P>().expect("elements to spare");
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
