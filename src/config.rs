//! Every setting of a run, as one flat record: what `config.toml` in a run folder holds.
//!
//! Names are those of the released code's `config.py` and `train.py` where it has the setting. This file owns the
//! record, its file form and how it is shown; it reads no flag and starts no run.

mod presets;
mod validate;

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::DatasetKind;
use crate::model::{LeNet5, Model, WideResNet};
pub use crate::tape::op::{Direction, L2Order};
use crate::tape::{Loss, Norm};
use crate::{Error, Result};

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

    /// The norm margins are measured in.
    pub norm: Norm,
    /// d_max: the margin up to which an example is trained on at its boundary point.
    pub hinge_maxeps: f32,
    /// The loss on clean examples.
    pub clean_loss_fn: Loss,
    /// The loss at the boundary points.
    pub margin_loss_fn: Loss,
    /// The loss that PGD ascends.
    pub attack_loss_fn: Loss,
    /// The loss whose zero the bisection looks for.
    pub search_loss_fn: Loss,
    /// The share of the clean loss's gradient; 0 is OMMA, which saves the clean backward pass.
    pub clean_loss_coeff: f32,
    /// Iterations of PGD.
    pub nb_iter: u32,
    /// PGD's step is this times eps / `nb_iter`.
    pub eps_iter_scale: f32,
    /// Halvings of the bisection.
    pub num_search_steps: u32,
    /// The least eps that PGD searches within.
    pub attack_mineps: f32,

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

impl Config {
    /// The settings in `file`, which must hold every one.
    ///
    /// # Errors
    /// The file cannot be read; or a setting is missing, unknown, of a wrong type or out of its range.
    pub fn load(file: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(file).map_err(|source| Error::io(file, "read", source))?;
        let config: Config = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            Error::format(file, format!("line {line}: {}", error.message()))
        })?;
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

    /// The network, its parameters not yet declared. The settings are valid.
    pub fn network(&self) -> Box<dyn Model> {
        match (self.model, self.depth) {
            (ModelKind::LeNet5, _) => Box::new(LeNet5::new(self.width)),
            (ModelKind::WideResNet, Some(depth)) => Box::new(WideResNet::new(depth, self.width as usize)),
            (ModelKind::WideResNet, None) => unreachable!("a valid wide ResNet has a depth"),
        }
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

/// Which network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum ModelKind {
    /// LeNet5, for digits: Madry et al.'s.
    #[serde(rename = "lenet5")]
    #[value(name = "lenet5")]
    LeNet5,
    /// The wide ResNet, for CIFAR10: standardizes each image first.
    #[serde(rename = "wide-resnet")]
    #[value(name = "wide-resnet")]
    WideResNet,
}

/// The optimizer's rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam (Kingma and Ba, 2015), with beta 0.9 and 0.999, eps 1e-8, as PyTorch computes it.
    Adam,
    /// SGD with momentum, as PyTorch computes it.
    Sgd,
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

/// Batch norm's mode in the bisection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SearchMode {
    /// Batch statistics, and the running ones are updated at every probe (released).
    Train,
    /// Running statistics, unchanged.
    Eval,
}

/// Which end of the last bracket is the boundary point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SearchResult {
    /// The middle, on whichever side it lies (released).
    Midpoint,
    /// The upper end, the nearest point known to be misclassified.
    Adversarial,
}

/// Where the bisection starts when margins are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TestSearchStart {
    /// Half the upper bound, with the sign that was measured at PGD's eps (released).
    HalfMaxeps,
    /// PGD's eps, where the sign was measured.
    TestEps,
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
mod tests {
    use super::*;
    use crate::rng::{Purpose, philox};

    fn quick() -> Config {
        preset(DEFAULT_PRESET).unwrap().config
    }

    fn cifar10() -> Config {
        preset("cifar10-linf").unwrap().config
    }

    fn reread(config: &Config) -> Config {
        toml::from_str(&config.to_toml()).unwrap()
    }

    #[test]
    fn toml_gives_back_every_preset() {
        for preset in presets() {
            assert_eq!(reread(&preset.config), preset.config);
        }
    }

