//! Every setting of a run, as one flat record: what `config.toml` in a run folder holds.
//!
//! Names are those of the released code's `config.py` and `train.py` where it has the setting. This file owns the
//! record, its file form and how it is shown; it reads no flag and starts no run.

mod method;
mod others;
mod presets;
mod validate;

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::catalog::{Architecture, DatasetKind, ModelKind};
use crate::choice::choices;
pub use crate::tape::{Direction, L2Order};
use crate::tape::{Loss, Norm};
use crate::{Error, Result};

pub use method::Method;
pub use presets::{DEFAULT_PRESET, Preset, preset, presets};

/// A training run's settings. A run is a function of this record, of the data and of nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The preset these settings started from.
    pub preset: String,
    /// Seed of every random number.
    pub seed: u64,
    /// Which images.
    pub dataset: DatasetKind,
    /// Use only the first so many training images, after the validation images were set aside.
    pub train_size: Option<usize>,
    /// How many of the first training images are held out for validation (5,000 in the paper).
    pub val_size: usize,
    /// Use only the first so many test images.
    pub test_size: Option<usize>,
    /// Training images are moved by up to 4 pixels, what is beyond the edge reflected, and half of them mirrored; each
    /// anew at every visit.
    pub augment: bool,

    /// Which network.
    pub model: ModelKind,
    /// The wide ResNet's depth, 6n + 4; LeNet5 has none.
    pub depth: Option<usize>,
    /// LeNet5: a multiple of the published 32 and 64 filters and 1,024 hidden units. Wide ResNet: the widening factor, a
    /// whole number.
    pub width: f64,

    /// How it is trained. In a file that does not say, by MMA.
    #[serde(default = "mma")]
    pub method: Method,
    /// The norm of margins and attacks.
    pub norm: Norm,
    /// d_max: the margin up to which an example is trained on at its boundary point.
    pub hinge_maxeps: f32,
    /// The loss on clean examples.
    pub clean_loss_fn: Loss,
    /// The loss at the boundary points; with pgd and pgdls the one loss that the attack ascends and training descends.
    pub margin_loss_fn: Loss,
    /// The loss that PGD ascends in MMA, and when margins are measured.
    pub attack_loss_fn: Loss,
    /// The loss whose zero the bisection looks for.
    pub search_loss_fn: Loss,
    /// MMA: the share of the clean loss's gradient; 0 is OMMA, which saves the clean backward pass.
    pub clean_loss_coeff: f32,
    /// Iterations of PGD.
    pub nb_iter: u32,
    /// PGD's step is this times eps / `nb_iter`.
    pub eps_iter_scale: f32,
    /// Halvings of the bisection.
    pub num_search_steps: u32,
    /// MMA: the least eps that PGD searches within.
    pub attack_mineps: f32,
    /// pgd, pgdls, trades: radius of the ball that is attacked in. 0 in a file that does not say.
    #[serde(default)]
    pub attack_eps: f32,
    /// pgdls: the step from which the radius is `attack_eps`; it grows linearly from 0 at step 0. How long the paper's runs
    /// took is not known. 0 in a file that does not say.
    #[serde(default)]
    pub eps_ramp_steps: u32,
    /// trades: what the divergence counts, beside the clean loss's 1. 0 in a file that does not say.
    #[serde(default)]
    pub trades_beta: f32,

    /// How gradients become weights.
    pub optimizer: OptimizerKind,
    /// SGD's momentum.
    pub momentum: f32,
    /// L2 penalty added to every gradient.
    pub weight_decay: f32,
    /// (from step, learning rate), the first from step 0.
    pub learning_rate_schedule: Vec<(u32, f32)>,
    /// Examples a step.
    pub training_batch_size: usize,
    /// Steps of the whole run.
    pub max_num_training_steps: u32,

    /// PGD's eps when margins are measured, on validation and test images.
    pub test_eps: f32,
    /// PGD's step when margins are measured.
    pub test_eps_iter: f32,
    /// Steps between two lines of `metrics.jsonl`.
    pub disp_interval: u32,
    /// Steps between two writes of the checkpoint to resume from; one is also written after each epoch.
    pub checkpoint_interval: u32,

    /// Where the released code differs from the paper's text.
    pub fidelity: Fidelity,
}

/// The method of a file that names none.
fn mma() -> Method {
    Method::Mma
}

