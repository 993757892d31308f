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
use crate::model::{Model, ModelState};
use crate::tape::{Memory, Program};
use crate::{Error, Result};

/// Network read from a file of weights.
pub(super) struct Network {
    /// File of weights.
    pub path: PathBuf,
    /// Options of its reading.
    pub options: WeightsOptions,
    /// SHA-256 of that file.
    pub sha256: String,
    /// The network, which [`Network::declare`] gives its buffers.
    pub model: Box<dyn Model>,
    /// Number of training steps after which the weights were written; 0 if the file does not say it.
    pub step: u32,
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
        let LoadedModel { model, state, metadata, remarks, .. } = options.load(path)?;
        let step = metadata.get("step").and_then(|step| step.parse().ok()).unwrap_or(0);
        let (path, options) = (path.to_owned(), options.clone());
        Ok(Network { sha256: file_sha256(&path)?, path, options, model, step, remarks, weights: state })
    }

    /// Declares the parameters' buffers of a network that is to classify `images`.
    ///
    /// # Errors
    /// The images have another shape, or another number of classes, than the network takes.
    pub(super) fn declare(&mut self, memory: &mut Memory, images: &ImageSet) -> Result<()> {
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
        self.model.declare(memory);
        Ok(())
    }
}

/// Images of a data set that an evaluation classifies.
pub(super) struct ImageSet {
    pub dataset: Dataset,
    /// Origin and part of the images, for messages.
    pub origin: String,
}

impl ImageSet {
    /// Loads a part, and no other, of the config's data set from the folder `data`, of which only the first `size` images if that is
    /// set.
    ///
    /// # Errors
    /// The data cannot be read, or has fewer images.
    pub(super) fn load(config: &Config, split: Split, size: Option<usize>, data: &Path) -> Result<ImageSet> {
        let (dataset, source) = data::load_split(config.dataset, data, config.val_size, split)?;
        let origin = format!("{source}, {split}");
        let most = match split {
            Split::Test => config.test_size,
            Split::Validation => None,
            Split::Train => config.train_size,
        };
        let dataset = dataset.take(most.unwrap_or(usize::MAX));
        if let Some(size) = size.filter(|&size| size > dataset.len()) {
            let n = dataset.len();
            return Err(Error::usage(format!(
                "--test-size: expected at most {n}, the images of {origin}; found {size}"
            )));
        }
        Ok(ImageSet { dataset: dataset.take(size.unwrap_or(usize::MAX)), origin })
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
