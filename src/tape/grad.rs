//! Gradients of a recorded computation with respect to wanted values.
//!
//! Only ops on a path from a wanted value to the loss are differentiated, and each only with respect to operands on
//! such a path. An attack asks for the gradient with respect to its input, so no gradient of a weight is computed. The
//! first contribution to a gradient is a value of its own and later ones are added to it, so nothing is filled with
//! zeros. (tinygrad also differentiates for targets only.)

use super::graph::{Node, Tape, Value};
use super::memory::DType;
use super::op::Op;

impl Tape {
    /// Records the gradients of `sum(loss * weights)` with respect to each of `wanted`, in their order. `loss` and
    /// `weights` are `[n]`.
    ///
    /// # Panics
    /// If `loss` does not depend on a wanted value, or if an op between them has no gradient.
    pub fn grad(&mut self, loss: Value, weights: Value, wanted: &[Value]) -> Vec<Value> {
        assert_eq!(self.dims(loss), self.dims(weights), "grad: loss and weights");
        self.fuse();
        let mut on_path = vec![false; self.values.len()];
        for w in wanted {
            on_path[w.0] = true;
        }
        for node in &self.nodes {
            if node.inputs.iter().any(|v| on_path[v.0]) {
                // Classes and choices have no gradient.
                let numbers = node.outputs.iter().filter(|v| self.values[v.0].dtype == DType::F32);
                numbers.for_each(|v| on_path[v.0] = true);
            }
        }
        let mut gradient: Vec<Option<Value>> = vec![None; self.values.len()];
        gradient[loss.0] = Some(weights);
        for at in (0..self.nodes.len()).rev() {
            let node = self.nodes[at].clone();
            let Some(dy) = node.outputs.first().and_then(|y| gradient[y.0]) else { continue };
            let rows = std::mem::replace(&mut self.rows, node.rows);
            // The gradient of ReLU is common to all operands.
            let dy = match node.op {
                Op::LinearBias { relu: true } => self.relu_backward(dy, node.outputs[0]),
                _ => dy,
            };
            let sums = self.batch_norm_sums(&node, &on_path, dy);
            for (place, &input) in node.inputs.iter().enumerate() {
                if !on_path[input.0] {
                    continue;
                }
                let part = match (place, sums) {
                    (1 | 2, Some(sums)) => sums[place - 1],
                    (_, sums) => self.backward(&node, sums, place, dy),
                };
                // Operands without rows are added as a whole, such as a weight that is used twice.
                let by_rows = std::mem::replace(&mut self.rows, node.rows.filter(|_| has_rows(&node.op, place)));
                let sum = gradient[input.0].map_or(part, |before| self.add(before, part));
                gradient[input.0] = Some(sum);
                self.rows = by_rows;
            }
            self.rows = rows;
        }
        let found = |w: &Value| gradient[w.0].unwrap_or_else(|| panic!("grad: the loss does not depend on {w:?}"));
        wanted.iter().map(found).collect()
    }

    /// Records the gradient of ReLU with respect to its input.
    fn relu_backward(&mut self, dy: Value, y: Value) -> Value {
        let dims = self.dims(dy).to_vec();
        let dx = self.value(&dims, DType::F32, None);
        self.push(Op::ReluBackward, &[dy, y], &[dx]);
        dx
    }

    /// Records the gradients of batch norm with respect to weight and bias, if they are wanted or if the gradient with
    /// respect to x needs them.
    fn batch_norm_sums(&mut self, node: &Node, on_path: &[bool], dy: Value) -> Option<[Value; 2]> {
        let (relu, statistics, x_needs_them) = match node.op {
            Op::BatchNorm { relu } => (relu, [node.inputs[3], node.inputs[4]], false),
            Op::BatchNormTraining { relu } => (relu, [node.outputs[1], node.outputs[2]], true),
            _ => return None,
        };
        let [x, weight, bias] = [node.inputs[0], node.inputs[1], node.inputs[2]];
        if !(on_path[weight.0] || on_path[bias.0] || on_path[x.0] && x_needs_them) {
            return None;
        }
        let channels = self.dims(weight).to_vec();
        let sums = [0, 1].map(|_| self.value(&channels, DType::F32, None));
        let inputs = [dy, x, weight, bias, statistics[0], statistics[1]];
        self.push(Op::BatchNormBackwardWeight { relu }, &inputs, &sums);
        Some(sums)
    }