impl Config {
    /// The settings in `file`, which must hold every one but those that have come since MMA was the only method.
    ///
    /// # Errors
    /// The file cannot be read; or a setting is missing, unknown, of a wrong type or out of its range.
    pub fn load(file: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(file).map_err(|source| Error::io(file, "read", source))?;
        let mut config: Config = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            Error::format(file, format!("line {line}: {}", error.message()))
        })?;
        if config.method == Method::Mma {
            config.method = Method::of_share(config.clean_loss_coeff);
        }
        config.validate().map_err(|error| Error::format(file, error.to_string()))?;
        Ok(config)
    }

    /// The settings as TOML. Reading it gives the same bits: a number is written with the fewest digits that do.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every setting has a TOML form")
    }

    /// The search's upper bound, 1.05 times [`Config::hinge_maxeps`]: the product in double precision of the number
    /// as it is written, then rounded to single, as the released code holds it.
    pub fn max_eps(&self) -> f32 {
        (as_written(self.hinge_maxeps) * 1.05) as f32
    }

    /// Model and size of the network.
    pub fn architecture(&self) -> Architecture {
        Architecture { model: self.model, depth: self.depth, width: self.width }
    }

    /// Every setting by name, in the order of the record, each value as its flag takes it; a size that was not
    /// limited reads `all`, a depth that the network does not have `none`.
    pub fn fields(&self) -> Vec<(String, String)> {
        // TOML leaves out what is `None`; no valid size is 0.
        let complete = Config {
            train_size: self.train_size.or(Some(0)),
            test_size: self.test_size.or(Some(0)),
            depth: self.depth.or(Some(0)),
            ..self.clone()
        };
        let value = |name: &str, text: &str| match name {
            "train_size" if self.train_size.is_none() => "all".into(),
            "test_size" if self.test_size.is_none() => "all".into(),
            "depth" if self.depth.is_none() => "none".into(),
            "learning_rate_schedule" => schedule_text(&self.learning_rate_schedule),
            _ => text.trim_matches('"').into(),
        };
        let text = complete.to_toml();
        let pairs = text.lines().filter_map(|line| line.split_once(" = "));
        pairs.map(|(name, text)| (name.into(), value(name, text))).collect()
    }

    /// The settings for a person: aligned lines of `name = value`, and the preset's value where it was overridden.
    pub fn describe(&self) -> String {
        let base = preset(&self.preset).map_or_else(Vec::new, |preset| preset.config.fields());
        let fields = self.fields();
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in &fields {
            let _ = write!(text, "{name:width$} = {value}");
            if let Some((_, preset)) = base.iter().find(|field| field.0 == *name && field.1 != *value) {
                let _ = write!(text, "   ({}: {preset})", self.preset);
            }
            text.push('\n');
        }
        text
    }
}

/// The number whose shortest decimal form is `value`'s: 0.45 for the single-precision number nearest to it.
pub fn as_written(value: f32) -> f64 {
    value.to_string().parse().expect("a number's own text is a number")
}

/// A schedule as its flag takes it: `0:0.3,20000:0.09`.
fn schedule_text(schedule: &[(u32, f32)]) -> String {
    schedule.iter().map(|(step, rate)| format!("{step}:{rate}")).collect::<Vec<_>>().join(",")
}

choices! {
    /// The optimizer's rule.
    pub enum OptimizerKind {
        /// Adam (Kingma and Ba, 2015), with beta 0.9 and 0.999, eps 1e-8, as PyTorch computes it.
        Adam = "adam",
        /// SGD with momentum, as PyTorch computes it.
        Sgd = "sgd",
    }
}

/// Where the released code does something else than the paper's text says: each a named choice.
/// [`Fidelity::RELEASED`] is the default, because it is what the published figures came from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fidelity {
    /// Batch norm's mode in the bisection. LeNet5 has no batch norm: there it changes nothing.
    pub search_mode: SearchMode,
    /// An example counts as right when this loss is negative on it: `slm` says p_y > 1/2 (released), `lm` says
    /// that the label has the largest logit (paper).
    pub right_when: Loss,
    /// What the stored margin is a multiple of.
    pub direction: Direction,
    /// Clamp the boundary point to [0, 1] before it is trained on. The released code trains on it as it is.
    pub clamp_boundary: bool,
    /// Which end of the last bracket is the boundary point.
    pub search_result: SearchResult,
    /// A wrong example's stored margin becomes 0, so that its next search starts at `attack_mineps`
    /// (released); false keeps what it had.
    pub forget_wrong: bool,
    /// Where the bisection starts when margins are measured for model selection.
    pub test_search_start: TestSearchStart,
    /// The loss whose zero is the boundary when margins are measured: `lm`, whatever training uses.
    pub test_search_loss_fn: Loss,
    /// What of PGD in l2 comes first after the step.
    pub l2_order: L2Order,
    /// The least gradient norm that an l2 step divides by.
    pub l2_grad_floor: f32,
    /// The cw loss is max(margin + this, 0): no gradient on examples more confident than that.
    pub cw_confidence: f32,
}

choices! {
    /// Batch norm's mode in the bisection.
    pub enum SearchMode {
        /// Batch statistics, and the running ones are updated at every probe (released).
        Train = "train",
        /// Running statistics, unchanged.
        Eval = "eval",
    }
}

choices! {
    /// Which end of the last bracket is the boundary point.
    pub enum SearchResult {
        /// The middle, on whichever side it lies (released).
        Midpoint = "midpoint",
        /// The upper end, the nearest point known to be misclassified.
        Adversarial = "adversarial",
    }
}

choices! {
    /// Where the bisection starts when margins are measured.
    pub enum TestSearchStart {
        /// Half the upper bound, with the sign that was measured at PGD's eps (released).
        HalfMaxeps = "half-maxeps",
        /// PGD's eps, where the sign was measured.
        TestEps = "test-eps",
    }
}

impl Fidelity {
    /// What the released code does.
    pub const RELEASED: Fidelity = Fidelity {
        search_mode: SearchMode::Train,
        right_when: Loss::Slm,
        direction: Direction::Eps,
        clamp_boundary: false,
        search_result: SearchResult::Midpoint,
        forget_wrong: true,
        test_search_start: TestSearchStart::HalfMaxeps,
        test_search_loss_fn: Loss::Lm,
        l2_order: L2Order::BoxBall,
        l2_grad_floor: 1e-6,
        cw_confidence: 50.0,
    };

    /// What the paper's text says or intends.
    pub const PAPER: Fidelity = Fidelity {
        search_mode: SearchMode::Eval,
        right_when: Loss::Lm,
        direction: Direction::Unit,
        clamp_boundary: true,
        search_result: SearchResult::Adversarial,
        forget_wrong: false,
        test_search_start: TestSearchStart::TestEps,
        test_search_loss_fn: Loss::Lm,
        l2_order: L2Order::BallBox,
        l2_grad_floor: 1e-12,
        cw_confidence: 1e4,
    };
}

#[cfg(test)]
mod tests;
