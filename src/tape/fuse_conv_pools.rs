//! Fusion of two layers with pooling ([`Op::TwoConvPools`]), of which the first one reads single precision and writes
//! half. The op exists in half precision alone, and for some sizes.

use super::graph::Tape;
use super::memory::DType;
use super::op::Op;
use super::params::is_layer_pair;

impl Tape {
    /// Fuses a layer whose results only another layer reads with that one. Training passes read them again. Called when
    /// precision has been chosen.
    pub(super) fn fuse_conv_pools(&mut self) {
        if !self.fusing {
            return;
        }
        for at in 0..self.nodes.len() {
            let Op::ConvPool(first) = self.nodes[at].op else { continue };
            let [results, choice] = self.nodes[at].outputs[..] else { continue };
            let Some(next) = self.only_use(results) else { continue };
            let (node, reader) = (&self.nodes[at], &self.nodes[next]);
            let Op::ConvPool(second) = reader.op else { continue };
            let types = [node.inputs[0], results, reader.inputs[1], reader.outputs[0]].map(|value| self.dtype(value));
            let precise = types == [DType::F32, DType::F16, DType::F16, DType::F16];
            let filters = [node.inputs[1], reader.inputs[1]].map(|w| self.dims(w));
            let pair = is_layer_pair(self.dims(node.inputs[0]), filters, [first, second]);
            if !precise || !pair || reader.inputs[0] != results || reader.rows != node.rows {
                continue;
            }
            let mut inputs = std::mem::take(&mut self.nodes[at].inputs);
            inputs.extend_from_slice(&self.nodes[next].inputs[1..]);
            self.nodes[at].outputs.clear();
            let node = &mut self.nodes[next];
            (node.op, node.inputs) = (Op::TwoConvPools { first, second }, inputs);
            node.outputs.push(choice);
        }
        self.nodes.retain(|node| !node.outputs.is_empty());
    }
}

#[cfg(test)]
#[path = "fuse_conv_pools_tests.rs"]
mod tests;
