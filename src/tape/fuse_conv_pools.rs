//! Fusion of two layers with pooling ([`Op::TwoConvPools`]), of which the first one reads single precision and writes
//! half. The op exists in half precision alone, and for some sizes.

use super::graph::Tape;
use super::memory::DType;
use super::op::Op;
use super::params::is_layer_pair;

impl Tape {
    /// Fuses a layer whose results only another layer reads with that one, and with the point along a direction that
    /// its images are. Training passes read the results again. Called when precision has been chosen.
    pub(super) fn fuse_conv_pools(&mut self) {
        if !self.fusing {
            return;
        }
        for at in 1..self.nodes.len() {
            // Ops between them could change the images.
            let before = at - 1;
            let (node, reader) = (&self.nodes[before], &self.nodes[at]);
            let (Op::ConvPool(first), Op::ConvPool(second)) = (&node.op, &reader.op) else { continue };
            let ([results, choice], windows) = ([0, 1].map(|i| node.outputs[i]), [*first, *second]);
            let types = [node.inputs[0], results, reader.inputs[1], reader.outputs[0]].map(|value| self.dtype(value));
            let precise = types == [DType::F32, DType::F16, DType::F16, DType::F16];
            let filters = [node.inputs[1], reader.inputs[1]].map(|w| self.dims(w));
            let pair = is_layer_pair(self.dims(node.inputs[0]), filters, windows);
            let alone = reader.inputs[0] == results && self.only_use(results) == Some(at) && reader.rows == node.rows;
            if !precise || !pair || !alone {
                continue;
            }
            let mut inputs = [&node.inputs[..], &reader.inputs[1..]].concat();
            let mut along = None;
            if let Some(point) = before.checked_sub(1).map(|point| &self.nodes[point])
                && let Op::AlongDirection(rule) = point.op
                && self.only_use(point.outputs[0]) == Some(before)
                && point.outputs[0] == inputs[0]
                && point.rows == node.rows
            {
                (along, inputs[0]) = (Some(rule), point.inputs[0]);
                inputs.extend_from_slice(&point.inputs[1..]);
            }
            for cleared in before - usize::from(along.is_some())..at {
                self.nodes[cleared].outputs.clear();
                self.nodes[cleared].inputs.clear();
            }
            let [first, second] = windows;
            let node = &mut self.nodes[at];
            (node.op, node.inputs) = (Op::TwoConvPools { along, first, second }, inputs);
            node.outputs.push(choice);
        }
        self.nodes.retain(|node| !node.outputs.is_empty());
    }
}

#[cfg(test)]
#[path = "fuse_conv_pools_tests.rs"]
mod tests;
