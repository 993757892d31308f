//! The ops: formula, shapes, and what the gradient of each needs.
//!
//! Images are `[n, h, w, c]`, convolution weights `[k, kh, kw, c]`, linear weights `[out, in]`. The first
//! dimension of every batch is its rows; an op recorded with a row count computes that many rows and
//! leaves the others as they were.

use super::formula::{Formula, Reduction};
use super::loss::{LossRule, TargetedLoss};
use super::params::{ConvFusion, ConvGradientFusion, ConvWindow, Direction, Norm, OptimizerRule, PgdRule};
use crate::rng::Purpose;

/// One op. The comment of each gives its inputs -> outputs; an output marked * is a buffer that is updated.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `out[i] = src[index[i]]`: src `[m, ..]`, index u32 `[n]` -> `[n, ..]`, of any element type.
    GatherRows,
    /// `dst[index[i]] = src[i]`: src `[n, ..]`, index u32 `[n]` -> dst* `[m, ..]`.
    ScatterRows,
    /// step u32 `[1]`, index u32 `[n]` -> u32 `[n, 3]`: where each image is cut out of itself with `reach` pixels around
    /// it, from the top and from the left (0 to `2 reach`), and whether it is mirrored then (0 or 1). Counted by seed,
    /// step and index.
    DrawAugmentation {
        /// The run's seed.
        seed: u64,
        /// Pixels around the image.
        reach: u32,
    },
    /// [`Op::GatherRows`] of images as bytes, each cut out of itself with `reach` reflected pixels around it, and mirrored:
    /// src `[m, h, w, c]`, index u32 `[n]`, choice u32 `[n, 3]` -> `[n, h, w, c]`.
    GatherAugmented {
        /// Pixels around the image: fewer than it has.
        reach: u32,
    },
    /// `out = byte / 255`: u8 -> f32 of the same shape.
    BytesToUnit,
    /// `out = a`: f32 -> f32.
    Copy,
    /// `out = value` -> f32 of any shape.
    Fill {
        /// What every element becomes.
        value: f32,
    },
    /// `out = a + b`.
    Add,
    /// `out = factor * a`.
    Scale {
        /// The factor.
        factor: f32,
    },
    /// `out = max(a, least)`.
    ClampMin {
        /// The least value.
        least: f32,
    },

    /// Up to eight inputs, f32 or u32, each of the result's shape, one number a row `[n]`, one `[1]`, or a table (one `[k]`,
    /// or one a row `[n, k]`) -> the formula of them, element by element; or out*, which the formula may read, too.
    Map(Formula),
    /// The same inputs -> `[n]`: what the formula's numbers come to along each row, which is as long as the longest
    /// input's.
    Reduce(Reduction, Formula),

    /// x `[n, h, w, c]`, w `[k, kh, kw, c]` -> `[n, h', w', k]`, where [`ConvWindow::outputs`] gives h' and w'.
    Conv2d(ConvWindow),
    /// dy, w -> dx: the gradient of [`Op::Conv2d`] by its input.
    Conv2dBackwardInput(ConvWindow),
    /// dy, x -> dw, summed over the rows.
    Conv2dBackwardWeight(ConvWindow),
    /// x `[.., k]`, bias `[k]` -> `[.., k]`.
    AddBias,
    /// dy `[.., k]` -> dbias `[k]`: the sum over everything but the last dimension.
    AddBiasBackwardBias,
    /// `max(x, 0)`.
    Relu,
    /// dy, y -> `dy` where `y > 0`, else 0: at 0 the gradient is 0.
    ReluBackward,
    /// 2x2 windows, stride 2: x `[n, h, w, c]` -> `[n, h/2, w/2, c]` and the choice, u8 of the same shape: which of
    /// the window's four (row-major) is the first maximum.
    MaxPool2d,
    /// dy, choice -> dx `[n, h, w, c]`.
    MaxPool2dBackward,
    /// Convolution, bias, ReLU and 2x2 max-pool in one: x, w, bias -> pooled, and the choice: 0 to 3, or
    /// [`NO_CHOICE`] where ReLU is 0. The three quarters of the convolution that no gradient reaches are known
    /// from the choice, and its backward ops skip them.
    ConvPool(ConvWindow),
    /// dy (pooled), choice, w -> dx.
    ConvPoolBackwardInput(ConvWindow),
    /// dy (pooled), choice, x -> dw.
    ConvPoolBackwardWeight(ConvWindow),
    /// dy (pooled), choice -> dbias.
    ConvPoolBackwardBias,
    /// `x w^T`: x `[n, ..]` with `in` elements a row, w `[out, in]` -> `[n, out]`.
    Linear,
    /// [`Op::Linear`], [`Op::AddBias`] and perhaps [`Op::Relu`] in one: x, w, bias `[out]` -> y. Where ReLU is part of
    /// it, the gradients take dy after [`Op::ReluBackward`] with the kept y.
    LinearBias {
        /// Whether ReLU is applied.
        relu: bool,
    },
    /// dy `[n, out]`, w, (y) -> dx, of x's shape. With y `[n, in]`, what ReLU made the layer's input of,
    /// [`Op::ReluBackward`] is part of it: dx is 0 where y is not positive.
    LinearBackwardInput,
    /// dy, x -> dw, summed over the rows.
    LinearBackwardWeight,

    /// logits `[n, classes]`, labels u32 `[n]` -> the loss of each row `[n]`.
    Loss(LossRule),
    /// logits, labels, dvalue `[n]` -> dlogits.
    LossBackward(LossRule),
    /// logits p, logits q, each `[n, classes]` -> the Kullback-Leibler divergence of each row `[n]`: `sum_j P_j (log P_j - log
    /// Q_j)` with the softmax P of p and Q of q. A class whose P is 0 adds 0.
    Kl,
    /// p, q, dvalue `[n]` -> dp: `dvalue P_j (log P_j - log Q_j - kl)`.
    KlBackwardP,
    /// p, q, dvalue `[n]` -> dq: `dvalue (Q_j - P_j)`.
    KlBackwardQ,
    /// logits `[n, classes]`, labels, targets, each u32 `[n]` -> the loss of each row `[n]`.
    TargetedLoss(TargetedLoss),
    /// logits, labels, targets, dvalue `[n]` -> dlogits.
    TargetedLossBackward(TargetedLoss),
    /// logits `[n, classes]`, labels, (run u32 `[1]`) -> u32 `[n]`: of the classes other than the label, in the order of
    /// their logits, the one that comes after `rank` others (with run, `rank + run`), or the last. The largest logit comes
    /// first, of equal ones that of the first class.
    RankClass {
        /// How many come before it.
        rank: u32,
    },
    /// x `[n, ..]` -> each row less its mean, over its deviation (n - 1 in the variance), which is taken to be at least
    /// `1 / sqrt(elements of a row)`; and that deviation `[n]`. (The released code's `PerImageStandardize`.)
    Standardize,
    /// dy, y, deviation `[n]` -> dx: through the mean, and through the deviation where it is above its least value.
    StandardizeBackward,
    /// x `[.., c]`, weight, bias, mean, variance, each `[c]` -> `x scale + shift`, where `scale = weight / sqrt(variance
    /// + eps)` and `shift = bias - mean scale`: batch norm in evaluation mode. See [`BATCH_NORM_EPS`].
    BatchNorm {
        /// Whether ReLU is applied.
        relu: bool,
    },
    /// dy, weight, variance, (y) -> dx: the gradient of [`Op::BatchNorm`] by x; with y, where ReLU is part of it.
    BatchNormBackwardInput {
        /// Whether ReLU is part of it.
        relu: bool,
    },
    /// x `[n, .., c]`, weight, bias `[c]` -> y, and the batch's mean and variance `[c]` (over rows and pixels; n in the
    /// variance): batch norm in training mode, [`Op::BatchNorm`] with the batch's own statistics. The running mean* and
    /// variance* move towards them (n - 1 in the variance) by [`BATCH_NORM_MOMENTUM`]. Without a row nothing changes.
    BatchNormTraining {
        /// Whether ReLU is applied.
        relu: bool,
    },
    /// dy, x, weight, bias, mean, variance, dweight, dbias -> dx: the gradient of [`Op::BatchNormTraining`] by x.
    BatchNormTrainingBackwardInput {
        /// Whether ReLU is part of it: what it let pass is known from x.
        relu: bool,
    },
    /// dy, x, weight, bias, mean, variance -> dweight, dbias: of both modes.
    BatchNormBackwardWeight {
        /// Whether ReLU is part of it: what it let pass is known from x.
        relu: bool,
    },
    /// x `[n, h, w, c]` -> the mean over the pixels `[n, c]`.
    GlobalMean,
    /// dy `[n, c]` -> dx `[n, h, w, c]`.
    GlobalMeanBackward,
    /// [`Op::Conv2d`] with what follows it: x, w, (shortcut's x, w), (addend), (weight, bias, mean, variance) -> (sum),
    /// (normalized).
    Conv2dFused(ConvFusion),
    /// [`Op::Conv2dBackwardInput`] with what follows it: dy, w, (shortcut's dy, w), (weight, variance, y), (addend) -> dx.
    Conv2dFusedBackwardInput(ConvGradientFusion),

    /// -> `[n]`: 1 / rows: the weights of a mean.
    MeanWeights,
    /// eps `[n]` -> `[n]`: 1 / rows where `eps < hinge`, else 0 (Algorithm 2: examples whose margin reached d_max
    /// are not trained on, but counted).
    HingeWeights {
        /// d_max.
        hinge: f32,
    },
    /// values `[n]` -> which rows are negative, ascending, at the front of u32 `[n]`; how many, u32 `[1]`.
    SelectNegative,

    /// step u32 `[1]`, index u32 `[n]` -> uniform noise `[n, ..]`, counted by seed, purpose, step, index and element;
    /// in `[-1, 1)` if signed, else in `[0, 1)`.
    Uniform {
        /// The run's seed.
        seed: u64,
        /// What the numbers are for.
        purpose: Purpose,
        /// The range.
        signed: bool,
    },
    /// x, eps `[n]`, noise -> PGD's first point (advertorch's `rand_init_delta`).
    PgdStart(Norm),
    /// x, dx, eps `[n]`, step `[n]` -> adv*: one iteration of PGD: step along the gradient, back into ball and box.
    PgdStep(PgdRule),
    /// x, adv, ball `[n]`, t `[n]` -> the point at `t` along `adv - x`, which is `ball` long (`Direction::Eps`), or as
    /// long as its norm says (`Direction::Unit`).
    AlongDirection {
        /// The norm of the length.
        norm: Norm,
        /// What `t` is a multiple of.
        direction: Direction,
        /// Whether the point is clamped to [0, 1].
        clamp: bool,
    },
    /// point z, anchor a, w `[n, ..]`, value f `[n]` -> d: the smallest move of z inside the box [0, 1] after which the
    /// function that is f at a and has the gradient w is 0, `f + w . (z + d - a) = 0`. Where the box has no such point, d
    /// leads to the corner that comes nearest to it. Numbers without a gradient stay. (FAB's projection; Croce and Hein,
    /// 2020.)
    ProjectHyperplane(Norm),
    /// loss `[n]` -> t*, low*, high*: one halving of the bracket around the loss's zero, and its middle.
    Bisect {
        /// The bracket's upper end at the start.
        max_eps: f32,
    },

    /// dmargin `[p]`, (dclean `[p]`), step u32 `[1]` -> params*, m*, v* `[p]`.
    Adam(OptimizerRule),
    /// dmargin, (dclean), step -> params*, momentum* `[p]`.
    Sgd(OptimizerRule),
    /// -> counter* u32 `[1]`, one larger.
    Increment,
    /// loss, logit margin, weights, weighted loss, eps, each `[n]` -> sums*: see [`Metric`](super::Metric).
    AccumulateMetrics,
}

