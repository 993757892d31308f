//! Matrix products of halves on tensor cores (kernels/gemm_half.cuh): the choice of block tile and number of splits.
//!
//! As in `gemm.rs`, the choice depends on sizes, alignment and the GPU's number of multiprocessors alone.

use super::desc::Desc;
use super::gemm::{GemmProblem, SplitSums, sum_split_rows, sum_splits};
use crate::device::cuda::abi::{
    Epilogue, HALF_TILE_COLUMNS, HALF_TILE_COLUMNS_NARROW, HALF_TILE_COLUMNS_WIDE, HALF_TILE_DEPTH, HALF_TILE_ROWS,
    HALF_TILE_ROWS_TALL, WARP,
};
use crate::device::cuda::launch::{Arg, Cost, Launch, Lowered};

/// Splits of a sum, at most.
const MOST_SPLITS: usize = 64;
/// Splits of a sum of a gradient with respect to a weight, at most: it has many terms, and few results.
const MOST_WEIGHT_SPLITS: usize = 256;
/// Halves that are read and written at once.
const CHUNK: usize = 8;
/// Columns of a warp tile.
const WARP_COLUMNS: usize = 32;

/// Block tiles of products of halves. Each product has kernels for the first four, in the order of [`HalfKernels`], but
/// for gradients with respect to weights, which have them for the last two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HalfTile {
    /// 64 x 64, single elements: for any sizes.
    Scalar,
    /// 64 x 64, 16 bytes at once.
    Small,
    /// 128 x 64, 16 bytes at once.
    Tall,
    /// 64 x 32, 16 bytes at once.
    Narrow,
    /// 64 x 128, single elements: for any sizes.
    WeightScalar,
    /// 64 x 128, 16 bytes at once.
    WeightWide,
}

/// Names of a product's kernels, by [`HalfTile`].
pub(super) type HalfKernels = [&'static str; 4];

impl HalfTile {
    /// Numbers of rows and columns.
    fn sizes(self) -> (usize, usize) {
        match self {
            HalfTile::Scalar | HalfTile::Small => (HALF_TILE_ROWS, HALF_TILE_COLUMNS),
            HalfTile::Tall => (HALF_TILE_ROWS_TALL, HALF_TILE_COLUMNS),
            HalfTile::Narrow => (HALF_TILE_ROWS, HALF_TILE_COLUMNS_NARROW),
            HalfTile::WeightScalar | HalfTile::WeightWide => (HALF_TILE_ROWS, HALF_TILE_COLUMNS_WIDE),
        }
    }

    /// Number of threads of a block: a warp, or two of them one above the other, for each column of warp tiles.
    fn threads(self) -> usize {
        let down = if matches!(self, HalfTile::WeightScalar | HalfTile::WeightWide) { 1 } else { 2 };
        down * WARP * self.sizes().1 / WARP_COLUMNS
    }

    /// Clocks for [`HALF_TILE_DEPTH`] terms: of a block alone on its multiprocessor, and of each of many blocks. These
    /// are estimates: a multiprocessor does 1,024 multiply-adds of halves in a clock, and reads 128 bytes of shared
    /// memory.
    ///
    /// Many narrow blocks move 8 KB of fragments out of shared memory and 6 KB of copies into it each: 112 clocks. The
    /// products take 64. A block alone waits for its 6 KB, 290 clocks at a multiprocessor's share of the L2 cache's
    /// 2,800 bytes a clock, or longer for its own warps: barrier and copies, then twice `ldmatrix` and eight `mma`, one
    /// after another. The warps of a small block have warp tiles of the same size, so both take as long.
    fn clocks(self) -> (usize, usize) {
        match self {
            HalfTile::Scalar => (2000, 1500),
            HalfTile::Small => (400, 180),
            HalfTile::Tall => (500, 300),
            HalfTile::Narrow => (400, 110),
            HalfTile::WeightScalar => (4000, 3000),
            HalfTile::WeightWide => (600, 300),
        }
    }
}

/// Block tile and splits of a product of halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HalfPlan {
    tile: HalfTile,
    /// Number of block tiles of each product.
    tiles: usize,
    /// Number of splits of the sums (split-K). With more than one, partial sums are in scratch memory, as floats.
    splits: usize,
    /// Number of terms of a split.
    pub chunk: usize,
}

