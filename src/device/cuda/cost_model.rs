//! Model of the time of a launch on a GPU that is not here, from what is known of the launch without one.
//!
//! ```text
//! time = node + latency + larger + half of the smaller of (bytes / rate, FLOPs / rate)
//! ```
//!
//! `node` is the time of an empty launch in a graph, `latency` that of a kernel that does almost nothing. The rate of
//! bytes is the memory's, or the L2 cache's where a step finds the operands in it. The rate of FLOPs is the part of
//! the peak that the kernel's family reaches on a full multiprocessor, less where few warps are on one; the time is
//! that of the multiprocessor with the most blocks. Loads and arithmetic overlap in part.
//!
//! The model knows neither a kernel's registers, which its family's fraction contains, nor the rows and columns that
//! pad a tile, nor what the launches before have left in the caches. `docs/performance.md` says how wrong it is.

use std::iter::Sum;
use std::ops::{Add, Mul};

use super::cost_table::{FAMILIES, GPUS, GpuConstants, KernelFamily, MathUnit};
use super::launch::{LaunchRecord, WARP};
use super::lower::launches;
use crate::device::Schedule;
use crate::tape::Program;

/// Largest number of threads, and of blocks, on a multiprocessor.
const RESIDENT: (u32, u32) = (2048, 32);
/// Bytes of shared memory that each block needs beyond its own.
const SHARED_OF_A_BLOCK: u32 = 1024;
/// Part of the smaller one of memory and arithmetic that does not overlap with the larger one.
const NOT_OVERLAPPED: f64 = 0.5;
/// Part of a kernel's latency that is left within a step, where it finds its operands in a cache.
const LATENCY_IN_A_STEP: f64 = 0.7;

/// Place of a launch's operands when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operands {
    /// In no cache, as `maxmargin bench` times an op alone.
    InMemory,
    /// In the L2 cache if half of it holds them: the launch before has just written some of them.
    OfAStep,
}

/// Predicted seconds of launches.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PredictedTime {
    /// Seconds in all: less than the sum of the parts, which overlap.
    pub seconds: f64,
    /// Seconds of launching, and of kernels' latencies.
    pub launch_s: f64,
    /// Seconds of moving bytes, without anything else.
    pub memory_s: f64,
    /// Seconds of arithmetic, without anything else.
    pub arithmetic_s: f64,
    /// Seconds of launches of kernels that no visit to a GPU has timed.
    pub unmeasured_s: f64,
}

impl PredictedTime {
    /// Name of the largest part: `launch`, `memory` or `arithmetic`.
    #[must_use]
    pub fn bound(&self) -> &'static str {
        let parts = [(self.launch_s, "launch"), (self.memory_s, "memory"), (self.arithmetic_s, "arithmetic")];
        parts.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).map_or("launch", |part| part.1)
    }
}

impl Add for PredictedTime {
    type Output = PredictedTime;

    fn add(self, other: PredictedTime) -> PredictedTime {
        PredictedTime {
            seconds: self.seconds + other.seconds,
            launch_s: self.launch_s + other.launch_s,
            memory_s: self.memory_s + other.memory_s,
            arithmetic_s: self.arithmetic_s + other.arithmetic_s,
            unmeasured_s: self.unmeasured_s + other.unmeasured_s,
        }
    }
}

impl Sum for PredictedTime {
    fn sum<I: Iterator<Item = PredictedTime>>(times: I) -> PredictedTime {
        times.fold(PredictedTime::default(), PredictedTime::add)
    }
}

impl Mul<u32> for PredictedTime {
    type Output = PredictedTime;

    fn mul(self, times: u32) -> PredictedTime {
        let times = f64::from(times);
        PredictedTime {
            seconds: times * self.seconds,
            launch_s: times * self.launch_s,
            memory_s: times * self.memory_s,
            arithmetic_s: times * self.arithmetic_s,
            unmeasured_s: times * self.unmeasured_s,
        }
    }
}

