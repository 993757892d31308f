//! Matrix products of halves on tensor cores (kernels/gemm_half.cuh): the choice of block tile and number of splits.
//!
//! As in `gemm.rs`, the choice depends on sizes, alignment and the GPU's number of multiprocessors alone.

use super::desc::Desc;
use super::gemm::{GemmProblem, SplitSums, sum_split_rows};
use crate::device::cuda::abi::{
    Epilogue, HALF_TILE_COLUMNS, HALF_TILE_DEPTH, HALF_TILE_ROWS, HALF_TILE_ROWS_TALL, WARP,
};
use crate::device::cuda::launch::{Arg, Cost, Launch, Lowered};

/// Splits of a sum, at most.
const MOST_SPLITS: usize = 64;
/// Halves that are read and written at once.
const CHUNK: usize = 8;
/// Warps of a block.
const WARPS: usize = 4;

/// Block tiles that each product of halves has kernels for, in the order of [`HalfKernels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HalfTile {
    /// 64 x 64, single elements: for any sizes.
    Scalar,
    /// 64 x 64, 16 bytes at once.
    Small,
    /// 128 x 64, 16 bytes at once.
    Tall,
}

/// Names of a product's kernels, by [`HalfTile`].
pub(super) type HalfKernels = [&'static str; 3];

impl HalfTile {
    /// Number of rows.
    fn rows(self) -> usize {
        match self {
            HalfTile::Scalar | HalfTile::Small => HALF_TILE_ROWS,
            HalfTile::Tall => HALF_TILE_ROWS_TALL,
        }
    }

    /// Clocks for [`HALF_TILE_DEPTH`] terms: of a block alone on its multiprocessor, and of each of many blocks. These
    /// are estimates: a multiprocessor does 1,024 multiply-adds of halves in a clock, and reads 128 bytes of shared
    /// memory.
    fn clocks(self) -> (usize, usize) {
        match self {
            HalfTile::Scalar => (2000, 1500),
            HalfTile::Small => (400, 180),
            HalfTile::Tall => (500, 300),
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
        let tiles: &[HalfTile] = if vectors { &[HalfTile::Small, HalfTile::Tall] } else { &[HalfTile::Scalar] };
        let steps = product.length.div_ceil(HALF_TILE_DEPTH).max(1);
        let most = if splits { steps.min(MOST_SPLITS) } else { 1 };
        let plans = tiles.iter().flat_map(|&tile| (1..=most).map(move |splits| HalfPlan::with(product, tile, splits)));
        plans.min_by_key(|plan| plan.clocks(product, multiprocessors)).expect("one tile and one split are a plan")
    }

    /// A plan with at most `splits` splits, none of which is empty.
    fn with(product: GemmProblem, tile: HalfTile, splits: usize) -> HalfPlan {
        let tiles = product.rows.div_ceil(tile.rows()) * product.columns.div_ceil(HALF_TILE_COLUMNS);
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
        let blocks = |n: usize| u32::try_from(n).expect("blocks fit a grid");
        let grid = [blocks(self.tiles), blocks(self.splits), blocks(count)];
        Launch { kernel: kernels[self.tile as usize], grid, block: (WARPS * WARP) as u32, shared: 0, args, cost }
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
            let to = [Arg::Output(desc.outputs() - 1), Arg::Null];
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

    fn plan(&self, desc: &Desc) -> HalfPlan {
        HalfPlan::new(self.product, self.vectors, true, desc.multiprocessors)
    }
}

/// True if an op on halves may read and write 16 bytes at once: all of `sizes`, lengths of rows, are multiples of eight,
/// and all operands begin at multiples of 16 bytes, except one-dimensional ones, which are read by single elements.
pub(super) fn vectorizable(desc: &Desc, sizes: &[usize]) -> bool {
    let aligned = |i: usize| desc.input(i).len() == 1 || desc.input_aligned(i);
    sizes.iter().all(|size| size.is_multiple_of(CHUNK))
        && (0..desc.inputs()).all(aligned)
        && (0..desc.outputs()).all(|i| desc.output_aligned(i))
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
                let down = product.rows.div_ceil(plan.tile.rows());
                assert_eq!(plan.tiles, down * product.columns.div_ceil(HALF_TILE_COLUMNS), "{product:?}");
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
}
