//! The ranges of the settings, and which of them contradict each other. What the data can give is not known here.

use super::{Config, Method, OptimizerKind, TestSearchStart, preset};
use crate::catalog::ModelKind;
use crate::device::cuda::launch::RATES;
use crate::tape::Loss;
use crate::{Error, Result};

impl Config {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first that is out of its range: the message names its flag, what was expected and what was found.
    pub fn validate(&self) -> Result<()> {
        let positive = |value: f32| value.is_finite() && value > 0.0;
        let signed = |loss: Loss| matches!(loss, Loss::Slm | Loss::Lm);
        let max_eps = self.max_eps();
        let bound = format!("the search's upper bound {max_eps}, 1.05 times --hinge-maxeps {}", self.hinge_maxeps);
        let wide = self.model == ModelKind::WideResNet;
        let fidelity = &self.fidelity;
        let schedule = &self.learning_rate_schedule;
        // dlr's denominator changes with the weights: to descend it may raise what the others are measured by.
        let trains = |loss: Loss| loss != Loss::Dlr;
        const TRAINS: &str = "xent, slm, lm or cw: dlr is a loss to attack with";
        const SIGNED: &str = "slm or lm, whose sign says on which side of the boundary an image is";

        let ranges = [
            (preset(&self.preset).is_some(), "preset", "the name of a preset"),
            (self.train_size != Some(0), "train_size", "at least 1"),
            (self.val_size >= 1, "val_size", "at least 1: validation chooses the best weights"),
            (self.test_size != Some(0), "test_size", "at least 1"),
            (
                self.model.takes(self.dataset),
                "model",
                "lenet5 for the images of digits and mnist, wide-resnet for those of cifar10",
            ),
            (wide || self.depth.is_none(), "depth", "none: LeNet5 has no depth"),
            (
                !wide || self.depth.is_some_and(|depth| (10..=100).contains(&depth) && depth % 6 == 4),
                "depth",
                "10, 16, 22, 28 or another 6n + 4 up to 100",
            ),
            // Less than 1/32 would leave the first convolution without a filter.
            (wide || (1.0 / 32.0..=32.0).contains(&self.width), "width", "a number from 1/32 to 32"),
            (
                !wide || (1.0..=32.0).contains(&self.width) && self.width.fract() == 0.0,
                "width",
                "a whole number from 1 to 32, the widening factor",
            ),
            (positive(self.hinge_maxeps) && max_eps.is_finite(), "hinge_maxeps", "a positive number"),
            (
                (0.0..1.0).contains(&self.clean_loss_coeff),
                "clean_loss_coeff",
                "a number from 0 up to, not including, 1",
            ),
            (
                self.method != Method::Omma || self.clean_loss_coeff == 0.0,
                "clean_loss_coeff",
                "0 with --method omma, which is mma without the clean loss",
            ),
            (
                self.method != Method::Mma || self.clean_loss_coeff > 0.0,
                "clean_loss_coeff",
                "a positive number with --method mma; with 0 it is --method omma",
            ),
            (trains(self.clean_loss_fn), "clean_loss_fn", TRAINS),
            (trains(self.margin_loss_fn), "margin_loss_fn", TRAINS),
            (signed(self.search_loss_fn), "search_loss_fn", SIGNED),
            (self.nb_iter >= 1, "nb_iter", "at least 1"),
            (positive(self.eps_iter_scale), "eps_iter_scale", "a positive number"),
            (self.num_search_steps >= 1, "num_search_steps", "at least 1"),
            (positive(self.attack_mineps), "attack_mineps", "a positive number"),
            (self.attack_mineps <= max_eps, "attack_mineps", &format!("at most {bound}")),
            (
                positive(self.attack_eps) || self.attack_eps == 0.0 && !self.method.has_fixed_eps(),
                "attack_eps",
                &format!("a positive number, the radius that {} attacks in", self.method),
            ),
            (
                self.eps_ramp_steps >= 1 || self.method != Method::Pgdls,
                "eps_ramp_steps",
                "at least 1, the step from which the radius is --attack-eps",
            ),
            (
                positive(self.trades_beta) || self.trades_beta == 0.0 && self.method != Method::Trades,
                "trades_beta",
                "a positive number",
            ),
            ((0.0..1.0).contains(&self.momentum), "momentum", "a number from 0 up to, not including, 1"),
            (
                self.momentum == 0.0 || self.optimizer == OptimizerKind::Sgd,
                "momentum",
                "0 with --optimizer adam, which has its own",
            ),
            (
                self.weight_decay.is_finite() && self.weight_decay >= 0.0,
                "weight_decay",
                "a number that is not negative",
            ),
            (
                schedule.first().is_some_and(|first| first.0 == 0),
                "learning_rate_schedule",
                "a first rate from step 0, such as 0:0.3,20000:0.09",
            ),
            (
                schedule.windows(2).all(|pair| pair[0].0 < pair[1].0),
                "learning_rate_schedule",
                "steps that ascend, each once",
            ),
            (schedule.iter().all(|entry| positive(entry.1)), "learning_rate_schedule", "positive rates"),
            (
                schedule.len() <= RATES,
                "learning_rate_schedule",
                &format!("at most {RATES} rates, as many as the GPU's kernels take"),
            ),
            (self.training_batch_size >= 1, "training_batch_size", "at least 1"),
            (self.max_num_training_steps >= 1, "max_num_training_steps", "at least 1"),
            (positive(self.test_eps), "test_eps", "a positive number"),
            (
                self.test_eps <= max_eps || fidelity.test_search_start != TestSearchStart::TestEps,
                "test_eps",
                &format!("with --test-search-start test-eps at most {bound}"),
            ),
            (positive(self.test_eps_iter), "test_eps_iter", "a positive number"),
            (self.disp_interval >= 1, "disp_interval", "at least 1"),
            (self.checkpoint_interval >= 1, "checkpoint_interval", "at least 1"),
            (signed(fidelity.right_when), "right_when", SIGNED),
            (signed(fidelity.test_search_loss_fn), "test_search_loss_fn", SIGNED),
            (positive(fidelity.l2_grad_floor), "l2_grad_floor", "a positive number"),
            (
                fidelity.cw_confidence.is_finite() && fidelity.cw_confidence >= 0.0,
                "cw_confidence",
                "a number that is not negative",
            ),
        ];
        match ranges.iter().find(|(holds, ..)| !holds) {
            None => Ok(()),
            Some((_, name, expected)) => {
                let found = self.fields().into_iter().find(|field| field.0 == *name).map_or("nothing".into(), |f| f.1);
                let found = if found.is_empty() { "nothing".into() } else { found };
                Err(Error::usage(format!("--{}: expected {expected}; found {found}", name.replace('_', "-"))))
            }
        }
    }
}
