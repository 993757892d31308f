//! Launches of kernels/batch_norm.cu.

use super::desc::{Desc, rows_of};
use crate::device::cuda::abi::MOST_SUMMED_ITEMS;
use crate::device::cuda::launch::{Arg, COUNTERS, Cost, Launch, Lowered, SUMMED_CHANNELS, THREADS, WARP};
use crate::tape::DType;

/// Items a thread in a pass: so many loads are in flight at once.
const ITEMS_OF_PASS: usize = 4;
/// Items a thread in a sum, at least.
const LEAST_SUMMED: usize = 8;
/// Splits of a channel's sums, at most: enough to fill a GPU.
const MOST_SPLITS: usize = 256;
/// Bytes of one split of a channel's two sums, in double precision.
const SPLIT_BYTES: usize = 16;

/// FLOPs a number, as the kernels' formulas have them.
mod flops {
    pub const APPLY: usize = 3;
    pub const BACKWARD_INPUT: usize = 1;
    pub const TRAINING_BACKWARD_INPUT: usize = 8;
    pub const STATISTICS: usize = 4;
    pub const BACKWARD_WEIGHT: usize = 7;
}

/// Division of `[items, c]` into blocks: `ChannelThreadMap` in the kernels.
struct ChannelGrid {
    n: usize,
    pixels: usize,
    c: usize,
    /// Channels a thread: one, or a vector of four.
    vector: usize,
    /// Bytes of a number of the images.
    number: usize,
}

impl ChannelGrid {
    /// Grid of a node whose first input is images.
    fn of(desc: &Desc) -> ChannelGrid {
        ChannelGrid::of_images(desc.input(0), desc.input_dtype(0), desc.aligned())
    }

    /// Grid of a node whose first output is images.
    fn of_output(desc: &Desc) -> ChannelGrid {
        ChannelGrid::of_images(desc.output(0), desc.output_dtype(0), desc.aligned())
    }

    /// Grid of images of dimensions `dims`; `aligned`: all operands begin at multiples of 16 bytes.
    fn of_images(dims: &[usize], dtype: DType, aligned: bool) -> ChannelGrid {
        let (n, row) = rows_of(dims);
        let c = *dims.last().expect("batch norm's input has channels");
        let vector = if c.is_multiple_of(4) && aligned { 4 } else { 1 };
        ChannelGrid { n, pixels: row / c, c, vector, number: dtype.size() }
    }

    /// `half` if the images are halves, else `single`.
    fn by_images<T>(&self, single: T, half: T) -> T {
        if self.number == DType::F16.size() { half } else { single }
    }

    fn items(&self) -> usize {
        self.n * self.pixels
    }

    /// Items of a block whose threads take `each` items.
    fn chunk(&self, each: usize) -> usize {
        each * (THREADS / (self.c / self.vector).min(WARP))
    }

    /// Items of one split of the sums.
    fn split(&self) -> usize {
        let least = self.chunk(1);
        self.items().div_ceil(MOST_SPLITS).next_multiple_of(least).max(LEAST_SUMMED * least)
    }

    fn splits(&self) -> usize {
        self.items().div_ceil(self.split()).max(1)
    }

