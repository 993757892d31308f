//! Parameters of ops: geometry of convolutions, norms, rules of PGD and of optimizers.

use super::loss::LossRule;
use crate::choice::choices;

choices! {
    /// Norm of margins and of perturbations.
    pub enum Norm {
        /// Largest absolute change of a pixel.
        Linf = "linf",
        /// Euclidean length of the change.
        L2 = "l2",
    }
}

choices! {
    /// Unit of a stored margin.
    pub enum Direction {
        /// Multiples of (x_adv - x) / eps, where eps is the ball of the attack (released): overstates the distance
        /// where the perturbation ended inside the ball.
        Eps = "eps",
        /// Multiples of (x_adv - x) / norm(x_adv - x): the margin is a distance.
        Unit = "unit",
    }
}

choices! {
    /// Order of the projections after a step of PGD in l2.
    pub enum L2Order {
        /// Into the box, then into the ball (released).
        BoxBall = "box-ball",
        /// Into the ball, then into the box.
        BallBox = "ball-box",
    }
}

/// Added to the variance in batch norm: PyTorch's default.
pub const BATCH_NORM_EPS: f32 = 1e-5;
/// Weight of a batch in the running statistics after it: PyTorch's default.
pub const BATCH_NORM_MOMENTUM: f32 = 0.1;

/// Choice of `Op::ConvPool` where the maximum is not positive, so that no gradient passes.
pub const NO_CHOICE: u8 = 4;

/// Geometry of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvWindow {
    /// Zeros on each side of the image.
    pub padding: usize,
    /// Pixels between neighbouring windows.
    pub stride: usize,
}

impl ConvWindow {
    /// Number of outputs along a side of `size` pixels: `(size + 2 padding - kernel) / stride + 1`.
    pub fn outputs(self, size: usize, kernel: usize) -> usize {
        (size + 2 * self.padding - kernel) / self.stride + 1
    }
}

/// Ops around a convolution that are computed with it, in this order. At least one of `sum` and `norm` is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvFusion {
    /// Geometry of the convolution.
    pub window: ConvWindow,
    /// `true`: the convolution reads batch norm of its operand, with ReLU.
    pub normalized: bool,
    /// `true`: this batch norm of the operand is an output.
    pub keeps_operand: bool,
    /// Stride of a 1x1 convolution without padding whose result is added: the shortcut of a residual block.
    pub shortcut: Option<usize>,
    /// `true`: another value is added.
    pub addend: bool,
    /// `true`: the sum of these is an output.
    pub sum: bool,
    /// `true`: batch norm (evaluation mode) of the sum, with ReLU, is an output.
    pub norm: bool,
    /// `true`: the statistics of batch norm in training mode are outputs, those of the sum, which is one, too.
    pub statistics: bool,
}

impl ConvFusion {
    /// A convolution alone.
    pub fn alone(window: ConvWindow) -> ConvFusion {
        let [normalized, keeps_operand, addend, norm, statistics] = [false; 5];
        ConvFusion { window, normalized, keeps_operand, shortcut: None, addend, sum: true, norm, statistics }
    }

    /// Returns the fusion without batch norm in training mode around it.
    #[must_use]
    pub fn without_batch_norm_in_training(self) -> ConvFusion {
        ConvFusion { normalized: false, keeps_operand: false, statistics: false, ..self }
    }
}

/// Ops that follow the input gradient of a convolution and are computed with it, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvGradientFusion {
    /// Geometry of the convolution.
    pub window: ConvWindow,
    /// Stride of a 1x1 convolution without padding of the same input, whose input gradient is added.
    pub shortcut: Option<usize>,
    /// `true`: the gradient of batch norm (evaluation mode) with ReLU is applied to the sum.
    pub norm: bool,
    /// `true`: another value is added at the end.
    pub addend: bool,
    /// `true`: the gradients of the weight and bias of batch norm in training mode with ReLU, whose results the
    /// convolution reads, are outputs, too.
    pub norm_weight: bool,
}

impl ConvGradientFusion {
    /// An input gradient alone.
    pub fn alone(window: ConvWindow) -> ConvGradientFusion {
        ConvGradientFusion { window, shortcut: None, norm: false, addend: false, norm_weight: false }
    }
}

/// Features that a network's head reads, and what its gradient includes of the ops that computed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeadFeatures {
    /// Values of any sign: no other gradient is included.
    Plain,
    /// Results of ReLU, whose gradient is included: dx is 0 where they are not positive.
    Relu,
    /// Results of a linear layer with bias and ReLU, the network's last hidden layer. The op computes them itself and
    /// does not write them. ReLU's gradient is included: dx is that with respect to the layer's products.
    Hidden,
    /// Images, of which the last layer reads the mean over the pixels.
    Mean,
    /// Images, results of batch norm in evaluation mode with ReLU, whose gradients are included. The last layer reads
    /// their mean over the pixels.
    MeanOfBatchNorm,
}

impl HeadFeatures {
    /// True if the last layer reads the mean over the pixels.
    pub fn are_averaged(self) -> bool {
        matches!(self, HeadFeatures::Mean | HeadFeatures::MeanOfBatchNorm)
    }

    /// Number of the op's operands that give the features; the last layer's weight follows them.
    pub fn operands(self) -> usize {
        if self == HeadFeatures::Hidden { 3 } else { 1 }
    }
}

/// Ops of a network's head whose gradients are computed in one pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadFusion {
    /// The features.
    pub features: HeadFeatures,
    /// The loss.
    pub rule: LossRule,
    /// `true`: the gradient is brought to a norm ([`gradient_norm`](super::gradient_norm)): that of the mean's
    /// gradient, or that of the logits' if the features are not averaged.
    pub normalized: bool,
}

