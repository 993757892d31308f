//! Figures of a training run: the lines of `metrics.jsonl` as they are written and as they are read.
//!
//! A figure that a method does not measure is absent from its lines. JSON has no NaN: it is written as `null` and read
//! as an absent figure. Lines of older versions lack the figures that have been added since.

use std::fmt::{self, Display, Formatter};
use std::ops::Deref;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::line::{CLOCK, Kind, read_metrics};
use super::margins::MarginCounts;
use crate::{Error, Result};

/// Means over the training steps since the line before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepRecord {
    /// Mean loss of the clean images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clean_loss: Option<f32>,
    /// MMA: mean loss of the margin pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin_loss: Option<f32>,
    /// PGD training: mean loss of the attacked images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adversarial_loss: Option<f32>,
    /// TRADES: mean KL divergence of the attacked images' predictions from the clean images', not multiplied by beta.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<f32>,
    /// Accuracy on the clean images of the batches, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_accuracy: Option<f32>,
    /// PGD training: accuracy on the attacked images of the batches, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_adversarial_accuracy: Option<f32>,
    /// MMA: mean margin, 0 for misclassified images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_margin: Option<f32>,
    /// MMA: percentage of images whose margin has reached d_max.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_reached_d_max: Option<f32>,
    /// PGD training: mean radius of the attack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attack_eps: Option<f32>,
    /// Training passes in half precision: number of steps that were skipped because a gradient had overflowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped_steps: Option<u32>,
    /// Learning rate of the last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f32>,
}

impl StepRecord {
    /// Lists all losses if one of them is infinite or NaN: training has diverged.
    pub fn divergence(&self) -> Option<String> {
        let all = [
            ("clean loss", self.clean_loss),
            ("margin loss", self.margin_loss),
            ("adversarial loss", self.adversarial_loss),
            ("kl", self.kl),
        ];
        let losses: Vec<_> = all.into_iter().filter_map(|(name, loss)| Some((name, loss?))).collect();
        let text: Vec<_> = losses.iter().map(|(name, loss)| format!("{name} {loss}")).collect();
        losses.iter().any(|(_, loss)| !loss.is_finite()).then(|| text.join(", "))
    }
}

/// The figures that progress shows: the loss that is trained on, the accuracy, and what the method adds to them.
impl Display for StepRecord {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let loss = self.margin_loss.or(self.adversarial_loss).or(self.clean_loss);
        let accuracy = self.train_accuracy.or(self.train_adversarial_accuracy);
        let parts = [
            loss.map(|loss| format!("loss {loss:.4}")),
            self.kl.map(|kl| format!("kl {kl:.4}")),
            accuracy.map(|percent| format!("accuracy {percent:.1} %")),
            self.attack_eps.map(|eps| format!("eps {eps:.4}")),
            self.mean_margin.map(|margin| format!("mean margin {margin:.4}")),
            self.skipped_steps.filter(|steps| *steps > 0).map(|steps| format!("{steps} skipped")),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join("  "))
    }
}

/// Figures of the validation images at the end of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EpochRecord {
    /// Number of the epoch that has ended, from 1.
    pub epoch: u64,
    /// Accuracy in percent.
    pub validation_accuracy: Option<f64>,
    /// Mean margin of all images, misclassified ones included.
    pub validation_mean_margin: Option<f64>,
    /// True if no mean margin before was as large.
    pub best: bool,
    /// Histogram of the margins; absent from runs of older versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margins: Option<MarginCounts>,
}

/// Figures of a network on the test images, before or after training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResultRecord {
    /// Weights of the network: `initial`, or the name of a file.
    pub weights: String,
    /// Number of steps after which the weights were written.
    pub weights_step: u64,
    /// Number of test images.
    pub test_images: u64,
    /// Accuracy on clean images, in percent.
    pub clean_accuracy: Option<f64>,
    /// Accuracy on attacked images, in percent.
    pub robust_accuracy: Option<f64>,
    /// Description of the attack.
    pub robust_attack: String,
    /// Mean margin of all images, misclassified ones included.
    pub mean_margin: Option<f64>,
    /// Memory that the run took on the device, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_bytes: Option<u64>,
    /// SHA-256 of training, validation and test images with their labels; empty in runs of older versions.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub data_sha256: String,
    /// Provenance of the images: `bundled`, `published` or `other`; empty in runs of older versions.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub data_provenance: String,
    /// Description of the device; empty in runs of older versions.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// Forward passes of the training steps so far, summed over the images of their batches. An attack counts as if it
    /// ran on all of them, though MMA attacks only the correct ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training_forward_passes: Option<u64>,
    /// Backward passes of the training steps so far, counted likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training_backward_passes: Option<u64>,
}

/// Figures read from a line, with the step after which they were measured.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct AtStep<T> {
    /// Number of steps done.
    pub step: u64,
    /// The figures.
    #[serde(flatten)]
    pub figures: T,
}

