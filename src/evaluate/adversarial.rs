//! The adversarial images of an evaluation as a file, and its check: what was written is read again, and box, ball and
//! labels are recomputed from it.

use std::collections::BTreeMap;
use std::path::Path;

use super::Examples;
use super::checkpoint::EvaluationState;
use super::examples::CleanPrediction;
use super::request::EvaluationRequest;
use crate::data::Dataset;
use crate::device::Device;
use crate::record::{Tensor, TensorFile, write_tensors};
use crate::tape::Norm;
use crate::{Error, Result};

/// A length may be off by the rounding of single precision.
const ROUNDING: f64 = 1e-6;

/// What is to be written.
pub(super) struct Adversarials<'a> {
    pub dataset: &'a Dataset,
    pub question: &'a EvaluationRequest,
    pub state: &'a EvaluationState,
    pub right: &'a [bool],
}

/// The file.
pub(super) struct AdversarialFile<'a> {
    pub file: &'a Path,
    pub norm: Norm,
    pub weights_sha256: &'a str,
}

impl Adversarials<'_> {
    /// By example: the radius within which its image lies, and whether it is said to be misclassified.
    fn claims(&self) -> Vec<(f32, bool)> {
        let EvaluationState { broken, nearest, .. } = self.state;
        let eps = &self.question.eps;
        let claim = |i: usize| {
            let found = nearest.iter().filter_map(|found| found[i]).reduce(f32::min);
            match (broken[i], eps.last()) {
                _ if !self.right[i] => (0.0, true),
                (Some([e, ..]), _) => (eps[e] as f32, true),
                (None, Some(&largest)) => (largest as f32, false),
                (None, None) => (found.unwrap_or(0.0), found.is_some()),
            }
        };
        (0..broken.len()).map(claim).collect()
    }
}

impl AdversarialFile<'_> {
    /// Writes the images, reads them again and checks each: inside [0, 1], inside its ball, and misclassified if it is
    /// said to be.
    ///
    /// # Errors
    /// The file cannot be written; what was written is not what was claimed (names the image); or the device failed.
    pub fn write_and_check(&self, all: &Adversarials, device: &mut dyn Device, examples: &Examples) -> Result<()> {
        let Adversarials { dataset, question, state, .. } = all;
        let claims = all.claims();
        let n = claims.len();
        let shape = [n, dataset.height, dataset.width, dataset.channels];
        let labels: Vec<u32> = dataset.labels.iter().map(|&label| u32::from(label)).collect();
        let mut tensors = vec![
            Tensor::new("adversarial", &shape, state.images.clone()),
            Tensor::new("index", &[n], (0..n as u32).collect::<Vec<u32>>()),
            Tensor::new("labels", &[n], labels.clone()),
            Tensor::new("eps", &[n], claims.iter().map(|claim| claim.0).collect::<Vec<f32>>()),
            Tensor::new("misclassified", &[n], claims.iter().map(|claim| u8::from(claim.1)).collect::<Vec<u8>>()),
        ];
        let row = state.images.len() / n.max(1);
        let all = examples.all();
        let mut look = |images: &[f32]| -> Result<Vec<CleanPrediction>> {
            let batches = examples.batches(&all).map(|batch| (batch[0] as usize, batch[0] as usize + batch.len()));
            let looked = batches
                .map(|(from, to)| examples.look_at(&mut *device, &images[from * row..to * row], &labels[from..to]));
            Ok(looked.collect::<Result<Vec<_>>>()?.concat())
        };
        let predictions: Vec<u32> = look(&state.images)?.iter().map(|looked| looked.prediction).collect();
        tensors.push(Tensor::new("predictions", &[n], predictions));
        let attacks: Vec<_> = question.attacks.iter().map(ToString::to_string).collect();
        let metadata = BTreeMap::from([
            ("norm".into(), self.norm.to_string()),
            ("attack".into(), attacks.join(",")),
            ("weights_sha256".into(), self.weights_sha256.into()),
        ]);
        write_tensors(self.file, &tensors, &metadata)?;

        let file = TensorFile::read(self.file)?;
        let images = file.get::<f32>("adversarial", &shape)?;
        let wrong = |i: usize, message: String| Error::format(self.file, format!("adversarial, image {i}: {message}"));
        for (i, (image, clean)) in images.chunks(row.max(1)).zip(dataset.images.chunks(row.max(1))).enumerate() {
            if let Some(value) = image.iter().find(|value| !(0.0..=1.0).contains(*value)) {
                return Err(wrong(i, format!("expected numbers from 0 to 1, found {value}")));
            }
            let differences = image.iter().zip(clean).map(|(a, &x)| f64::from(*a) - f64::from(f32::from(x) / 255.0));
            let distance = match self.norm {
                Norm::Linf => differences.fold(0.0, |most: f64, d| most.max(d.abs())),
                Norm::L2 => differences.map(|d| d * d).sum::<f64>().sqrt(),
            };
            let eps = f64::from(claims[i].0);
            if distance > eps * (1.0 + ROUNDING) {
                return Err(wrong(i, format!("expected to be within {eps} of the clean image, found {distance}")));
            }
        }
        let broken = |(clean, claim): (CleanPrediction, &(f32, bool))| clean.right && claim.1;
        match look(images)?.into_iter().zip(&claims).position(broken) {
            Some(i) => Err(wrong(i, "expected to be misclassified, found its label".into())),
            None => Ok(()),
        }
    }
}
