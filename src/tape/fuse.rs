//! Ops that one pass over memory can do together.
//!
//! One pattern so far: convolution (stride 1), bias, ReLU and 2x2 max-pool become [`Op::ConvPool`].

use super::{Op, Tape, Value};

impl Tape {
    /// Replaces every chain that has a fused op. Values inside a chain must be used by the chain alone; the
    /// chain's result keeps its handle. Called before a gradient is recorded and when the tape is finished.
    pub fn fuse(&mut self) {
        if !self.fusing {
            return;
        }
        for at in 0..self.nodes.len() {
            let Op::Conv2d(window) = self.nodes[at].op else { continue };
            let Some(bias) = self.only_use(self.nodes[at].outputs[0]) else { continue };
            let Some(relu) = self.only_use(self.nodes[bias].outputs[0]) else { continue };
            let Some(pool) = self.only_use(self.nodes[relu].outputs[0]) else { continue };
            let ops = [bias, relu, pool].map(|i| &self.nodes[i].op);
            if window.stride != 1 || ops != [&Op::AddBias, &Op::Relu, &Op::MaxPool2d] {
                continue;
            }
            let inputs = [&self.nodes[at].inputs[..], &self.nodes[bias].inputs[1..]].concat();
            let pooled = &mut self.nodes[pool];
            (pooled.op, pooled.inputs) = (Op::ConvPool(window), inputs);
            for gone in [at, bias, relu] {
                self.nodes[gone].outputs.clear();
            }
        }
        self.nodes.retain(|node| !node.outputs.is_empty());
    }

    /// The one node that reads `value`, if there is just one and no buffer keeps the value.
    fn only_use(&self, value: Value) -> Option<usize> {
        let mut users = (0..self.nodes.len()).filter(|&i| self.nodes[i].inputs.contains(&value));
        let user = users.next()?;
        (users.next().is_none() && self.values[value.0].home.is_none()).then_some(user)
    }
}