    #[test]
    fn toml_gives_back_the_bits_of_any_single_precision_number() {
        let mut config = quick();
        let words = (0..50_000).flat_map(|i| philox(1, Purpose::Order, 0, 0, i));
        let numbers = words.map(f32::from_bits).filter(|number| number.is_finite());
        config.learning_rate_schedule = (0..).zip(numbers.chain([0.1, 8.0 / 255.0, 1.0 / 3.0, -0.0])).collect();
        let bits = |config: &Config| config.learning_rate_schedule.iter().map(|e| e.1.to_bits()).collect::<Vec<_>>();
        assert!(bits(&reread(&config)) == bits(&config));
    }

    #[test]
    fn toml_gives_back_the_largest_seed_and_sizes() {
        let config =
            Config { seed: u64::MAX, train_size: Some(usize::MAX), test_size: Some(1), width: 0.1 + 0.2, ..quick() };
        assert_eq!(reread(&config), config);
    }

    #[test]
    fn numbers_are_written_as_a_person_would() {
        let config = Config { test_eps: 8.0 / 255.0, attack_mineps: 0.1, ..quick() };
        let text = config.to_toml();
        assert!(text.contains("test_eps = 0.03137255\n"), "{text}");
        assert!(text.contains("attack_mineps = 0.1\n"), "{text}");
    }

    #[test]
    fn the_search_bound_is_the_rounded_product_of_the_written_number() {
        for (hinge, product) in [(0.45, 0.45 * 1.05), (2.0, 2.1), (4.0, 4.2), (6.0, 6.3), (0.1255, 0.1255 * 1.05)] {
            let config = Config { hinge_maxeps: hinge as f32, ..quick() };
            assert_eq!(config.max_eps(), product as f32, "{hinge}");
        }
    }

    #[test]
    fn the_description_shows_what_was_overridden() {
        let text = Config { nb_iter: 20, train_size: Some(64), ..quick() }.describe();
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(line("nb_iter ").ends_with("= 20   (quick: 5)"), "{text}");
        assert!(line("train_size ").ends_with("= 64   (quick: all)"), "{text}");
        assert!(line("seed ").ends_with("= 0"), "{text}");
        assert!(line("learning_rate_schedule ").ends_with("= 0:0.002,900:0.001,1250:0.0002"), "{text}");
    }