impl HalfPlan {
    /// The plan of the least time by the estimate of [`HalfTile::clocks`]. `vectors`: everything is read and written 16
    /// bytes at once. `splits`: sums may be split.
    pub fn new(product: GemmProblem, vectors: bool, splits: bool, multiprocessors: usize) -> HalfPlan {
        const VECTORS: [HalfTile; 3] = [HalfTile::Small, HalfTile::Tall, HalfTile::Narrow];
        let tiles: &[HalfTile] = if vectors { &VECTORS } else { &[HalfTile::Scalar] };
        HalfPlan::best(product, tiles, if splits { MOST_SPLITS } else { 1 }, multiprocessors)
    }

    /// The plan of a gradient with respect to a weight.
    fn of_weight(product: GemmProblem, vectors: bool, multiprocessors: usize) -> HalfPlan {
        let tile = if vectors { HalfTile::WeightWide } else { HalfTile::WeightScalar };
        HalfPlan::best(product, &[tile], MOST_WEIGHT_SPLITS, multiprocessors)
    }

    fn best(product: GemmProblem, tiles: &[HalfTile], most_splits: usize, multiprocessors: usize) -> HalfPlan {
        let most = product.length.div_ceil(HALF_TILE_DEPTH).clamp(1, most_splits);
        let plans = tiles.iter().flat_map(|&tile| (1..=most).map(move |splits| HalfPlan::with(product, tile, splits)));
        plans.min_by_key(|plan| plan.clocks(product, multiprocessors)).expect("one tile and one split are a plan")
    }

    /// A plan with at most `splits` splits, none of which is empty.
    fn with(product: GemmProblem, tile: HalfTile, splits: usize) -> HalfPlan {
        let (rows, columns) = tile.sizes();
        let tiles = product.rows.div_ceil(rows) * product.columns.div_ceil(columns);
        let chunk = product.length.div_ceil(splits).next_multiple_of(HALF_TILE_DEPTH).max(HALF_TILE_DEPTH);
        HalfPlan { tile, tiles, splits: product.length.div_ceil(chunk).max(1), chunk }
    }

    /// Estimate of the time in clocks.
    fn clocks(&self, product: GemmProblem, multiprocessors: usize) -> usize {
        /// Clocks to start and end a block, and to launch another kernel.
        const BLOCK: usize = 1500;
        const LAUNCH: usize = 2300;
        /// Bytes that the L2 cache moves in a clock.
        const BYTES: usize = 2800;
        let (alone, each) = self.tile.clocks();
        let blocks = (product.count * self.tiles * self.splits).div_ceil(multiprocessors);
        let work = alone.max(each * blocks) * (self.chunk / HALF_TILE_DEPTH) + BLOCK;
        let sum = LAUNCH + (self.splits + 1) * product.results() * 4 / BYTES;
        work + if self.splits > 1 { sum } else { 0 }
    }

    /// A launch of `count` products.
    pub fn launch(&self, kernels: HalfKernels, count: usize, args: Vec<Arg>, cost: Cost) -> Launch {
        self.launch_of(kernels[self.tile as usize], count, args, cost)
    }

    fn launch_of(&self, kernel: &'static str, count: usize, args: Vec<Arg>, cost: Cost) -> Launch {
        let blocks = |n: usize| u32::try_from(n).expect("blocks fit a grid");
        let grid = [blocks(self.tiles), blocks(self.splits), blocks(count)];
        let block = self.tile.threads() as u32;
        Launch { kernel, grid, block, shared: 0, args, cost }
    }
}

/// A product of halves whose sums may be split. Rows beyond the active ones are not written.
pub(super) struct HalfOperation {
    pub kernels: HalfKernels,
    pub product: GemmProblem,
    /// True if everything is read and written 16 bytes at once.
    pub vectors: bool,
    /// The op's last output takes the results.
    pub epilogue: Epilogue,
    /// FLOPs, without products that are known to be zero.
    pub flops: u64,
}