impl<T> Deref for AtStep<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.figures
    }
}

/// All lines of a run's `metrics.jsonl`, by kind, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct RunMetrics {
    /// A line each logging interval.
    pub steps: Vec<AtStep<StepRecord>>,
    /// A line each validation.
    pub epochs: Vec<AtStep<EpochRecord>>,
    /// The network before training and after it.
    pub results: Vec<AtStep<ResultRecord>>,
    /// Time by the lines' clocks, summed over the processes that wrote them. The part of a process after its last line
    /// is missing. 0 if no line has a clock.
    pub seconds: f64,
}

impl RunMetrics {
    /// Reads `metrics.jsonl`.
    ///
    /// # Errors
    /// As [`read_metrics`]; [`Error::Format`] with the number of the first line with a figure of another type.
    pub fn read(path: &Path) -> Result<Self> {
        let mut metrics = RunMetrics::default();
        let lines = read_metrics(path)?;
        metrics.seconds = elapsed(lines.iter().filter_map(|line| line[CLOCK]["seconds"].as_f64()));
        for (i, line) in lines.into_iter().enumerate() {
            metrics.add(line).map_err(|e| Error::format(path, format!("line {}: {e}", i + 1)))?;
        }
        Ok(metrics)
    }

    /// True if nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.epochs.is_empty() && self.results.is_empty()
    }

    fn add(&mut self, line: Value) -> serde_json::Result<()> {
        match Kind::deserialize(&line["kind"])? {
            Kind::Step => self.steps.push(serde_json::from_value(line)?),
            Kind::Epoch => self.epochs.push(serde_json::from_value(line)?),
            Kind::Result => self.results.push(serde_json::from_value(line)?),
        }
        Ok(())
    }
}

/// Time over which clocks ran that each process starts anew: a clock that goes back is another process's.
fn elapsed(clocks: impl Iterator<Item = f64>) -> f64 {
    let (before, last) = clocks.fold((0.0, 0.0), |(before, last): (f64, f64), now| match now < last {
        true => (before + last, now),
        false => (before, now),
    });
    before + last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_resumed_run_is_that_of_all_its_processes() {
        let time = |clocks: &[f64]| elapsed(clocks.iter().copied());
        assert_eq!(time(&[]), 0.0);
        assert_eq!(time(&[0.5, 10.0, 20.0]), 20.0);
        assert_eq!(time(&[0.5, 10.0, 20.0, 1.0, 5.0, 0.25]), 25.25);
    }

    #[test]
    fn progress_shows_the_loss_that_is_trained_on_and_the_accuracy() {
        let accuracy = Some(90.0);
        for (record, shown) in [
            (
                StepRecord {
                    clean_loss: Some(0.5),
                    margin_loss: Some(0.25),
                    train_accuracy: accuracy,
                    mean_margin: Some(0.00392),
                    ..StepRecord::default()
                },
                "loss 0.2500  accuracy 90.0 %  mean margin 0.0039",
            ),
            (
                StepRecord { clean_loss: Some(0.5), train_accuracy: accuracy, ..StepRecord::default() },
                "loss 0.5000  accuracy 90.0 %",
            ),
            (
                StepRecord {
                    adversarial_loss: Some(0.25),
                    train_adversarial_accuracy: accuracy,
                    attack_eps: Some(0.3),
                    ..StepRecord::default()
                },
                "loss 0.2500  accuracy 90.0 %  eps 0.3000",
            ),
            (
                StepRecord { clean_loss: Some(0.5), kl: Some(0.25), train_accuracy: accuracy, ..StepRecord::default() },
                "loss 0.5000  kl 0.2500  accuracy 90.0 %",
            ),
        ] {
            assert_eq!(record.to_string(), shown);
        }
    }

    #[test]
    fn an_infinite_or_nan_loss_is_a_divergence() {
        let trades = |kl| StepRecord { clean_loss: Some(0.5), kl: Some(kl), ..StepRecord::default() };
        assert_eq!(trades(0.5).divergence(), None);
        assert_eq!(trades(f32::NAN).divergence(), Some("clean loss 0.5, kl NaN".into()));
        let mma = StepRecord { clean_loss: Some(0.5), margin_loss: Some(f32::INFINITY), ..StepRecord::default() };
        assert_eq!(mma.divergence(), Some("clean loss 0.5, margin loss inf".into()));
    }

    #[test]
    fn nan_is_written_as_null_and_read_as_absent() {
        let text = serde_json::to_string(&StepRecord { kl: Some(f32::NAN), ..StepRecord::default() }).unwrap();
        assert_eq!(text, r#"{"kl":null}"#);
        assert_eq!(serde_json::from_str::<StepRecord>(&text).unwrap(), StepRecord::default());
    }
}
