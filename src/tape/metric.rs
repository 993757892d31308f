//! Sums of metrics that training steps add to on the device.

use super::graph::Value;

/// Positions in the sums of [`Op::AccumulateMetrics`](super::Op::AccumulateMetrics).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Metric {
    /// Number of steps.
    Steps = 0,
    /// Number of examples.
    Examples,
    /// Sum of the steps' mean losses.
    MeanLoss,
    /// Sum of the steps' weighted losses.
    WeightedLoss,
    /// Number of examples whose label has the largest logit.
    Correct,
    /// Sum of the examples' eps.
    Eps,
    /// Number of examples whose weight is 0.
    ZeroWeights,
    /// Number of steps that were skipped, because a gradient had overflowed.
    SkippedSteps,
}

impl Metric {
    /// Number of sums.
    pub const COUNT: usize = 8;
}

/// Operands of [`Op::AccumulateMetrics`](super::Op::AccumulateMetrics), each `[n]`.
#[derive(Clone, Copy, Debug)]
pub struct MetricOperands {
    /// Loss whose mean is summed in [`Metric::MeanLoss`].
    pub loss: Value,
    /// Logit margin, negative if the example is correct.
    pub logit_margin: Value,
    /// Weights of `weighted_loss`.
    pub weights: Value,
    /// Loss whose product with the weights is summed in [`Metric::WeightedLoss`]; ignored if the weight is 0.
    pub weighted_loss: Value,
    /// Radius or margin of the example.
    pub eps: Value,
}
