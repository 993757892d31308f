//! Fusion of batch norm in training mode: of its input gradient with the sum that follows it, and, where numbers are
//! halves, of the op with the convolutions before and after it.
//!
//! [`Op::BatchNormTraining`] reads all of its operand twice: for the statistics, and for its results. The statistics can
//! come from the convolution that computes the operand, whose results they are ([`ConvFusion::statistics`]). The results
//! are then [`Op::BatchNorm`]; the convolution that first reads them can compute them as it reads the operand
//! ([`ConvFusion::normalized`]). [`Op::BatchNormBackwardWeight`] reads the gradient of the results, which is the input
//! gradient of that convolution: its sums come from there ([`ConvGradientFusion::norm_weight`]). A GPU has such kernels
//! for halves alone, so this is done when precision is chosen.

use super::graph::{Tape, Value};
use super::memory::DType;
use super::op::Op;
use super::params::{ConvFusion, ConvGradientFusion};

impl Tape {
    /// Fuses the input gradient of batch norm in training mode with the sum that alone reads it: that of a residual
    /// block, whose identity shortcut has a gradient, too. The fused op has no gradient.
    pub(super) fn fuse_residual_gradients(&mut self) {
        if !self.fusing {
            return;
        }
        for at in 0..self.nodes.len() {
            let Op::BatchNormTrainingBackwardInput { .. } = self.nodes[at].op else { continue };
            if let Some((sum, other)) = self.next_sum(at) {
                self.nodes[at].outputs.clear();
                self.nodes[sum].op = self.nodes[at].op.clone();
                self.nodes[sum].inputs = std::mem::take(&mut self.nodes[at].inputs);
                self.nodes[sum].inputs.push(other);
            }
        }
        self.nodes.retain(|node| !node.outputs.is_empty());
    }

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
            if self.nodes[at].op == (Op::BatchNormBackwardWeight { relu: true }) {
                self.fuse_weight_gradient(at);
            }
        }
        self.nodes.retain(|node| !node.outputs.is_empty());
    }

    /// Computes the gradients of the weight and bias of batch norm, node `norm`, with the gradient that they are summed
    /// from, if that is the input gradient of a convolution of halves.
    fn fuse_weight_gradient(&mut self, norm: usize) {
        let Some(at) = self.computing(self.nodes[norm].inputs[0]) else { return };
        let node = &self.nodes[at];
        let fusion = match node.op {
            Op::Conv2dBackwardInput(window) => ConvGradientFusion::alone(window),
            Op::Conv2dFusedBackwardInput(fusion) if !fusion.norm => fusion,
            _ => return,
        };
        let half = [node.inputs[0], node.inputs[1], node.outputs[0]].into_iter().all(|value| self.is_half(value));
        if !half || node.rows != self.nodes[norm].rows {
            return;
        }
        let (operands, sums) =
            (std::mem::take(&mut self.nodes[norm].inputs), std::mem::take(&mut self.nodes[norm].outputs));
        let node = &mut self.nodes[at];
        node.op = Op::Conv2dFusedBackwardInput(ConvGradientFusion { norm_weight: true, ..fusion });
        node.inputs.extend(&operands[1..]);
        node.outputs.extend(sums);
    }

    fn is_half(&self, value: Value) -> bool {
        self.values[value.0].dtype == DType::F16
    }

    /// The fusion of node `at`, if it is a convolution of halves whose sum is an output and has no other batch norm.
    fn half_convolution(&self, at: usize) -> Option<ConvFusion> {
        let node = &self.nodes[at];
        let fusion = match node.op {
            Op::Conv2d(window) => ConvFusion::alone(window),
            Op::Conv2dFused(fusion) if !fusion.norm => fusion,
            _ => return None,
        };
        let half = [node.inputs[0], node.inputs[1], node.outputs[0]].into_iter().all(|value| self.is_half(value));
        half.then_some(fusion)
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

    /// Lets the convolution that first reads the results of batch norm `norm` compute them. It writes them, too, if
    /// another op reads them.
    fn fuse_operand(&mut self, norm: usize) {
        let result = self.nodes[norm].outputs[0];
        let mut readers = (norm + 1..self.nodes.len()).filter(|&at| self.nodes[at].inputs.contains(&result));
        let Some(at) = readers.next() else { return };
        let keeps_operand = readers.next().is_some() || self.values[result.0].home.is_some();
        let alike = self.nodes[at].rows == self.nodes[norm].rows;
        let places = self.nodes[at].inputs.iter().enumerate().filter(|(_, value)| **value == result);
        let operand_alone = places.map(|(place, _)| place).eq([0]);
        let Some(fusion) = self.half_convolution(at).filter(|_| alike && operand_alone) else { return };
        let operands = std::mem::take(&mut self.nodes[norm].inputs);
        self.nodes[norm].outputs.clear();
        let node = &mut self.nodes[at];
        node.op = Op::Conv2dFused(ConvFusion { normalized: true, keeps_operand, ..fusion });
        node.inputs[0] = operands[0];
        node.inputs.extend(&operands[1..]);
        node.outputs.splice(1..1, keeps_operand.then_some(result));
    }
}

#[cfg(test)]
#[path = "fuse_batch_norm_tests.rs"]
mod tests;
