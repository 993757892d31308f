//! `maxmargin bench`: how fast the device is, kernel by kernel.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::values::{count, number};
use super::{Machine, Outcome, folder_exists, presets, print};
use crate::bench::{self, Settings};
use crate::record::write_atomic;
use crate::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  maxmargin bench                         every op of a step on the device that training would take
  maxmargin bench --device cpu --only conv_pool
  maxmargin bench --device cuda --json bench.json";

const WHAT: &str = "What is timed";

/// Time every op of a training step, the attack's step, and the whole step
///
/// Beside each time stand its bytes and operations a second, as shares of what a copy and a matrix product were
/// measured to reach on the same device in the same run. Bytes count each operand once; operations are those of the
/// formula.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    machine: Machine,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    json: Option<PathBuf>,
    /// Whose step
    #[arg(long, value_name = "NAME", default_value = "mnist-linf", value_parser = presets::names())]
    #[arg(help_heading = WHAT)]
    preset: String,
    /// LeNet5's width [default: the preset's]
    #[arg(long, value_name = "MULTIPLE", value_parser = number, help_heading = WHAT)]
    width: Option<f64>,
    /// Examples a step [default: the preset's]
    #[arg(long, value_name = "N", value_parser = count, help_heading = WHAT)]
    batch_size: Option<usize>,
    /// Bytes of each tensor of the copy and of the attack's step, in millions
    #[arg(long, value_name = "N", default_value = "200", value_parser = count, help_heading = WHAT)]
    megabytes: usize,
    /// Rows of the largest matrix product tried, a power of two
    #[arg(long, value_name = "N", default_value = "4096", value_parser = count, help_heading = WHAT)]
    product: usize,
    /// Measurements of each item; the median counts
    #[arg(long, value_name = "N", default_value = "5", value_parser = count, help_heading = WHAT)]
    rounds: usize,
    /// Only what has this in its name, such as conv_pool or mma_step
    #[arg(long, value_name = "TEXT", help_heading = WHAT)]
    only: Option<String>,
}

pub(super) fn run(args: BenchArgs) -> Result<Outcome> {
    let BenchArgs { machine, json, preset, width, batch_size, megabytes, product, rounds, only } = args;
    if !product.is_power_of_two() {
        return Err(Error::usage(format!("--product: expected a power of two; found {product}")));
    }
    if let Some(path) = &json {
        folder_exists("--json", path)?;
    }
    let settings = Settings { preset, width, batch_size, megabytes, product, rounds, only };
    let mut device = machine.open()?;
    let report = bench::run(device.as_mut(), &settings, |item| {
        if !machine.quiet {
            // Nobody is left to be told if this fails.
            let _ = writeln!(std::io::stderr(), "timing {item}");
        }
    })?;
    print(&report.to_string())?;
    if let Some(path) = &json {
        let text = serde_json::to_string_pretty(&report).map_err(|e| Error::format(path, e.to_string()))?;
        write_atomic(path, |out| writeln!(out, "{text}"))?;
    }
    Ok(Outcome::Done)
}