impl HalfOperation {
    /// Launches of the product. `args(chunk, epilogue)` are the kernel's arguments after the first two: the destination
    /// of the results, and that of the splits' sums. If the sums are split, the kernel that adds the splits applies the
    /// epilogue.
    pub fn lower(self, desc: &Desc, args: impl Fn(usize, Arg) -> Vec<Arg>) -> Lowered {
        let plan = self.plan(desc);
        if plan.splits == 1 {
            let to = [Arg::Output(desc.result()), Arg::Null];
            let all = to.into_iter().chain(args(plan.chunk, self.epilogue.into())).collect();
            return plan.launch(self.kernels, self.product.count, all, desc.cost(self.flops)).into();
        }
        let results = desc.output(0).iter().product();
        let SplitSums { launch, splits, scratch } = self.sums(desc, results, args);
        let sum = sum_split_rows(desc, self.product.columns, splits, self.epilogue);
        Lowered { launches: vec![launch, sum], scratch }
    }

    /// The launch that writes the sums to scratch memory, as floats.
    pub fn sums(&self, desc: &Desc, results: usize, args: impl Fn(usize, Arg) -> Vec<Arg>) -> SplitSums {
        let plan = self.plan(desc);
        let to = [Arg::Null, Arg::Scratch(0)];
        let all = to.into_iter().chain(args(plan.chunk, Epilogue::default().into())).collect();
        let launch = plan.launch(self.kernels, self.product.count, all, desc.cost(self.flops));
        SplitSums { launch, splits: plan.splits, scratch: 4 * plan.splits * results }
    }

    /// True if the sums are split.
    pub fn is_split(&self, desc: &Desc) -> bool {
        self.plan(desc).splits > 1
    }

    fn plan(&self, desc: &Desc) -> HalfPlan {
        HalfPlan::new(self.product, self.vectors, true, desc.multiprocessors)
    }
}