/// Largest number of inputs and classes of a head that is fused: a GPU's block holds them in shared memory.
pub const MOST_HEAD_NUMBERS: usize = 8192;

/// Largest number of channels of images whose first layer's input gradient is computed with the step of PGD.
pub const MOST_STEP_CHANNELS: usize = 4;

/// Largest number of elements of an image and of the first layer's filters that a GPU's block holds in its 48 KiB of
/// shared memory, beside sums over the block. Channels are rounded up to [`MOST_STEP_CHANNELS`] in a step of PGD, the
/// number of filters to a multiple of [`FIRST_LAYER_FILTERS`] in the layer itself.
pub const MOST_FIRST_LAYER_NUMBERS: usize = 12_000;

/// Filters of the first layer whose sums a GPU's thread has in registers.
pub const FIRST_LAYER_FILTERS: usize = 16;

/// Side of the filters of a pair of layers with pooling that a GPU's block computes in shared memory.
pub const PAIR_SIDE: usize = 5;
/// Filters of the first layer of a pair, and of the second.
pub const PAIR_FILTERS: [usize; 2] = [32, 64];
/// Width of the images of a pair of layers, at most.
pub const PAIR_WIDTH: usize = 32;

/// True if a GPU's block computes two layers with pooling in shared memory, in half precision: those of LeNet5 on images
/// `[n, h, w, 1]` of some sizes. `w` are the filters of both layers, `[k, kh, kw, c]`.
pub fn is_layer_pair(images: &[usize], w: [&[usize]; 2], windows: [ConvWindow; 2]) -> bool {
    let [first, second] = PAIR_FILTERS;
    let fits = |side: usize| side.is_multiple_of(4);
    matches!(images, &[_, h, wide, 1] if fits(h) && fits(wide) && wide <= PAIR_WIDTH)
        && w == [&[first, PAIR_SIDE, PAIR_SIDE, 1], &[second, PAIR_SIDE, PAIR_SIDE, first]]
        && windows == [ConvWindow { padding: PAIR_SIDE / 2, stride: 1 }; 2]
}

/// Rule of a point along a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlongRule {
    /// Norm of `adv - x`.
    pub norm: Norm,
    /// Unit of `t`.
    pub direction: Direction,
    /// `true`: the point is clamped to [0, 1].
    pub clamp: bool,
}

/// Ops from images to the results of a network's first layer, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstLayerFusion {
    /// Rule of the point along a direction that the images are, if it is included.
    pub along: Option<AlongRule>,
    /// The convolution of the standardized images, without shortcut and addend, and what follows it.
    pub layer: ConvFusion,
    /// `true`: the standardized images and their deviations are outputs, too.
    pub keeps_images: bool,
}

/// Layers at a network's beginning whose input gradient is computed with a step of PGD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepLayer {
    /// A convolution.
    Conv(ConvWindow),
    /// A convolution with bias, ReLU and max-pooling ([`Op::ConvPool`](super::Op::ConvPool)); in linf, without
    /// standardization.
    ConvPool(ConvWindow),
    /// Two of these.
    TwoConvPools {
        /// Geometry of the layer that reads the images.
        first: ConvWindow,
        /// Geometry of the layer that reads its results.
        second: ConvWindow,
        /// `true`: a linear layer reads their results. Its input gradient is rounded to half precision.
        linear: bool,
    },
}

impl StepLayer {
    /// Number of operands beside dy: filters, and the choices of max-pooling, by layer.
    pub fn operands(self) -> usize {
        match self {
            StepLayer::Conv(_) => 1,
            StepLayer::ConvPool(_) => 2,
            StepLayer::TwoConvPools { linear, .. } => 4 + usize::from(linear),
        }
    }
}

/// Rule of a step of PGD.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PgdRule {
    /// Norm of the ball. A step goes along the sign of the gradient (linf), or along the gradient over its norm (l2).
    pub norm: Norm,
    /// Order of the projections in l2.
    pub l2_order: L2Order,
    /// Least value of the gradient's norm in l2.
    pub l2_grad_floor: f32,
}

/// A step of PGD and the ops before it, in this order. At least one of them is set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PgdFusion {
    /// The first layers, if their input gradient is included.
    pub layer: Option<StepLayer>,
    /// `true`: the gradient is brought back from a norm ([`gradient_norm`](super::gradient_norm)).
    pub from_norm: bool,
    /// `true`: the gradient passes the standardization of images.
    pub standardized: bool,
    /// The step.
    pub rule: PgdRule,
}

/// Largest number of entries of a learning rate schedule: the optimizer kernels take it as an array of this length.
pub const MAX_LEARNING_RATES: usize = 32;

/// Rule of an optimizer. The gradient is `((1 - clean_coeff) dmargin + clean_coeff dclean) / loss_scale + weight_decay
/// weights`.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerRule {
    /// Learning rates, as (first step, rate), ascending from step 0; at most [`MAX_LEARNING_RATES`].
    pub schedule: Vec<(u32, f32)>,
    /// Weight of the clean loss's gradient.
    pub clean_coeff: f32,
    /// L2 penalty of the weights.
    pub weight_decay: f32,
    /// Momentum of SGD; Adam ignores it.
    pub momentum: f32,
    /// Factor that the losses were multiplied by, a power of two, if their gradients may overflow.
    pub loss_scale: Option<f32>,
}

impl OptimizerRule {
    /// Learning rate at `step`, counted from 0.
    pub fn rate(&self, step: u32) -> f32 {
        self.schedule.iter().take_while(|(from, _)| *from <= step).last().expect("a schedule starts at step 0").1
    }
}
