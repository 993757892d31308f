//! `maxmargin bench`: measures the speed of a training step, its programs and ops on a device.

use std::path::PathBuf;

use clap::Args;

use super::device_flags::DeviceFlags;
use super::output::{Outcome, output_file, print_beside, print_message, stopped};
use super::presets;
use super::values::{number, within};
use crate::bench::{self, BenchObserver, BenchReport, BenchSettings, Ceilings, ROTATED_MEGABYTES};
use crate::config::ranges::{BATCH, MEGABYTES, PRODUCT, ROUNDS};
use crate::record::OutputFile;
use crate::tape::Precision;
use crate::{Error, Result, interrupt};

const EXAMPLES: &str = "\
Examples:
  maxmargin bench                         every op of a step, on the device that training uses
  maxmargin bench --device cpu --only conv_pool
  maxmargin bench --device cuda --json bench.json --budget 60
  maxmargin bench --device cuda --ceilings ceilings.json";

/// Title of the flags that choose the work.
const WORK: &str = "Work that is timed";

/// Measure the time of a training step, of its programs and ops, and of steps of attacks
///
/// Each time is printed with its percentage of the step, and with its bytes and operations per second as percentages of
/// the rates of a copy and of a matrix product on the same device: those of PyTorch with --ceilings, or else our own,
/// which are below the device's peaks. Bytes count each operand once; operations are those of the formula. The operands
/// of each op are in no cache. The last lines are the step's time by kernel, and the percentage of the step in which no
/// kernel runs: it is negative if the ops lose more time to operands outside of the caches than a step does.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    device_flags: DeviceFlags,
    /// File for the figures, rewritten after every item (- is the standard output, which gets the last): an interrupted bench leaves those of the finished items,
    /// with "complete": false and the list of items that were not timed
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    json: Option<PathBuf>,
    /// Start no further item after this many seconds. The order is: the step, its programs, its ops, steps of attacks
    #[arg(long, value_name = "SECONDS", value_parser = number, help_heading = "Run")]
    budget: Option<f64>,
    /// File of rates to compare with, which benches/peers/ceilings.py wrote on the same GPU: PyTorch's copy of 200 MB
    /// and cuBLAS's fp32 product of 8192 rows [default: our own copy and product]
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    ceilings: Option<PathBuf>,
    /// Preset of the step
    #[arg(long, value_name = "NAME", default_value = "mnist-linf", value_parser = presets::names())]
    #[arg(help_heading = WORK)]
    preset: String,
    /// LeNet5's width [default: the preset's]
    #[arg(long, value_name = "MULTIPLE", value_parser = number, help_heading = WORK)]
    width: Option<f64>,
    /// Precision of the step
    #[arg(long, value_name = "PRECISION", default_value = "fp32", help_heading = WORK)]
    precision: Precision,
    /// Batch size [default: the preset's]
    #[arg(long, value_name = "N", value_parser = within(&BATCH), help_heading = WORK)]
    batch_size: Option<usize>,
    /// Size of each tensor of the copy and of the attacks' steps, in millions of bytes
    #[arg(long, value_name = "N", default_value = "200", value_parser = within(&MEGABYTES), help_heading = WORK)]
    megabytes: usize,
    /// Memory that is touched between two uses of an op's operand, in millions of bytes: more than the device's caches
    #[arg(long, value_name = "N", default_value_t = ROTATED_MEGABYTES, value_parser = within(&MEGABYTES), help_heading = WORK)]
    rotated_megabytes: usize,
    /// Number of rows of the largest matrix product, a power of two
    #[arg(long, value_name = "N", default_value = "4096", value_parser = within(&PRODUCT), help_heading = WORK)]
    product: usize,
    /// Number of measurements of each item; the result is their median
    #[arg(long, value_name = "N", default_value = "5", value_parser = within(&ROUNDS), help_heading = WORK)]
    rounds: usize,
    /// Time only the items whose names contain this text, such as conv_pool or mma_step [default: all items]
    #[arg(long, value_name = "TEXT", help_heading = WORK)]
    only: Option<String>,
}

/// Prints the name of each item to the standard error, and rewrites the file of figures after it.
struct BenchProgress<'a> {
    quiet: bool,
    json: Option<&'a OutputFile>,
}

impl BenchObserver for BenchProgress<'_> {
    fn begins(&mut self, name: &str) {
        if !self.quiet {
            print_message(&format!("timing {name}"));
        }
    }

    fn reports(&mut self, report: &BenchReport) -> Result<()> {
        // A pipe cannot be rewritten: it gets the last report alone.
        self.json.filter(|json| json.is_replaced()).map_or(Ok(()), |json| write(json, report))
    }
}

fn write(json: &OutputFile, report: &BenchReport) -> Result<()> {
    let text = serde_json::to_string_pretty(report).map_err(|e| Error::format(json.path(), e.to_string()))?;
    json.write(|out| writeln!(out, "{text}"))
}

pub(super) fn run(args: BenchArgs) -> Result<Outcome> {
    let BenchArgs { device_flags, json, budget, ceilings, preset, width, precision, batch_size, megabytes, .. } = args;
    let BenchArgs { rotated_megabytes, product, rounds, only, .. } = args;
    if !product.is_power_of_two() {
        return Err(Error::usage(format!("--product: expected a power of two; found {product}")));
    }
    if let Some(budget) = budget.filter(|budget| *budget < 0.0) {
        return Err(Error::usage(format!("--budget: expected seconds, 0 or more; found {budget}")));
    }
    let inputs: Vec<_> = ceilings.as_deref().into_iter().collect();
    let json = json.map(|path| output_file("--json", &path, &inputs)).transpose()?;
    let ceilings = ceilings.as_deref().map(Ceilings::read).transpose()?;
    let settings = BenchSettings {
        preset,
        width,
        precision,
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
    let mut progress = BenchProgress { quiet: device_flags.quiet, json: json.as_ref() };
    interrupt::install("finishing the item");
    let report = bench::run(device.as_mut(), &settings, &mut progress)?;
    print_beside(&json, &report.to_string())?;
    json.filter(|json| !json.is_replaced()).map_or(Ok(()), |json| write(&json, &report))?;
    match interrupt::requested().filter(|_| !report.complete) {
        Some(signal) => Ok(stopped(signal, "the figures above are those of the finished items")),
        None => Ok(Outcome::Done),
    }
}
