//! Checkpoints of a run: the state to resume from, as tensors of a file.
//!
//! A run's state is the number of its step, weights, batch norm's running statistics, the optimizer's state, the sums
//! of metrics and, with MMA, the margin table. Everything else is a function of the settings and the data, so a run
//! that goes on from a checkpoint ends with the same bits as one that never stopped.

use std::collections::BTreeMap;

use super::step::TrainingStep;
use crate::config::Config;
use crate::device::Device;
use crate::model::Model;
use crate::model::state_dict::{from_tensors, state_from_tensors, state_to_tensors, to_tensors};
use crate::record::run::{BEST, LAST};
use crate::record::{RunFolder, Tensor, TensorFile, write_tensors};
use crate::{Error, Result};

/// Prefix of the names of the weights and running statistics in [`LAST`]; those in [`BEST`] have none.
const WEIGHTS: &str = "weights.";

/// Key of the metadata of [`LAST`] that is there while the validation after its step has still to be done.
const VALIDATION_DUE: &str = "validation_due";

/// State of a run that is no tensor.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RunState {
    /// Number of steps done.
    pub step: u32,
    /// Best validation so far.
    pub best: Option<BestValidation>,
    /// True if the validation after `step` was interrupted and has still to be done.
    pub validation_due: bool,
}

/// Validation with the largest mean margin so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct BestValidation {
    pub mean_margin: f64,
    /// Number of steps done.
    pub step: u32,
}

/// Writes the weights of the best validation so far.
pub(super) fn write_best(
    folder: &RunFolder,
    model: &dyn Model,
    device: &dyn Device,
    best: BestValidation,
) -> Result<()> {
    let metadata = BTreeMap::from([
        ("step".into(), best.step.to_string()),
        ("validation_mean_margin".into(), best.mean_margin.to_string()),
    ]);
    write_tensors(&folder.file(BEST), &weights(model, device, "")?, &metadata)
}

/// Loads the weights of the best validation onto the device; returns the number of its step.
pub(super) fn load_best(folder: &RunFolder, model: &dyn Model, device: &mut dyn Device) -> Result<u32> {
    let file = TensorFile::read(&folder.file(BEST))?;
    model.load(device, &state_from_tensors(model, "", &file)?)?;
    file.meta("step")
}

fn weights(model: &dyn Model, device: &dyn Device, prefix: &str) -> Result<Vec<Tensor>> {
    Ok(state_to_tensors(model, prefix, &model.read(device)?))
}

/// Writes the state of a run.
pub(super) fn write_last(
    folder: &RunFolder,
    model: &dyn Model,
    training: &TrainingStep,
    device: &dyn Device,
    state: RunState,
) -> Result<()> {
    let RunState { step, best, validation_due } = state;
    let mut tensors = weights(model, device, WEIGHTS)?;
    for state in &training.optimizer_state {
        let values = device.read_f32(state)?;
        tensors.extend(to_tensors(model.params(), &format!("{}.", state.name), &values));
    }
    for buffer in training.margins.iter().chain([&training.metrics]) {
        tensors.push(Tensor::new(&buffer.name, &buffer.dims, device.read_f32(buffer)?));
    }
    let mut metadata = BTreeMap::from([("step".into(), step.to_string())]);
    if let Some(best) = best {
        // As bits, so that a resumed run compares with the very same number.
        metadata.insert("best_margin_bits".into(), best.mean_margin.to_bits().to_string());
        metadata.insert("best_step".into(), best.step.to_string());
    }
    if validation_due {
        metadata.insert(VALIDATION_DUE.into(), true.to_string());
    }
    write_tensors(&folder.file(LAST), &tensors, &metadata)
}

/// Loads the state of a run onto the device, and returns what is no tensor.
///
/// # Errors
/// The checkpoint cannot be read, is another run's, or is beyond the last step of `config`; or the best validation's
/// weights cannot be read.
pub(super) fn load_last(
    config: &Config,
    folder: &RunFolder,
    model: &dyn Model,
    training: &TrainingStep,
    device: &mut dyn Device,
) -> Result<RunState> {
    let file = TensorFile::read(&folder.file(LAST))?;
    model.load(device, &state_from_tensors(model, WEIGHTS, &file)?)?;
    for state in &training.optimizer_state {
        device.write_f32(state, &from_tensors(model.params(), &format!("{}.", state.name), &file)?)?;
    }
    for buffer in training.margins.iter().chain([&training.metrics]) {
        device.write_f32(buffer, file.get::<f32>(&buffer.name, &buffer.dims)?)?;
    }
    let (step, end) = (file.meta("step")?, config.max_num_training_steps);
    if step > end {
        let message = format!("metadata `step`: expected at most the run's {end}, found {step}");
        return Err(Error::format(&file.path, message));
    }
    device.write_u32(&training.step, &[step])?;
    let validation_due = file.metadata.contains_key(VALIDATION_DUE);
    if !file.metadata.contains_key("best_step") {
        return Ok(RunState { step, best: None, validation_due });
    }
    // The run ends by measuring these weights: refuse now rather than then if they cannot be read.
    state_from_tensors(model, "", &TensorFile::read(&folder.file(BEST))?)?;
    let mean_margin = f64::from_bits(file.meta("best_margin_bits")?);
    let best = BestValidation { mean_margin, step: file.meta("best_step")? };
    Ok(RunState { step, best: Some(best), validation_due })
}
