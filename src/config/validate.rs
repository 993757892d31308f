//! Ranges of the settings, and rules between several of them. What the data can give is not known here.

use super::kinds::{Method, OptimizerKind, TestSearchStart};
use super::presets::preset;
use super::settings::{Config, Setting};
use crate::catalog::ModelKind;
use crate::{Error, Result};

impl Config {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is out of its range or contradicts another: the message names its flag, what was expected
    /// and what was found.
    pub fn validate(&self) -> Result<()> {
        let range = Setting::all().find_map(|setting| Some((setting.name, (setting.out_of_range)(self)?.into())));
        let Some((name, expected)) = range.or_else(|| self.contradiction()) else { return Ok(()) };
        let found = self.fields().into_iter().find(|field| field.0 == name).map(|field| field.1).unwrap_or_default();
        let found = if found.is_empty() { "nothing" } else { &found };
        Err(Error::usage(format!("--{}: expected {expected}; found {found}", name.replace('_', "-"))))
    }

    /// The first setting that contradicts another, and what was expected of it.
    fn contradiction(&self) -> Option<(&'static str, String)> {
        let max_eps = self.max_eps();
        let bound = format!("the search's upper bound {max_eps}, 1.05 times --hinge-maxeps {}", self.hinge_maxeps);
        let (within, length) = (|eps: f32| eps <= self.largest_distance(), self.length_range());
        let wide = self.model == ModelKind::WideResNet;
        let rules: [(bool, &'static str, &str); _] = [
            (preset(&self.preset).is_some(), "preset", "the name of a preset"),
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
            (within(self.hinge_maxeps), "hinge_maxeps", &length),
            (within(self.attack_mineps), "attack_mineps", &length),
            (within(self.attack_eps), "attack_eps", &length),
            (within(self.test_eps), "test_eps", &length),
            (within(self.test_eps_iter), "test_eps_iter", &length),
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
            (self.attack_mineps <= max_eps, "attack_mineps", &format!("at most {bound}")),
            (
                self.attack_eps > 0.0 || !self.method.has_fixed_eps(),
                "attack_eps",
                &format!("a positive number, the radius that {} attacks in", self.method),
            ),
            (
                self.eps_ramp_steps >= 1 || self.method != Method::Pgdls,
                "eps_ramp_steps",
                "at least 1, the step from which the radius is --attack-eps",
            ),
            (self.trades_beta > 0.0 || self.method != Method::Trades, "trades_beta", "a positive number"),
            (
                self.momentum == 0.0 || self.optimizer == OptimizerKind::Sgd,
                "momentum",
                "0 with --optimizer adam, which has its own",
            ),
            (
                self.test_eps <= max_eps || self.fidelity.test_search_start != TestSearchStart::TestEps,
                "test_eps",
                &format!("with --test-search-start test-eps at most {bound}"),
            ),
        ];
        rules.iter().find(|(holds, ..)| !holds).map(|(_, name, expected)| (*name, (*expected).to_owned()))
    }
}
