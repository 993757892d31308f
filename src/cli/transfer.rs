//! `maxmargin transfer`: from flags to the networks whose adversarial images are tried on each other.

use std::path::{Path, PathBuf};

use clap::Args;

use super::device_flags::DeviceFlags;
use super::measure::{AttackFlags, Checkpoint, ImageFlags, Measure, radii, settings, weights};
use super::output::{Outcome, output_file, print_beside, stopped};
use super::values::within;
use super::weights_flags::WeightsFlags;
use crate::config::Config;
use crate::config::ranges::BATCH;
use crate::evaluate::checks::is_fatal;
use crate::evaluate::transfer::TransferRequest;
use crate::evaluate::{AttackName, Split};
use crate::{Error, Result, interrupt};

const EXAMPLES: &str = "\
Examples:
  maxmargin transfer runs/mma runs/pgd runs/std --eps 8/255
      PGD's images of each network, classified by all three
  maxmargin transfer a.safetensors b.safetensors --dataset mnist --eps 0.3 --attack apgd-ce,apgd-t --json matrix.json";

/// Try the adversarial images of each network on every other
///
/// The table has a row for each network that images are made on, and a column for each that classifies them. The last
/// row is counted as in the paper: an image is robust if no network's adversarial image is misclassified.
/// --normalization and --ignore-tensors hold for all networks; `export` writes the normalization of one into its file.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct TransferArgs {
    /// Weights (.safetensors), or run folders; the settings are those of the first
    #[arg(value_name = "CHECKPOINT", required = true, num_args = 2..)]
    checkpoints: Vec<PathBuf>,
    /// Write the table to this file, as JSON; - is the standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    device_flags: DeviceFlags,
    /// Images per batch
    #[arg(long, value_name = "N", default_value = "100", value_parser = within(&BATCH))]
    batch_size: usize,
    #[command(flatten)]
    weights: WeightsFlags,
    #[command(flatten)]
    images: ImageFlags,
    #[command(flatten)]
    attack: AttackFlags,
}

pub(super) fn run(args: TransferArgs) -> Result<Outcome> {
    let TransferArgs { checkpoints, json, device_flags, batch_size, weights: weights_flags, images, attack } = args;
    let Checkpoint { config, .. } = Checkpoint::find(&checkpoints[0], &images, &attack)?;
    let attacks = bounded(&attack)?;
    attack.check_effect(&attacks.iter().copied().map(Measure::Attack).collect::<Vec<_>>())?;
    if images.split != Split::Test {
        return Err(Error::usage("--split: expected test: transfer is measured on test images"));
    }
    let eps = radii(&attack, &config)?;
    let &[eps] = &eps[..] else {
        return Err(Error::usage(format!("--eps: expected one radius; found {}", eps.len())));
    };
    let weights: Vec<PathBuf> = checkpoints.iter().map(|path| weights(path)).collect();
    let inputs: Vec<&Path> = weights.iter().map(PathBuf::as_path).collect();
    let json = json.map(|path| output_file("--json", &path, &inputs)).transpose()?;
    let mut device = device_flags.open()?;
    let request = TransferRequest {
        weights,
        weights_options: weights_flags.options(),
        settings: settings(&attack, &config)?,
        // All test images, even if the first run measures itself on fewer.
        config: Config { test_size: None, ..config },
        size: images.test_size,
        data: images.data,
        attacks,
        eps,
        batch_size,
        quiet: device_flags.quiet,
    };
    interrupt::install("ending the transfer");
    let report = match request.run(device.as_mut()) {
        Err(Error::Interrupted(signal)) => return Ok(stopped(signal, "nothing was kept: a transfer has no state")),
        result => result?,
    };
    print_beside(&json, &report.table())?;
    if let Some(json) = &json {
        let text = serde_json::to_string_pretty(&report).map_err(|e| Error::format(json.path(), e.to_string()))?;
        json.write(|out| writeln!(out, "{text}"))?;
    }
    let failed = report.warnings.iter().any(|warning| is_fatal(warning));
    Ok(if failed { Outcome::CheckFailed } else { Outcome::Done })
}

/// Attacks that the flags name, which must be in balls: a nearest image of one network tells nothing about another.
fn bounded(flags: &AttackFlags) -> Result<Vec<AttackName>> {
    let refusal = |name: String| Error::usage(format!("--attack {name}: expected an attack in a ball"));
    let names = match flags.protocol {
        Some(protocol) => protocol.attacks(),
        None if flags.attack.is_empty() => vec![AttackName::Pgd],
        None => {
            let name = |measure: &Measure| match measure {
                Measure::Attack(name) => Ok(*name),
                Measure::Margins => Err(refusal(measure.text())),
            };
            flags.attack.iter().map(name).collect::<Result<_>>()?
        }
    };
    match names.iter().find(|name| name.is_minimum_norm()) {
        Some(name) => Err(refusal(name.to_string())),
        None => Ok(names),
    }
}
