//! What a training step adds up.

/// Places in the sums of [`Op::AccumulateMetrics`](super::Op::AccumulateMetrics).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Metric {
    /// Steps summed.
    Steps = 0,
    /// Examples summed.
    Examples,
    /// Sum of the steps' mean clean losses.
    CleanLoss,
    /// Sum of the steps' margin losses.
    MarginLoss,
    /// Examples whose label has the largest logit.
    Correct,
    /// Sum of the margins, 0 where wrong.
    Eps,
    /// Examples that the margin loss left out, their margin having reached d_max.
    Reached,
}

impl Metric {
    /// How many there are.
    pub const COUNT: usize = 7;
}