    #[test]
    fn a_setting_out_of_its_range_is_named_with_what_was_expected_and_found() {
        let fidelity = Fidelity::RELEASED;
        let message = |config: Config| config.validate().unwrap_err().to_string();
        let above = Config { attack_mineps: 0.5, ..quick() };
        assert_eq!(
            message(above),
            "--attack-mineps: expected at most the search's upper bound 0.4725, 1.05 times --hinge-maxeps 0.45; found 0.5"
        );
        for (config, flag, found) in [
            (Config { preset: "none".into(), ..quick() }, "preset", "none"),
            (Config { dataset: DatasetKind::Cifar10, ..quick() }, "model", "lenet5"),
            (Config { dataset: DatasetKind::Mnist, ..cifar10() }, "model", "wide-resnet"),
            (Config { depth: Some(28), ..quick() }, "depth", "28"),
            (Config { depth: None, ..cifar10() }, "depth", "none"),
            (Config { depth: Some(4), ..cifar10() }, "depth", "4"),
            (Config { depth: Some(27), ..cifar10() }, "depth", "27"),
            (Config { depth: Some(106), ..cifar10() }, "depth", "106"),
            (Config { width: 0.0, ..cifar10() }, "width", "0.0"),
            (Config { width: 1.5, ..cifar10() }, "width", "1.5"),
            (Config { width: 33.0, ..cifar10() }, "width", "33.0"),
            (Config { width: f64::NAN, ..cifar10() }, "width", "nan"),
            (Config { train_size: Some(0), ..quick() }, "train-size", "0"),
            (Config { val_size: 0, ..quick() }, "val-size", "0"),
            (Config { test_size: Some(0), ..quick() }, "test-size", "0"),
            (Config { width: 0.03, ..quick() }, "width", "0.03"),
            (Config { width: f64::NAN, ..quick() }, "width", "nan"),
            (Config { hinge_maxeps: f32::INFINITY, ..quick() }, "hinge-maxeps", "inf"),
            (Config { hinge_maxeps: f32::NAN, ..quick() }, "hinge-maxeps", "nan"),
            (Config { clean_loss_coeff: 1.0, ..quick() }, "clean-loss-coeff", "1.0"),
            (Config { clean_loss_fn: Loss::Dlr, ..quick() }, "clean-loss-fn", "dlr"),
            (Config { margin_loss_fn: Loss::Dlr, ..quick() }, "margin-loss-fn", "dlr"),
            (Config { search_loss_fn: Loss::Xent, ..quick() }, "search-loss-fn", "xent"),
            (Config { nb_iter: 0, ..quick() }, "nb-iter", "0"),
            (Config { eps_iter_scale: -1.0, ..quick() }, "eps-iter-scale", "-1.0"),
            (Config { num_search_steps: 0, ..quick() }, "num-search-steps", "0"),
            (Config { attack_mineps: 0.0, ..quick() }, "attack-mineps", "0.0"),
            (Config { momentum: 0.9, ..quick() }, "momentum", "0.9"),
            (Config { momentum: 1.0, optimizer: OptimizerKind::Sgd, ..quick() }, "momentum", "1.0"),
            (Config { weight_decay: -0.1, ..quick() }, "weight-decay", "-0.1"),
            (Config { learning_rate_schedule: vec![], ..quick() }, "learning-rate-schedule", "nothing"),
            (Config { learning_rate_schedule: vec![(1, 0.1)], ..quick() }, "learning-rate-schedule", "1:0.1"),
            (
                Config { learning_rate_schedule: vec![(0, 0.1), (0, 0.2)], ..quick() },
                "learning-rate-schedule",
                "0:0.1,0:0.2",
            ),
            (Config { learning_rate_schedule: vec![(0, 0.0)], ..quick() }, "learning-rate-schedule", "0:0"),
            (Config { training_batch_size: 0, ..quick() }, "training-batch-size", "0"),
            (Config { max_num_training_steps: 0, ..quick() }, "max-num-training-steps", "0"),
            (Config { test_eps: 0.0, ..quick() }, "test-eps", "0.0"),
            (Config { test_eps: 0.5, fidelity: Fidelity::PAPER, ..quick() }, "test-eps", "0.5"),
            (Config { test_eps_iter: 0.0, ..quick() }, "test-eps-iter", "0.0"),
            (Config { disp_interval: 0, ..quick() }, "disp-interval", "0"),
            (Config { checkpoint_interval: 0, ..quick() }, "checkpoint-interval", "0"),
            (Config { fidelity: Fidelity { right_when: Loss::Cw, ..fidelity }, ..quick() }, "right-when", "cw"),
            (
                Config { fidelity: Fidelity { test_search_loss_fn: Loss::Xent, ..fidelity }, ..quick() },
                "test-search-loss-fn",
                "xent",
            ),
            (Config { fidelity: Fidelity { l2_grad_floor: 0.0, ..fidelity }, ..quick() }, "l2-grad-floor", "0.0"),
            (Config { fidelity: Fidelity { cw_confidence: -1.0, ..fidelity }, ..quick() }, "cw-confidence", "-1.0"),
        ] {
            let message = message(config);
            assert!(message.starts_with(&format!("--{flag}: expected ")), "{message}");
            assert!(message.ends_with(&format!("; found {found}")), "{message}");
        }
    }

    #[test]
    fn a_schedule_has_at_most_as_many_rates_as_the_gpus_kernels_take() {
        let rates = |n: u32| Config { learning_rate_schedule: (0..n).map(|step| (step, 0.5)).collect(), ..quick() };
        rates(32).validate().unwrap();
        let message = rates(33).validate().unwrap_err().to_string();
        assert!(message.starts_with("--learning-rate-schedule: expected at most 32 rates"), "{message}");
    }

    #[test]
    fn a_file_must_hold_every_setting_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        let load = |text: String| {
            std::fs::write(&file, text).unwrap();
            Config::load(&file).map_err(|error| error.to_string())
        };
        let text = quick().to_toml();
        assert_eq!(load(text.clone()), Ok(quick()));
        for (broken, expected) in [
            (text.replace("nb_iter = 5\n", ""), "missing field `nb_iter`"),
            (text.replace("nb_iter = 5\n", "nb_iter = 5\nnb_itr = 5\n"), "unknown field `nb_itr`"),
            (text.replace("seed = 0", "seed = \"zero\""), "line 2: invalid type: string \"zero\""),
            (text.replace("nb_iter = 5", "nb_iter = 0"), "--nb-iter: expected at least 1; found 0"),
            (text[..text.len() / 2].into(), "line"),
        ] {
            let message = load(broken).unwrap_err();
            assert!(message.starts_with(&format!("{}: ", file.display())) && message.contains(expected), "{message}");
        }
    }
}
