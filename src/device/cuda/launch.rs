//! A launch as data: kernel, grid, arguments and cost. `lower` makes launches from an op without a GPU, so that they
//! can be tested and printed; [`super::Cuda`] runs them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub use super::abi::{THREADS, WARP};
pub use super::arg::{Arg, COUNTERS, SUMMED_CHANNELS};

/// Memory traffic and arithmetic of a launch if all rows are active: the least of any implementation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes read from or written to device memory, each operand once.
    pub bytes: u64,
    /// Floating-point operations; a multiply-add counts as two.
    pub flops: u64,
}

/// One launch of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Number of blocks along x, y and z.
    pub grid: [u32; 3],
    /// Number of threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory: beyond those that the kernel declares.
    pub shared: u32,
    /// Arguments in the kernel's order.
    pub args: Vec<Arg>,
    /// Cost with all rows active.
    pub cost: Cost,
}

/// Launch as records keep it: everything that its time is predicted from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchRecord {
    /// Name of the kernel.
    pub kernel: Cow<'static, str>,
    /// Number of blocks.
    pub blocks: u64,
    /// Number of threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
    /// See [`Cost::bytes`].
    pub bytes: u64,
    /// See [`Cost::flops`].
    pub flops: u64,
}

impl Launch {
    /// The launch without its arguments.
    #[must_use]
    pub fn record(&self) -> LaunchRecord {
        LaunchRecord {
            kernel: self.kernel.into(),
            blocks: self.grid.iter().map(|&count| u64::from(count)).product(),
            threads: self.block,
            shared: self.shared,
            bytes: self.cost.bytes,
            flops: self.cost.flops,
        }
    }

    /// A launch of `blocks` blocks of [`THREADS`].
    pub(super) fn new(kernel: &'static str, blocks: usize, args: Vec<Arg>, cost: Cost) -> Launch {
        let blocks = u32::try_from(blocks.max(1)).expect("blocks fit a grid");
        Launch { kernel, grid: [blocks, 1, 1], block: THREADS as u32, shared: 0, args, cost }
    }

    /// True if `arg` is among the arguments, or a member of one.
    #[cfg(test)]
    pub(super) fn has(&self, arg: &Arg) -> bool {
        self.args.iter().any(|own| own.has(arg))
    }

    /// The launch with `by` in the place of the argument `arg`.
    pub(super) fn with(mut self, arg: &Arg, by: &Arg) -> Launch {
        self.args.iter_mut().filter(|own| *own == arg).for_each(|own| *own = by.clone());
        self
    }

    /// A launch of one thread for each of `n` elements.
    pub(super) fn each(kernel: &'static str, n: usize, args: Vec<Arg>, cost: Cost) -> Launch {
        Launch::new(kernel, n.div_ceil(THREADS), args, cost)
    }
}

/// Launches of a node, and the scratch memory that they share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lowered {
    /// Launches in their order.
    pub launches: Vec<Launch>,
    /// Bytes of scratch memory.
    pub scratch: usize,
}

impl From<Launch> for Lowered {
    fn from(launch: Launch) -> Lowered {
        Lowered { launches: vec![launch], scratch: 0 }
    }
}
