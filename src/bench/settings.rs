//! Settings of a bench.

use super::ceilings::Ceilings;
use crate::tape::Precision;

/// Bytes that are touched between two uses of an op's operand, in millions. They are several times the L2 cache, which
/// is
/// 50 MB on an H100 and 60 MB on an H200, because a cache does not evict the oldest line first.
pub const ROTATED_MEGABYTES: usize = 256;

/// Settings of a bench.
#[derive(Clone, Debug)]
pub struct BenchSettings {
    /// Name of the published settings of the step.
    pub preset: String,
    /// LeNet5's width; `None`: the preset's.
    pub width: Option<f64>,
    /// Precision of the step's attacks.
    pub precision: Precision,
    /// Examples a step; `None`: the preset's.
    pub batch_size: Option<usize>,
    /// Bytes of each tensor of the attacks' steps and of the copy, in millions.
    pub megabytes: usize,
    /// Bytes that are touched between two uses of an op's operand, in millions: see [`ROTATED_MEGABYTES`].
    pub rotated_megabytes: usize,
    /// Size of the largest matrix product, a power of two.
    pub product: usize,
    /// Number of measurements of each item, of which the median is taken.
    pub rounds: usize,
    /// Text that the names of the timed items contain; `None`: all items are timed.
    pub only: Option<String>,
    /// Rates that items are compared with, instead of our own.
    pub ceilings: Option<Ceilings>,
    /// Seconds after which no further item is started. Our own copy and products are timed in any case.
    pub budget_s: Option<f64>,
}
