//! `maxmargin transfer`: from flags to the networks whose adversarial images are tried on each other.

use std::path::{Path, PathBuf};

use clap::Args;

use super::measure::{AttackFlags, ImageFlags, Measure, measured, published, radii, settings};
use super::values::count;
use super::{Machine, Outcome, folder_exists, print};
use crate::catalog::DatasetKind;
use crate::config::Config;
use crate::evaluate::AttackName;
use crate::evaluate::request::Split;
use crate::evaluate::transfer::TransferRequest;
use crate::record::run::{BEST, CONFIG};
use crate::record::write_atomic;
use crate::tape::Norm;
use crate::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  maxmargin transfer runs/mma runs/pgd runs/std --eps 8/255
      PGD's images of each network, tried on all three
  maxmargin transfer a.safetensors b.safetensors --dataset mnist --eps 0.3 --attack apgd-ce,apgd-t --json matrix.json";

/// Try the adversarial images of each network on every other
///
/// A row a source, a column a target. The last row counts as the paper does: an image stays right if those made on no
/// network break it.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct TransferArgs {
    /// Weights (.safetensors), or run folders; settings are the first one's
    #[arg(value_name = "CHECKPOINT", required = true, num_args = 2..)]
    checkpoints: Vec<PathBuf>,
    /// Write the matrix to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
    /// Images at a time
    #[arg(long, value_name = "N", default_value = "100", value_parser = count)]
    batch_size: usize,
    #[command(flatten)]
    data: ImageFlags,
    #[command(flatten)]
    attack: AttackFlags,
}

pub(super) fn run(args: TransferArgs) -> Result<Outcome> {
    let TransferArgs { checkpoints, json, machine, batch_size, data, attack } = args;
    let weights = |path: &PathBuf| if path.is_dir() { path.join(BEST) } else { path.clone() };
    let config = settings_of(&checkpoints[0], &data, &attack)?;
    let attacks = bounded(&attack)?;
    if data.split != Split::Test {
        return Err(Error::usage("--split: expected test: transfer is tried on test images"));
    }
    let eps = radii(&attack, &config)?;
    let &[eps] = &eps[..] else {
        return Err(Error::usage(format!("--eps: expected one radius; found {}", eps.len())));
    };
    if let Some(path) = &json {
        folder_exists("--json", path)?;
    }
    let mut device = machine.open()?;
    let transfer = TransferRequest {
        weights: checkpoints.iter().map(weights).collect(),
        settings: settings(&attack, &config)?,
        config,
        size: data.test_size,
        data: data.data,
        attacks,
        eps,
        batch_size,
        quiet: machine.quiet,
    };
    let result = transfer.run(device.as_mut())?;
    print(&result.table())?;
    if let Some(path) = &json {
        let text = serde_json::to_string_pretty(&result).map_err(|e| Error::format(path, e.to_string()))?;
        write_atomic(path, |out| writeln!(out, "{text}"))?;
    }
    Ok(Outcome::Done)
}

fn settings_of(first: &Path, data: &ImageFlags, attack: &AttackFlags) -> Result<Config> {
    let config = if first.is_dir() {
        Config::load(&first.join(CONFIG))?
    } else {
        published(data.dataset.unwrap_or(DatasetKind::Digits), attack.norm.unwrap_or(Norm::Linf))?
    };
    measured(config, data, attack)
}

/// The attacks, which must be in balls: how far the nearest image of one network is says nothing of another.
fn bounded(attack: &AttackFlags) -> Result<Vec<AttackName>> {
    let asked = match attack.protocol {
        Some(protocol) => protocol.attacks(),
        None if attack.attack.is_empty() => vec![AttackName::Pgd],
        None => {
            let name = |measure: &Measure| match measure {
                Measure::Attack(name) => Some(*name),
                Measure::Margins => None,
            };
            let named: Vec<_> = attack.attack.iter().map(name).collect();
            named
                .into_iter()
                .collect::<Option<_>>()
                .ok_or_else(|| Error::usage("--attack margins: expected an attack in a ball"))?
        }
    };
    match asked.iter().find(|name| name.is_minimum_norm()) {
        Some(name) => Err(Error::usage(format!("--attack {}: expected an attack in a ball", name))),
        None => Ok(asked),
    }
}
