//! Matrix products (kernels/gemm.cuh and gemm.cu): the choice of block tile and number of splits (split-K).
//!
//! The choice depends on sizes, alignment and the GPU's number of multiprocessors alone, so that a result does not
//! depend on the number of active rows.

use super::desc::{Desc, rows_of};
use super::element_types::ElementTypes;
use crate::device::cuda::abi::{
    BLOCK_TILE_DEPTH, BLOCK_TILE_ROWS, Epilogue, NARROW_TILE_COLUMNS, SQUARE_TILE_COLUMNS, THREAD_TILE_COLUMNS,
    THREAD_TILE_ROWS, WARP,
};
use crate::device::cuda::launch::{Arg, Cost, Launch, Lowered};

/// Splits of a sum, at most: adding more splits would take longer than computing them.
const MOST_SPLITS: usize = 256;

/// Sizes of a product with all rows active: `[rows, columns]` results, each a sum of `length` terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GemmProblem {
    pub rows: usize,
    pub columns: usize,
    pub length: usize,
    /// Number of such products, of these sizes or smaller, that one launch computes.
    pub count: usize,
}

impl GemmProblem {
    /// One product.
    pub fn new(rows: usize, columns: usize, length: usize) -> GemmProblem {
        GemmProblem { rows, columns, length, count: 1 }
    }

    /// Number of results of all products.
    pub fn results(self) -> usize {
        self.count * self.rows * self.columns
    }

    /// FLOPs of all products.
    pub fn flops(self) -> u64 {
        2 * (self.results() * self.length) as u64
    }
}

/// Block tiles that each product has kernels for, in the order of [`GemmKernels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GemmTile {
    /// 64 x 32, single elements: for any sizes.
    Scalar,
    /// 64 x 32, vectors of four elements.
    Narrow,
    /// 64 x 64, vectors of four elements.
    Square,
}

/// Names of a product's kernels.
#[derive(Clone, Copy, Debug)]
pub(super) struct GemmKernels {
    /// Kernels on operands and results of single precision, by [`GemmTile`].
    pub single: [&'static str; 3],
    /// Kernel with half operands or half results, of [`GemmTile::Scalar`].
    pub mixed: &'static str,
}

impl GemmKernels {
    /// Kernel of a plan.
    pub fn of(self, plan: &GemmPlan, types: ElementTypes) -> &'static str {
        match types {
            ElementTypes::Single | ElementTypes::Half => self.single[plan.tile as usize],
            _ => self.mixed,
        }
    }
}

impl GemmTile {
    /// Numbers of rows and columns.
    fn sizes(self) -> (usize, usize) {
        match self {
            GemmTile::Scalar | GemmTile::Narrow => (BLOCK_TILE_ROWS, NARROW_TILE_COLUMNS),
            GemmTile::Square => (BLOCK_TILE_ROWS, SQUARE_TILE_COLUMNS),
        }
    }

    /// Number of threads of a block, each with one thread tile.
    fn threads(self) -> usize {
        let (rows, columns) = self.sizes();
        rows * columns / (THREAD_TILE_ROWS * THREAD_TILE_COLUMNS)
    }

    /// Clocks for [`BLOCK_TILE_DEPTH`] terms: of a block alone on its multiprocessor, and of each of many blocks. These
    /// are estimates. Many blocks are bound by loads from shared memory (6 clocks a warp and term, as kernels/gemm.cuh
    /// counts beside `row_of`), stores to it and global loads; a single block is bound by latency. An H200 takes 1,260,
    /// 580 and 920 clocks for each of many blocks: about 1.7 times as many, so that the choice between tiles is the same.
    fn clocks(self) -> (usize, usize) {
        match self {
            GemmTile::Scalar => (900, 600),
            GemmTile::Narrow => (700, 340),
            GemmTile::Square => (750, 580),
        }
    }
}

/// Block tile and splits of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GemmPlan {
    pub tile: GemmTile,
    /// Number of block tiles of each product.
    pub tiles: usize,
    /// Number of splits of the sums (split-K). With more than one, partial sums are in scratch memory.
    pub splits: usize,
    /// Number of terms of a split.
    pub chunk: usize,
}

