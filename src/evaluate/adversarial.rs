//! `adversarial.safetensors`: the adversarial images of an evaluation. The file is read again after it is written.

use std::collections::BTreeMap;
use std::path::Path;

use crate::record::{OutputFile, Tensor, TensorFile};
use crate::{Error, Result};

/// Content of the file. Tensors and metadata that another program may leave out are optional.
#[derive(Clone, Debug, PartialEq)]
pub struct AdversarialImages {
    /// Height, width, channels.
    pub shape: [usize; 3],
    /// Images `[n, height, width, channels]` in [0, 1], tensor `adversarial`.
    pub pixels: Vec<f32>,
    /// Index of each image in its part of the data set, `[n]`.
    pub index: Vec<u32>,
    /// Labels `[n]`.
    pub labels: Vec<u32>,
    /// Radius of the ball in which each image was looked for, `[n]`.
    pub eps: Vec<f32>,
    /// Predictions of the network for the adversarial images, `[n]`.
    pub predictions: Option<Vec<u32>>,
    /// 1 for each image that the network misclassifies, else 0, `[n]`.
    pub misclassified: Option<Vec<u8>>,
    /// Names of the attacks, separated by commas.
    pub attack: Option<String>,
    /// Norm of `eps`.
    pub norm: Option<String>,
    /// SHA-256 of the attacked weights.
    pub weights_sha256: Option<String>,
    /// SHA-256 of the clean images and their labels.
    pub images_sha256: Option<String>,
    /// SHA-256 of the evaluation's request.
    pub request: Option<String>,
}

impl AdversarialImages {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, or a tensor has another form (names it).
    pub fn read(path: &Path) -> Result<AdversarialImages> {
        let file = TensorFile::read(path)?;
        let shape = &file.tensor("adversarial")?.shape;
        let [n, height, width, channels] = match shape[..] {
            [n, height, width, channels @ (1 | 3)] if height > 0 && width > 0 => [n, height, width, channels],
            _ => {
                let message = format!("tensor `adversarial`: expected [n, height, width, 1 or 3], found {shape:?}");
                return Err(Error::format(path, message));
            }
        };
        let has = |name: &str| file.tensors.iter().any(|tensor| tensor.name == name);
        let predictions = has("predictions").then(|| file.get_counts("predictions", &[n])).transpose()?;
        let misclassified = has("misclassified").then(|| file.get::<u8>("misclassified", &[n])).transpose()?;
        Ok(AdversarialImages {
            shape: [height, width, channels],
            pixels: file.get::<f32>("adversarial", shape)?.to_vec(),
            index: file.get_counts("index", &[n])?,
            labels: file.get_counts("labels", &[n])?,
            eps: file.get::<f32>("eps", &[n])?.to_vec(),
            predictions,
            misclassified: misclassified.map(<[u8]>::to_vec),
            attack: file.metadata.get("attack").cloned(),
            norm: file.metadata.get("norm").cloned(),
            weights_sha256: file.metadata.get("weights_sha256").cloned(),
            images_sha256: file.metadata.get("images_sha256").cloned(),
            request: file.metadata.get("request").cloned(),
        })
    }

    /// Writes the file. One that can be read again is compared with these images.
    ///
    /// # Errors
    /// The file cannot be written, or has another content when it is read again.
    pub fn write(&self, file: &OutputFile) -> Result<()> {
        let ([height, width, channels], n) = (self.shape, self.labels.len());
        // Numbers of images and classes are I64, by which PyTorch indexes and which it compares with its labels.
        let numbers = |name: &str, numbers: &[u32]| {
            Tensor::new(name, &[n], numbers.iter().copied().map(i64::from).collect::<Vec<_>>())
        };
        let mut tensors = vec![
            Tensor::new("adversarial", &[n, height, width, channels], self.pixels.clone()),
            numbers("index", &self.index),
            numbers("labels", &self.labels),
            Tensor::new("eps", &[n], self.eps.clone()),
        ];
        let misclassified = self.misclassified.iter().map(|found| Tensor::new("misclassified", &[n], found.clone()));
        let predictions = self.predictions.iter().map(|found| numbers("predictions", found));
        tensors.extend(misclassified.chain(predictions));
        let metadata = [
            ("norm", &self.norm),
            ("attack", &self.attack),
            ("weights_sha256", &self.weights_sha256),
            ("images_sha256", &self.images_sha256),
            ("request", &self.request),
        ];
        let metadata = metadata.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        file.write_tensors(&tensors, &metadata.collect::<BTreeMap<_, _>>())?;
        if file.is_replaced() && AdversarialImages::read(file.path())? != *self {
            return Err(Error::format(file.path(), "expected the images as they were written, found others"));
        }
        Ok(())
    }

    /// Image `i`, `[height, width, channels]`.
    pub fn image(&self, i: usize) -> &[f32] {
        let len = self.shape.iter().product::<usize>();
        &self.pixels[i * len..][..len]
    }
}
