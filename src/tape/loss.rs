//! Losses: functions of one example's logits.

use crate::choice::choices;

choices! {
    /// A loss of one example with logits `z` and label `y`.
    pub enum Loss {
        /// Cross-entropy: `logsumexp_j z_j - z_y`.
        Xent = "xent",
        /// Soft logit margin: `logsumexp_{j != y} z_j - z_y`; negative where p_y > 1/2.
        Slm = "slm",
        /// Logit margin: `max_{j != y} z_j - z_y`; negative where the label has the largest logit.
        Lm = "lm",
        /// Carlini and Wagner's loss: `max(lm + confidence, 0)`.
        Cw = "cw",
        /// Difference of logits ratio (Croce and Hein, 2020): `lm / (z_(1) - z_(3) + 1e-12)`, where `z_(k)` is the k-th
        /// largest logit. It does not change if all logits are multiplied by a positive number. For attacks alone.
        Dlr = "dlr",
    }
}

impl Loss {
    /// Least number of classes for which the loss is defined.
    pub fn least_classes(self) -> usize {
        if self == Loss::Dlr { 3 } else { 2 }
    }
}

/// A loss with its parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossRule {
    /// The loss.
    pub loss: Loss,
    /// Confidence of [`Loss::Cw`]; the other losses ignore it.
    pub confidence: f32,
}

/// A loss of one example with logits `z`, label `y` and target class `t`. Attacks maximize it, as every other loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TargetedLoss {
    /// The negated loss with the target as the label (`targeted` in advertorch).
    Minus(LossRule),
    /// `(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12)` (Croce and Hein, 2020).
    Dlr,
    /// `z_t - z_y`.
    Difference,
}

impl TargetedLoss {
    /// Least number of classes for which the loss is defined.
    pub fn least_classes(self) -> usize {
        match self {
            TargetedLoss::Minus(rule) => rule.loss.least_classes(),
            TargetedLoss::Dlr => 4,
            TargetedLoss::Difference => 2,
        }
    }
}