impl GemmPlan {
    /// The plan of the least time by the estimate of [`GemmPlan::clocks`]. `vectors`: everything is read and written in
    /// vectors of four. `splits`: sums may be split. `multiprocessors`: number of the GPU's multiprocessors.
    pub fn new(product: GemmProblem, vectors: bool, splits: bool, multiprocessors: usize) -> GemmPlan {
        let tiles: &[GemmTile] = if vectors { &[GemmTile::Narrow, GemmTile::Square] } else { &[GemmTile::Scalar] };
        let steps = product.length.div_ceil(BLOCK_TILE_DEPTH).max(1);
        let most = if splits { steps.min(MOST_SPLITS) } else { 1 };
        let plans = tiles.iter().flat_map(|&tile| (1..=most).map(move |splits| GemmPlan::with(product, tile, splits)));
        plans.min_by_key(|plan| plan.clocks(product, multiprocessors)).expect("one tile and one split are a plan")
    }

    /// A plan with at most `splits` splits, none of which is empty.
    fn with(product: GemmProblem, tile: GemmTile, splits: usize) -> GemmPlan {
        let (rows, columns) = tile.sizes();
        let tiles = product.rows.div_ceil(rows) * product.columns.div_ceil(columns);
        let chunk = product.length.div_ceil(splits).next_multiple_of(BLOCK_TILE_DEPTH).max(BLOCK_TILE_DEPTH);
        GemmPlan { tile, tiles, splits: product.length.div_ceil(chunk).max(1), chunk }
    }

    /// Estimate of the time in clocks.
    ///
    /// The splits are added by a launch of their own, not by the last block of each tile (kernels/last_block.cuh). That
    /// block would read `splits` times 16 KB at some 64 bytes a clock, after 1,500 clocks for the fences and the count:
    /// for LeNet5's linear layer 5,600 clocks instead of 3,500, for its input gradient 3,500 instead of 4,300.
    fn clocks(&self, product: GemmProblem, multiprocessors: usize) -> usize {
        /// Clocks to start and end a block, and to launch another kernel.
        const BLOCK: usize = 1500;
        const LAUNCH: usize = 2300;
        /// Bytes that the L2 cache moves in a clock.
        const BYTES: usize = 2800;
        let (alone, each) = self.tile.clocks();
        let blocks = (product.count * self.tiles * self.splits).div_ceil(multiprocessors);
        let work = alone.max(each * blocks) * (self.chunk / BLOCK_TILE_DEPTH) + BLOCK;
        let sum = LAUNCH + (self.splits + 1) * product.results() * 4 / BYTES;
        work + if self.splits > 1 { sum } else { 0 }
    }

    /// A launch of `count` products.
    pub fn launch(&self, kernel: &'static str, count: usize, args: Vec<Arg>, cost: Cost) -> Launch {
        let block = u32::try_from(self.tile.threads()).expect("a block is small");
        let blocks = |n: usize| u32::try_from(n).expect("blocks fit a grid");
        let grid = [blocks(self.tiles), blocks(self.splits), blocks(count)];
        Launch { kernel, grid, block, shared: 0, args, cost }
    }
}

/// Sums of a product in scratch memory, floats `[splits, results]`, for another kernel to add.
pub(super) struct SplitSums {
    /// The product's launch.
    pub launch: Launch,
    /// Number of splits, 1 if the sums are whole.
    pub splits: usize,
    /// Bytes of scratch memory.
    pub scratch: usize,
}

/// A product whose sums may be split.
pub(super) struct GemmOperation {
    pub kernels: GemmKernels,
    pub product: GemmProblem,
    /// True if everything may be read and written in vectors of four.
    pub vectors: bool,
    /// Epilogue of the rows of a batch: rows beyond the active ones are not written. `None`: the results have no batch
    /// dimension, and all are written. The op's last output takes the results.
    pub epilogue: Option<Epilogue>,
    /// FLOPs, without products that are known to be zero.
    pub flops: u64,
}

impl GemmOperation {
    /// Launches of the product. `args(chunk, epilogue)` are the kernel's arguments after the first one, the
    /// destination. If the sums are split, the kernel that adds the splits applies the epilogue.
    pub fn lower(&self, desc: &Desc, args: impl Fn(usize, Arg) -> Vec<Arg>) -> Lowered {
        let plan = self.plan(desc);
        if plan.splits == 1 {
            let epilogue = self.epilogue.clone().unwrap_or_default();
            let to = Arg::Output(desc.result());
            let all = [to].into_iter().chain(args(plan.chunk, epilogue.into())).collect();
            let kernel = self.kernels.of(&plan, desc.types);
            return plan.launch(kernel, self.product.count, all, desc.cost(self.flops)).into();
        }
        let results = desc.output(0).iter().product();
        let SplitSums { launch, splits, scratch } = self.sums(desc, results, args);
        let sum = match &self.epilogue {
            Some(epilogue) => sum_split_rows(desc, self.product.columns, splits, epilogue.clone()),
            None => sum_splits(desc.output(0).iter().product(), splits),
        };
        Lowered { launches: vec![launch, sum], scratch }
    }

