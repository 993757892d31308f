//! `maxmargin attack`: adversarial images as a file, each checked.

use std::path::PathBuf;

use clap::Args;

use super::device_flags::DeviceFlags;
use super::evaluate::{self, EvaluateArgs, EvaluateRunFlags, RequiredAccuracies};
use super::measure::{AttackFlags, ImageFlags, Measure};
use super::output::Outcome;
use super::values::within;
use super::weights_flags::WeightsFlags;
use crate::config::ranges::BATCH;
use crate::evaluate::AttackName;
use crate::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  maxmargin attack runs/quick-0 --eps 0.3
      PGD's images for the test images, in adversarial.safetensors
  maxmargin attack runs/quick-0 --attack autoattack --eps 0.1,0.2,0.3 --test-size 1000
      for each image the adversarial one of the least eps
  maxmargin attack runs/quick-0 --norm l2 --attack ddn --save nearest.safetensors
      the nearest adversarial images, and their distances

The file has the images `adversarial` [n, h, w, c] in [0, 1], their `index`, `labels` and `eps`,
the network's `predictions` for them, and `misclassified`, which is 1 for each image that the
network misclassifies.";

/// Make adversarial images, and check them
///
/// The file is read again after it is written: each image must lie in [0, 1] and in its ball, and be misclassified if
/// the file says so.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct AttackArgs {
    /// Weights (.safetensors), or a run folder, whose best.safetensors and settings are taken
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// File for the images
    #[arg(long, value_name = "FILE", default_value = "adversarial.safetensors")]
    save: PathBuf,
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

pub(super) fn run(args: AttackArgs) -> Result<Outcome> {
    let AttackArgs { checkpoint, save, device_flags, batch_size, weights, images, mut attack } = args;
    if attack.attack.is_empty() && attack.protocol.is_none() {
        attack.attack = vec![Measure::Attack(AttackName::Pgd)];
    }
    if attack.attack.contains(&Measure::Margins) {
        return Err(Error::usage(
            "--attack margins: expected attacks, which make images; `maxmargin evaluate` measures margins",
        ));
    }
    let run = EvaluateRunFlags { json: None, out: None, save: Some(Some(save)), device_flags, batch_size };
    evaluate::run(EvaluateArgs { checkpoint, run, weights, images, attack, required: RequiredAccuracies::default() })
}
