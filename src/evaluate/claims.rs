//! Claims of an evaluation about its adversarial images, checked before the images are written anywhere.

use super::adversarial::AdversarialImages;
use super::checkpoint::EvaluationState;
use super::examples::{CleanPrediction, Examples};
use super::request::EvaluationRequest;
use crate::data::Dataset;
use crate::device::Device;
use crate::tape::Norm;
use crate::{Error, Result};

/// Relative rounding error of a distance in single precision.
const ROUNDING: f64 = 1e-6;

/// Radius within which an evaluation's image lies, and its claim to be misclassified.
struct Claim {
    eps: f32,
    misclassified: bool,
}

/// Claims of a finished evaluation about its adversarial images.
pub(super) struct AdversarialClaims<'a> {
    pub request: &'a EvaluationRequest,
    /// SHA-256 of the attacked weights.
    pub weights_sha256: &'a str,
    /// SHA-256 of the clean images and their labels.
    pub images_sha256: &'a str,
    /// Clean images.
    pub dataset: &'a Dataset,
    pub state: &'a EvaluationState,
    /// True for each image that is classified correctly without an attack.
    pub correct: &'a [bool],
}

impl AdversarialClaims<'_> {
    /// Adversarial images, each checked: inside [0, 1], inside its ball, and misclassified if it is said to be.
    ///
    /// # Errors
    /// An image is not as claimed (names it), or the device failed.
    pub fn images(&self, device: &mut dyn Device, examples: &Examples) -> Result<AdversarialImages> {
        let n = self.dataset.len();
        let predictions = self.predictions(device, examples)?;
        let correct = predictions.iter().zip(self.claims()).position(|(p, claim)| p.correct && claim.misclassified);
        if let Some(i) = correct {
            return Err(refusal(i, "expected to be misclassified, found its label predicted"));
        }
        self.check_distances()?;
        let attacks: Vec<_> = self.request.attacks.iter().map(ToString::to_string).collect();
        Ok(AdversarialImages {
            shape: self.dataset.image_dims(),
            pixels: self.state.images.clone(),
            index: (0..n as u32).collect(),
            labels: self.labels(),
            eps: self.claims().map(|claim| claim.eps).collect(),
            predictions: Some(predictions.iter().map(|prediction| prediction.class).collect()),
            misclassified: Some(self.claims().map(|claim| u8::from(claim.misclassified)).collect()),
            attack: Some(attacks.join(",")),
            norm: Some(self.request.config.norm.to_string()),
            weights_sha256: Some(self.weights_sha256.into()),
            images_sha256: Some(self.images_sha256.into()),
            request: Some(self.state.request.clone()),
        })
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

    fn labels(&self) -> Vec<u32> {
        self.dataset.labels.iter().map(|&label| u32::from(label)).collect()
    }

    /// Predictions for the adversarial images.
    fn predictions(&self, device: &mut dyn Device, examples: &Examples) -> Result<Vec<CleanPrediction>> {
        let images = &self.state.images;
        let (labels, len) = (self.labels(), self.dataset.image_len());
        let mut predictions = Vec::with_capacity(labels.len());
        for index in examples.batches(&examples.indices()) {
            let (from, to) = (index[0] as usize, index[0] as usize + index.len());
            predictions.extend(examples.predict_images(device, &images[from * len..to * len], &labels[from..to])?);
        }
        Ok(predictions)
    }

    /// Refuses images outside [0, 1], and images outside their ball.
    fn check_distances(&self) -> Result<()> {
        let images = self.state.images.chunks_exact(self.dataset.image_len());
        for (i, (claim, image)) in self.claims().zip(images).enumerate() {
            if let Some(value) = image.iter().find(|value| !(0.0..=1.0).contains(*value)) {
                return Err(refusal(i, format!("expected numbers from 0 to 1, found {value}")));
            }
            let clean = self.dataset.image(i).iter().map(|&byte| f64::from(f32::from(byte) / 255.0));
            let differences = image.iter().zip(clean).map(|(value, clean)| f64::from(*value) - clean);
            let distance = match self.request.config.norm {
                Norm::Linf => differences.fold(0.0, |largest: f64, d| largest.max(d.abs())),
                Norm::L2 => differences.map(|d| d * d).sum::<f64>().sqrt(),
            };
            let eps = f64::from(claim.eps);
            if distance > eps * (1.0 + ROUNDING) {
                return Err(refusal(i, format!("expected to be within {eps} of the clean image, found {distance}")));
            }
        }
        Ok(())
    }
}

/// Error about image `i`.
fn refusal(i: usize, message: impl std::fmt::Display) -> Error {
    Error::failed(format!("adversarial image {i}: {message}"))
}
