//! Findings of a finished evaluation, from which its report is built.

use super::checkpoint::EvaluationState;
use super::examples::CleanPrediction;
use super::image_results::{CLEAN, ImageResult};
use super::margins::MeasuredMargins;
use super::network::{ImageSet, Network};
use super::passes::Passes;
use super::report::{EvaluationReport, MinimumNormResult, RobustAccuracy, SCHEMA_VERSION};
use super::request::EvaluationRequest;
use super::statistics::{accuracy, mean};
use super::strength::{AttackStrength, describe};

/// Everything that an evaluation found.
pub(super) struct Findings<'a> {
    pub request: &'a EvaluationRequest,
    pub network: &'a Network,
    pub images: &'a ImageSet,
    /// Description of the device.
    pub device: String,
    /// Predictions without an attack, by image.
    pub clean: &'a [CleanPrediction],
    /// State after the last batch.
    pub state: &'a EvaluationState,
    /// Margins, if they were measured.
    pub margins: Option<MeasuredMargins>,
    /// Warnings of the checks.
    pub warnings: Vec<String>,
}

impl Findings<'_> {
    /// Report with the paper's averages.
    pub(super) fn report(self) -> EvaluationReport {
        let Findings { request, network, images, state, .. } = self;
        let config = &request.config;
        let count = images.dataset.len();
        let passes = state.bounded.iter().flatten().chain(&state.minimum_norm).map(|statistics| statistics.passes);
        let passes = passes.chain(self.margins.iter().map(|measured| measured.passes));
        let passes = passes.fold(Passes { forward: count as u64, backward: 0 }, |sum, passes| sum + passes);
        let correct: Vec<bool> = self.clean.iter().map(|prediction| prediction.correct).collect();
        let report = EvaluationReport {
            schema_version: SCHEMA_VERSION,
            maxmargin: env!("CARGO_PKG_VERSION").into(),
            commit: option_env!("MAXMARGIN_COMMIT").map(String::from),
            weights: network.path.display().to_string(),
            weights_sha256: network.sha256.clone(),
            request: state.request.clone(),
            model: network.model.describe(),
            normalization: network.model.normalization().to_string(),
            ignored_tensors: network.ignored_tensors.clone(),
            weights_remarks: network.remarks.clone(),
            dataset: config.dataset,
            split: request.split.to_string(),
            images: images.origin.clone(),
            images_sha256: images.sha256.clone(),
            provenance: Some(images.dataset.provenance),
            count,
            norm: config.norm,
            protocol: request.protocol.clone(),
            method: request.trained.map(|trained| trained.method.to_string()),
            d_max: request.trained.and_then(|trained| trained.d_max),
            seed: Some(request.settings.seed),
            batch_size: request.batch_size,
            precision: config.precision.to_string(),
            device: self.device.clone(),
            clean_accuracy: accuracy(&correct),
            average_robust_accuracy: None,
            average_accuracy: None,
            robust: self.robust(),
            minimum_norm: self.minimum_norm(),
            mean_margin: self.margins.as_ref().map(|measured| mean(&measured.margins.values)),
            margin_strength: self.margins.as_ref().map(|_| AttackStrength::of_an_pgd(config)),
            max_eps: config.max_eps(),
            forward_passes: passes.forward,
            backward_passes: passes.backward,
            seconds: Some(state.seconds),
            image_results: self.image_results(),
            adversarial: None,
            warnings: self.warnings,
            margins: self.margins.map(|measured| measured.margins.values),
            misclassified: (0..count).filter(|&i| !correct[i]).collect(),
        };
        report.with_averages()
    }

    /// Accuracy at each eps.
    fn robust(&self) -> Vec<RobustAccuracy> {
        let EvaluationRequest { settings, eps, .. } = self.request;
        let at = |(e, &eps): (usize, &f64)| {
            let results = self.clean.iter().zip(&self.state.found_by);
            let robust = results.map(|(clean, found)| clean.correct && found.is_none_or(|by| by.eps > e));
            RobustAccuracy {
                eps,
                accuracy: accuracy(&robust.collect::<Vec<_>>()),
                eps_iter: settings.step.at(eps as f32),
                attack: self.describe_bounded(),
                attacks: self.state.bounded[e].clone(),
            }
        };
        eps.iter().enumerate().map(at).collect()
    }

    /// Description of the attacks in balls in a line; values that are not the published ones are marked.
    fn describe_bounded(&self) -> String {
        let EvaluationRequest { attacks, config, settings, .. } = self.request;
        let bounded = attacks.iter().filter(|name| !name.is_minimum_norm());
        bounded.map(|&name| describe(name, config, settings)).collect::<Vec<_>>().join(" + ")
    }

    /// Result of each minimum-norm attack.
    fn minimum_norm(&self) -> Vec<MinimumNormResult> {
        let attacks = self.state.minimum_norm.iter().zip(&self.state.distances);
        attacks.map(|(statistics, distances)| MinimumNormResult::new(statistics, distances)).collect()
    }

    /// Result of each image.
    fn image_results(&self) -> Vec<ImageResult> {
        let result = |(i, clean): (usize, &CleanPrediction)| {
            let (found_eps, found_by) = match self.state.found_by[i] {
                _ if !clean.correct => (Some(0.0), Some(CLEAN.into())),
                Some(by) => (Some(self.request.eps[by.eps]), Some(self.state.bounded[by.eps][by.attack].name.clone())),
                None => (None, None),
            };
            let nearest = self.state.distances.iter().filter_map(|distances| distances[i]).reduce(f32::min);
            let misclassified = !clean.correct && !self.state.distances.is_empty();
            ImageResult {
                index: i,
                label: self.images.dataset.labels[i],
                clean_prediction: Some(clean.class),
                margin: self.margins.as_ref().map_or(nearest, |measured| Some(measured.margins.values[i])),
                distance: if misclassified { Some(0.0) } else { nearest },
                found_eps,
                found_by,
            }
        };
        self.clean.iter().enumerate().map(result).collect()
    }
}
