//! Every setting of a run, as one flat record: what `config.toml` in a run folder holds.
//!
//! Names are those of the released code's `config.py` and `train.py` where it has the setting.

use serde::{Deserialize, Serialize};

use crate::data::DatasetKind;
use crate::tape::{Loss, Norm};

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
    /// LeNet5's width as a multiple of the published 32 and 64 filters and 1,024 hidden units.
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

/// What the stored margin is a multiple of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// (x_adv - x) / eps, where eps is the ball PGD searched (released): overstates the distance where the
    /// perturbation ended inside the ball.
    Eps,
    /// (x_adv - x) / norm(x_adv - x): the margin is a true distance.
    Unit,
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

/// What of PGD in l2 comes first after the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum L2Order {
    /// The box, then the ball (released).
    BoxBall,
    /// The ball, then the box.
    BallBox,
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

impl Config {
    /// The search's upper bound: 1.05 d_max, rounded to single precision as the released code holds it.
    pub fn max_eps(&self) -> f32 {
        (f64::from(self.hinge_maxeps) * 1.05) as f32
    }
}
