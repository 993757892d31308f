//! Parameters of ops: geometry of convolutions, norms, rules of PGD and of optimizers.

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

/// What batch norm adds to a variance: PyTorch's default.
pub const BATCH_NORM_EPS: f32 = 1e-5;
/// The share of a batch in the running statistics after it: PyTorch's default.
pub const BATCH_NORM_MOMENTUM: f32 = 0.1;

/// [`Op::ConvPool`]'s choice where the maximum is not positive: no gradient passes.
pub const NO_CHOICE: u8 = 4;

/// Geometry of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvWindow {
    /// Zeros around the image.
    pub padding: usize,
    /// Step of the window.
    pub stride: usize,
}

impl ConvWindow {
    /// Outputs along a side of `size` pixels: `(size + 2 padding - kernel) / stride + 1`.
    pub fn outputs(self, size: usize, kernel: usize) -> usize {
        (size + 2 * self.padding - kernel) / self.stride + 1
    }
}

/// What follows a convolution and is computed with it, in this order. One of the last two is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvFusion {
    /// Of the convolution.
    pub window: ConvWindow,
    /// The stride of a 1x1 convolution (no padding) whose results are added: a block's shortcut.
    pub shortcut: Option<usize>,
    /// Whether another value is added.
    pub addend: bool,
    /// Whether the sum of all these is a result.
    pub sum: bool,
    /// Whether [`Op::BatchNorm`] of that sum, with ReLU, is a result.
    pub norm: bool,
}

/// What follows a convolution's gradient by its input and is computed with it, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvGradientFusion {
    /// Of the convolution.
    pub window: ConvWindow,
    /// The stride of a 1x1 convolution (no padding) of the same input, whose gradient is added.
    pub shortcut: Option<usize>,
    /// Whether [`Op::BatchNormBackwardInput`], with ReLU, is applied to the sum.
    pub norm: bool,
    /// Whether another value is added at the end.
    pub addend: bool,
}

/// How PGD takes a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PgdRule {
    /// linf: along the sign; l2: along the gradient over its norm.
    pub norm: Norm,
    /// l2: what comes first after the step.
    pub l2_order: L2Order,
    /// l2: the least norm that is divided by.
    pub l2_grad_floor: f32,
}

/// Largest number of entries of a learning rate schedule: the optimizer kernels take it as an array of this length.
pub const MAX_LEARNING_RATES: usize = 32;

/// How gradients become weights. The gradient is `(1 - clean_coeff) dmargin + clean_coeff dclean`, and
/// `weight_decay` times the weights is added to it.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerRule {
    /// (from step, learning rate), ascending, the first from 0; at most [`MAX_LEARNING_RATES`].
    pub schedule: Vec<(u32, f32)>,
    /// The clean loss's share of the gradient.
    pub clean_coeff: f32,
    /// L2 penalty.
    pub weight_decay: f32,
    /// SGD's momentum; Adam ignores it.
    pub momentum: f32,
}

impl OptimizerRule {
    /// Learning rate at `step`, counted from 0.
    pub fn rate(&self, step: u32) -> f32 {
        self.schedule.iter().take_while(|(from, _)| *from <= step).last().expect("a schedule starts at step 0").1
    }
}