    /// Records the gradient of one op with respect to operand number `place`. `sums` are dweight and dbias of batch
    /// norm.
    fn backward(&mut self, node: &Node, sums: Option<[Value; 2]>, place: usize, dy: Value) -> Value {
        let (x, y) = (&node.inputs, &node.outputs);
        let (backward, inputs) = match (&node.op, place) {
            (Op::Copy, 0) | (Op::Add, _) | (Op::AddBias, 0) => return dy,
            (op @ Op::Scale { .. }, 0) => (op.clone(), vec![dy]),
            (&Op::Conv2d(window), 0) => (Op::Conv2dBackwardInput(window), vec![dy, x[1]]),
            (&Op::Conv2d(window), 1) => (Op::Conv2dBackwardWeight(window), vec![dy, x[0]]),
            (Op::AddBias, 1) | (Op::LinearBias { .. }, 2) => (Op::AddBiasBackwardBias, vec![dy]),
            (Op::Relu, 0) => (Op::ReluBackward, vec![dy, y[0]]),
            (Op::MaxPool2d, 0) => (Op::MaxPool2dBackward, vec![dy, y[1]]),
            (&Op::ConvPool(window), 0) => (Op::ConvPoolBackwardInput(window), vec![dy, y[1], x[1]]),
            (&Op::ConvPool(window), 1) => (Op::ConvPoolBackwardWeight(window), vec![dy, y[1], x[0]]),
            (Op::ConvPool(_), 2) => (Op::ConvPoolBackwardBias, vec![dy, y[1]]),
            (Op::Linear | Op::LinearBias { .. }, 0) => (Op::LinearBackwardInput, vec![dy, x[1]]),
            (Op::Linear | Op::LinearBias { .. }, 1) => (Op::LinearBackwardWeight, vec![dy, x[0]]),
            (Op::Standardize, 0) => (Op::StandardizeBackward, vec![dy, y[0], y[1]]),
            (&Op::BatchNorm { relu }, 0) => {
                let kept = relu.then_some(y[0]);
                (Op::BatchNormBackwardInput { relu }, [dy, x[1], x[4]].into_iter().chain(kept).collect())
            }
            (&Op::BatchNormTraining { relu }, 0) => {
                let [dweight, dbias] = sums.expect("recorded before the gradient with respect to x");
                let inputs = vec![dy, x[0], x[1], x[2], y[1], y[2], dweight, dbias];
                (Op::BatchNormTrainingBackwardInput { relu }, inputs)
            }
            (Op::GlobalMean, 0) => (Op::GlobalMeanBackward, vec![dy]),
            (&Op::Loss(rule), 0) => (Op::LossBackward(rule), vec![x[0], x[1], dy]),
            (Op::Kl, 0) => (Op::KlBackwardP, vec![x[0], x[1], dy]),
            (Op::Kl, 1) => (Op::KlBackwardQ, vec![x[0], x[1], dy]),
            (&Op::TargetedLoss(loss), 0) => (Op::TargetedLossBackward(loss), vec![x[0], x[1], x[2], dy]),
            _ => panic!("grad: {} has no gradient with respect to operand {place}", node.op.name()),
        };
        let dims = self.dims(x[place]).to_vec();
        let dx = self.value(&dims, DType::F32, None);
        self.push(backward, &inputs, &[dx]);
        dx
    }
}

/// True if operand number `place` of an op has the rows of the batch. Weights, biases and statistics have none.
fn has_rows(op: &Op, place: usize) -> bool {
    place == 0 || matches!(op, Op::Add | Op::Kl)
}
