//! `maxmargin explain`: the programs of a training step as text.

use clap::{Args, ValueEnum};

use super::output::{Outcome, print};
use super::presets;
use super::values::within;
use crate::batch::DeviceData;
use crate::config::ranges::MULTIPROCESSORS;
use crate::config::{Config, DEFAULT_PRESET, preset};
use crate::device::cuda::launch::{Cost, Launch};
use crate::device::cuda::{self, KERNELS, TARGETS, TYPICAL_MULTIPROCESSORS, TotalCost};
use crate::tape::{Memory, Precision, Program};
use crate::text::{counted, si};
use crate::{Error, Result, model, train};

/// Part of the programs that is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Topic {
    /// Ops of each program, in the order in which they run.
    Tape,
    /// Place of each value in the workspace, and the buffers that outlive a program.
    Memory,
    /// Launches of each program on a GPU: kernel, blocks, registers, shared memory, bytes, FLOPs.
    Kernels,
}

/// Print the programs of a training step
///
/// A step is a fixed schedule of programs, each recorded once. `%7` is a value in the workspace, `%7 f16` one in half
/// precision; a name is a buffer. In half precision, `f32:` gives the reason why a result is not half.
/// The launches on a GPU are printed without one. Bytes and FLOPs of a launch are the least that any kernel for the op
/// moves and computes, with every example correctly classified.
#[derive(Args, Debug)]
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
    /// Number of multiprocessors of the GPU: an H100 has 132
    #[arg(long, value_name = "N", default_value_t = TYPICAL_MULTIPROCESSORS, value_parser = within(&MULTIPROCESSORS))]
    multiprocessors: usize,
}

pub(super) fn run(args: &ExplainArgs) -> Result<Outcome> {
    let name = &args.preset;
    let found = preset(name).ok_or_else(|| Error::usage(format!("--preset: no preset is called {name}")))?;
    let config = Config { precision: args.precision, ..found.config };
    let mut memory = Memory::default();
    let mut model = model::build(&config.architecture());
    model.declare(&mut memory);
    // The programs do not depend on the number of images, if they fill a batch.
    let data = DeviceData::new(&mut memory, &*model, "train", config.training_batch_size);
    let step = train::record_step(&mut memory, &*model, &data, &config);
    let mut text = format!("{}; batch {}, {}\n\n", model.describe(), config.training_batch_size, config.method);
    for (program, times) in &step.schedule.stages {
        text += &format!("{times} x ");
        text += &match args.topic {
            Topic::Tape => program.to_string(),
            Topic::Memory => program.explain_memory(),
            Topic::Kernels => launches(program, args.multiprocessors),
        };
        text += "\n";
    }
    if args.topic == Topic::Kernels {
        text += &format!("a step: {}\n", total_text(TotalCost::of_schedule(&step.schedule, args.multiprocessors)));
    }
    if args.topic == Topic::Memory {
        text += &format!("buffers: {} bytes, without the data set\n", memory.bytes());
        for buffer in memory.buffers.iter().filter(|b| !b.name.starts_with("train.") && b.name != "margins") {
            text +=
                &format!("  {:>9} bytes  {} {:?} {}\n", buffer.bytes(), buffer.dtype.name(), buffer.dims, buffer.name);
        }
    }
    print(&text)?;
    Ok(Outcome::Done)
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
