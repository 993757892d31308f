//! `adversarial.safetensors`: the adversarial images of an evaluation.
//!
//! After the file is written it is read again, and each image is checked: inside [0, 1], inside its ball, and
//! misclassified if the file says so.

use std::collections::BTreeMap;
use std::path::Path;

use super::checkpoint::EvaluationState;
use super::examples::{CleanPrediction, Examples};
use super::request::EvaluationRequest;
use crate::data::Dataset;
use crate::device::Device;
use crate::record::{Tensor, TensorFile, write_tensors};
use crate::tape::Norm;
use crate::{Error, Result};

/// Relative rounding error of a distance in single precision.
const ROUNDING: f64 = 1e-6;

/// Content of the file. Tensors that another program may leave out are optional.
#[derive(Clone, Debug)]
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
        })
    }

    /// Image `i`, `[height, width, channels]`.
    pub fn image(&self, i: usize) -> &[f32] {
        let len = self.shape.iter().product::<usize>();
        &self.pixels[i * len..][..len]
    }
}

/// Radius within which an evaluation's image lies, and its claim to be misclassified.
struct Claim {
    eps: f32,
    misclassified: bool,
}

/// Writer of the file of a finished evaluation.
pub(super) struct AdversarialWriter<'a> {
    pub request: &'a EvaluationRequest,
    /// SHA-256 of the attacked weights.
    pub weights_sha256: &'a str,
    /// Clean images.
    pub dataset: &'a Dataset,
    pub state: &'a EvaluationState,
    /// True for each image that is classified correctly without an attack.
    pub correct: &'a [bool],
}

impl AdversarialWriter<'_> {
    /// Writes the images, reads them again and checks each.
    ///
    /// # Errors
    /// The file cannot be written; an image read from it is not as claimed (names the image); or the device failed.
    pub fn write_and_check(&self, path: &Path, device: &mut dyn Device, examples: &Examples) -> Result<()> {
        let predictions = self.predictions(&self.state.images, device, examples)?;
        self.write(path, predictions.iter().map(|prediction| prediction.class).collect())?;
        let written = AdversarialImages::read(path)?;
        self.check_distances(path, &written)?;
        let predictions = self.predictions(&written.pixels, device, examples)?;
        let correct = predictions.iter().zip(self.claims()).position(|(p, claim)| p.correct && claim.misclassified);
        match correct {
            Some(i) => Err(refusal(path, i, "expected to be misclassified, found its label predicted")),
            None => Ok(()),
        }
    }

    /// Claims, by image.
    fn claims(&self) -> impl Iterator<Item = Claim> {
        let EvaluationState { found_by, distances, .. } = self.state;
        let eps = &self.request.eps;
        let claim = |i: usize| {
            let nearest = distances.iter().filter_map(|distances| distances[i]).reduce(f32::min);
            match (found_by[i], eps.last()) {
                _ if !self.correct[i] => Claim { eps: 0.0, misclassified: true },
                (Some(by), _) => Claim { eps: eps[by.eps] as f32, misclassified: true },
                (None, Some(&largest)) => Claim { eps: largest as f32, misclassified: false },
                (None, None) => Claim { eps: nearest.unwrap_or(0.0), misclassified: nearest.is_some() },
            }
        };
        (0..found_by.len()).map(claim)
    }

    fn write(&self, path: &Path, predictions: Vec<u32>) -> Result<()> {
        let Dataset { height, width, channels, .. } = *self.dataset;
        let n = self.dataset.len();
        let tensors = [
            Tensor::new("adversarial", &[n, height, width, channels], self.state.images.clone()),
            // Numbers of images and classes are I64, by which PyTorch indexes and which it compares with its labels.
            Tensor::new("index", &[n], (0..n as i64).collect()),
            Tensor::new("labels", &[n], self.labels().into_iter().map(i64::from).collect()),
            Tensor::new("eps", &[n], self.claims().map(|claim| claim.eps).collect::<Vec<f32>>()),
            Tensor::new(
                "misclassified",
                &[n],
                self.claims().map(|claim| u8::from(claim.misclassified)).collect::<Vec<u8>>(),
            ),
            Tensor::new("predictions", &[n], predictions.into_iter().map(i64::from).collect::<Vec<i64>>()),
        ];
        let attacks: Vec<_> = self.request.attacks.iter().map(ToString::to_string).collect();
        let metadata = BTreeMap::from([
            ("norm".into(), self.request.config.norm.to_string()),
            ("attack".into(), attacks.join(",")),
            ("weights_sha256".into(), self.weights_sha256.into()),
        ]);
        write_tensors(path, &tensors, &metadata)
    }

    fn labels(&self) -> Vec<u32> {
        self.dataset.labels.iter().map(|&label| u32::from(label)).collect()
    }

    /// Predictions for `images` `[n, h, w, c]`.
    fn predictions(
        &self,
        images: &[f32],
        device: &mut dyn Device,
        examples: &Examples,
    ) -> Result<Vec<CleanPrediction>> {
        let (labels, len) = (self.labels(), self.dataset.image_len());
        let mut predictions = Vec::with_capacity(labels.len());
        for index in examples.batches(&examples.indices()) {
            let (from, to) = (index[0] as usize, index[0] as usize + index.len());
            predictions.extend(examples.predict_images(device, &images[from * len..to * len], &labels[from..to])?);
        }
        Ok(predictions)
    }

    /// Refuses images outside [0, 1], and images outside their ball.
    fn check_distances(&self, path: &Path, written: &AdversarialImages) -> Result<()> {
        for (i, claim) in self.claims().enumerate() {
            let image = written.image(i);
            if let Some(value) = image.iter().find(|value| !(0.0..=1.0).contains(*value)) {
                return Err(refusal(path, i, format!("expected numbers from 0 to 1, found {value}")));
            }
            let clean = self.dataset.image(i).iter().map(|&byte| f64::from(f32::from(byte) / 255.0));
            let differences = image.iter().zip(clean).map(|(value, clean)| f64::from(*value) - clean);
            let distance = match self.request.config.norm {
                Norm::Linf => differences.fold(0.0, |largest: f64, d| largest.max(d.abs())),
                Norm::L2 => differences.map(|d| d * d).sum::<f64>().sqrt(),
            };
            let eps = f64::from(claim.eps);
            if distance > eps * (1.0 + ROUNDING) {
                return Err(refusal(
                    path,
                    i,
                    format!("expected to be within {eps} of the clean image, found {distance}"),
                ));
            }
        }
        Ok(())
    }
}

/// Error about image `i` of the file.
fn refusal(path: &Path, i: usize, message: impl std::fmt::Display) -> Error {
    Error::format(path, format!("adversarial, image {i}: {message}"))
}
