//! Parameters as tensors of a file, under PyTorch's names and in its layouts, so that
//! `load_state_dict(load_file(path))` works.
//!
//! A file may have no tensors beside those of its network: others belong to a layer or a normalization that this
//! program would leave out, and its figures would be another network's. Batch norm's `num_batches_tracked` has no part
//! in the outputs and is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::input_layer::Normalization;
use super::lenet5::LeNet5;
use super::network::{Model, ModelState};
use super::params::Params;
use super::wide_resnet::WideResNet;
use crate::catalog::{ModelKind, NamedNetwork, WeightNames, networks_among};
use crate::record::{Tensor, TensorData, TensorFile};
use crate::{Error, Result};

/// Tensors of parameters, named `<prefix><parameter>`, in PyTorch's layouts; `values` are in ours.
pub fn to_tensors(params: &Params, prefix: &str, values: &[f32]) -> Vec<Tensor> {
    let split = params.split_to_torch(values);
    params.list.iter().zip(split).map(|(p, v)| Tensor::new(format!("{prefix}{}", p.name), &p.shape, v)).collect()
}

/// Values of parameters, in our layout, from tensors named `<prefix><parameter>`.
///
/// # Errors
/// A tensor is missing, has another shape or type, or holds an infinity, a NaN or a negative variance. The message
/// names file and tensor, what was expected and what was found.
pub fn from_tensors(params: &Params, prefix: &str, file: &TensorFile) -> Result<Vec<f32>> {
    from_renamed_tensors(params, |name| format!("{prefix}{name}"), file)
}

fn from_renamed_tensors(params: &Params, rename: impl Fn(&str) -> String, file: &TensorFile) -> Result<Vec<f32>> {
    let mut values = Vec::with_capacity(params.len());
    for p in &params.list {
        let name = rename(&p.name);
        let tensor = file.get::<f32>(&name, &p.shape)?;
        let refuse = |expected: &str, (at, value): (usize, &f32)| {
            Err(Error::format(&file.path, format!("{name}: expected {expected}; found {value} at element {at}")))
        };
        let mut elements = tensor.iter().enumerate();
        if let Some(found) = elements.clone().find(|(_, v)| !v.is_finite()) {
            return refuse("numbers", found);
        }
        if let Some(found) = elements.find(|(_, v)| **v < 0.0 && p.name.ends_with("running_var")) {
            return refuse("variances, which are not negative", found);
        }
        values.extend(p.from_torch(tensor));
    }
    Ok(values)
}

/// Key of a file's metadata that holds the normalization of images that belongs to its weights.
pub const NORMALIZATION: &str = "normalization";

/// Choices of those who know more about a file of weights than it tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightsOptions {
    /// Names of tensors that are left out although they belong to no parameter. One that ends in `*` stands for all
    /// names with that beginning.
    pub ignored_tensors: Vec<String>,
    /// Normalization of images; `None`: the file's own, or else the model's.
    pub normalization: Option<Normalization>,
}

/// A network read from a file.
pub struct LoadedModel {
    /// The network.
    pub model: Box<dyn Model>,
    /// Values of its parameters and statistics.
    pub state: ModelState,
    /// Metadata of the file.
    pub metadata: BTreeMap<String, String>,
    /// Names of the tensors that were left out, as the options say, in order.
    pub ignored_tensors: Vec<String>,
    /// Remarks on the reading: a dropped prefix, converted tensors, tensors left out.
    pub remarks: Vec<String>,
}

/// Reads a network from a file of weights. Model, naming scheme and sizes are found from the tensors' names and shapes;
/// a prefix of all names, such as `module.`, is dropped.
///
/// # Errors
/// The file cannot be read; its tensors are not those of one known model; or it has others beside them.
pub fn load_model(path: &Path) -> Result<LoadedModel> {
    WeightsOptions::default().load(path)
}

