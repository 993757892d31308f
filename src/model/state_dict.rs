//! Parameters as tensors of a file: PyTorch's names and layouts, so that `load_state_dict(load_file(path))` works.

use std::path::Path;

use super::{LeNet5, Model, Params, State, WideResNet};
use crate::record::{Tensor, TensorFile};
use crate::{Error, Result};

/// Tensors named `<prefix><parameter>` in PyTorch's layouts; `values` are in ours.
pub fn to_tensors(params: &Params, prefix: &str, values: &[f32]) -> Vec<Tensor> {
    let split = params.split_to_torch(values);
    params.list.iter().zip(split).map(|(p, v)| Tensor::new(format!("{prefix}{}", p.name), &p.shape, v)).collect()
}

/// The values, in our layout, of tensors named `<prefix><parameter>`.
///
/// # Errors
/// A tensor is missing, has another shape or type, or holds what is no number: names file and tensor, and what was
/// expected and found.
pub fn from_tensors(params: &Params, prefix: &str, file: &TensorFile) -> Result<Vec<f32>> {
    let mut values = Vec::with_capacity(params.len());
    for p in &params.list {
        let name = format!("{prefix}{}", p.name);
        let tensor = file.get::<f32>(&name, &p.shape)?;
        if let Some((at, value)) = tensor.iter().enumerate().find(|(_, v)| !v.is_finite()) {
            return Err(Error::format(&file.path, format!("{name}: expected numbers; found {value} at element {at}")));
        }
        values.extend(p.from_torch(tensor));
    }
    Ok(values)
}

/// The model in a file of weights, found from its tensors' names and shapes, and its state in our layouts.
///
/// # Errors
/// The file cannot be read, or its tensors are not those of a known model.
pub fn load_model(path: &Path) -> Result<(Box<dyn Model>, State)> {
    let file = TensorFile::read(path)?;
    let shape = |name: &str| file.tensors.iter().find(|t| t.name == name).map(|t| t.shape.clone());
    let wide = file.tensors.iter().any(|t| t.name.starts_with("1."));
    let model: std::result::Result<Box<dyn Model>, String> = if wide {
        WideResNet::from_shapes(shape).map(|m| Box::new(m) as _)
    } else {
        LeNet5::from_shapes(shape).map(|m| Box::new(m) as _)
    };
    let model = model.map_err(|message| Error::format(path, message))?;
    let state = state_from_tensors(&*model, "", &file)?;
    Ok((model, state))
}

/// All that a model keeps, as tensors: see [`to_tensors`].
pub fn state_to_tensors(model: &dyn Model, prefix: &str, state: &State) -> Vec<Tensor> {
    model.kept().zip(state).flat_map(|(params, values)| to_tensors(params, prefix, values)).collect()
}

/// All that a model keeps, from tensors.
///
/// # Errors
/// As [`from_tensors`].
pub fn state_from_tensors(model: &dyn Model, prefix: &str, file: &TensorFile) -> Result<State> {
    model.kept().map(|params| from_tensors(params, prefix, file)).collect()
}