    /// A launch on blocks of `chunk` items. `of` are operands and numbers, `rest` a size that only some kernels take.
    /// It reads or writes `numbers` numbers of the images an element.
    fn launch(
        &self,
        [one, x4]: [&'static str; 2],
        of: Vec<Arg>,
        (chunk, rest): (usize, Option<usize>),
        (numbers, flops): (usize, usize),
    ) -> Launch {
        let width = self.c / self.vector;
        let sizes = [self.n, self.pixels, width, chunk].into_iter().chain(rest).map(Arg::size);
        let args = of.into_iter().chain([Arg::Rows]).chain(sizes).collect();
        let elements = (self.items() * self.c) as u64;
        let cost = Cost { bytes: (self.number * numbers) as u64 * elements, flops: flops as u64 * elements };
        let kernel = if self.vector > 1 { x4 } else { one };
        let mut launch = Launch::new(kernel, self.items().div_ceil(chunk), args, cost);
        launch.grid[1] = u32::try_from(width.div_ceil(WARP)).expect("channels are few");
        launch
    }

    /// A launch that passes over all elements.
    fn pass(&self, kernels: [&'static str; 2], of: Vec<Arg>, costs: (usize, usize)) -> Launch {
        self.launch(kernels, of, (self.chunk(ITEMS_OF_PASS), None), costs)
    }

    /// A launch that adds two numbers a channel over all items. Each block writes a split of the sums to scratch
    /// memory, and the last block of a group of channels adds the splits: `results`, then scratch memory and counters,
    /// then `of` are the kernel's operands.
    fn sums(&self, kernels: [&'static str; 2], results: &[usize], of: Vec<Arg>, costs: (usize, usize)) -> Lowered {
        let operands =
            results.iter().copied().map(Arg::Output).chain([Arg::Scratch(0), Arg::Counters]).chain(of).collect();
        let mut launch = self.launch(kernels, operands, (self.split(), Some(self.splits())), costs);
        assert!(launch.grid[1] as usize <= COUNTERS, "a counter for a group of channels");
        let parts = self.c * self.splits();
        launch.cost.bytes += (SPLIT_BYTES * parts) as u64;
        launch.cost.flops += 2 * parts as u64;
        Lowered { launches: vec![launch], scratch: SPLIT_BYTES * parts }
    }
}

/// The pass from x to y. `norm` is weight, bias, mean and variance.
fn apply(grid: &ChannelGrid, [y, x]: [Arg; 2], norm: [Arg; 4], relu: bool) -> Launch {
    let of = [y, x].into_iter().chain(norm).chain([Arg::Int(relu.into())]).collect();
    let kernels = grid.by_images(["batch_norm", "batch_norm_x4"], ["batch_norm_half", "batch_norm_half_x4"]);
    grid.pass(kernels, of, (2, flops::APPLY))
}

/// The launch that computes the statistics of images `x`: `results` are the outputs for mean and variance, of the batch
/// and running.
fn statistics(grid: &ChannelGrid, x: Arg, results: [usize; 4]) -> Lowered {
    let kernels = grid.by_images(
        ["batch_norm_training_statistics", "batch_norm_training_statistics_x4"],
        ["batch_norm_training_statistics_half", "batch_norm_training_statistics_half_x4"],
    );
    grid.sums(kernels, &results, vec![x], (1, flops::STATISTICS))
}

/// Batch norm with ReLU of the node's first input, written to `y`.
pub(super) fn batch_norm_of_operand(desc: &Desc, y: Arg, norm: [Arg; 4]) -> Launch {
    apply(&ChannelGrid::of(desc), [y, Arg::Input(0)], norm, true)
}

/// Statistics of the node's first output, to the outputs `results`.
pub(super) fn statistics_of_output(desc: &Desc, results: [usize; 4]) -> Lowered {
    statistics(&ChannelGrid::of_output(desc), Arg::Output(0), results)
}

/// True if a convolution may add sums over the channels of the node's first output: their bound is proved.
pub(super) fn sums_are_bounded(desc: &Desc) -> bool {
    let grid = ChannelGrid::of_output(desc);
    grid.number == DType::F16.size() && grid.items() <= MOST_SUMMED_ITEMS && grid.c <= SUMMED_CHANNELS
}

pub(super) fn batch_norm(desc: &Desc, relu: bool) -> Launch {
    apply(&ChannelGrid::of(desc), [Arg::Output(0), Arg::Input(0)], [1, 2, 3, 4].map(Arg::Input), relu)
}

pub(super) fn batch_norm_backward_input(desc: &Desc, relu: bool) -> Launch {
    let y = if relu { Arg::Input(3) } else { Arg::Null };
    let of = vec![Arg::Output(0), Arg::Input(0), Arg::Input(1), Arg::Input(2), y];
    let single = ["batch_norm_backward_input", "batch_norm_backward_input_x4"];
    let kernels = desc.by_result(single, ["batch_norm_backward_input_half", "batch_norm_backward_input_half_x4"]);
    ChannelGrid::of(desc).pass(kernels, of, (2 + usize::from(relu), flops::BACKWARD_INPUT))
}

pub(super) fn batch_norm_training(desc: &Desc, relu: bool) -> Lowered {
    let grid = ChannelGrid::of(desc);
    let mut lowered = statistics(&grid, Arg::Input(0), [1, 2, 3, 4]);
    let norm = [Arg::Input(1), Arg::Input(2), Arg::Output(1), Arg::Output(2)];
    lowered.launches.push(apply(&grid, [Arg::Output(0), Arg::Input(0)], norm, relu));
    lowered
}

pub(super) fn batch_norm_training_backward_input(desc: &Desc, relu: bool) -> Launch {
    let has_addend = desc.inputs() == 9;
    let addend = if has_addend { Arg::Input(8) } else { Arg::Null };
    let rest = [addend, Arg::Int(relu.into())];
    let of = [Arg::Output(0)].into_iter().chain((0..8).map(Arg::Input)).chain(rest).collect();
    let kernels = desc.by_result(
        ["batch_norm_training_backward_input", "batch_norm_training_backward_input_x4"],
        ["batch_norm_training_backward_input_half", "batch_norm_training_backward_input_half_x4"],
    );
    let addend = usize::from(has_addend);
    ChannelGrid::of(desc).pass(kernels, of, (3 + addend, flops::TRAINING_BACKWARD_INPUT + addend))
}

pub(super) fn batch_norm_backward_weight(desc: &Desc, relu: bool) -> Lowered {
    let of = (0..6).map(Arg::Input).collect();
    weight_gradient(&ChannelGrid::of(desc), of, relu, [0, 1])
}

/// The launch that sums the gradients of weight and bias. `of` are dy, x, weight, bias, mean and variance; `results` are
/// the outputs.
fn weight_gradient(grid: &ChannelGrid, mut of: Vec<Arg>, relu: bool, results: [usize; 2]) -> Lowered {
    let kernels = grid.by_images(
        ["batch_norm_backward_weight", "batch_norm_backward_weight_x4"],
        ["batch_norm_backward_weight_from_half", "batch_norm_backward_weight_from_half_x4"],
    );
    of.push(Arg::Int(relu.into()));
    grid.sums(kernels, &results, of, (2, flops::BACKWARD_WEIGHT))
}

/// Gradients of weight and bias from the node's first output, to the two outputs after it. `norm` is weight, bias, mean
/// and variance.
pub(super) fn weight_gradient_of_output(desc: &Desc, x: Arg, norm: [Arg; 4]) -> Lowered {
    let of = [Arg::Output(0), x].into_iter().chain(norm).collect();
    weight_gradient(&ChannelGrid::of_output(desc), of, true, [1, 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::abi::{
        HALF_TILE_ROWS, HALF_TILE_ROWS_TALL, HALO_PIXELS_8, HALO_PIXELS_16, HALO_PIXELS_32,
    };

    /// Bounds of kernels/channel_sums.cuh, whose integers have 64 bits: of the sum of the largest halves in units of
    /// 2^-24, of the whole parts of the sums of squares, and of their fractions in units of 2^-40.
    #[test]
    fn no_sum_of_a_channel_overflows() {
        const LARGEST: u64 = 65504;
        /// Rows of the smallest block.
        const ROWS: u64 = 64;
        let items = MOST_SUMMED_ITEMS as u64;
        let half = f64::from(half::f16::MAX) as u64;
        assert_eq!(half, LARGEST);
        let sum = (LARGEST << 24).checked_mul(items);
        let squares = (LARGEST * LARGEST).checked_mul(items);
        let fractions = (1u64 << 40).checked_mul(items / ROWS);
        for bound in [sum, squares, fractions] {
            assert!(bound.is_some_and(|bound| bound < 1 << 62), "{bound:?}");
        }
        let blocks = [HALO_PIXELS_8, HALO_PIXELS_16, HALO_PIXELS_32, HALF_TILE_ROWS, HALF_TILE_ROWS_TALL];
        assert!(blocks.iter().all(|&rows| rows as u64 >= ROWS));
    }
}
