//! The gradient of a recorded computation, for the values that were asked for.
//!
//! Only ops on a path from a wanted value to the loss are walked, and of each only the gradients of operands
//! on such a path are formed: an attack asks for the input, and no weight's gradient is ever computed. The
//! first contribution to a gradient is a value of its own and later ones are added to it, so nothing is
//! zero-filled. (The idea of walking for targets only is also tinygrad's.)

use super::{DType, Op, Tape, Value};

impl Tape {
    /// The gradient of `sum(loss * weights)` by each of `wanted`, in their order. `loss` and `weights` are `[n]`.
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
                node.outputs.iter().for_each(|v| on_path[v.0] = true);
            }
        }
        let mut gradient: Vec<Option<Value>> = vec![None; self.values.len()];
        gradient[loss.0] = Some(weights);
        for at in (0..self.nodes.len()).rev() {
            let node = self.nodes[at].clone();
            let Some(dy) = node.outputs.first().and_then(|y| gradient[y.0]) else { continue };
            let rows = std::mem::replace(&mut self.rows, node.rows);
            // ReLU's part is the same for all operands; y has the shape of what it was applied to.
            let dy = match node.op {
                Op::LinearBias { relu: true } => self.backward(&Op::Relu, &node.outputs, &node.outputs, 0, dy),
                _ => dy,
            };
            for (place, &input) in node.inputs.iter().enumerate() {
                if !on_path[input.0] {
                    continue;
                }
                let part = self.backward(&node.op, &node.inputs, &node.outputs, place, dy);
                let sum = gradient[input.0].map_or(part, |before| self.add(before, part));
                gradient[input.0] = Some(sum);
            }
            self.rows = rows;
        }
        let found = |w: &Value| gradient[w.0].unwrap_or_else(|| panic!("grad: the loss does not depend on {w:?}"));
        wanted.iter().map(found).collect()
    }

    /// Records the gradient of one op by its operand number `place`.
    fn backward(&mut self, op: &Op, x: &[Value], y: &[Value], place: usize, dy: Value) -> Value {
        let (backward, inputs) = match (op, place) {
            (Op::Copy, 0) | (Op::Add, _) | (Op::AddBias, 0) => return dy,
            (Op::Scale { .. }, 0) => (op.clone(), vec![dy]),
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
            (&Op::Loss(rule), 0) => (Op::LossBackward(rule), vec![x[0], x[1], dy]),
            _ => panic!("grad: {} has no gradient by operand {place}", op.name()),
        };
        let dims = self.dims(x[place]).to_vec();
        let dx = self.value(&dims, DType::F32, None);
        self.push(backward, &inputs, &[dx]);
        dx
    }
}
