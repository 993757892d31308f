//! `maxmargin explain`: the programs of a training step, in words.

use clap::{Args, ValueEnum};

use super::output::{Outcome, print};
use super::presets;
use super::values::count;
use crate::batch::DeviceData;
use crate::config::{DEFAULT_PRESET, preset};
use crate::device::cuda::launch::{Cost, Launch};
use crate::device::cuda::{self, KERNELS, TARGETS, TYPICAL_MULTIPROCESSORS, TotalCost};
use crate::tape::{Memory, Program};
use crate::text::si;
use crate::{Error, Result, train};

/// What is explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Topic {
    /// The ops of each program, in the order in which they run.
    Tape,
    /// The place of each value in the workspace, and the buffers that outlive a program.
    Memory,
    /// The launches of each program on a GPU: kernel, blocks, what it uses, moves and computes.
    Kernels,
}

/// Print the programs that a training step consists of
///
/// A step is a fixed schedule of programs, each recorded once. `%7` is a value that the plan placed in the
/// workspace; a name is a buffer. No GPU is needed to see what would be launched on one. What a launch moves and
/// computes is the least that any kernel for it would, with all examples right.
#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// What is explained
    #[arg(default_value = "tape")]
    topic: Topic,
    /// Whose step: the preset's name says by which method
    #[arg(long, value_name = "NAME", default_value = DEFAULT_PRESET, value_parser = presets::names())]
    preset: String,
    /// Multiprocessors of the GPU that kernels would be launched on: an H100 has 132
    #[arg(long, value_name = "N", default_value_t = TYPICAL_MULTIPROCESSORS, value_parser = count)]
    multiprocessors: usize,
}

pub(super) fn run(args: &ExplainArgs) -> Result<Outcome> {
    let name = &args.preset;
    let config = preset(name).ok_or_else(|| Error::usage(format!("--preset: no preset is called {name}")))?.config;
    let mut memory = Memory::default();
    let mut model = crate::model::build(&config.architecture());
    model.declare(&mut memory);
    // The programs do not depend on how many images there are, if they fill a batch.
    let data = DeviceData::new(&mut memory, &*model, "train", config.training_batch_size);
    let step = train::record_step(&mut memory, &*model, &data, &config);
    let mut text = format!("{}, batch {}, {}\n\n", model.describe(), config.training_batch_size, config.method);
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
        text += &format!("a step: {}\n", in_words(TotalCost::of_schedule(&step.schedule, args.multiprocessors)));
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

/// A line a launch, and their sum.
fn launches(program: &Program, multiprocessors: usize) -> String {
    let mut text = format!("{}: {}\n", program.name, in_words(TotalCost::of(program, multiprocessors)));
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

fn in_words(TotalCost { launches, cost: Cost { bytes, flops } }: TotalCost) -> String {
    format!("{launches} launches, {} bytes, {} FLOP", si(bytes as f64), si(flops as f64))
}
