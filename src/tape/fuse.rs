//! Ops that one pass over memory can do together:
//!
//! - convolution (stride 1), bias, ReLU and 2x2 max-pool: [`Op::ConvPool`]
//! - a linear layer's product, bias and, if it follows, ReLU: [`Op::LinearBias`]
//! - the gradient by a linear layer's input, and by what ReLU made that input of: [`Op::LinearBackwardInput`] with y

use super::{Op, Tape, Value};

impl Tape {
    /// Replaces every chain that has a fused op. Values inside a chain must be used by the chain alone; the
    /// chain's result keeps its handle. Called before a gradient is recorded and when the tape is finished.
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

    /// Node `first` and those after it that are `ops`, each of the one before it.
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

    /// Puts `op` into the place of a chain's last node. Its inputs are those of the first, then what the others read
    /// besides one another.
    fn replace(&mut self, chain: &[usize], op: Op) {
        let mut inputs = Vec::new();
        for (i, &at) in chain.iter().enumerate() {
            let read = std::mem::take(&mut self.nodes[at].inputs);
            inputs.extend_from_slice(&read[usize::from(i > 0)..]);
        }
        let (&last, before) = chain.split_last().expect("a chain has nodes");
        (self.nodes[last].op, self.nodes[last].inputs) = (op, inputs);
        for &at in before {
            self.nodes[at].outputs.clear();
        }
    }

    /// The one node that reads `value`, if there is just one and no buffer keeps the value.
    fn only_use(&self, value: Value) -> Option<usize> {
        let mut users = (0..self.nodes.len()).filter(|&i| self.nodes[i].inputs.contains(&value));
        let user = users.next()?;
        (users.next().is_none() && self.values[value.0].home.is_none()).then_some(user)
    }
}
