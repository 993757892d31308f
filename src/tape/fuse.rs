//! Fusion: chains of ops that one pass over memory computes.
//!
//! - convolution (stride 1), bias, ReLU and 2x2 max-pooling: [`Op::ConvPool`]; two of them in half precision:
//!   [`Op::TwoConvPools`], in `fuse_conv_pools`
//! - the product of a linear layer, bias and, optionally, ReLU: [`Op::LinearBias`]
//! - the input gradient of a linear layer and that of the ReLU before it: [`Op::LinearBackwardInput`] with y
//! - batch norm and ReLU: [`Op::BatchNorm`] and [`Op::BatchNormTraining`] with ReLU
//! - a convolution, the shortcut of a residual block (1x1), the residual sum, and batch norm in evaluation mode with
//!   ReLU: [`Op::Conv2dFused`]; their input gradients: [`Op::Conv2dFusedBackwardInput`]
//! - from images to the first layer, and from its gradient to a step of PGD: [`Op::StandardizeConv2d`] and
//!   [`Op::PgdStepFused`], in `fuse_first_layer`
//! - the last layer, its loss and their gradients: [`Op::HeadBackward`], in `fuse_head`
//! - batch norm in training mode: its input gradient and a sum; the convolutions before and after it, of halves, in
//!   `fuse_batch_norm`
//! - small ops on the rows of a batch: [`Op::RowWise`], in `fuse_row_wise`

use super::graph::{Tape, Value};
use super::op::Op;
use super::params::{ConvFusion, ConvGradientFusion};

impl Tape {
    /// Replaces every chain by its fused op, if that op has gradients. A value inside a chain must be used by the chain
    /// alone; the result of the chain keeps its handle. Called before gradients are recorded and when the tape is
    /// finished.
    pub fn fuse(&mut self) {
        if !self.fusing {
            return;
        }
        for at in 0..self.nodes.len() {
            match self.nodes[at].op {
                Op::Conv2d(window) if window.stride == 1 => {
                    if let Some(chain) = self.chain(at, &[Op::AddBias, Op::Relu, Op::MaxPool2d]) {
                        self.replace(&chain, Op::ConvPool(window));
                    }
                }
                Op::Linear => {
                    if let Some(chain) = self.chain(at, &[Op::AddBias, Op::Relu]) {
                        self.replace(&chain, Op::LinearBias { relu: true });
                    } else if let Some(chain) = self.chain(at, &[Op::AddBias]) {
                        self.replace(&chain, Op::LinearBias { relu: false });
                    }
                }
                Op::BatchNorm { relu: false } => {
                    if let Some(chain) = self.chain(at, &[Op::Relu]) {
                        self.replace(&chain, Op::BatchNorm { relu: true });
                    }
                }
                Op::BatchNormTraining { relu: false } => {
                    if let Some(chain) = self.chain(at, &[Op::Relu]) {
                        self.replace(&chain, Op::BatchNormTraining { relu: true });
                    }
                }
                Op::LinearBackwardInput if self.nodes[at].inputs.len() == 2 => {
                    if let Some(chain) = self.chain(at, &[Op::ReluBackward]) {
                        self.replace(&chain, Op::LinearBackwardInput);
                    }
                }
                _ => {}
            }
        }
        self.nodes.retain(|node| !node.outputs.is_empty());
    }

    /// Nodes of a chain: node `first`, then one node for each of `ops`, the only reader of the result before it.
    /// `None`: there is no such chain.
    fn chain(&self, first: usize, ops: &[Op]) -> Option<Vec<usize>> {
        let mut chain = vec![first];
        for op in ops {
            let last = &self.nodes[chain[chain.len() - 1]];
            let next = self.only_use(last.outputs[0])?;
            let node = &self.nodes[next];
            if node.op != *op || node.inputs[0] != last.outputs[0] || node.rows != last.rows {
                return None;
            }
            chain.push(next);
        }
        Some(chain)
    }

