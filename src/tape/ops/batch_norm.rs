//! Batch norm in both modes.

use crate::tape::Op;
use crate::tape::graph::{Tape, Value};
use crate::tape::memory::{Buffer, DType};

/// Operands of batch norm beside its input, each `[c]`.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    /// Factor of the normalized values.
    pub weight: Value,
    /// Bias, added after the multiplication.
    pub bias: Value,
    /// Running mean.
    pub running_mean: Buffer,
    /// Running variance.
    pub running_variance: Buffer,
}

impl Tape {
    /// [`Op::BatchNorm`], with the running statistics.
    pub fn batch_norm(&mut self, x: Value, norm: &BatchNorm) -> Value {
        let operands = [norm.weight, norm.bias, self.leaf(&norm.running_mean), self.leaf(&norm.running_variance)];
        self.check_channels(x, &operands);
        self.same(Op::BatchNorm { relu: false }, &[&[x], &operands[..]].concat())
    }

    /// [`Op::BatchNormTraining`], which updates the running statistics.
    pub fn batch_norm_training(&mut self, x: Value, norm: &BatchNorm) -> Value {
        let running = [self.leaf(&norm.running_mean), self.leaf(&norm.running_variance)];
        self.check_channels(x, &[norm.weight, norm.bias, running[0], running[1]]);
        let (dims, channels) = (self.dims(x).to_vec(), self.dims(norm.weight).to_vec());
        let out = self.value(&dims, DType::F32, None);
        let [mean, variance] = [0, 1].map(|_| self.value(&channels, DType::F32, None));
        let outputs = [out, mean, variance, running[0], running[1]];
        self.push(Op::BatchNormTraining { relu: false }, &[x, norm.weight, norm.bias], &outputs);
        out
    }

    fn check_channels(&self, x: Value, operands: &[Value]) {
        let channels = self.dims(x).last().expect("batch_norm: x has channels");
        for operand in operands {
            assert_eq!(self.dims(*operand), [*channels], "batch_norm: an operand of x {:?}", self.dims(x));
        }
    }
}
