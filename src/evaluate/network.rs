//! Networks and images of an evaluation: read from files, checked against each other, copied to a device.

use std::path::{Path, PathBuf};

use super::examples::Examples;
use super::request::Split;
use crate::catalog::CLASSES;
use crate::config::Config;
use crate::data::{self, Dataset};
use crate::device::Device;
use crate::hash::file_sha256;
use crate::model::state_dict::{LoadedModel, WeightsOptions};
use crate::model::{Model, ModelInPrecision, ModelState};
use crate::tape::{Memory, Precision, Program};
use crate::{Error, Result};

/// Network read from a file of weights.
pub(super) struct Network {
    /// File of weights.
    pub path: PathBuf,
    /// Options of its reading.
    pub options: WeightsOptions,
    /// SHA-256 of that file.
    pub sha256: String,
    /// The network, which [`Model::declare`] gives its buffers.
    pub model: Box<dyn Model>,
    /// Number of training steps after which the weights were written; 0 if the file does not say it.
    pub step: u32,
    /// Names of the file's tensors that were left out.
    pub ignored_tensors: Vec<String>,
    /// Remarks on the reading.
    pub remarks: Vec<String>,
    /// Values of its parameters and statistics.
    pub weights: ModelState,
}

impl Network {
    /// Reads the weights at `path`.
    ///
    /// # Errors
    /// The file cannot be read, or its tensors are not those of a known model.
    pub(super) fn read(path: &Path, options: &WeightsOptions) -> Result<Network> {
        let LoadedModel { model, state: weights, metadata, ignored_tensors, remarks } = options.load(path)?;
        let step = metadata.get("step").and_then(|step| step.parse().ok()).unwrap_or(0);
        let (path, options) = (path.to_owned(), options.clone());
        let sha256 = file_sha256(&path)?;
        Ok(Network { path, options, sha256, model, step, ignored_tensors, remarks, weights })
    }

    /// Checks that the network can classify `images`.
    ///
    /// # Errors
    /// The images have another shape, or another number of classes, than the network takes.
    pub(super) fn check(&self, images: &ImageSet) -> Result<()> {
        let found = [images.dataset.height, images.dataset.width, images.dataset.channels];
        if self.model.image() != found {
            return Err(Error::usage(format!(
                "--dataset: {} takes images {:?} (height, width, channels); those of {} are {found:?}",
                self.path.display(),
                self.model.image(),
                images.origin
            )));
        }
        let classes = self.model.classes();
        if classes != CLASSES {
            let tensor = &self.model.output_layer().weight;
            return Err(Error::format(&self.path, format!("{tensor}: expected {CLASSES} classes, found {classes}")));
        }
        Ok(())
    }

    /// The declared network in the precision in which it is attacked.
    ///
    /// # Errors
    /// A weight is too large for the precision.
    pub(super) fn attacked(&self, memory: &mut Memory, precision: Precision) -> Result<ModelInPrecision<'_>> {
        let attacked = ModelInPrecision::attacked(memory, &*self.model, precision);
        match attacked.overflow(&self.weights) {
            Some(found) => {
                let advice = "--precision fp32 attacks the network as it is";
                Err(Error::format(&self.path, format!("--precision {precision}: {found}; {advice}")))
            }
            None => Ok(attacked),
        }
    }
}

/// Images of a data set that an evaluation classifies.
pub(super) struct ImageSet {
    pub dataset: Dataset,
    /// Origin and part of the images, for messages.
    pub origin: String,
    /// SHA-256 of images and labels.
    pub sha256: String,
}

impl ImageSet {
    /// Loads the first `size` images of a part of the config's data set from the folder `data`; `None`: as many as the
    /// config says.
    ///
    /// # Errors
    /// The data cannot be read, or there are fewer images.
    pub(super) fn load(config: &Config, split: Split, size: Option<usize>, data: &Path) -> Result<ImageSet> {
        let (dataset, source) = data::load_split(config.dataset, data, config.val_size, split)?;
        let origin = format!("{source}, {split}");
        let trained_on = config.train_size.filter(|_| split == Split::Train);
        let dataset = dataset.take(trained_on.unwrap_or(usize::MAX));
        if let Some(size) = size.filter(|&size| size > dataset.len()) {
            let n = dataset.len();
            return Err(Error::usage(format!(
                "--test-size: expected at most {n}, the images of {origin}; found {size}"
            )));
        }
        let of_config = config.test_size.filter(|_| split == Split::Test);
        let dataset = dataset.take(size.or(of_config).unwrap_or(usize::MAX));
        Ok(ImageSet { sha256: dataset.sha256(), dataset, origin })
    }
}

/// Allocates `memory` on the device and copies each network's weights and `images` to it. Returns the bytes taken.
///
/// # Errors
/// The device failed.
pub(super) fn upload<'a>(
    device: &mut dyn Device,
    memory: &Memory,
    programs: &[&Program],
    networks: impl IntoIterator<Item = (&'a Network, &'a Examples)>,
    images: &ImageSet,
) -> Result<usize> {
    let bytes = device.allocate(memory, programs)?;
    for (network, examples) in networks {
        network.model.load(device, &network.weights)?;
        examples.upload(device, &images.dataset)?;
    }
    Ok(bytes)
}
