//! `maxmargin explain`: the programs of a training step as text.

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};

use super::explain_cost::cost;
use super::output::{Outcome, print};
use super::presets;
use super::values::within;
use crate::batch::DeviceData;
use crate::config::ranges::MULTIPROCESSORS;
use crate::config::{Config, DEFAULT_PRESET, preset};
use crate::device::cuda::launch::{Cost, Launch};
use crate::device::cuda::{self, GPUS, GpuConstants, KERNELS, TARGETS, TYPICAL_MULTIPROCESSORS, TotalCost};
use crate::tape::{Memory, Precision, Program};
use crate::text::{counted, si};
use crate::{Error, Result, model, train};

const EXAMPLES: &str = "\
Examples:
  maxmargin explain memory
  maxmargin explain kernels --preset cifar10-linf
  maxmargin explain cost --preset cifar10-linf --precision fp16 --gpu h200";

/// Part of the programs that is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Topic {
    /// Ops of each program, in the order in which they run.
    Tape,
    /// Place of each value in the workspace, and the buffers that outlive a program.
    Memory,
    /// Launches of each program on a GPU: kernel, blocks, registers, shared memory, bytes, FLOPs.
    Kernels,
    /// Predicted time of a step on a GPU, by program and by kernel; needs no GPU.
    Cost,
}

/// Print the programs of a training step
///
/// A step is a fixed schedule of programs, each recorded once. `%7` is a value in the workspace, `%7 f16` one in half
/// precision; a name is a buffer. In half precision, `f32:` gives the reason why a result is not half.
/// The launches on a GPU are printed without one. Bytes and FLOPs of a launch are the least that any kernel for the op
/// moves and computes, with every example correctly classified.
///
/// `cost` predicts from these numbers how long a step takes on a GPU that is not here: a launch takes the time of an
/// empty one, its kernel's latency, and that of its bytes or of its arithmetic, whichever is longer. It is bound by the
/// longest of these: launch, memory, arithmetic. The constants were measured on an H200; a kernel that was not timed
/// there is marked `not measured`. `maxmargin bench` and `scripts/gpu-check` print the prediction beside the measurement.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExplainArgs {
    /// Part of the programs to print
    #[arg(default_value = "tape")]
    topic: Topic,
    /// Preset whose step is printed; the preset's name says the method
    #[arg(long, value_name = "NAME", default_value = DEFAULT_PRESET, value_parser = presets::names())]
    preset: String,
    /// Precision of the step
    #[arg(long, value_name = "PRECISION", default_value = "fp32")]
    precision: Precision,
    /// Number of multiprocessors of the GPU whose launches `kernels` prints [default: 132, an H100's]
    #[arg(long, value_name = "N", value_parser = within(&MULTIPROCESSORS))]
    multiprocessors: Option<usize>,
    /// GPU on which `cost` predicts the time [default: h100]
    #[arg(long, value_name = "GPU", value_parser = PossibleValuesParser::new(GPUS.iter().map(|gpu| gpu.name)))]
    gpu: Option<String>,
}

