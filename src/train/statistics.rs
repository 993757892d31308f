//! Statistics of training steps: the tensors of a batch from which they are made, and their sums over steps.

use crate::tape::{Buffer, Metric};

/// Values of each example of a step, from which the sums of [`Metric`] are made.
pub(super) struct BatchStatistics<'a> {
    /// Logit margin `[n]`, which [`StepRecorder::logit_margin`](super::step::StepRecorder::logit_margin) records: an
    /// example is correct where it is negative.
    pub logit_margin: &'a Buffer,
    /// Loss `[n]` whose mean is summed.
    pub loss: &'a Buffer,
    /// Loss `[n]` whose weighted sum is summed.
    pub weighted_loss: &'a Buffer,
    /// Weights `[n]` of `weighted_loss`; `None`: one over the number of active rows.
    pub weights: Option<&'a Buffer>,
    /// Radius or margin `[n]`; `None`: 0.
    pub eps: Option<&'a Buffer>,
}

/// Sums over training steps, by [`Metric`], as read from the device.
pub struct StepSums<'a>(pub &'a [f32]);

impl StepSums<'_> {
    fn sum(&self, metric: Metric) -> f32 {
        self.0[metric as usize]
    }

    /// Mean over the steps of the mean loss.
    pub fn mean_loss(&self) -> f32 {
        self.sum(Metric::MeanLoss) / self.sum(Metric::Steps)
    }

    /// Mean over the steps of the weighted loss.
    pub fn weighted_loss(&self) -> f32 {
        self.sum(Metric::WeightedLoss) / self.sum(Metric::Steps)
    }

    /// Percentage of correct examples.
    pub fn accuracy(&self) -> f32 {
        100.0 * self.sum(Metric::Correct) / self.sum(Metric::Examples)
    }

    /// Mean over the examples of eps.
    pub fn mean_eps(&self) -> f32 {
        self.sum(Metric::Eps) / self.sum(Metric::Examples)
    }

    /// Number of steps that were skipped.
    pub fn skipped_steps(&self) -> f32 {
        self.sum(Metric::SkippedSteps)
    }

    /// True if every step was skipped.
    pub fn all_skipped(&self) -> bool {
        self.skipped_steps() == self.sum(Metric::Steps)
    }

    /// Percentage of examples of weight 0.
    pub fn zero_weights(&self) -> f32 {
        100.0 * self.sum(Metric::ZeroWeights) / self.sum(Metric::Examples)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{mma, pgd, standard, trades};
    use super::*;
    use crate::record::StepRecord;

    /// Two steps of 50 examples.
    const SUMS: StepSums = StepSums(&[2.0, 100.0, 1.0, 0.5, 90.0, 30.0, 25.0, 1.0]);

    #[test]
    fn each_method_records_what_it_measures() {
        let names = |record: StepRecord| {
            let line = serde_json::to_value(record).unwrap();
            line.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(mma::figures(&SUMS)), "clean_loss margin_loss mean_margin train_accuracy train_reached_d_max");
        assert_eq!(names(standard::figures(&SUMS)), "clean_loss train_accuracy");
        assert_eq!(names(pgd::figures(&SUMS)), "adversarial_loss attack_eps train_adversarial_accuracy");
        assert_eq!(names(trades::figures(&SUMS)), "clean_loss kl train_accuracy");
    }

    #[test]
    fn losses_are_means_over_steps_and_the_rest_over_examples() {
        let mma = StepRecord {
            clean_loss: Some(0.5),
            margin_loss: Some(0.25),
            train_accuracy: Some(90.0),
            mean_margin: Some(0.3),
            train_reached_d_max: Some(25.0),
            ..StepRecord::default()
        };
        assert_eq!(mma::figures(&SUMS), mma);
        assert_eq!(trades::figures(&SUMS).kl, Some(0.25));
        assert_eq!(pgd::figures(&SUMS).adversarial_loss, Some(0.25));
    }
}