impl WeightsOptions {
    /// [`load_model`] with these options.
    ///
    /// # Errors
    /// As [`load_model`]; or the file has none of the tensors that are to be left out, or the normalization has values
    /// for another number of channels.
    pub fn load(&self, path: &Path) -> Result<LoadedModel> {
        let mut file = TensorFile::read(path)?;
        let mut remarks = Vec::new();
        let ignored_tensors = self.leave_out(&mut file)?;
        let ignored = || format!("ignored {}", listed(ignored_tensors.iter().map(String::as_str)));
        remarks.extend((!ignored_tensors.is_empty()).then(ignored));
        remarks.extend(convert_to_single(&mut file)?);
        let NamedNetwork { model: kind, names, prefix } = self.only_network(&file)?;
        remarks.extend((!prefix.is_empty()).then(|| format!("dropped the prefix {prefix} of the tensors' names")));
        let others = drop_prefix(&mut file, &prefix);

        let own = file.metadata.get(NORMALIZATION).map(|text| text.parse::<Normalization>());
        let own = own.transpose().map_err(|expected| {
            let found = &file.metadata[NORMALIZATION];
            Error::format(path, format!("metadata `{NORMALIZATION}`: {expected}; found {found}"))
        })?;
        if let (Some(own), Some(other)) = (&own, &self.normalization)
            && own != other
        {
            remarks.push(format!("--normalization {other} instead of the file's {own}"));
        }

        let shape = |name: &str| {
            let tensor = file.tensors.iter().find(|tensor| tensor.name == name);
            tensor.map(|tensor| tensor.shape.clone()).ok_or_else(|| file.missing(name))
        };
        let refuse = |message: String| match prefix.as_str() {
            "" => Error::format(path, message),
            prefix => Error::format(path, format!("{message} (names without their prefix {prefix})")),
        };
        let mut model: Box<dyn Model> = match kind {
            ModelKind::LeNet5 => Box::new(LeNet5::from_shapes(shape).map_err(refuse)?),
            ModelKind::WideResNet => Box::new(WideResNet::from_shapes(names, shape).map_err(refuse)?),
        };
        if let Some(normalization) = self.normalization.clone().or(own) {
            model.set_normalization(normalization).map_err(|message| match self.normalization {
                Some(_) => Error::usage(format!("--normalization: {message}")),
                None => refuse(format!("metadata `{NORMALIZATION}`: {message}")),
            })?;
        }
        let own = |name: &str| names.rename(name);
        let others = file.tensors.iter().map(|tensor| &*tensor.name).chain(others.iter().map(String::as_str));
        refuse_others(&*model, own, others).map_err(|found| {
            let hint = "if they change no output, leave them out with --ignore-tensors; mean and deviation of images \
                        are given with --normalization";
            refuse(format!("{found}; {hint}"))
        })?;
        let values = |params| from_renamed_tensors(params, |name| names.rename(name), &file);
        let state = model.stored().map(values).collect::<Result<_>>()?;
        Ok(LoadedModel { model, state, metadata: file.metadata, ignored_tensors, remarks })
    }

    /// Removes the tensors that are to be left out from the file; returns their names in order.
    fn leave_out(&self, file: &mut TensorFile) -> Result<Vec<String>> {
        let stands_for = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        };
        for pattern in &self.ignored_tensors {
            if !file.tensors.iter().any(|tensor| stands_for(pattern, &tensor.name)) {
                let missing = file.missing(pattern);
                return Err(Error::usage(format!("--ignore-tensors: {}: {missing}", file.path.display())));
            }
        }
        let left_out = |tensor: &Tensor| self.ignored_tensors.iter().any(|pattern| stands_for(pattern, &tensor.name));
        let (out, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut file.tensors).into_iter().partition(left_out);
        file.tensors = kept;
        let mut names: Vec<String> = out.into_iter().map(|tensor| tensor.name).collect();
        names.sort();
        Ok(names)
    }

    /// The only network among a file's tensors. A file without one is taken for a LeNet5's, whose building then says
    /// which tensor is missing.
    ///
    /// # Errors
    /// There are several networks; or the only one is a part of a Sequential, and nothing says how images are
    /// normalized.
    fn only_network(&self, file: &TensorFile) -> Result<NamedNetwork> {
        let mut networks = networks_among(file.tensors.iter().map(|tensor| tensor.name.as_str()));
        if networks.len() > 1 {
            let prefixes = networks.iter().map(|network| format!("{}*", network.prefix)).collect::<Vec<_>>();
            let message = format!(
                "expected the tensors of one network; found {}: {}; leave the others out with --ignore-tensors",
                networks.len(),
                prefixes.join(", ")
            );
            return Err(Error::format(&file.path, message));
        }
        let none = NamedNetwork { model: ModelKind::LeNet5, names: WeightNames::Released, prefix: String::new() };
        let network = networks.pop().unwrap_or(none);
        // Other parts of a Sequential may normalize images without a tensor that tells so.
        let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let told = self.normalization.is_some() || file.metadata.contains_key(NORMALIZATION);
        match network.prefix.split('.').find(|part| number(part)) {
            Some(part) if !told => Err(Error::format(
                &file.path,
                format!(
                    "its tensors' names begin with {}: the network is part {part} of a Sequential, of which another \
                     part may normalize images; say what is done with them: --normalization none, per-image or \
                     MEAN,STD",
                    network.prefix
                ),
            )),
            _ => Ok(network),
        }
    }
}

