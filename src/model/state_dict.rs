//! Parameters as tensors of a file, under PyTorch's names and in its layouts, so that
//! `load_state_dict(load_file(path))` works.
//!
//! A tensor that no parameter is named after is ignored, such as batch norm's `num_batches_tracked`.

use std::collections::BTreeMap;
use std::path::Path;

use super::lenet5::LeNet5;
use super::network::{Model, ModelState};
use super::params::Params;
use super::wide_resnet::WideResNet;
use crate::catalog::{ModelKind, model_of_tensors};
use crate::record::{Tensor, TensorFile};
use crate::{Error, Result};

/// Tensors of parameters, named `<prefix><parameter>`, in PyTorch's layouts; `values` are in ours.
pub fn to_tensors(params: &Params, prefix: &str, values: &[f32]) -> Vec<Tensor> {
    let split = params.split_to_torch(values);
    params.list.iter().zip(split).map(|(p, v)| Tensor::new(format!("{prefix}{}", p.name), &p.shape, v)).collect()
}

/// Values of parameters, in our layout, from tensors named `<prefix><parameter>`.
///
/// # Errors
/// A tensor is missing, has another shape or type, or holds an infinity or a NaN. The message names file and tensor,
/// what was expected and what was found.
pub fn from_tensors(params: &Params, prefix: &str, file: &TensorFile) -> Result<Vec<f32>> {
    from_renamed_tensors(params, |name| format!("{prefix}{name}"), file)
}

fn from_renamed_tensors(params: &Params, rename: impl Fn(&str) -> String, file: &TensorFile) -> Result<Vec<f32>> {
    let mut values = Vec::with_capacity(params.len());
    for p in &params.list {
        let name = rename(&p.name);
        let tensor = file.get::<f32>(&name, &p.shape)?;
        if let Some((at, value)) = tensor.iter().enumerate().find(|(_, v)| !v.is_finite()) {
            return Err(Error::format(&file.path, format!("{name}: expected numbers; found {value} at element {at}")));
        }
        values.extend(p.from_torch(tensor));
    }
    Ok(values)
}

/// A network read from a file.
pub struct LoadedModel {
    /// The network.
    pub model: Box<dyn Model>,
    /// Values of its parameters and statistics.
    pub state: ModelState,
    /// Metadata of the file.
    pub metadata: BTreeMap<String, String>,
}

/// Reads a network from a file of weights. Model, naming scheme and sizes are found from the tensors' names and shapes.
///
/// # Errors
/// The file cannot be read, or its tensors are not those of a known model.
pub fn load_model(path: &Path) -> Result<LoadedModel> {
    let file = TensorFile::read(path)?;
    let shape = |name: &str| file.tensors.iter().find(|t| t.name == name).map(|t| t.shape.clone());
    let (kind, names) = model_of_tensors(file.tensors.iter().map(|tensor| tensor.name.as_str()));
    let model: std::result::Result<Box<dyn Model>, String> = match kind {
        ModelKind::LeNet5 => LeNet5::from_shapes(shape).map(|m| Box::new(m) as _),
        ModelKind::WideResNet => WideResNet::from_shapes(names, shape).map(|m| Box::new(m) as _),
    };
    let model = model.map_err(|message| Error::format(path, message))?;
    let values = |params| from_renamed_tensors(params, |name| names.rename(name), &file);
    let state = model.stored().map(values).collect::<Result<_>>()?;
    Ok(LoadedModel { model, state, metadata: file.metadata })
}

/// Tensors of a model's parameters and statistics: see [`to_tensors`].
pub fn state_to_tensors(model: &dyn Model, prefix: &str, state: &ModelState) -> Vec<Tensor> {
    model.stored().zip(state).flat_map(|(params, values)| to_tensors(params, prefix, values)).collect()
}

/// Values of a model's parameters and statistics, from tensors.
///
/// # Errors
/// As [`from_tensors`].
pub fn state_from_tensors(model: &dyn Model, prefix: &str, file: &TensorFile) -> Result<ModelState> {
    model.stored().map(|params| from_tensors(params, prefix, file)).collect()
}
