//! Items of a bench: each a program, or a step, that was timed or is not timed yet.

use serde::Serialize;

use super::timer::RunTime;
use super::workload::shape;
use crate::device::cuda;
use crate::device::cuda::launch::{Cost, Launch, LaunchRecord};
use crate::device::cuda::{GpuConstants, Operands, TotalCost};
use crate::tape::Program;

/// Timed item.
#[derive(Clone, Debug, Serialize)]
pub struct BenchItem {
    /// Group: `step`, `program`, `op` or `attack`.
    pub group: &'static str,
    /// Name of the op or program.
    pub name: String,
    /// Shapes of its operands.
    pub shape: String,
    /// Kernels that a GPU runs for it.
    pub kernels: Vec<&'static str>,
    /// Launches of these kernels.
    pub launches: u64,
    /// Each launch of an op, from which its time is predicted; empty for a step or a program.
    pub launched: Vec<LaunchRecord>,
    /// Runs in a training step; 0 if no step runs the item at this size.
    pub times_a_step: u32,
    /// Number of copies of the operands on which it ran in turn.
    pub copies: usize,
    /// Median seconds of a run.
    pub median_s: f64,
    /// Least seconds of a run.
    pub least_s: f64,
    /// Seconds of a run that the model of the GPU predicts: of an op on operands in no cache; `None` if the model does
    /// not know the device.
    pub predicted_s: Option<f64>,
    /// Fraction of the step's median: `median_s` times `times_a_step` over it; `None` if the step was not timed.
    pub share_of_step: Option<f64>,
    /// Bytes moved, each operand once.
    pub bytes: u64,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes a second, as a fraction of the reference copy's.
    pub of_copy: f64,
    /// Operations a second, as a fraction of the reference product's.
    pub of_product: f64,
}

/// Item that was not timed.
#[derive(Clone, Debug, Serialize)]
pub struct UntimedItem {
    /// See [`BenchItem::group`].
    pub group: &'static str,
    /// See [`BenchItem::name`].
    pub name: String,
    /// See [`BenchItem::shape`].
    pub shape: String,
}

impl BenchItem {
    /// Item whose launches cost `total` together. `BenchReport::settle` computes its fractions.
    pub(super) fn new(group: &'static str, name: &str, total: TotalCost, time: RunTime) -> BenchItem {
        let TotalCost { launches, cost: Cost { bytes, flops } } = total;
        BenchItem {
            group,
            name: name.to_owned(),
            shape: String::new(),
            kernels: Vec::new(),
            launches,
            launched: Vec::new(),
            times_a_step: 0,
            copies: 1,
            median_s: time.median,
            least_s: time.least,
            predicted_s: None,
            share_of_step: None,
            bytes,
            flops,
            of_copy: 0.0,
            of_product: 0.0,
        }
    }

    /// Item of a program of a single op.
    pub(super) fn of_op(
        group: &'static str,
        name: &str,
        program: &Program,
        time: RunTime,
        multiprocessors: usize,
        gpu: Option<&GpuConstants>,
    ) -> BenchItem {
        let launches = cuda::launches(program, &program.nodes[0], multiprocessors);
        let kernels = launches.iter().map(|launch| launch.kernel).collect();
        let launched: Vec<LaunchRecord> = launches.iter().map(Launch::record).collect();
        let predicted = |gpu: &GpuConstants| {
            launched.iter().map(|launch| gpu.launch_time(launch, Operands::InMemory).seconds).sum()
        };
        let (predicted_s, total) = (gpu.map(predicted), TotalCost::of(program, multiprocessors));
        BenchItem { shape: shape(program), kernels, launched, predicted_s, ..BenchItem::new(group, name, total, time) }
    }

    /// Median seconds of all runs in a step.
    pub(super) fn seconds_a_step(&self) -> f64 {
        self.median_s * f64::from(self.times_a_step)
    }
}
