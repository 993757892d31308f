//! Two layers with pooling in one launch (kernels/layer_pair.cuh). The tape records such launches' ops for layers of
//! certain sizes alone ([`is_layer_pair`](crate::tape::is_layer_pair)).

use super::conv::ConvProblem;
use crate::device::cuda::abi::{
    HALF_TILE_DEPTH, PAIR_FIRST, PAIR_PIXELS, PAIR_SECOND, PAIR_SIDE, PAIR_WINDOW_ROWS, PAIR_WINDOWS,
};
use crate::device::cuda::launch::{Arg, Cost, Launch, THREADS};

/// Zeros at each edge of a layer's images.
const PADDING: usize = PAIR_SIDE / 2;

/// A launch of `parts` blocks an image of the first layer. A block has its filters in shared memory, and `bytes` more.
/// `args` are those before the count of rows.
fn launch(
    kernel: &'static str,
    first: &ConvProblem,
    parts: usize,
    bytes: usize,
    mut args: Vec<Arg>,
    cost: Cost,
) -> Launch {
    args.extend([Arg::Rows].into_iter().chain([first.n, first.h, first.w, parts].map(Arg::size)));
    let filters = 2 * PAIR_SIDE * PAIR_SIDE * PAIR_FIRST * PAIR_SECOND;
    let [blocks, block, shared] = [first.n * parts, THREADS, filters + bytes].map(|n| u32::try_from(n).expect("few"));
    Launch { kernel, grid: [blocks, 1, 1], block, shared, args, cost }
}

/// Bytes of a line of a patch.
fn line(first: &ConvProblem) -> usize {
    2 * HALF_TILE_DEPTH * (first.w / 2 + 2 * PADDING)
}

/// Both layers forward.
pub(super) fn forward(first: &ConvProblem, args: Vec<Arg>, cost: Cost) -> Launch {
    let windows = first.h / 4;
    let parts = windows.div_ceil(PAIR_WINDOW_ROWS);
    let rows = 2 * (windows.div_ceil(parts) + PADDING);
    let stride = 2 * ((first.w / 2).next_multiple_of(PAIR_WINDOWS) + PADDING);
    let pixels = 4 * 2 * (rows + PADDING) * stride;
    launch("two_conv_pools_half", first, parts, rows * line(first) + pixels, args, cost)
}

/// The input gradient of both layers, and a step of PGD. The gradients of the second layer's results have `splits`.
pub(super) fn step(first: &ConvProblem, splits: usize, args: Vec<Arg>, cost: Cost) -> Launch {
    let (rows, wide) = (first.h / 2, first.w / 2);
    // A part's pixels need results of the first layer in one more row on each side.
    let parts = rows.div_ceil(PAIR_PIXELS / wide - 2);
    let own = rows.div_ceil(parts);
    let weights = 4 * (PAIR_SIDE + 2) * (PAIR_SIDE + 2) * PAIR_FIRST;
    let bytes = 2 * (own + 2 + 2 * PADDING) * line(first) + weights + 4 * (2 * own * first.w);
    let mut step = launch("pgd_step_fused_two_pooled_splits", first, parts, bytes, args, cost);
    step.args.push(Arg::size(splits));
    step
}
