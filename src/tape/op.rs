//! Ops: the formula of each, its operands and their shapes.
//!
//! Images are `[n, h, w, c]`, filters `[k, kh, kw, c]`, linear weights `[out, in]`. The first dimension of a batch is
//! its rows. An op recorded with a number of active rows computes these rows and leaves the others unchanged.
//!
//! A program that stores values in half precision (`precision`) has the same ops on f16 operands and results. An op
//! computes in single precision and rounds a half result once, when it stores it. A half weight of an op that computes
//! an input gradient is the turned copy of [`Op::PackFilters`], another the plain one.

use super::formula::{Formula, Reduction};
use super::loss::{LossRule, TargetedLoss};
use super::params::{
    AlongRule, ConvFusion, ConvGradientFusion, ConvWindow, FirstLayerFusion, HeadFusion, Norm, OptimizerRule,
    PgdFusion, PgdRule,
};
use crate::rng::Purpose;

/// One op. Each comment gives inputs -> outputs. Inputs in brackets are optional; an output marked * is a buffer
/// updated in place. `d` before a name is the gradient with respect to it.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `out[i] = src[index[i]]`: src `[m, ..]` of any element type, index u32 `[n]` -> `[n, ..]`.
    GatherRows,
    /// `dst[index[i]] = src[i]`: src `[n, ..]`, index u32 `[n]` -> dst* `[m, ..]`.
    ScatterRows,
    /// Random crop of each image, padded by `reach` pixels: step u32 `[1]`, index u32 `[n]` -> choice u32 `[n, 3]`: top
    /// and left offset (0 to `2 reach`), and 1 if it is mirrored, else 0. Counter-based random numbers, by seed, step
    /// and index.
    DrawAugmentation {
        /// Seed of the run.
        seed: u64,
        /// Padding of the image in pixels.
        reach: u32,
    },
    /// [`Op::GatherRows`] of images as bytes, each padded by `reach` reflected pixels, then cropped and mirrored by its
    /// choice: src `[m, h, w, c]`, index u32 `[n]`, choice u32 `[n, 3]` -> `[n, h, w, c]`.
    GatherAugmented {
        /// Padding of the image in pixels, less than its height and width.
        reach: u32,
    },
    /// `out = byte / 255`: u8 -> f32 of the same shape.
    BytesToUnit,
    /// `out = a`: f32 -> f32.
    Copy,
    /// `out = value` -> f32 of any shape.
    Fill {
        /// Value of every element.
        value: f32,
    },
    /// `out = a + b`.
    Add,
    /// `out = factor * a`.
    Scale {
        /// The factor.
        factor: f32,
    },
    /// `out = max(a, least)`; NaN becomes `least`, and so does -0 if `least` is 0.
    ClampMin {
        /// The least value.
        least: f32,
    },

    /// Elementwise program: up to eight inputs -> the formula's value of each element, or out*, whose former content
    /// the formula may read. An input is f32 or u32, and has the result's shape, or one number a row `[n]`, or one
    /// number `[1]`, or is a table, `[k]` for all rows or `[n, k]` with one a row.
    Map(Formula),
    /// Reduction of an elementwise program along rows: inputs as those of [`Op::Map`] -> `[n]`. A row has as many
    /// elements as one of the longest input.
    Reduce(Reduction, Formula),

    /// Convolution: x `[n, h, w, c]`, w `[k, kh, kw, c]` -> `[n, h', w', k]`; [`ConvWindow::outputs`] gives h' and w'.
    Conv2d(ConvWindow),
    /// dy, w -> dx of [`Op::Conv2d`].
    Conv2dBackwardInput(ConvWindow),
    /// dy, x -> dw of [`Op::Conv2d`], summed over the active rows.
    Conv2dBackwardWeight(ConvWindow),
    /// `x + bias`: x `[.., k]`, bias `[k]` -> `[.., k]`.
    AddBias,
    /// dy `[.., k]` -> dbias `[k]`: the sum over all dimensions but the last.
    AddBiasBackwardBias,
    /// `max(x, 0)`. NaN passes through.
    Relu,
    /// dy, y -> dx of [`Op::Relu`]: `dy` where `y > 0`, else 0.
    ReluBackward,
    /// 2x2 max-pooling with stride 2: x `[n, h, w, c]` -> `[n, h/2, w/2, c]`; and the choice, u8 of the same shape: the
    /// index, 0 to 3 (row-major), of the window's first maximum.
    MaxPool2d,
    /// dy, choice -> dx `[n, h, w, c]` of [`Op::MaxPool2d`].
    MaxPool2dBackward,
    /// Convolution, bias, ReLU and 2x2 max-pooling in one: x, w, bias -> pooled; and the choice, 0 to 3, or
    /// [`NO_CHOICE`] where ReLU gives 0. At least three quarters of the convolution's outputs have no gradient. The
    /// choice names them, and the backward ops skip them.
    ///
    /// [`NO_CHOICE`]: super::NO_CHOICE
    ConvPool(ConvWindow),
    /// [`Op::AlongDirection`], if it is included, and a pair of [`Op::ConvPool`]s
    /// ([`is_layer_pair`](super::is_layer_pair)), the second one in half precision: x, w, bias, w and bias of the second,
    /// (adv, ball `[n]`, t `[n]`) -> pooled and choice of the second; choice of the first. The first one's results are
    /// rounded to half precision and not written.
    TwoConvPools {
        /// Rule of the point along a direction that the images are, if it is included.
        along: Option<AlongRule>,
        /// Geometry of the first.
        first: ConvWindow,
        /// Geometry of the second.
        second: ConvWindow,
    },
    /// dy (pooled), choice, w -> dx of [`Op::ConvPool`].
    ConvPoolBackwardInput(ConvWindow),
    /// dy (pooled), choice, x -> dw of [`Op::ConvPool`].
    ConvPoolBackwardWeight(ConvWindow),
    /// dy (pooled), choice -> dbias of [`Op::ConvPool`].
    ConvPoolBackwardBias,
    /// Linear layer, `x w^T`: x `[n, ..]` with `in` elements a row, w `[out, in]` -> `[n, out]`.
    Linear,
    /// [`Op::Linear`], [`Op::AddBias`] and, optionally, [`Op::Relu`] in one: x, w, bias `[out]` -> y. With ReLU, the
    /// gradients start from [`Op::ReluBackward`] of dy and y.
    LinearBias {
        /// `true`: followed by ReLU.
        relu: bool,
    },
    /// dy `[n, out]`, w, (y `[n, in]`) -> dx of [`Op::Linear`], of x's shape. With y, the layer's input and the result
    /// of a ReLU, [`Op::ReluBackward`] is included: dx is 0 where y is not positive.
    LinearBackwardInput,
    /// dy, x -> dw of [`Op::Linear`], summed over the active rows.
    LinearBackwardWeight,

    /// Loss of each row: logits `[n, classes]`, labels u32 `[n]` -> `[n]`.
    Loss(LossRule),
    /// logits, labels, dvalue `[n]` -> dlogits of [`Op::Loss`].
    LossBackward(LossRule),
    /// Kullback-Leibler divergence KL(P || Q) of each row: logits p and q, each `[n, classes]` -> `[n]`:
    /// `sum_j P_j (log P_j - log Q_j)`, where P is the softmax of p and Q that of q. A class with `P_j = 0` adds 0.
    Kl,
    /// p, q, dvalue `[n]` -> dp of [`Op::Kl`]: `dvalue P_j (log P_j - log Q_j - kl)`.
    KlBackwardP,
    /// p, q, dvalue `[n]` -> dq of [`Op::Kl`]: `dvalue (Q_j - P_j)`.
    KlBackwardQ,
    /// Targeted loss of each row: logits `[n, classes]`, labels u32 `[n]`, target classes u32 `[n]` -> `[n]`.
    TargetedLoss(TargetedLoss),
    /// logits, labels, targets, dvalue `[n]` -> dlogits of [`Op::TargetedLoss`].
    TargetedLossBackward(TargetedLoss),
    /// Class by rank: logits `[n, classes]`, labels, (run u32 `[1]`) -> u32 `[n]`: the class at place `rank` (with run,
    /// `rank + run`), from 0, among the classes other than the label; or the last class. Classes are ordered by
    /// descending logits; those of equal logits keep their order.
    RankClass {
        /// Number of classes before it.
        rank: u32,
    },
    /// Standardization of images: x `[n, ..]` -> `(x - mean) / deviation` of each row; and the deviation `[n]`: the
    /// standard deviation (with Bessel's correction), but at least `1 / sqrt(elements of a row)`. (The released code's
    /// `PerImageStandardize`.)
    Standardize,
    /// dy, y, deviation `[n]` -> dx of [`Op::Standardize`]. No gradient passes through a deviation at its least value.
    StandardizeBackward,
    /// Batch norm in evaluation mode: x `[.., c]`, weight, bias, mean, variance, each `[c]` -> `x scale + shift`, where
    /// `scale = weight / sqrt(variance + eps)` and `shift = bias - mean scale`. See
    /// [`BATCH_NORM_EPS`](super::BATCH_NORM_EPS).
    BatchNorm {
        /// `true`: followed by ReLU.
        relu: bool,
    },
    /// dy, weight, variance, (y) -> dx of [`Op::BatchNorm`]. y is given if ReLU is included.
    BatchNormBackwardInput {
        /// `true`: the gradient of ReLU is included.
        relu: bool,
    },
    /// Batch norm in training mode: x `[n, .., c]`, weight, bias `[c]` -> y, mean, variance, running mean*, running
    /// variance*, the last four `[c]`. Mean and (biased) variance are those of the active rows and their pixels; y is
    /// [`Op::BatchNorm`] with them. The running statistics move towards the mean and the unbiased variance by
    /// [`BATCH_NORM_MOMENTUM`](super::BATCH_NORM_MOMENTUM). Without an active row nothing changes.
    BatchNormTraining {
        /// `true`: followed by ReLU.
        relu: bool,
    },
    /// dy, x, weight, bias, mean, variance, dweight, dbias, (addend) -> dx of [`Op::BatchNormTraining`], to which the
    /// addend is added.
    BatchNormTrainingBackwardInput {
        /// `true`: the gradient of ReLU is included; the sign of its input is computed again from x.
        relu: bool,
    },
    /// dy, x, weight, bias, mean, variance -> dweight, dbias of batch norm in both modes, summed over the active rows.
    BatchNormBackwardWeight {
        /// `true`: the gradient of ReLU is included; the sign of its input is computed again from x.
        relu: bool,
    },
    /// Mean over the pixels: x `[n, h, w, c]` -> `[n, c]`.
    GlobalMean,
    /// dy `[n, c]` -> dx `[n, h, w, c]` of [`Op::GlobalMean`].
    GlobalMeanBackward,
    /// [`Op::Conv2d`] and ops around it: x, w, (x and w of the shortcut), (addend), (weight, bias, mean, variance), (the
    /// same for x, if it is normalized) -> (sum), (batch norm of the sum), (batch norm of x), (mean, variance, running
    /// mean*, running variance* of [`Op::BatchNormTraining`]).
    Conv2dFused(ConvFusion),
    /// [`Op::Conv2dBackwardInput`] and ops that follow it: dy, w, (dy and w of the shortcut), (weight, variance, y),
    /// (addend), (x, weight, bias, mean, variance of [`Op::BatchNormBackwardWeight`]) -> dx, (dweight, dbias).
    Conv2dFusedBackwardInput(ConvGradientFusion),
    /// Gradient of a loss with respect to the features that a network's head reads. The head is the mean over pixels,
    /// if there is one, the last layer and the loss: features `[n, h, w, c]` or `[n, ..]`, w `[classes, in]`, bias
    /// `[classes]`, labels u32 `[n]`, dvalue `[n]`, (weight, variance of batch norm) -> dx; and, if the gradient is
    /// normalized, its norm `[n]`. In the place of features that are not stored
    /// ([`HeadFeatures::Hidden`](super::HeadFeatures::Hidden)) stand the operands of their [`Op::LinearBias`].
    HeadBackward(HeadFusion),

    /// Weights of a mean over the active rows: -> `[n]`: 1 / rows.
    MeanWeights,
    /// Weights of Algorithm 2: eps `[n]` -> `[n]`: 1 / rows where `eps < hinge`, else 0. Examples whose margin has
    /// reached d_max are counted, but not trained on.
    HingeWeights {
        /// d_max.
        hinge: f32,
    },
    /// Selection of rows: values `[n]` -> indices of the negative values, ascending, at the front of u32 `[n]`; their
    /// number, u32 `[1]`.
    SelectNegative,

    /// Uniform noise: step u32 `[1]`, index u32 `[n]` -> `[n, ..]` in `[-1, 1)` if signed, else in `[0, 1)`.
    /// Counter-based random numbers, by seed, purpose, step, index and element.
    Uniform {
        /// Seed of the run.
        seed: u64,
        /// Purpose: each has its own stream of random numbers.
        purpose: Purpose,
        /// `true`: in `[-1, 1)`; `false`: in `[0, 1)`.
        signed: bool,
    },
    /// First point of PGD (`rand_init_delta` of advertorch): x, eps `[n]`, noise -> adv.
    PgdStart(Norm),
    /// One iteration of PGD: x, dx, eps `[n]`, step `[n]` -> adv*: a step along the gradient, then the projection onto
    /// ball and box.
    PgdStep(PgdRule),
    /// [`Op::PgdStep`] and the ops that computed its gradient: x, dx, eps `[n]`, step `[n]`, (w, (choice, (w, choice,
    /// (w)))), (norm `[n]`), (y, deviation `[n]`) -> adv*. With w, the gradient of the first layer's results takes the
    /// place of dx, and dx is computed from it ([`Op::Conv2dBackwardInput`]; with choice
    /// [`Op::ConvPoolBackwardInput`]); with two of them, that of the second layer's results; with three, that of a
    /// linear layer's. dx is brought back from the norm of half gradients, then passes [`Op::StandardizeBackward`].
    PgdStepFused(PgdFusion),
    /// [`Op::AlongDirection`], if it is included, [`Op::Standardize`] and the first layer: x, w, (adv, ball `[n]`, t
    /// `[n]`), (weight, bias, mean, variance) -> (sum), (batch norm of the sum, with ReLU), (standardized images,
    /// deviation `[n]`).
    StandardizeConv2d(FirstLayerFusion),
    /// Point along a direction: x, adv, ball `[n]`, t `[n]` -> `x + t (adv - x) / length`. The length is `ball`
    /// ([`Direction::Eps`](super::Direction::Eps)) or the norm of `adv - x` ([`Direction::Unit`](super::Direction::Unit)).
    AlongDirection(AlongRule),
    /// FAB's projection (Croce and Hein, 2020): point z, anchor a, gradient w, each `[n, ..]`, value f `[n]` -> d: the
    /// smallest move of z inside the box [0, 1] onto the hyperplane `f + w . (z + d - a) = 0`. If the box does not meet
    /// the hyperplane, d leads to the corner nearest to it. Coordinates with `w = 0` do not move.
    ProjectHyperplane(Norm),
    /// One step of bisection for the zero of the loss: loss `[n]` at t -> t*, low*, high*: the halved bracket and its
    /// middle.
    Bisect {
        /// Upper end of the bracket at the start.
        max_eps: f32,
    },

    /// Half-precision copies of weights, each element rounded to nearest, ties to even: for each weight
    /// w `[k, kh, kw, c]` -> plain f16, of w's shape; turned f16 `[c, kh, kw, k]`, where
    /// `turned[c][r][s][k] = w[k][kh-1-r][kw-1-s][c]`. Of a linear layer: w `[out, in]` -> plain; turned `[in, out]`.
    /// The weights are the inputs, at most [`PACKED_FILTERS`](super::PACKED_FILTERS) of them; the copies of one are two
    /// outputs beside each other.
    PackFilters,

    /// Search for an overflow: dmargin `[p]`, (dclean `[p]`), step u32 `[1]` -> overflow* u32 `[1]`, sums*. If an
    /// element of the gradients is infinite or NaN, the overflow becomes `step + 1`, and
    /// [`Metric::SkippedSteps`](super::Metric::SkippedSteps) of the sums increases by 1.
    FindOverflow,
    /// A step of Adam: dmargin `[p]`, (dclean `[p]`), step u32 `[1]`, (overflow u32 `[1]`) -> params*, m*, v*, each `[p]`.
    /// With a loss scale the overflow is given: if it is `step + 1`, nothing changes.
    Adam(OptimizerRule),
    /// A step of SGD with momentum: dmargin `[p]`, (dclean `[p]`), step u32 `[1]`, (overflow u32 `[1]`) -> params*,
    /// momentum*, each `[p]`. With a loss scale the overflow is given: if it is `step + 1`, nothing changes.
    Sgd(OptimizerRule),
    /// Adds 1 to counter* u32 `[1]`.
    Increment,
    /// Ends a training step: loss, logit margin, weights, weighted loss, eps, each `[n]` -> sums*, to which the step is
    /// added (see [`Metric`](super::Metric)); number of steps* u32 `[1]`, to which 1 is added.
    AccumulateMetrics,

    /// Ops on the rows of a batch, computed in their order by one launch. A step reads and writes row `i` of what the
    /// steps write, and any rows of other values. Values that no step writes -> values that steps write; some of them
    /// are buffers* that they update.
    RowWise(Vec<RowWiseStep>),
}

/// A step of [`Op::RowWise`].
#[derive(Clone, Debug, PartialEq)]
pub struct RowWiseStep {
    /// Op of the step.
    pub op: Op,
    /// Values that the step reads, numbered through the inputs, then the outputs, of the whole op.
    pub inputs: Vec<usize>,
    /// Values that the step writes, numbered in the same way.
    pub outputs: Vec<usize>,
}

impl Op {
    /// Name of the op, of its function on every device, and of its test.
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
            Op::TwoConvPools { .. } => "two_conv_pools",
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
            Op::HeadBackward(_) => "head_backward",
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
            Op::PgdStepFused(_) => "pgd_step_fused",
            Op::StandardizeConv2d(_) => "standardize_conv2d",
            Op::AlongDirection(_) => "along_direction",
            Op::ProjectHyperplane(_) => "project_hyperplane",
            Op::Bisect { .. } => "bisect",
            Op::PackFilters => "pack_filters",
            Op::FindOverflow => "find_overflow",
            Op::Adam(_) => "adam",
            Op::Sgd(_) => "sgd",
            Op::Increment => "increment",
            Op::AccumulateMetrics => "accumulate_metrics",
            Op::RowWise(_) => "row_wise",
        }
    }
}
