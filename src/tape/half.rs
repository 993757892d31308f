//! Half-precision numbers: the setting, and the copies of weights that ops on them read.

use super::memory::{Buffer, DType, Memory};
use crate::choice::choices;

choices! {
    /// Precision of stored activations, gradients and filters. All sums are single precision.
    pub enum Precision {
        /// Single precision: 24 bits.
        Fp32 = "fp32",
        /// Half precision, 11 bits, under attack and in training passes.
        Fp16 = "fp16",
        /// Half precision under attack. Training passes are single precision.
        Fp16Attack = "fp16-attack",
    }
}

/// Scale of gradients that are stored in half precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfGradients {
    /// The gradient of each example is brought to a norm, and back where it leaves half precision
    /// ([`gradient_norm`](super::gradient_norm)): for gradients with respect to images. Gradients that are summed over
    /// examples are single precision.
    ByExample,
    /// Gradients are stored as they are recorded: for gradients with respect to weights, whose recorder multiplies the
    /// loss by a scale.
    AsRecorded,
}

/// Weights whose copies one [`Op::PackFilters`](super::Op::PackFilters) writes, at most.
pub const PACKED_FILTERS: usize = 32;

/// Half-precision copies of a layer's weight, which [`Op::PackFilters`](super::Op::PackFilters) writes.
#[derive(Clone, Debug)]
pub struct HalfFilter {
    /// Weight in single precision: `[k, kh, kw, c]`, or `[out, in]`.
    pub weight: Buffer,
    /// Copy of the weight's shape, which ops read that compute outputs.
    pub plain: Buffer,
    /// Copy `[c, kh, kw, k]` with reversed kh and kw, or `[in, out]`, which ops read that compute input gradients.
    pub turned: Buffer,
}

impl HalfFilter {
    /// Declares the copies of a weight.
    pub fn declare(memory: &mut Memory, weight: &Buffer) -> HalfFilter {
        let turned: Vec<usize> = match weight.dims[..] {
            [k, kh, kw, c] => vec![c, kh, kw, k],
            [out, from] => vec![from, out],
            _ => panic!("{} {:?} is no weight of a layer", weight.name, weight.dims),
        };
        HalfFilter {
            weight: weight.clone(),
            plain: memory.buffer(&format!("{}.half", weight.name), &weight.dims, DType::F16),
            turned: memory.buffer(&format!("{}.half_turned", weight.name), &turned, DType::F16),
        }
    }
}

/// Half-precision copy of a weight that an op reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterCopy {
    /// [`HalfFilter::plain`].
    Plain,
    /// [`HalfFilter::turned`].
    Turned,
}
