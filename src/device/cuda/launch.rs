//! A launch as data: which kernel, on how many blocks, with which arguments, and what it costs. Made from an op
//! without a GPU (`lower`), so that it can be tested and printed; run by [`super::Cuda`].

use bytemuck::{Pod, Zeroable};

use crate::device::Schedule;
use crate::tape::{MAX_LEARNING_RATES, Program};

/// Threads of a block where a kernel does not say otherwise: `THREADS` in kernels/prelude.cuh.
pub const THREADS: u32 = 256;

/// Threads of a warp: `WARP` in kernels/prelude.cuh.
pub const WARP: u32 = 32;

/// A struct that a kernel takes by value.
pub(super) trait KernelStruct: Pod {
    /// Its name in the kernel's source. The layout there is the same.
    const NAME: &'static str;
}

/// One argument of a launch.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// The address of a node's input.
    Input(usize),
    /// The address of a node's output.
    Output(usize),
    /// The address of the count of active rows; null where all are.
    Rows,
    /// The address of nothing, where a kernel's operand is missing.
    Null,
    /// An address in the scratch memory that launches of one node share: bytes from its start.
    Scratch(usize),
    /// An `int`.
    Int(i32),
    /// An `unsigned`.
    Unsigned(u32),
    /// A `float`.
    Float(f32),
    /// A struct: its name, its bytes.
    Struct(&'static str, Vec<u8>),
    /// A struct with addresses: its name, its members, each of which begins on a word of its own.
    Members(&'static str, Vec<Arg>),
}

impl Arg {
    /// A size, as an `int`.
    ///
    /// # Panics
    /// It does not fit: no buffer of a supported model has a dimension of 2^31.
    pub(super) fn size(n: usize) -> Arg {
        Arg::Int(i32::try_from(n).expect("a size fits an int"))
    }

    pub(super) fn of<T: KernelStruct>(value: T) -> Arg {
        Arg::Struct(T::NAME, bytemuck::bytes_of(&value).to_vec())
    }

    /// The type of the parameter that takes it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Arg::Input(_) | Arg::Output(_) | Arg::Rows | Arg::Null | Arg::Scratch(_) => "pointer",
            Arg::Int(_) => "int",
            Arg::Unsigned(_) => "unsigned",
            Arg::Float(_) => "float",
            Arg::Struct(name, _) | Arg::Members(name, _) => name,
        }
    }

    /// Bytes of that parameter.
    #[must_use]
    pub fn bytes(&self) -> usize {
        const WORD: usize = 8;
        match self {
            Arg::Input(_) | Arg::Output(_) | Arg::Rows | Arg::Null | Arg::Scratch(_) => WORD,
            Arg::Int(_) | Arg::Unsigned(_) | Arg::Float(_) => 4,
            Arg::Struct(_, bytes) => bytes.len(),
            Arg::Members(_, members) => members.iter().map(|member| member.bytes().next_multiple_of(WORD)).sum(),
        }
    }

    /// Whether `other` is it, or one of its members.
    #[cfg(test)]
    pub(super) fn has(&self, other: &Arg) -> bool {
        self == other || matches!(self, Arg::Members(_, members) if members.iter().any(|member| member.has(other)))
    }
}

/// What a launch moves and computes if all rows are active: the least that any implementation of it would.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes read from or written to device memory, each operand once.
    pub bytes: u64,
    /// Floating-point operations; a multiply-add counts as two.
    pub flops: u64,
}

/// What several launches are together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TotalCost {
    /// How many.
    pub launches: u64,
    /// The sum of their costs.
    pub cost: Cost,
}

impl TotalCost {
    /// The sum over a program's launches on a GPU of so many multiprocessors.
    pub fn of(program: &Program, multiprocessors: usize) -> TotalCost {
        let launches = program.nodes.iter().flat_map(|node| super::launches(program, node, multiprocessors));
        launches.fold(TotalCost::default(), |total, launch| total.and(TotalCost { launches: 1, cost: launch.cost }, 1))
    }

    /// The sum over a schedule, each program as often as it runs.
    pub fn of_schedule(schedule: &Schedule, multiprocessors: usize) -> TotalCost {
        let stages = schedule.stages.iter();
        stages.fold(TotalCost::default(), |total, (program, times)| {
            total.and(TotalCost::of(program, multiprocessors), u64::from(*times))
        })
    }

    fn and(self, other: TotalCost, times: u64) -> TotalCost {
        let cost = Cost {
            bytes: self.cost.bytes + times * other.cost.bytes,
            flops: self.cost.flops + times * other.cost.flops,
        };
        TotalCost { launches: self.launches + times * other.launches, cost }
    }
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
        Launch { kernel, grid: [blocks, 1, 1], block: THREADS, shared: 0, args, cost }
    }

    /// Whether `arg` is among its arguments, or a member of one.
    #[cfg(test)]
    pub(super) fn has(&self, arg: &Arg) -> bool {
        self.args.iter().any(|own| own.has(arg))
    }

    /// One thread for each of `n` elements.
    pub(super) fn each(kernel: &'static str, n: usize, args: Vec<Arg>, cost: Cost) -> Launch {
        Launch::new(kernel, n.div_ceil(THREADS as usize), args, cost)
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

/// Learning rates by step, as the optimizer kernels take them: `RateSchedule` in kernels/optimizer.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct RateSchedule {
    pub count: u32,
    pub from: [u32; RATES],
    pub rate: [f32; RATES],
}

/// Entries that a learning rate schedule may have on the GPU.
pub const RATES: usize = MAX_LEARNING_RATES;

impl KernelStruct for RateSchedule {
    const NAME: &'static str = "RateSchedule";
}
