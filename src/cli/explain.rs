//! `maxmargin explain`: the programs of a training step, in words.

use clap::{Args, ValueEnum};

use super::{Outcome, presets, print};
use crate::attack::DeviceData;
use crate::config::{DEFAULT_PRESET, preset};
use crate::model::{LeNet5, Model};
use crate::tape::Memory;
use crate::train::Mma;
use crate::{Error, Result};

/// What is explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Topic {
    /// The ops of each program, in the order in which they run.
    Tape,
    /// The place of each value in the workspace, and the buffers that outlive a program.
    Memory,
}

/// Print the programs that a training step consists of
///
/// A step is a fixed schedule of programs, each recorded once. `%7` is a value that the plan placed in the
/// workspace; a name is a buffer.
#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// What is explained
    #[arg(default_value = "tape")]
    topic: Topic,
    /// Whose step
    #[arg(long, value_name = "NAME", default_value = DEFAULT_PRESET, value_parser = presets::names())]
    preset: String,
}

pub(super) fn run(args: &ExplainArgs) -> Result<Outcome> {
    let name = &args.preset;
    let config = preset(name).ok_or_else(|| Error::usage(format!("--preset: no preset is called {name}")))?.config;
    let mut memory = Memory::default();
    let mut model = LeNet5::new(config.width);
    model.declare(&mut memory);
    // The programs do not depend on how many images there are.
    let data = DeviceData::new(&mut memory, &model, "train", 1);
    let mma = Mma::new(&mut memory, &model, &data, &config, None);
    let mut text = format!("{}, batch {}\n\n", model.describe(), config.training_batch_size);
    for (program, times) in &mma.schedule.stages {
        text += &format!("{times} x ");
        text += &match args.topic {
            Topic::Tape => program.to_string(),
            Topic::Memory => program.explain_memory(),
        };
        text += "\n";
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
