//! The settings of a training run, each declared once.
//!
//! A line of [`settings!`] declares the setting's field, its key in `config.toml`, its flag (`nb_iter` is `--nb-iter`
//! and `--nb_iter`), its help, which is the doc comment, its default, and its range. `train --help`, `presets`,
//! [`Config::fields`] and [`Config::validate`] go through the tables made of the lines. Names are those of the released
//! code's `config.py` and `train.py` where it has the setting.
//!
//! A new setting is a line here, and a value in each preset where the default does not hold. Rules between several
//! settings stand in `validate.rs`.

use serde::{Deserialize, Serialize};

use super::kinds::{Method, OptimizerKind, SearchMode, TestAttackLoss, TestAttacked, TestSearchStart, TestStarts};
use super::ranges::{
    ASCENDING_STEPS, BATCH, BISECTIONS, DECAY, FEW_RATES, FRACTION, FROM_STEP_0, IMAGES, ITERATIONS, LOSS_SCALE,
    NOT_NEGATIVE, POSITIVE, POSITIVE_RATES, Range, SCALE, SIGNED_LOSS, SIZE, STEPS, STEPS_OR_NONE, TRAINING_LOSS,
    WEIGHT,
};
use super::value::SettingValue;
use crate::attack::SearchResult;
use crate::catalog::{DatasetKind, ModelKind};
use crate::tape::{Direction, L2Order, Loss, Norm, Precision};

/// A setting: all that flags, files, listings and messages need to know of it.
#[derive(Debug)]
pub struct Setting {
    /// Name of the field, and key in `config.toml`.
    pub name: &'static str,
    /// Title of its group in `train --help`.
    pub heading: &'static str,
    /// Documentation.
    pub help: &'static str,
    /// Placeholder of the flag's value.
    pub value_name: &'static str,
    /// True if `train -h` shows the flag: one that most people set.
    pub brief: bool,
    /// Other names of the flag.
    pub aliases: &'static [&'static str],
    /// Name and help of every value, where the values have names.
    pub values: fn() -> Vec<(&'static str, &'static str)>,
    /// The value in a configuration, as the flag takes it.
    pub text: fn(&Config) -> String,
    /// Sets the value to what a flag says. The error says which forms a flag takes.
    pub set: fn(&mut Config, &str) -> Result<(), String>,
    /// The range in words, where the value lies outside of it.
    pub out_of_range: fn(&Config) -> Option<&'static str>,
}

impl Setting {
    /// All settings, in the order of `config.toml`.
    pub fn all() -> impl Iterator<Item = &'static Setting> {
        RUN_SETTINGS.iter().chain(FIDELITY_SETTINGS)
    }

    /// The flag without its dashes.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }
}

