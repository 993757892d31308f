//! `maxmargin export`: writes a checkpoint's weights under the tensor names of another program.

use std::path::PathBuf;

use clap::Args;

use super::output::{Outcome, output_file, print_beside};
use super::weights_flags::WeightsFlags;
use crate::catalog::WeightNames;
use crate::model::state_dict::{LoadedModel, NORMALIZATION, state_to_tensors};
use crate::record::run::BEST;
use crate::text::counted;
use crate::{Error, Result};

const EXAMPLES: &str = "\
Example:
  maxmargin export runs/cifar10-linf-0 --names robustbench --out ding2020.safetensors
      in Python: model.load_state_dict(safetensors.torch.load_file(\"ding2020.safetensors\"))";

/// Write a network's weights and batch norm's running statistics for PyTorch
///
/// The file holds single precision in PyTorch's layouts. It lacks num_batches_tracked, which PyTorch does not need.
/// With --normalization, its metadata say so to `evaluate`, `attack` and `transfer`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExportArgs {
    /// Weights (.safetensors) under any of these names, or a run folder, whose best.safetensors is read
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// Names of the tensors: the released code's, or those of RobustBench's class Ding2020MMANet
    #[arg(long, value_name = "WHOSE", default_value = "released")]
    names: WeightNames,
    /// File to write; - is the standard output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    weights: WeightsFlags,
}

pub(super) fn run(args: &ExportArgs) -> Result<Outcome> {
    let ExportArgs { checkpoint, names, out, weights: weights_flags } = args;
    let weights = if checkpoint.is_dir() { checkpoint.join(BEST) } else { checkpoint.clone() };
    let out = output_file("--out", out, &[&weights])?;
    let options = weights_flags.clone().options();
    let LoadedModel { model, state, mut metadata, remarks, .. } = options.load(&weights)?;
    if *names == WeightNames::Robustbench && model.statistics().is_none() {
        return Err(Error::usage(format!(
            "--names robustbench: expected a wide ResNet, the only network of the paper there; {} is a {}",
            weights.display(),
            model.describe()
        )));
    }
    let mut tensors = state_to_tensors(&*model, "", &state);
    tensors.iter_mut().for_each(|tensor| tensor.name = names.rename(&tensor.name));
    if let Some(normalization) = options.normalization {
        metadata.insert(NORMALIZATION.into(), normalization.to_string());
    }
    out.write_tensors(&tensors, &metadata)?;
    let remarks: String = remarks.iter().map(|remark| format!("{}: {remark}\n", weights.display())).collect();
    let wrote =
        format!("wrote {}: {}, {}\n", out.path().display(), model.describe(), counted(tensors.len() as u64, "tensor"));
    print_beside([&out], &(remarks + &wrote))?;
    Ok(Outcome::Done)
}