    /// The launch that writes the sums of `results` results to scratch memory. They are single precision, whatever the results are.
    pub fn sums(&self, desc: &Desc, results: usize, args: impl Fn(usize, Arg) -> Vec<Arg>) -> SplitSums {
        let plan = self.plan(desc);
        let types = if desc.types == ElementTypes::ToHalf { ElementTypes::Single } else { desc.types };
        let all = [Arg::Scratch(0)].into_iter().chain(args(plan.chunk, Epilogue::default().into())).collect();
        let launch = plan.launch(self.kernels.of(&plan, types), self.product.count, all, desc.cost(self.flops));
        SplitSums { launch, splits: plan.splits, scratch: 4 * plan.splits * results }
    }

    fn plan(&self, desc: &Desc) -> GemmPlan {
        GemmPlan::new(self.product, self.vectors, true, desc.multiprocessors)
    }
}

/// A launch that adds the splits of a batch's results, the op's last output, and applies the epilogue.
pub(super) fn sum_split_rows(desc: &Desc, columns: usize, splits: usize, epilogue: Epilogue) -> Launch {
    let (to, (n, row)) = (desc.result(), rows_of(desc.output(0)));
    let kernel = desc.by_result("sum_split_rows", "sum_split_rows_half");
    let sizes = [n, row, columns, splits].map(Arg::size);
    let args = [Arg::Output(to), Arg::Scratch(0), epilogue.into(), Arg::Rows].into_iter().chain(sizes).collect();
    Launch::new(kernel, (n * row).div_ceil(WARP), args, sum_cost(n * row, splits, desc.output_dtype(to).size()))
}

/// A launch that adds the splits of `count` results.
pub(super) fn sum_splits(count: usize, splits: usize) -> Launch {
    let args = vec![Arg::Output(0), Arg::Scratch(0), Arg::size(count), Arg::size(splits)];
    Launch::new("sum_splits", count.div_ceil(WARP), args, sum_cost(count, splits, 4))
}

/// Cost of a sum of splits with results of `size` bytes each.
fn sum_cost(count: usize, splits: usize, size: usize) -> Cost {
    Cost { bytes: (count * (4 * splits + size)) as u64, flops: (count * (splits - 1)) as u64 }
}