    /// Replaces the last node of a chain by `op` and clears the others. The inputs of `op` are those of the first node,
    /// then the other operands of the later nodes; its outputs are those of the last node, then the other outputs of
    /// the first.
    fn replace(&mut self, chain: &[usize], op: Op) {
        let mut inputs = Vec::new();
        let beside = self.nodes[chain[0]].outputs[1..].to_vec();
        for (i, &at) in chain.iter().enumerate() {
            let read = std::mem::take(&mut self.nodes[at].inputs);
            inputs.extend_from_slice(&read[usize::from(i > 0)..]);
        }
        let (&last, before) = chain.split_last().expect("a chain has nodes");
        (self.nodes[last].op, self.nodes[last].inputs) = (op, inputs);
        self.nodes[last].outputs.extend(beside);
        for &at in before {
            self.nodes[at].outputs.clear();
        }
    }

    /// The node that reads `value`, if it is the only one and no buffer holds the value.
    pub(super) fn only_use(&self, value: Value) -> Option<usize> {
        let mut users = (0..self.nodes.len()).filter(|&i| self.nodes[i].inputs.contains(&value));
        let user = users.next()?;
        (users.next().is_none() && self.values[value.0].home.is_none()).then_some(user)
    }

    /// Fuses convolutions and their input gradients with the ops that follow them. The fused ops have no gradients, so
    /// this is called when all gradients have been recorded.
    pub(super) fn fuse_convolutions(&mut self) {
        if !self.fusing {
            return;
        }
        for at in 0..self.nodes.len() {
            let taken = self.nodes[at].outputs.is_empty();
            match self.nodes[at].op {
                Op::Conv2d(_) if !taken && !self.is_shortcut(at) => self.fuse_conv2d(at),
                Op::Conv2dBackwardInput(_) if !taken && !self.is_shortcut(at) => self.fuse_conv2d_backward_input(at),
                _ => {}
            }
        }
        self.nodes.retain(|node| !node.outputs.is_empty());
    }

    /// Fuses convolution `at` with the sum and the batch norm that follow it.
    fn fuse_conv2d(&mut self, at: usize) {
        let Op::Conv2d(window) = self.nodes[at].op else { unreachable!("called for a convolution") };
        let mut fusion = ConvFusion::alone(window);
        let mut inputs = self.nodes[at].inputs.clone();
        let mut last = at;
        if let Some((add, other)) = self.next_sum(at) {
            fusion.shortcut = self.take_shortcut(at, other, &mut inputs);
            if fusion.shortcut.is_none() {
                inputs.push(other);
                fusion.addend = true;
            }
            last = add;
        }
        let sum = self.nodes[last].outputs[0];
        let mut outputs = vec![sum];
        let rows = self.nodes[at].rows;
        let normalizes = |i: &usize| {
            let node = &self.nodes[*i];
            node.op == Op::BatchNorm { relu: true } && node.inputs[0] == sum && node.rows == rows
        };
        if let Some(norm) = (last + 1..self.nodes.len()).find(normalizes) {
            (fusion.sum, fusion.norm) = (self.only_use(sum).is_none(), true);
            inputs.extend_from_slice(&self.nodes[norm].inputs[1..]);
            outputs.append(&mut self.nodes[norm].outputs);
            self.nodes[norm].inputs.clear();
            if !fusion.sum {
                outputs.remove(0);
            }
        }
        if last != at || fusion.norm {
            self.nodes[at].outputs.clear();
            self.nodes[at].inputs.clear();
            let node = &mut self.nodes[last];
            (node.op, node.inputs, node.outputs) = (Op::Conv2dFused(fusion), inputs, outputs);
        }
    }