/// Declares a record of settings and the table of its [`Setting`]s:
///
/// ```text
/// /// Documentation and help
/// name: type = default, "VALUE NAME" (or "TEXT OF NO VALUE") (shown "by -h") (alias "OTHER FLAG" ..) (, range ..);
/// ```
macro_rules! settings {
    (
        $(#[$meta:meta])*
        pub struct $Record:ident, table $TABLE:ident, in |$config:ident| $record:expr, defaults [$($function:tt)+];

        $($heading:literal {$(
            $(#[doc = $help:literal])+
            $(#[serde($serde:meta)])?
            $name:ident: $Type:ty = $default:expr,
                $value_name:literal $(or $none:literal)? $(shown $brief:literal)? $(alias $($alias:literal)+)?
                $(, $range:expr)*;
        )+})+

        $(nested {
            $(#[doc = $nested_doc:literal])+
            $nested:ident: $Nested:ty = $nested_default:expr;
        })?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $Record {
            $($($(#[doc = $help])+ $(#[serde($serde)])? pub $name: $Type,)+)+
            $($(#[doc = $nested_doc])+ pub $nested: $Nested,)?
        }

        impl $Record {
            /// The default of every setting.
            pub $($function)+ defaults() -> $Record {
                $Record { $($($name: $default,)+)+ $($nested: $nested_default)? }
            }
        }

        /// The settings of the record, in its order.
        pub const $TABLE: &[Setting] = &[$($(Setting {
            name: stringify!($name),
            heading: $heading,
            help: concat!($($help),+),
            value_name: $value_name,
            brief: !concat!($($brief)?).is_empty(),
            aliases: &[$($($alias),+)?],
            values: <$Type as SettingValue>::names,
            text: |$config| {
                let text = SettingValue::text(&$record.$name);
                if text.is_empty() { concat!($($none)?).into() } else { text }
            },
            set: |$config, text| {
                $record.$name = SettingValue::parse(text)?;
                Ok(())
            },
            out_of_range: |$config| {
                let ranges: &[Range<$Type>] = &[$($range),*];
                ranges.iter().find(|range| !(range.contains)(&$record.$name)).map(|range| range.expected)
            },
        }),+),+];
    };
}

settings! {
    /// A training run's settings. A run is a function of this record, of the data and of nothing else. The defaults are
    /// `LinfMNIST` of the released `config.py`.
    pub struct Config, table RUN_SETTINGS, in |config| config, defaults [fn];

    "Run" {
        /// Name of the preset that the settings started from
        preset: String = "mnist-linf".into(), "NAME";
        /// Seed of every random number; a run is a function of its settings and its data
        seed: u64 = 0, "N" shown "by -h"; // run_mnist_training.sh
    }

    "Data" {
        /// Data set
        dataset: DatasetKind = DatasetKind::Mnist, "NAME" shown "by -h";
        /// Number of training images: the first N that are left after the validation images
        train_size: Option<usize> = None, "N" or "all" shown "by -h", SIZE; // train.py
        /// Number of validation images: the first N training images, on which the best weights are chosen; the digits
        /// have validation images of their own
        val_size: usize = 5000, "N", IMAGES; // train.py; paper: the first 5,000 training images
        /// Number of test images: the first N
        test_size: Option<usize> = None, "N" or "all" shown "by -h", SIZE; // train.py
        /// Augmentation: each visit of a training image moves it by up to 4 pixels, reflected at the edge, and mirrors
        /// it half of the times
        augment: bool = false, "true|false"; // train.py
    }

    "Model" {
        /// Network: lenet5 for digits and mnist, wide-resnet for cifar10
        model: ModelKind = ModelKind::LeNet5, "NAME" shown "by -h";
        /// Depth of the wide ResNet: 10, 16, 22, 28 or another 6n + 4; LeNet5 has none
        depth: Option<usize> = None, "N" or "none" shown "by -h";
        /// LeNet5: multiple of 32 and 64 filters and 1,024 hidden units. Wide ResNet: widening factor, a whole number
        width: f64 = 1.0, "MULTIPLE" shown "by -h"; // LeNet5Madry: 32 and 64 filters, 1,024 hidden units
    }

    "Training" {
        /// Training method
        #[serde(default = "mma")]
        method: Method = Method::Mma, "NAME" shown "by -h";
        /// Loss on clean examples
        clean_loss_fn: Loss = Loss::Xent, "LOSS", TRAINING_LOSS; // BaseConfig
        /// Optimizer
        optimizer: OptimizerKind = OptimizerKind::Adam, "NAME"; // MNIST
        /// Momentum of sgd
        momentum: f32 = 0.0, "FACTOR", FRACTION;
        /// Weight decay: L2 penalty, added to every gradient
        weight_decay: f32 = 0.0, "FACTOR", DECAY;
        /// Learning rate; or rates from steps on, such as 0:0.3,20000:0.09
        learning_rate_schedule: Vec<(u32, f32)> = vec![(0, 1e-4)], "RATE" shown "by -h"
            alias "lr" "initial-learning-rate", FROM_STEP_0, ASCENDING_STEPS, POSITIVE_RATES, FEW_RATES; // MNIST
        /// Batch size: examples of a training step
        training_batch_size: usize = 50, "N" shown "by -h" alias "batch-size", BATCH; // MNIST
        /// Number of training steps; with --resume it may be larger than before
        max_num_training_steps: u32 = 100_000, "N" shown "by -h" alias "steps", STEPS; // MNIST
        /// Number of steps between two lines of metrics.jsonl
        disp_interval: u32 = 100, "N", STEPS; // train.py
        /// Number of steps between two checkpoints to resume from; one is also written after each epoch
        checkpoint_interval: u32 = 500, "N", STEPS; // ours: the released code writes one an epoch
    }

    "Precision" {
        /// Precision of activations, their gradients and filters: fp16 in attacks and training passes, fp16-attack in
        /// attacks alone; sums, images and the weights are single precision in each
        #[serde(default = "single_precision")]
        precision: Precision = Precision::Fp32, "PRECISION"; // ours
        /// Factor of the losses in training passes with --precision fp16, a power of two, lest their gradients vanish;
        /// a step whose gradients overflow is skipped and counted
        #[serde(default)]
        loss_scale: f32 = 1024.0, "FACTOR", LOSS_SCALE; // ours
    }

    "Attack in training" {
        /// Norm of margins and attacks
        norm: Norm = Norm::Linf, "NORM" shown "by -h";
        /// Iterations of PGD, in training by any method and when margins are measured
        nb_iter: u32 = 40, "N" shown "by -h", ITERATIONS; // MNIST
        /// Step size of PGD, as a multiple of eps / nb-iter
        eps_iter_scale: f32 = 2.5, "SCALE", SCALE; // BaseConfig
    }

    "MMA and OMMA" {
        /// d_max: an example is trained on at its boundary point while its margin is below this
        hinge_maxeps: f32 = 0.45, "EPS" shown "by -h" alias "hinge-max-eps", POSITIVE; // run_mnist_training.sh
        /// Loss at the boundary points and on misclassified examples; with pgd and pgdls the loss that the attack
        /// ascends and training descends
        margin_loss_fn: Loss = Loss::Xent, "LOSS", TRAINING_LOSS; // BaseConfig
        /// Loss that PGD ascends in mma; for measured margins see --test-attack-loss-fn
        attack_loss_fn: Loss = Loss::Slm, "LOSS"; // BaseConfig
        /// Loss whose zero is the boundary in the bisection; also --right-when, unless that is given
        search_loss_fn: Loss = Loss::Slm, "LOSS", SIGNED_LOSS; // BaseConfig
        /// Weight of the clean loss's gradient, from 0 up to 1; 0 is omma, which saves the clean backward pass
        clean_loss_coeff: f32 = 1.0 / 3.0, "WEIGHT", FRACTION; // BaseConfig
        /// Iterations of the bisection for the boundary
        num_search_steps: u32 = 10, "N", BISECTIONS; // BaseConfig
        /// Least eps of the PGD attack; at most 1.05 times --hinge-maxeps
        attack_mineps: f32 = 0.1, "EPS", POSITIVE; // LinfMNIST
    }

    "PGD, PGDLS and TRADES" {
        /// pgd, pgdls, trades: eps of the ball in which every training image is attacked
        #[serde(default)]
        attack_eps: f32 = 0.3, "EPS" shown "by -h", NOT_NEGATIVE; // for the other methods, where a flag asks for one
        /// pgdls: number of steps over which eps grows linearly from 0 to --attack-eps; the paper does not say how many
        /// [default: half of the steps]
        #[serde(default)]
        eps_ramp_steps: u32 = 50_000, "N", STEPS_OR_NONE; // ours: half of the steps
        /// trades: weight of the KL divergence, beside the clean loss's 1; a larger one is more robust, less accurate
        #[serde(default)]
        trades_beta: f32 = 1.0, "BETA", WEIGHT; // TRADES: train_trades_mnist.py
    }

    "Measurement of margins" {
        /// Eps of PGD when margins are measured, on validation and test images
        test_eps: f32 = 0.3, "EPS", POSITIVE; // LinfMNIST
        /// Step size of PGD when margins are measured
        test_eps_iter: f32 = 0.01, "EPS", POSITIVE; // LinfMNIST
    }

    nested {
        /// Choices where the released code differs from the paper's text.
        fidelity: Fidelity = Fidelity::RELEASED;
    }
}

settings! {
    /// Choices where the released code differs from the paper's text. The defaults are the released code's, because the
    /// published figures came from it.
    #[derive(Copy)]
    pub struct Fidelity, table FIDELITY_SETTINGS, in |config| config.fidelity, defaults [const fn];

    "Where the released code and the paper differ" {
        /// Mode of batch norm in the bisection; LeNet5 has no batch norm
        search_mode: SearchMode = SearchMode::Train, "MODE";
        /// Loss that is negative on a correctly classified example, which is then attacked: slm means p_y > 1/2
        /// (released), lm that the label has the largest logit (paper)
        right_when: Loss = Loss::Slm, "LOSS", SIGNED_LOSS;
        /// Unit of the margins
        direction: Direction = Direction::Eps, "UNIT";
        /// Clamp the boundary point to [0, 1] before training on it; the released code does not
        clamp_boundary: bool = false, "true|false";
        /// Point of the last bracket of the bisection that becomes the boundary point
        search_result: SearchResult = SearchResult::Midpoint, "POINT";
        /// Reset the margin of a misclassified example to 0, so that its next attack starts at --attack-mineps
        /// (released); false keeps the margin
        forget_wrong: bool = true, "true|false";
        /// Loss that PGD ascends when margins are measured
        #[serde(default = "attack_loss_fn")]
        test_attack_loss_fn: TestAttackLoss = TestAttackLoss::Slm, "LOSS"; // train.py: ANPGDForTest
        /// Random starts of PGD when margins are measured
        #[serde(default = "same_starts")]
        test_starts: TestStarts = TestStarts::Fresh, "STARTS";
        /// Images that are attacked when margins are measured
        #[serde(default = "correct_images")]
        test_attacked: TestAttacked = TestAttacked::All, "IMAGES"; // trainer.py
        /// Start of the bisection when margins are measured
        test_search_start: TestSearchStart = TestSearchStart::HalfMaxeps, "START";
        /// Loss whose zero is the boundary when margins are measured: lm, whatever training uses
        test_search_loss_fn: Loss = Loss::Lm, "LOSS", SIGNED_LOSS;
        /// Order of the projections after an l2 step of PGD
        l2_order: L2Order = L2Order::BoxBall, "ORDER";
        /// Least gradient norm that an l2 step of PGD divides by
        l2_grad_floor: f32 = 1e-6, "NORM", POSITIVE;
        /// Confidence of the cw loss, max(margin + confidence, 0): no gradient on examples more confident than this
        cw_confidence: f32 = 50.0, "LOGITS", WEIGHT;
    }
}

impl Fidelity {
    /// The released code.
    pub const RELEASED: Fidelity = Fidelity::defaults();

    /// The paper's text, as it is written or meant.
    pub const PAPER: Fidelity = Fidelity {
        search_mode: SearchMode::Eval,
        right_when: Loss::Lm,
        direction: Direction::Unit,
        clamp_boundary: true,
        search_result: SearchResult::Adversarial,
        forget_wrong: false,
        test_attack_loss_fn: TestAttackLoss::AttackLossFn,
        test_starts: TestStarts::Same,
        test_attacked: TestAttacked::Correct,
        test_search_start: TestSearchStart::TestEps,
        l2_order: L2Order::BallBox,
        l2_grad_floor: 1e-12,
        cw_confidence: 1e4,
        ..Fidelity::RELEASED
    };
}

/// The method of a file that names none: it was written when MMA was the only one.
fn mma() -> Method {
    Method::Mma
}

/// Precision of a file that names none: there was no other.
fn single_precision() -> Precision {
    Precision::Fp32
}

/// Loss of a file that names none: margins were measured with that of training.
fn attack_loss_fn() -> TestAttackLoss {
    TestAttackLoss::AttackLossFn
}

/// Starts of a file that names none: every measurement had the same.
fn same_starts() -> TestStarts {
    TestStarts::Same
}

/// Attacked images of a file that names none: misclassified ones were not attacked.
fn correct_images() -> TestAttacked {
    TestAttacked::Correct
}