/// Names in a list of at most eight.
fn listed<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 8;
    let count = names.len();
    let shown = names.take(SHOWN).collect::<Vec<_>>().join(", ");
    if count > SHOWN { format!("{shown} and {} more", count - SHOWN) } else { shown }
}

/// Rounds tensors of double precision to single precision; returns a remark if there are any.
///
/// # Errors
/// A value is beyond single precision; the message names tensor and element.
fn convert_to_single(file: &mut TensorFile) -> Result<Option<String>> {
    let mut converted = 0;
    for Tensor { name, data, .. } in &mut file.tensors {
        let TensorData::F64(values) = data else { continue };
        if let Some((at, value)) = values.iter().enumerate().find(|(_, v)| v.is_finite() && !(**v as f32).is_finite()) {
            let message = format!("{name}: expected numbers within single precision; found {value:e} at element {at}");
            return Err(Error::format(&file.path, message));
        }
        *data = TensorData::F32(values.iter().map(|&value| value as f32).collect());
        converted += 1;
    }
    let tensors = if converted == 1 { "tensor" } else { "tensors" };
    Ok((converted > 0).then(|| format!("rounded {converted} {tensors} from double to single precision")))
}

/// Drops a prefix of the tensors' names. Returns the names of the tensors without it, which leave the file.
fn drop_prefix(file: &mut TensorFile, prefix: &str) -> Vec<String> {
    let mut others = Vec::new();
    let tensors = std::mem::take(&mut file.tensors).into_iter();
    let without = tensors.filter_map(|tensor| match tensor.name.strip_prefix(prefix) {
        Some(name) => Some(Tensor { name: name.into(), ..tensor }),
        None => {
            others.push(tensor.name);
            None
        }
    });
    file.tensors = without.collect();
    others
}

/// Refuses tensors that belong to no parameter: a network that has them computes something else. Batch norm's counters
/// of batches are left out.
///
/// # Errors
/// A message with their names.
fn refuse_others<'a>(
    model: &dyn Model,
    rename: impl Fn(&str) -> String,
    names: impl Iterator<Item = &'a str>,
) -> std::result::Result<(), String> {
    let own: BTreeSet<String> = model.stored().flat_map(|params| &params.list).map(|p| rename(&p.name)).collect();
    let counter = |name: &str| name.rsplit('.').next() == Some("num_batches_tracked");
    let others: Vec<&str> = names.filter(|name| !own.contains(*name) && !counter(name)).collect();
    let number = others.len();
    (number == 0).then_some(()).ok_or_else(|| {
        let tensors = if number == 1 { "1 tensor that belongs" } else { &format!("{number} tensors that belong") };
        let (others, network) = (listed(others.into_iter()), model.describe());
        format!("expected the tensors of one network alone ({network}); found {tensors} to no parameter: {others}")
    })
}

/// Tensors of a model's parameters and statistics: see [`to_tensors`].
pub fn state_to_tensors(model: &dyn Model, prefix: &str, state: &ModelState) -> Vec<Tensor> {
    model.stored().zip(state).flat_map(|(params, values)| to_tensors(params, prefix, values)).collect()
}

/// Values of a model's parameters and statistics, from tensors named `<prefix><parameter>`.
///
/// # Errors
/// As [`from_tensors`]; or another tensor has that prefix.
pub fn state_from_tensors(model: &dyn Model, prefix: &str, file: &TensorFile) -> Result<ModelState> {
    let names = file.tensors.iter().map(|tensor| tensor.name.as_str()).filter(|name| name.starts_with(prefix));
    refuse_others(model, |name| format!("{prefix}{name}"), names).map_err(|found| Error::format(&file.path, found))?;
    model.stored().map(|params| from_tensors(params, prefix, file)).collect()
}