    /// Fuses input gradient `at` of a convolution with the sums and the gradient of batch norm that follow it.
    fn fuse_conv2d_backward_input(&mut self, at: usize) {
        let Op::Conv2dBackwardInput(window) = self.nodes[at].op else { unreachable!("called for an input gradient") };
        let mut fusion = ConvGradientFusion::alone(window);
        let mut inputs = self.nodes[at].inputs.clone();
        let mut chain = vec![at];
        if let Some((add, other)) = self.next_sum(at) {
            fusion.shortcut = self.take_shortcut(at, other, &mut inputs);
            if fusion.shortcut.is_some() {
                chain.push(add);
            }
        }
        let last = chain[chain.len() - 1];
        if let Some(norm) = self.chain(last, &[Op::BatchNormBackwardInput { relu: true }]) {
            inputs.extend_from_slice(&self.nodes[norm[1]].inputs[1..]);
            fusion.norm = true;
            chain.push(norm[1]);
        }
        if let Some((add, other)) = self.next_sum(chain[chain.len() - 1]) {
            inputs.push(other);
            fusion.addend = true;
            chain.push(add);
        }
        if let [before @ .., last] = &chain[..]
            && !before.is_empty()
        {
            for &at in before {
                self.nodes[at].outputs.clear();
                self.nodes[at].inputs.clear();
            }
            let node = &mut self.nodes[*last];
            (node.op, node.inputs) = (Op::Conv2dFusedBackwardInput(fusion), inputs);
        }
    }

    /// The sum that is the only reader of node `at`'s result, and the other value that it adds.
    pub(super) fn next_sum(&self, at: usize) -> Option<(usize, Value)> {
        let result = self.nodes[at].outputs[0];
        let add = self.only_use(result)?;
        let node = &self.nodes[add];
        let &[a, b] = &node.inputs[..] else { return None };
        let both = a == b || node.op != Op::Add || node.rows != self.nodes[at].rows;
        (!both).then_some((add, if a == result { b } else { a }))
    }

    /// If `value` is computed by a shortcut beside node `main`: appends the shortcut's operands to `inputs`, clears its
    /// node and returns its stride.
    fn take_shortcut(&mut self, main: usize, value: Value, inputs: &mut Vec<Value>) -> Option<usize> {
        let (at, stride) = self.shortcut(main, value)?;
        inputs.append(&mut self.nodes[at].inputs);
        self.nodes[at].outputs.clear();
        Some(stride)
    }

    /// The node that computes `value`, and its stride, if it is a shortcut beside node `main`: a 1x1 convolution
    /// without padding whose result is only added to that of `main`. Likewise for input gradients.
    fn shortcut(&self, main: usize, value: Value) -> Option<(usize, usize)> {
        let at = self.computing(value)?;
        let (node, main) = (&self.nodes[at], &self.nodes[main]);
        let stride = match (&node.op, &main.op) {
            (Op::Conv2d(window), Op::Conv2d(_)) | (Op::Conv2dBackwardInput(window), Op::Conv2dBackwardInput(_))
                if window.padding == 0 =>
            {
                window.stride
            }
            _ => return None,
        };
        let single = self.dims(node.inputs[1])[1..3] == [1, 1];
        (single && node.rows == main.rows && self.only_use(value).is_some()).then_some((at, stride))
    }

    /// True if node `at` is the shortcut beside a larger convolution, which is fused with it.
    fn is_shortcut(&self, at: usize) -> bool {
        let main = |(_, other): (usize, Value)| self.computing(other);
        self.next_sum(at).and_then(main).is_some_and(|main| {
            self.next_sum(main).is_some()
                && self.shortcut(main, self.nodes[at].outputs[0]).is_some()
                && self.shortcut(at, self.nodes[main].outputs[0]).is_none()
        })
    }

    /// The node that computes `value`.
    pub(super) fn computing(&self, value: Value) -> Option<usize> {
        self.nodes.iter().position(|node| node.outputs.first() == Some(&value))
    }
}

#[cfg(test)]
#[path = "fuse_tests.rs"]
mod tests;