impl GpuConstants {
    /// Constants of the GPU of this name in `explain cost --gpu`.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static GpuConstants> {
        GPUS.iter().find(|gpu| gpu.name == name)
    }

    /// Constants of a device by its description and number of multiprocessors: a part of a GPU has none.
    #[must_use]
    pub fn of_device(description: &str, multiprocessors: usize) -> Option<&'static GpuConstants> {
        GPUS.iter().find(|gpu| description.contains(gpu.driver_name) && gpu.multiprocessors == multiprocessors)
    }

    /// Predicted time of a launch.
    #[must_use]
    pub fn launch_time(&self, launch: &LaunchRecord, operands: Operands) -> PredictedTime {
        let (family, measured) = family(&launch.kernel);
        let cached = operands == Operands::OfAStep && launch.bytes <= self.l2_bytes / 2;
        let bytes_per_s = if cached { self.l2_bytes_per_s } else { self.memory_bytes_per_s };
        let memory_s = launch.bytes as f64 / (bytes_per_s * family.of_memory);
        let arithmetic_s = self.arithmetic_s(launch, family);
        let latency = if operands == Operands::OfAStep { LATENCY_IN_A_STEP } else { 1.0 };
        let launch_s = self.node_s + 1e-6 * latency * family.latency_us;
        let seconds = launch_s + memory_s.max(arithmetic_s) + NOT_OVERLAPPED * memory_s.min(arithmetic_s);
        PredictedTime { seconds, launch_s, memory_s, arithmetic_s, unmeasured_s: if measured { 0.0 } else { seconds } }
    }

    /// Seconds of the arithmetic of the multiprocessor that has the most blocks.
    fn arithmetic_s(&self, launch: &LaunchRecord, family: &KernelFamily) -> f64 {
        let peak = match family.unit {
            MathUnit::Ffma => self.ffma_flops_per_s,
            MathUnit::Tensor => self.tensor_flops_per_s,
        };
        let of_one = peak / self.multiprocessors as f64;
        let blocks = launch.blocks.max(1).div_ceil(self.multiprocessors as u64);
        let resident = (RESIDENT.0 / launch.threads.max(1))
            .min(RESIDENT.1)
            .min(self.shared / (launch.shared + SHARED_OF_A_BLOCK))
            .max(1);
        let warps = blocks.min(u64::from(resident)) as f64 * f64::from(launch.threads.div_ceil(WARP as u32));
        let occupied = (warps / family.unit.warps()).min(1.0);
        let flops = launch.flops as f64 * blocks as f64 / launch.blocks.max(1) as f64;
        flops / (of_one * family.of_peak * occupied)
    }

    /// Predicted time of each launch of a program within a step.
    #[must_use]
    pub fn program_times(&self, program: &Program, multiprocessors: usize) -> Vec<(&'static str, PredictedTime)> {
        let launched = program.nodes.iter().flat_map(|node| launches(program, node, multiprocessors));
        launched.map(|launch| (launch.kernel, self.launch_time(&launch.record(), Operands::OfAStep))).collect()
    }

    /// Predicted time of a run of a program within a step.
    #[must_use]
    pub fn program_time(&self, program: &Program, multiprocessors: usize) -> PredictedTime {
        self.program_times(program, multiprocessors).into_iter().map(|(_, time)| time).sum()
    }

    /// Predicted time of a schedule.
    #[must_use]
    pub fn schedule_time(&self, schedule: &Schedule, multiprocessors: usize) -> PredictedTime {
        schedule.stages.iter().map(|(program, times)| self.program_time(program, multiprocessors) * *times).sum()
    }
}

/// Family of a kernel, and true if a visit has timed the kernel itself.
fn family(kernel: &str) -> (&'static KernelFamily, bool) {
    let first = |is_it: &dyn Fn(&&str) -> bool| FAMILIES.iter().find(|family| family.names.iter().any(is_it));
    let timed = first(&|name| *name == kernel).map(|family| (family, true));
    timed.or_else(|| Some((first(&|name| matches(name, kernel))?, false))).expect("the last family has every name")
}

/// True if `name` is `pattern`, in which each `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name
            .strip_prefix(start)
            .is_some_and(|tail| (0..=tail.len()).any(|at| tail.is_char_boundary(at) && matches(rest, &tail[at..]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(kernel: &'static str, blocks: u64, bytes: u64, flops: u64) -> LaunchRecord {
        LaunchRecord { kernel: kernel.into(), blocks, threads: 128, shared: 0, bytes, flops }
    }

    #[test]
    fn no_kernel_is_faster_than_its_gpu() {
        for KernelFamily { names, of_peak, of_memory, latency_us, .. } in FAMILIES {
            for fraction in [of_peak, of_memory] {
                assert!(*fraction > 0.0 && *fraction <= 1.0, "{names:?}");
            }
            assert!(*latency_us >= 0.0, "{names:?}");
        }
    }

    #[test]
    fn a_kernel_that_no_line_names_has_a_time_that_is_not_measured() {
        let gpu = GpuConstants::named("h100").expect("a known GPU");
        let [known, like, unknown] = ["conv2d_square", "conv2d_square_sums", "never_heard_of"]
            .map(|kernel| gpu.launch_time(&launch(kernel, 512, 1 << 20, 1 << 33), Operands::InMemory));
        assert_eq!((known.unmeasured_s, like.unmeasured_s), (0.0, known.seconds));
        assert_eq!(unknown.unmeasured_s, unknown.seconds);
        let unit = |kernel| family(kernel).0.unit;
        assert!(["conv2d_half_tall", "linear_half_small"].iter().all(|kernel| unit(kernel) == MathUnit::Tensor));
        let scalar =
            ["conv_pool_scalar_to_half", "conv2d_backward_weight_scalar_half_gradient", "linear_warp_from_half"];
        assert!(scalar.iter().all(|kernel| unit(kernel) == MathUnit::Ffma));
    }

    #[test]
    fn a_launch_takes_longer_with_more_bytes_operations_or_idle_multiprocessors() {
        let gpu = GpuConstants::named("h200").expect("a known GPU");
        let time = |blocks, bytes, flops| {
            gpu.launch_time(&launch("conv2d_square", blocks, bytes, flops), Operands::InMemory).seconds
        };
        let usual = time(528, 1 << 24, 1 << 33);
        assert!(time(528, 1 << 25, 1 << 33) > usual && time(528, 1 << 24, 1 << 34) > usual);
        assert!(time(529, 1 << 24, 1 << 33) > 1.2 * usual, "a fifth block on one multiprocessor");
        assert!(time(66, 1 << 24, 1 << 33) > 3.0 * usual, "half of the multiprocessors, a block of four warps each");
        let empty = gpu.launch_time(&launch("fill", 1, 0, 0), Operands::InMemory);
        assert_eq!((empty.bound(), empty.memory_s, empty.arithmetic_s), ("launch", 0.0, 0.0));
        let cached = gpu.launch_time(&launch("add_x4", 528, 1 << 24, 0), Operands::OfAStep).seconds;
        assert!(cached < gpu.launch_time(&launch("add_x4", 528, 1 << 24, 0), Operands::InMemory).seconds);
    }
}
