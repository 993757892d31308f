//! Fusion of batch norm in training mode with the convolutions before and after it, where numbers are halves.
//!
//! [`Op::BatchNormTraining`] reads all of its operand twice: for the statistics, and for its results. The statistics can
//! come from the convolution that computes the operand, whose results they are ([`ConvFusion::statistics`]). The results
//! are then [`Op::BatchNorm`]; if a convolution is the only one to read them, it can compute them as it reads the operand
//! ([`ConvFusion::normalized`]). A GPU has such kernels for halves alone, so this is done when precision is chosen.

use super::graph::{Tape, Value};
use super::memory::DType;
use super::op::Op;
use super::params::ConvFusion;

impl Tape {
    /// Fuses batch norm in training mode with convolutions of halves.
    pub(super) fn fuse_batch_norms(&mut self) {
        if !self.fusing {
            return;
        }
        for at in 0..self.nodes.len() {
            if let Op::BatchNormTraining { relu } = self.nodes[at].op
                && self.fuse_statistics(at, relu)
                && relu
            {
                self.fuse_operand(at);
            }
        }
        self.nodes.retain(|node| !node.outputs.is_empty());
    }

    /// The fusion of node `at`, if it is a convolution of halves whose sum is an output and has no other batch norm.
    fn half_convolution(&self, at: usize) -> Option<ConvFusion> {
        let node = &self.nodes[at];
        let fusion = match node.op {
            Op::Conv2d(window) => ConvFusion::alone(window),
            Op::Conv2dFused(fusion) if !fusion.norm && !fusion.statistics => fusion,
            _ => return None,
        };
        let half = |value: Value| self.values[value.0].dtype == DType::F16;
        [node.inputs[0], node.inputs[1], node.outputs[0]].into_iter().all(half).then_some(fusion)
    }

    /// Computes the statistics of batch norm `norm` with its operand. `false`: that isn't possible.
    fn fuse_statistics(&mut self, norm: usize, relu: bool) -> bool {
        let Some(at) = self.computing(self.nodes[norm].inputs[0]) else { return false };
        let statistics = self.nodes[norm].outputs[1..].to_vec();
        let touched = self.nodes[at + 1..norm].iter().any(|node| {
            let values = node.inputs.iter().chain(&node.outputs);
            values.into_iter().any(|value| statistics.contains(value))
        });
        let alike = self.nodes[at].rows == self.nodes[norm].rows;
        let Some(fusion) = self.half_convolution(at).filter(|_| alike && !touched) else { return false };
        self.nodes[at].op = Op::Conv2dFused(ConvFusion { statistics: true, ..fusion });
        self.nodes[at].outputs.extend(&statistics);
        self.nodes[norm].op = Op::BatchNorm { relu };
        self.nodes[norm].outputs.truncate(1);
        self.nodes[norm].inputs.extend(&statistics[..2]);
        true
    }

    /// Lets the convolution that alone reads the results of batch norm `norm` compute them.
    fn fuse_operand(&mut self, norm: usize) {
        let result = self.nodes[norm].outputs[0];
        let Some(at) = self.only_use(result) else { return };
        let alike = self.nodes[at].rows == self.nodes[norm].rows;
        let once = self.nodes[at].inputs.iter().filter(|value| **value == result).count() == 1;
        let Some(fusion) = self.half_convolution(at).filter(|_| alike && once) else { return };
        if self.nodes[at].inputs[0] != result {
            return;
        }
        let operands = std::mem::take(&mut self.nodes[norm].inputs);
        self.nodes[norm].outputs.clear();
        let node = &mut self.nodes[at];
        node.op = Op::Conv2dFused(ConvFusion { normalized: true, ..fusion });
        node.inputs[0] = operands[0];
        node.inputs.extend(&operands[1..]);
    }
}

#[cfg(test)]
#[path = "fuse_batch_norm_tests.rs"]
mod tests;
