//! Values that follow from several settings: the search's upper bound, and the rules of losses and of PGD.

use super::kinds::TestAttackLoss;
use super::settings::Config;
use crate::catalog::Architecture;
use crate::tape::{Loss, LossRule, Norm, PgdRule, Precision};

impl Config {
    /// Upper bound of the search for the boundary, 1.05 times [`Config::hinge_maxeps`]: the product in double precision
    /// of the number as it is written, then rounded to single, as the released code holds it.
    pub fn max_eps(&self) -> f32 {
        (as_written(self.hinge_maxeps) * 1.05) as f32
    }

    /// Largest distance between two images, in the norm: no eps and no margin is larger.
    pub fn largest_distance(&self) -> f32 {
        match self.norm {
            Norm::Linf => 1.0,
            Norm::L2 => (self.dataset.entry().image.iter().product::<usize>() as f32).sqrt(),
        }
    }

    /// Range of lengths in the norm, in words, after "expected".
    pub fn length_range(&self) -> String {
        match self.norm {
            Norm::Linf => "at most 1, as pixels go from 0 to 1: 8/255 is 8 of 255 levels".into(),
            Norm::L2 => format!(
                "at most {}, the l2 distance of a black image from a white one, whose pixels are 0 and 1",
                self.largest_distance()
            ),
        }
    }

    /// Length that the training method is known by, as it was written: d_max of MMA, eps of methods that attack within
    /// a fixed one.
    pub fn trained_with(&self) -> Option<f64> {
        match self.method {
            method if method.is_mma() => Some(as_written(self.hinge_maxeps)),
            method if method.has_fixed_eps() => Some(as_written(self.attack_eps)),
            _ => None,
        }
    }

    /// Model and size of the network.
    pub fn architecture(&self) -> Architecture {
        Architecture { model: self.model, depth: self.depth, width: self.width }
    }

    /// Factor of the losses in training passes; `None` if these are single precision.
    pub fn training_loss_scale(&self) -> Option<f32> {
        (self.precision == Precision::Fp16).then_some(self.loss_scale)
    }

    /// `loss` with the cw confidence of the settings.
    pub fn loss_rule(&self, loss: Loss) -> LossRule {
        LossRule { loss, confidence: self.fidelity.cw_confidence }
    }

    /// Loss that PGD ascends when margins are measured.
    pub fn test_attack_loss(&self) -> LossRule {
        self.loss_rule(match self.fidelity.test_attack_loss_fn {
            TestAttackLoss::Slm => Loss::Slm,
            TestAttackLoss::AttackLossFn => self.attack_loss_fn,
        })
    }

    /// Norm and projections of PGD.
    pub fn pgd_rule(&self) -> PgdRule {
        PgdRule { norm: self.norm, l2_order: self.fidelity.l2_order, l2_grad_floor: self.fidelity.l2_grad_floor }
    }
}

/// The number whose shortest decimal form is `value`'s: 0.45 for the single-precision number nearest to it.
pub fn as_written(value: f32) -> f64 {
    value.to_string().parse().expect("a number's own text is a number")
}
