//! Parameters as tensors of a file: PyTorch's names and layouts, so that `load_state_dict(load_file(path))` works.
//!
//! A tensor that no parameter is named after is passed over, as batch norm's `num_batches_tracked`.

use std::collections::BTreeMap;
use std::path::Path;

use super::{LeNet5, Model, Params, State, WideResNet};
use crate::choice::choices;
use crate::record::{Tensor, TensorFile};
use crate::{Error, Result};

choices! {
    /// Whose names the tensors of a file have.
    pub enum Names {
        /// The released code's: a wide ResNet is the second of two modules, so
        /// `1.convgroup1.layer.0.conv_shortcut.weight`.
        Released = "released",
        /// Those of RobustBench's class `Ding2020MMANet`: `block1.layer.0.convShortcut.weight`.
        Robustbench = "robustbench",
    }
}

impl Names {
    /// A parameter's name, from the released one.
    pub fn of(self, released: &str) -> String {
        match self {
            Names::Released => released.into(),
            Names::Robustbench => {
                let inner = released.strip_prefix("1.").unwrap_or(released);
                inner.replace("convgroup", "block").replace("conv_shortcut", "convShortcut")
            }
        }
    }
}

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
    named(params, |name| format!("{prefix}{name}"), file)
}

fn named(params: &Params, own: impl Fn(&str) -> String, file: &TensorFile) -> Result<Vec<f32>> {
    let mut values = Vec::with_capacity(params.len());
    for p in &params.list {
        let name = own(&p.name);
        let tensor = file.get::<f32>(&name, &p.shape)?;
        if let Some((at, value)) = tensor.iter().enumerate().find(|(_, v)| !v.is_finite()) {
            return Err(Error::format(&file.path, format!("{name}: expected numbers; found {value} at element {at}")));
        }
        values.extend(p.from_torch(tensor));
    }
    Ok(values)
}

/// A network out of a file.
pub struct Loaded {
    /// The network.
    pub model: Box<dyn Model>,
    /// All that it keeps.
    pub state: State,
    /// The file's table of strings.
    pub metadata: BTreeMap<String, String>,
}

/// The network in a file of weights, found from its tensors' names, whosever they are, and shapes.
///
/// # Errors
/// The file cannot be read, or its tensors are not those of a known model.
pub fn load_model(path: &Path) -> Result<Loaded> {
    let file = TensorFile::read(path)?;
    let shape = |name: &str| file.tensors.iter().find(|t| t.name == name).map(|t| t.shape.clone());
    let begins = |start: &str| file.tensors.iter().any(|t| t.name.starts_with(start));
    let names = if begins("block1.") { Names::Robustbench } else { Names::Released };
    let model: std::result::Result<Box<dyn Model>, String> = if names == Names::Robustbench || begins("1.") {
        WideResNet::from_shapes(names, shape).map(|m| Box::new(m) as _)
    } else {
        LeNet5::from_shapes(shape).map(|m| Box::new(m) as _)
    };
    let model = model.map_err(|message| Error::format(path, message))?;
    let state = model.kept().map(|params| named(params, |name| names.of(name), &file)).collect::<Result<_>>()?;
    Ok(Loaded { model, state, metadata: file.metadata })
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