/// Launches of a gradient with respect to a weight, whose operands are halves and whose results are floats. `kernels` are
/// those of single elements, and of 16 bytes at once if `vectors`. `args(chunk)` are a kernel's arguments after the
/// first one, the destination.
pub(super) fn lower_weight_gradient(
    desc: &Desc,
    product: GemmProblem,
    kernels: [&'static str; 2],
    vectors: bool,
    flops: u64,
    args: impl Fn(usize) -> Vec<Arg>,
) -> Lowered {
    let plan = HalfPlan::of_weight(product, vectors, desc.multiprocessors);
    let launch = |to| {
        let all = [to].into_iter().chain(args(plan.chunk)).collect();
        plan.launch_of(kernels[usize::from(vectors)], 1, all, desc.cost(flops))
    };
    if plan.splits == 1 {
        return launch(Arg::Output(0)).into();
    }
    let results = product.results();
    let launches = vec![launch(Arg::Scratch(0)), sum_splits(results, plan.splits)];
    Lowered { launches, scratch: 4 * plan.splits * results }
}

/// True if an op on halves may read and write 16 bytes at once: all of `sizes`, lengths of rows, are multiples of eight,
/// and all operands begin at multiples of 16 bytes, except one-dimensional ones, which are read by single elements.
pub(super) fn vectorizable(desc: &Desc, sizes: &[usize]) -> bool {
    let aligned = |i: usize| desc.input(i).len() == 1 || desc.input_aligned(i);
    sizes.iter().all(|size| size.is_multiple_of(CHUNK))
        && (0..desc.inputs()).all(aligned)
        && (0..desc.outputs()).all(|i| desc.output(i).len() == 1 || desc.output_aligned(i))
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: usize = 132;

    #[test]
    fn tiles_cover_all_results_and_splits_all_terms_once() {
        let sizes = [1, 31, 32, 33, 64, 65, 128, 129, 3136, 39200];
        let products =
            sizes.iter().flat_map(|&m| sizes.iter().flat_map(move |&n| sizes.map(|k| GemmProblem::new(m, n, k))));
        for product in products {
            for (vectors, splits) in [(false, false), (false, true), (true, false), (true, true)] {
                let plan = HalfPlan::new(product, vectors, splits, H100);
                let (rows, columns) = plan.tile.sizes();
                assert_eq!(plan.tiles, product.rows.div_ceil(rows) * product.columns.div_ceil(columns), "{product:?}");
                assert!((plan.splits - 1) * plan.chunk < product.length && plan.splits * plan.chunk >= product.length);
                assert!(
                    plan.chunk.is_multiple_of(HALF_TILE_DEPTH) && (splits || plan.splits == 1),
                    "{product:?}: {plan:?}"
                );
            }
        }
    }

    /// The second linear layer of LeNet5 has 16 tiles: its sums are split until they fill the GPU.
    #[test]
    fn a_product_of_few_tiles_is_split() {
        let plan = HalfPlan::new(GemmProblem::new(50, 1024, 3136), true, true, H100);
        assert!(plan.tiles == 16 && (8..=16).contains(&plan.splits), "{plan:?}");
        let whole = HalfPlan::new(GemmProblem::new(128 * 32 * 32, 64, 576), true, true, H100);
        assert_eq!((whole.tile, whole.tiles, whole.splits), (HalfTile::Tall, 1024, 1));
        let least = HalfPlan::new(GemmProblem::new(4 * 91 * 92, 64, 72), true, true, H100);
        assert_eq!((least.tile, least.splits), (HalfTile::Tall, 1), "tests/ops has a layer of these sizes");
    }

    /// Products of at most 32 columns waste half of the other tiles and more: gradients with respect to the input of the
    /// wide ResNet's first group and of LeNet5's second convolution; layers in tests/ops.
    #[test]
    fn a_product_of_few_columns_takes_narrow_tiles() {
        let plan = |rows, columns, length| {
            let plan = HalfPlan::new(GemmProblem::new(rows, columns, length), true, true, H100);
            (plan.tile, plan.tiles, plan.splits)
        };
        assert_eq!(plan(128 * 32 * 32, 16, 9 * 64 + 64), (HalfTile::Narrow, 2048, 1));
        assert_eq!(plan(9800, 32, 1600), (HalfTile::Narrow, 154, 3));
        let (convolution, pooled) =
            ([(130 * 133, 16, 24), (130 * 131, 8, 48)], [(132 * 132, 16, 8), (132 * 132, 8, 16)]);
        let layers = convolution.into_iter().chain(pooled).chain([(17_000, 24, 8)]);
        for (rows, columns, length) in layers {
            assert_eq!(plan(rows, columns, length), (HalfTile::Narrow, rows.div_ceil(64), 1));
        }
        assert_eq!([HalfTile::Small, HalfTile::Tall, HalfTile::Narrow].map(HalfTile::threads), [128, 128, 64]);
    }

    /// LeNet5's input gradient of its first linear layer fits 98 narrow tiles. A block alone takes longer for 1,024 terms
    /// than several for a part of them each, and a launch that adds the splits.
    #[test]
    fn a_product_of_many_terms_is_split_though_its_narrow_tiles_fill_most_of_the_gpu() {
        let product = GemmProblem::new(50, 3136, 1024);
        let whole = HalfPlan::with(product, HalfTile::Narrow, 1);
        let plan = HalfPlan::new(product, true, true, H100);
        assert_eq!((whole.tiles, plan.tile, plan.splits), (98, HalfTile::Small, 5));
        assert!(plan.clocks(product, H100) < whole.clocks(product, H100));
    }

    /// Gradients with respect to the filters of the wide ResNet's three groups at a batch of 128, and to the weight of
    /// LeNet5's first linear layer, whose sums have 50 terms.
    #[test]
    fn sums_of_gradients_of_weights_are_split_until_they_fill_the_gpu() {
        let plan = |rows, columns, length| {
            let product = GemmProblem::new(rows, columns, length);
            let plan = HalfPlan::of_weight(product, true, H100);
            (plan.tile, plan.tiles, plan.splits)
        };
        let groups = [plan(64, 576, 128 * 1024), plan(128, 1152, 128 * 256), plan(256, 2304, 128 * 64)];
        for (tile, tiles, splits) in groups {
            assert!(tile == HalfTile::WeightWide && (H100..=8 * H100).contains(&(tiles * splits)), "{groups:?}");
        }
        assert_eq!(plan(1024, 3136, 50), (HalfTile::WeightWide, 16 * 25, 1));
    }
}