/// True if an op may read and write vectors of four elements: all are single precision, all of `sizes`, lengths of rows,
/// are multiples of four, and all operands begin at multiples of 16 bytes, except one-dimensional ones, which are read
/// by single elements.
pub(super) fn vectorizable(desc: &Desc, sizes: &[usize]) -> bool {
    let aligned = |i: usize| desc.input(i).len() == 1 || desc.input_aligned(i);
    desc.types == ElementTypes::Single
        && sizes.iter().all(|size| size.is_multiple_of(4))
        && (0..desc.inputs()).all(aligned)
        && (0..desc.outputs()).all(|i| desc.output(i).len() == 1 || desc.output_aligned(i))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of multiprocessors of an H100.
    const H100: usize = 132;

    /// Sizes around those of tiles and splits, and LeNet5's at a batch of 50.
    fn products() -> impl Iterator<Item = GemmProblem> {
        let sizes = [1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1009, 39200];
        sizes
            .into_iter()
            .flat_map(move |m| sizes.into_iter().flat_map(move |n| sizes.map(|k| GemmProblem::new(m, n, k))))
    }

    #[test]
    fn tiles_cover_all_results_and_splits_all_terms_once() {
        for product in products() {
            for (vectors, splits) in [(false, false), (false, true), (true, false), (true, true)] {
                let plan = GemmPlan::new(product, vectors, splits, H100);
                let (rows, columns) = plan.tile.sizes();
                let (down, across) = (product.rows.div_ceil(rows), product.columns.div_ceil(columns));
                assert_eq!(plan.tiles, down * across, "{product:?}: {plan:?}");
                assert_eq!(plan.chunk % BLOCK_TILE_DEPTH, 0, "{product:?}: {plan:?}");
                assert!(plan.splits * plan.chunk >= product.length, "{product:?}: {plan:?}");
                assert!((plan.splits - 1) * plan.chunk < product.length, "an empty split: {product:?}: {plan:?}");
                assert!(plan.splits == 1 || splits && plan.splits <= MOST_SPLITS, "{product:?}: {plan:?}");
                assert_eq!(plan.tile == GemmTile::Scalar, !vectors, "{product:?}: {plan:?}");
            }
        }
    }

    #[test]
    fn fewer_multiprocessors_split_a_sum_less() {
        let splits =
            |multiprocessors| GemmPlan::new(GemmProblem::new(50, 1024, 3136), true, true, multiprocessors).splits;
        assert!(splits(20) < splits(H100), "{} and {}", splits(20), splits(H100));
    }

    /// LeNet5 at a batch of 50: two blocks or more a multiprocessor, if there are enough terms to split.
    #[test]
    fn lenet5_fills_the_gpu() {
        let plan = |rows, columns, length, splits| {
            let GemmPlan { tile, tiles, splits, chunk } =
                GemmPlan::new(GemmProblem::new(rows, columns, length), true, splits, H100);
            (tile, tiles, splits, chunk)
        };
        let plans = [
            plan(9800, 64, 800, false), // the second convolution, forward
            plan(9800, 32, 1600, true), // backward by its input
            plan(64, 800, 9800, true),  // backward by its weights
            plan(50, 1024, 3136, true), // the first linear layer, forward
            plan(50, 3136, 1024, true), // backward by its input
            plan(1024, 3136, 50, true), // backward by its weights
        ];
        let (narrow, square) = (GemmTile::Narrow, GemmTile::Square);
        let expected = [
            (narrow, 308, 1, 800),
            (narrow, 154, 5, 320),
            (square, 13, 20, 496),
            (square, 16, 16, 208),
            (square, 49, 8, 128),
            (square, 784, 1, 64),
        ];
        assert_eq!(plans, expected);
    }

    /// The products of WideResNet-28-4 at a batch of 128 are large: no sum of a result or of a gradient with respect to
    /// an input is split, which would take another launch.
    #[test]
    fn the_wide_resnet_fills_the_gpu_without_splits() {
        let plan = |rows, columns, length, count| {
            let vectors = columns % 4 == 0 && length % 4 == 0;
            let GemmPlan { tile, tiles, splits, .. } =
                GemmPlan::new(GemmProblem { count, ..GemmProblem::new(rows, columns, length) }, vectors, true, H100);
            (tile, tiles, splits)
        };
        let (n32, n16, n8) = (128 * 32 * 32, 128 * 16 * 16, 128 * 8 * 8);
        let plans = [
            plan(n32, 16, 9 * 3, 1),  // the first convolution
            plan(n32, 64, 9 * 16, 1), // the groups' first
            plan(n16, 128, 9 * 64, 1),
            plan(n8, 256, 9 * 128, 1),
            plan(n32, 64, 9 * 64, 1), // the others, as long as their gradients
            plan(n16, 128, 9 * 128, 1),
            plan(n8, 256, 9 * 256, 1),
            plan(n32, 64, 9 * 64 + 16, 1), // with a shortcut
            plan(n16, 128, 9 * 128 + 64, 1),
            plan(n8, 256, 9 * 256 + 128, 1),
            plan(n32, 3, 9 * 16, 1),       // gradients by the input of the first convolution
            plan(n32, 16, 9 * 64 + 64, 1), // and of the groups' first, with a shortcut
            plan(n16, 64, 4 * 128 + 128, 4),
            plan(n8, 128, 4 * 256 + 256, 4),
        ];
        let (scalar, narrow, square) = (GemmTile::Scalar, GemmTile::Narrow, GemmTile::Square);
        let expected = [
            (scalar, 2048, 1),
            (square, 2048, 1),
            (square, 1024, 1),
            (square, 512, 1),
            (square, 2048, 1),
            (square, 1024, 1),
            (square, 512, 1),
            (square, 2048, 1),
            (square, 1024, 1),
            (square, 512, 1),
            (scalar, 2048, 1),
            (narrow, 2048, 1),
            (square, 512, 1),
            (square, 256, 1),
        ];
        assert_eq!(plans, expected);
    }

    #[test]
    fn a_launch_has_a_block_a_tile_a_split_and_a_product() {
        let large = GemmProblem::new(50, 1024, 3136);
        let plan = GemmPlan { tile: GemmTile::Square, tiles: 16, splits: 7, chunk: 448 };
        let kernels = GemmKernels { single: ["scalar", "narrow", "square"], mixed: "mixed" };
        let launch = plan.launch(kernels.of(&plan, ElementTypes::Single), 4, vec![], Cost::default());
        assert_eq!((launch.kernel, launch.grid, launch.block), ("square", [16, 7, 4], 128));
        assert_eq!(GemmPlan::with(large, GemmTile::Square, 7), plan);
    }
}
