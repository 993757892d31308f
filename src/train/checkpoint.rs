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
use crate::record::run::{BEST, CONFIG, LAST};
use crate::record::{RunFolder, Tensor, TensorFile, write_tensors};
use crate::tape::Metric;
use crate::{Error, Result};

/// Prefix of the names of the weights and running statistics in [`LAST`]; those in [`BEST`] have none.
const WEIGHTS: &str = "weights.";

/// Key of the metadata of [`LAST`] that is there while the validation after its step has still to be done.
const VALIDATION_DUE: &str = "validation_due";

/// Keys of the metadata of [`LAST`] for the best validation: the bits of its mean margin, and its step.
const BEST_MARGIN: &str = "best_margin_bits";
const BEST_STEP: &str = "best_step";

/// Key of the metadata of [`LAST`] for the SHA-256 of the data; former versions lack it.
const DATA: &str = "data_sha256";

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

/// Writes the state of a run on the data of this hash.
pub(super) fn write_last(
    folder: &RunFolder,
    model: &dyn Model,
    training: &TrainingStep,
    device: &dyn Device,
    state: RunState,
    data_sha256: &str,
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
    let mut metadata = BTreeMap::from([("step".into(), step.to_string()), (DATA.into(), data_sha256.into())]);
    if let Some(best) = best {
        // As bits, so that a resumed run compares with the very same number.
        metadata.insert(BEST_MARGIN.into(), best.mean_margin.to_bits().to_string());
        metadata.insert(BEST_STEP.into(), best.step.to_string());
    }
    if validation_due {
        metadata.insert(VALIDATION_DUE.into(), true.to_string());
    }
    write_tensors(&folder.file(LAST), &tensors, &metadata)
}

/// Loads the state of a run onto the device, and returns what is no tensor. `data_sha256` is the hash of the run's data.
///
/// # Errors
/// The checkpoint cannot be read, is damaged or another run's, is of other data, or is beyond the last step of `config`;
/// or the best validation's weights cannot be read.
pub(super) fn load_last(
    config: &Config,
    folder: &RunFolder,
    model: &dyn Model,
    training: &TrainingStep,
    device: &mut dyn Device,
    data_sha256: &str,
) -> Result<RunState> {
    let damaged = |error| match error {
        Error::Format { path, message } => {
            let config = folder.file(CONFIG);
            let advice = format!("`maxmargin train --config {}` starts the run again", config.display());
            Error::format(&path, format!("{message}. The run cannot be resumed without this file; {advice}"))
        }
        other => other,
    };
    let file = TensorFile::read(&folder.file(LAST)).map_err(damaged)?;
    let state = checked_state(&file, config).map_err(damaged)?;
    check_data(&file, data_sha256)?;
    load_tensors(&file, config, model, training, device).map_err(damaged)?;
    device.write_u32(&training.step, &[state.step])?;
    if state.best.is_some() {
        // The run ends by measuring these weights: refuse now rather than then if they cannot be read.
        state_from_tensors(model, "", &TensorFile::read(&folder.file(BEST))?)?;
    }
    Ok(state)
}

/// State in the metadata, if all of it is possible.
fn checked_state(file: &TensorFile, config: &Config) -> Result<RunState> {
    let refuse = |key: &str, expected: String, found: String| {
        Err(Error::format(&file.path, format!("metadata `{key}`: expected {expected}, found {found}")))
    };
    let (step, end) = (file.meta::<u32>("step")?, config.max_num_training_steps);
    if step > end {
        return refuse("step", format!("at most the run's {end}"), step.to_string());
    }
    let validation_due = file.metadata.contains_key(VALIDATION_DUE);
    if !file.metadata.contains_key(BEST_STEP) && !file.metadata.contains_key(BEST_MARGIN) {
        return Ok(RunState { step, best: None, validation_due });
    }
    let best = BestValidation { mean_margin: f64::from_bits(file.meta(BEST_MARGIN)?), step: file.meta(BEST_STEP)? };
    if best.step > step {
        return refuse(BEST_STEP, format!("at most the file's step {step}"), best.step.to_string());
    }
    let largest = f64::from(config.max_eps());
    if !is_margin(best.mean_margin, largest) {
        return refuse(BEST_MARGIN, format!("a number from 0 to {largest}"), best.mean_margin.to_string());
    }
    Ok(RunState { step, best: Some(best), validation_due })
}

/// True if a search up to `largest` can find this margin.
fn is_margin(margin: f64, largest: f64) -> bool {
    (0.0..=largest * (1.0 + 1e-6)).contains(&margin)
}

/// Refuses the checkpoint of a run on other data. Former versions do not say which data they trained on.
fn check_data(file: &TensorFile, data_sha256: &str) -> Result<()> {
    match file.metadata.get(DATA) {
        Some(trained) if trained != data_sha256 => Err(Error::usage(format!(
            "{}: expected the images and labels that the run was trained on, of SHA-256 {trained:.12}; found others, of \
             {data_sha256:.12}. --data names their folder",
            file.path.display()
        ))),
        _ => Ok(()),
    }
}

/// Loads every tensor onto the device, if its elements are possible.
fn load_tensors(
    file: &TensorFile,
    config: &Config,
    model: &dyn Model,
    training: &TrainingStep,
    device: &mut dyn Device,
) -> Result<()> {
    // Sums of metrics may be infinite: training ends at the line that reports them.
    for tensor in file.tensors.iter().filter(|tensor| tensor.name != training.metrics.name) {
        let values: &[f32] = file.get(&tensor.name, &tensor.shape)?;
        let is_margins = training.margins.as_ref().is_some_and(|margins| margins.name == tensor.name);
        let possible = |value: f32| match is_margins {
            true => is_margin(value.into(), config.max_eps().into()),
            false => value.is_finite(),
        };
        if let Some(i) = values.iter().position(|&value| !possible(value)) {
            let expected = if is_margins { format!("0 to {}", config.max_eps()) } else { "a finite number".into() };
            let message = format!("tensor `{}`, element {i}: expected {expected}, found {}", tensor.name, values[i]);
            return Err(Error::format(&file.path, message));
        }
    }
    model.load(device, &state_from_tensors(model, WEIGHTS, file)?)?;
    for state in &training.optimizer_state {
        device.write_f32(state, &from_tensors(model.params(), &format!("{}.", state.name), file)?)?;
    }
    if let Some(margins) = &training.margins {
        device.write_f32(margins, file.get::<f32>(&margins.name, &margins.dims)?)?;
    }
    load_metrics(file, training, device)
}

/// Loads the sums of metrics. Files of former versions lack the last of them: these are 0.
fn load_metrics(file: &TensorFile, training: &TrainingStep, device: &mut dyn Device) -> Result<()> {
    /// Number of sums of the first version.
    const FIRST: usize = Metric::ZeroWeights as usize + 1;
    let metrics = &training.metrics;
    let known = match file.tensor(&metrics.name)?.shape[..] {
        [known @ FIRST..Metric::COUNT] => known,
        _ => Metric::COUNT,
    };
    let mut sums = file.get::<f32>(&metrics.name, &[known])?.to_vec();
    sums.resize(Metric::COUNT, 0.0);
    device.write_f32(metrics, &sums)
}