pub(super) fn run(args: &ExplainArgs) -> Result<Outcome> {
    let ExplainArgs { topic, preset: name, precision, multiprocessors, gpu } = args;
    for (flag, given, of) in
        [("--gpu", gpu.is_some(), Topic::Cost), ("--multiprocessors", multiprocessors.is_some(), Topic::Kernels)]
    {
        if given && of != *topic {
            let [of, found] = [of, *topic].map(|topic| format!("{topic:?}").to_lowercase());
            return Err(Error::usage(format!("{flag}: it is a flag of explain {of}; found explain {found}")));
        }
    }
    let found = preset(name).ok_or_else(|| Error::usage(format!("--preset: no preset is called {name}")))?;
    let config = Config { precision: *precision, ..found.config };
    let mut memory = Memory::default();
    let mut model = model::build(&config.architecture());
    model.declare(&mut memory);
    // The programs do not depend on the number of images, if they fill a batch.
    let data = DeviceData::new(&mut memory, &*model, "train", config.training_batch_size);
    let schedule = train::record_step(&mut memory, &*model, &data, &config).schedule;
    let programs = |text: &dyn Fn(&Program) -> String| -> String {
        schedule.stages.iter().map(|(program, times)| format!("{times} x {}\n", text(program))).collect()
    };
    let multiprocessors = multiprocessors.unwrap_or(TYPICAL_MULTIPROCESSORS);
    let text = match topic {
        Topic::Tape => programs(&Program::to_string),
        Topic::Memory => programs(&Program::explain_memory) + &buffers(&memory),
        Topic::Kernels => {
            let total = total_text(TotalCost::of_schedule(&schedule, multiprocessors));
            programs(&|program| launches(program, multiprocessors)) + &format!("a step: {total}\n")
        }
        Topic::Cost => {
            let name = gpu.as_deref().unwrap_or(GPUS[0].name);
            let gpu =
                GpuConstants::named(name).ok_or_else(|| Error::usage(format!("--gpu: no GPU is called {name}")))?;
            cost(&schedule, gpu)
        }
    };
    print(&format!("{}; batch {}, {}\n\n{text}", model.describe(), config.training_batch_size, config.method))?;
    Ok(Outcome::Done)
}

/// Size of the buffers that outlive a program, and a line for each.
fn buffers(memory: &Memory) -> String {
    let mut text = format!("buffers: {} bytes, without the data set\n", memory.bytes());
    for buffer in memory.buffers.iter().filter(|b| !b.name.starts_with("train.") && b.name != "margins") {
        text += &format!("  {:>9} bytes  {} {:?} {}\n", buffer.bytes(), buffer.dtype.name(), buffer.dims, buffer.name);
    }
    text
}

/// Launches of a program, a line for each, and their sum.
fn launches(program: &Program, multiprocessors: usize) -> String {
    let mut text = format!("{}: {}\n", program.name, total_text(TotalCost::of(program, multiprocessors)));
    let archs: Vec<&str> = TARGETS.iter().copied().filter(|target| target.starts_with("sm_")).collect();
    text += &format!(
        "  {:34} {:26} {:>14} {:>7} {:>7} {:>5} {:>9} {:>9} {:>9}  registers {}\n",
        "kernel",
        "op",
        "blocks",
        "threads",
        "shared",
        "stack",
        "bytes",
        "FLOP",
        "FLOP/byte",
        archs.join(", ")
    );
    for node in &program.nodes {
        for Launch { kernel, grid: [x, y, z], block, shared, cost, .. } in
            cuda::launches(program, node, multiprocessors)
        {
            let usage = KERNELS.iter().find(|known| known.name == kernel).map_or(&[][..], |known| known.usage);
            let declared = usage.iter().map(|usage| usage.shared).max().unwrap_or(0);
            let stack = usage.iter().map(|usage| usage.stack).max().unwrap_or(0);
            let registers: Vec<_> = usage.iter().map(|usage| usage.registers.to_string()).collect();
            let intensity = cost.flops as f64 / cost.bytes.max(1) as f64;
            text += &format!(
                "  {kernel:34} {:26} {:>14} {block:>7} {:>7} {stack:>5} {:>9} {:>9} {intensity:>9.1}  {}\n",
                node.op.name(),
                format!("{x} x {y} x {z}"),
                shared + declared,
                si(cost.bytes as f64),
                si(cost.flops as f64),
                registers.join(", ")
            );
        }
    }
    text
}

/// Number, bytes and FLOPs of launches.
fn total_text(TotalCost { launches, cost: Cost { bytes, flops } }: TotalCost) -> String {
    format!("{}, {} bytes, {} FLOP", counted(launches, "launch"), si(bytes as f64), si(flops as f64))
}
