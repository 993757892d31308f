//! A launch as data: which kernel, on how many blocks, with which arguments, and what it costs. Made from an op
//! without a GPU (`lower`), so that it can be tested and printed; run by [`super::Cuda`].

pub use super::abi::{THREADS, WARP};
pub use super::arg::Arg;

/// What a launch moves and computes if all rows are active: the least that any implementation of it would.
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
    /// The kernel's name.
    pub kernel: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of shared memory beyond what the kernel declares.
    pub shared: u32,
    /// In the kernel's order.
    pub args: Vec<Arg>,
    /// What it costs.
    pub cost: Cost,
}

impl Launch {
    /// A launch of `blocks` blocks of [`THREADS`].
    pub(super) fn new(kernel: &'static str, blocks: usize, args: Vec<Arg>, cost: Cost) -> Launch {
        let blocks = u32::try_from(blocks.max(1)).expect("blocks fit a grid");
        Launch { kernel, grid: [blocks, 1, 1], block: THREADS as u32, shared: 0, args, cost }
    }

    /// Whether `arg` is among its arguments, or a member of one.
    #[cfg(test)]
    pub(super) fn has(&self, arg: &Arg) -> bool {
        self.args.iter().any(|own| own.has(arg))
    }

    /// One thread for each of `n` elements.
    pub(super) fn each(kernel: &'static str, n: usize, args: Vec<Arg>, cost: Cost) -> Launch {
        Launch::new(kernel, n.div_ceil(THREADS), args, cost)
    }
}

/// The launches of one node, in order, and the scratch memory they share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lowered {
    /// In order.
    pub launches: Vec<Launch>,
    /// Bytes.
    pub scratch: usize,
}

impl From<Launch> for Lowered {
    fn from(launch: Launch) -> Lowered {
        Lowered { launches: vec![launch], scratch: 0 }
    }
}