impl Op {
    /// The name of the op, of its function on every device, and of its tests.
    pub fn name(&self) -> &'static str {
        match self {
            Op::GatherRows => "gather_rows",
            Op::ScatterRows => "scatter_rows",
            Op::DrawAugmentation { .. } => "draw_augmentation",
            Op::GatherAugmented { .. } => "gather_augmented",
            Op::BytesToUnit => "bytes_to_unit",
            Op::Copy => "copy",
            Op::Fill { .. } => "fill",
            Op::Add => "add",
            Op::Scale { .. } => "scale",
            Op::ClampMin { .. } => "clamp_min",
            Op::Map(_) => "map",
            Op::Reduce(..) => "reduce",
            Op::Conv2d(_) => "conv2d",
            Op::Conv2dBackwardInput(_) => "conv2d_backward_input",
            Op::Conv2dBackwardWeight(_) => "conv2d_backward_weight",
            Op::AddBias => "add_bias",
            Op::AddBiasBackwardBias => "add_bias_backward_bias",
            Op::Relu => "relu",
            Op::ReluBackward => "relu_backward",
            Op::MaxPool2d => "max_pool2d",
            Op::MaxPool2dBackward => "max_pool2d_backward",
            Op::ConvPool(_) => "conv_pool",
            Op::ConvPoolBackwardInput(_) => "conv_pool_backward_input",
            Op::ConvPoolBackwardWeight(_) => "conv_pool_backward_weight",
            Op::ConvPoolBackwardBias => "conv_pool_backward_bias",
            Op::Linear => "linear",
            Op::LinearBias { relu: false } => "linear_bias",
            Op::LinearBias { relu: true } => "linear_bias_relu",
            Op::LinearBackwardInput => "linear_backward_input",
            Op::LinearBackwardWeight => "linear_backward_weight",
            Op::Standardize => "standardize",
            Op::StandardizeBackward => "standardize_backward",
            Op::BatchNorm { relu: false } => "batch_norm",
            Op::BatchNorm { relu: true } => "batch_norm_relu",
            Op::BatchNormBackwardInput { relu: false } => "batch_norm_backward_input",
            Op::BatchNormBackwardInput { relu: true } => "batch_norm_relu_backward_input",
            Op::BatchNormTraining { relu: false } => "batch_norm_training",
            Op::BatchNormTraining { relu: true } => "batch_norm_relu_training",
            Op::BatchNormTrainingBackwardInput { relu: false } => "batch_norm_training_backward_input",
            Op::BatchNormTrainingBackwardInput { relu: true } => "batch_norm_relu_training_backward_input",
            Op::BatchNormBackwardWeight { relu: false } => "batch_norm_backward_weight",
            Op::BatchNormBackwardWeight { relu: true } => "batch_norm_relu_backward_weight",
            Op::GlobalMean => "global_mean",
            Op::GlobalMeanBackward => "global_mean_backward",
            Op::Conv2dFused(_) => "conv2d_fused",
            Op::Conv2dFusedBackwardInput(_) => "conv2d_fused_backward_input",
            Op::Loss(_) => "loss",
            Op::LossBackward(_) => "loss_backward",
            Op::Kl => "kl",
            Op::KlBackwardP => "kl_backward_p",
            Op::KlBackwardQ => "kl_backward_q",
            Op::TargetedLoss(_) => "targeted_loss",
            Op::TargetedLossBackward(_) => "targeted_loss_backward",
            Op::RankClass { .. } => "rank_class",
            Op::MeanWeights => "mean_weights",
            Op::HingeWeights { .. } => "hinge_weights",
            Op::SelectNegative => "select_negative",
            Op::Uniform { .. } => "uniform",
            Op::PgdStart(_) => "pgd_start",
            Op::PgdStep(_) => "pgd_step",
            Op::AlongDirection { .. } => "along_direction",
            Op::ProjectHyperplane(_) => "project_hyperplane",
            Op::Bisect { .. } => "bisect",
            Op::Adam(_) => "adam",
            Op::Sgd(_) => "sgd",
            Op::Increment => "increment",
            Op::AccumulateMetrics => "accumulate_metrics",
        }
    }
}
