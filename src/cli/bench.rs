//! `maxmargin bench`: the speed of the device, kernel by kernel.

use std::path::{Path, PathBuf};

use clap::Args;

use super::device_flags::DeviceFlags;
use super::output::{Outcome, folder_exists, print, print_message};
use super::presets;
use super::values::{count, number};
use crate::bench::{self, BenchObserver, BenchReport, BenchSettings, Ceilings, ROTATED_MEGABYTES};
use crate::record::write_atomic;
use crate::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  maxmargin bench                         every op of a step on the device that training would take
  maxmargin bench --device cpu --only conv_pool
  maxmargin bench --device cuda --json bench.json --budget 60
  maxmargin bench --device cuda --ceilings ceilings.json";

const WHAT: &str = "Work that is timed";

/// Rotated bytes at most, in millions: a copy's elements are counted in 32 bits.
const MOST_ROTATED: usize = 4096;

/// Time a training step, its programs, every op of it, and attacks' steps
///
/// Beside each time stand its share of the step's time, and its bytes and operations a second as shares of a copy's and
/// a matrix product's on the same device: those of PyTorch with --ceilings, else our own, which are no peaks of the
/// device. Bytes count each operand once; operations are those of the formula. Each op runs on operands that are in no
/// cache. At the end stands the step's time by kernel, and the share of the step in which no kernel runs: negative
/// where operands from memory cost the ops more than the operands that a cache holds within a step.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    device_flags: DeviceFlags,
    /// Write the figures to this file, anew after every item: a bench that is cut leaves those it had, with "complete":
    /// false and the list of items that were not timed
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    json: Option<PathBuf>,
    /// Begin no further item after so many seconds. The step comes first, then its programs, its ops, attacks' steps
    #[arg(long, value_name = "SECONDS", value_parser = number, help_heading = "Run")]
    budget: Option<f64>,
    /// Compare with the rates in this file, which benches/peers/ceilings.py wrote on the same GPU: PyTorch's copy of 200
    /// MB and cuBLAS's fp32 product of 8192 rows [default: our own copy and product]
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    ceilings: Option<PathBuf>,
    /// Settings of the step
    #[arg(long, value_name = "NAME", default_value = "mnist-linf", value_parser = presets::names())]
    #[arg(help_heading = WHAT)]
    preset: String,
    /// LeNet5's width [default: the preset's]
    #[arg(long, value_name = "MULTIPLE", value_parser = number, help_heading = WHAT)]
    width: Option<f64>,
    /// Examples a step [default: the preset's]
    #[arg(long, value_name = "N", value_parser = count, help_heading = WHAT)]
    batch_size: Option<usize>,
    /// Bytes of each tensor of the copy and of the attacks' steps, in millions
    #[arg(long, value_name = "N", default_value = "200", value_parser = count, help_heading = WHAT)]
    megabytes: usize,
    /// Bytes that are touched between two uses of an op's operand, in millions: more than the device's caches
    #[arg(long, value_name = "N", default_value_t = ROTATED_MEGABYTES, value_parser = count, help_heading = WHAT)]
    rotated_megabytes: usize,
    /// Rows of the largest matrix product tried, a power of two
    #[arg(long, value_name = "N", default_value = "4096", value_parser = count, help_heading = WHAT)]
    product: usize,
    /// Measurements of each item; the median counts
    #[arg(long, value_name = "N", default_value = "5", value_parser = count, help_heading = WHAT)]
    rounds: usize,
    /// Part of the names of the items that are timed, such as conv_pool or mma_step [default: all items]
    #[arg(long, value_name = "TEXT", help_heading = WHAT)]
    only: Option<String>,
}

/// Says on the standard error what is timed, and keeps the file of figures up to date.
struct BenchProgress<'a> {
    quiet: bool,
    json: Option<&'a Path>,
}

impl BenchObserver for BenchProgress<'_> {
    fn begins(&mut self, name: &str) {
        if !self.quiet {
            print_message(&format!("timing {name}"));
        }
    }

    fn reports(&mut self, report: &BenchReport) -> Result<()> {
        let Some(path) = self.json else { return Ok(()) };
        let text = serde_json::to_string_pretty(report).map_err(|e| Error::format(path, e.to_string()))?;
        write_atomic(path, |out| writeln!(out, "{text}"))
    }
}

pub(super) fn run(args: BenchArgs) -> Result<Outcome> {
    let BenchArgs { device_flags, json, budget, ceilings, preset, width, batch_size, megabytes, .. } = args;
    let BenchArgs { rotated_megabytes, product, rounds, only, .. } = args;
    if !product.is_power_of_two() {
        return Err(Error::usage(format!("--product: expected a power of two; found {product}")));
    }
    if rotated_megabytes > MOST_ROTATED {
        return Err(Error::usage(format!(
            "--rotated-megabytes: expected at most {MOST_ROTATED}; found {rotated_megabytes}"
        )));
    }
    if let Some(budget) = budget.filter(|budget| *budget < 0.0) {
        return Err(Error::usage(format!("--budget: expected seconds, 0 or more; found {budget}")));
    }
    if let Some(path) = &json {
        folder_exists("--json", path)?;
    }
    let ceilings = ceilings.as_deref().map(Ceilings::read).transpose()?;
    let settings = BenchSettings {
        preset,
        width,
        batch_size,
        megabytes,
        rotated_megabytes,
        product,
        rounds,
        only,
        ceilings,
        budget_s: budget,
    };
    let mut device = device_flags.open()?;
    let mut progress = BenchProgress { quiet: device_flags.quiet, json: json.as_deref() };
    let report = bench::run(device.as_mut(), &settings, &mut progress)?;
    print(&report.to_string())?;
    Ok(Outcome::Done)
}
