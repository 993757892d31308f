//! `maxmargin export`: writes a checkpoint's weights under the tensor names of another program.

use std::path::PathBuf;

use clap::Args;

use super::output::{Outcome, print_beside};
use crate::catalog::WeightNames;
use crate::model::state_dict::{LoadedModel, load_model, state_to_tensors};
use crate::record::OutputFile;
use crate::record::run::BEST;
use crate::{Error, Result};

const EXAMPLES: &str = "\
Example:
  maxmargin export runs/cifar10-linf-0 --names robustbench --out ding2020.safetensors
      in Python: model.load_state_dict(safetensors.torch.load_file(\"ding2020.safetensors\"))";

/// Write a network's weights and batch norm's running statistics for PyTorch
///
/// The file holds single precision in PyTorch's layouts. It lacks num_batches_tracked, which PyTorch does not need.
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
}

pub(super) fn run(args: &ExportArgs) -> Result<Outcome> {
    let ExportArgs { checkpoint, names, out } = args;
    let weights = if checkpoint.is_dir() { checkpoint.join(BEST) } else { checkpoint.clone() };
    let out = OutputFile::check("--out", out, &[&weights])?;
    let LoadedModel { model, state, metadata } = load_model(&weights)?;
    if *names == WeightNames::Robustbench && model.statistics().is_none() {
        return Err(Error::usage(format!(
            "--names robustbench: expected a wide ResNet, the only network of the paper there; {} is a {}",
            weights.display(),
            model.describe()
        )));
    }
    let mut tensors = state_to_tensors(&*model, "", &state);
    tensors.iter_mut().for_each(|tensor| tensor.name = names.rename(&tensor.name));
    out.write_tensors(&tensors, &metadata)?;
    let path = out.path().display();
    print_beside([&out], &format!("wrote {path}: {}, {} tensors\n", model.describe(), tensors.len()))?;
    Ok(Outcome::Done)
}
