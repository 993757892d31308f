//! Fusion of a network's head with its gradients: the mean over pixels, the last layer, a loss, and their gradients
//! with respect to the features are one op, [`Op::HeadBackward`]. It needs a tape of which the gradient alone is used,
//! as in an attack: logits and loss are not written. A linear layer with ReLU whose results are the features is a part
//! of the op if nothing else reads them: then they are not written either.

use super::formula::Reduction;
use super::gradient_norm::{norm_term, to_norm};
use super::graph::{Tape, Value};
use super::memory::DType;
use super::op::Op;
use super::params::{HeadFeatures, HeadFusion, MOST_HEAD_NUMBERS};

/// A head that was found on a tape.
struct Head {
    fusion: HeadFusion,
    inputs: Vec<Value>,
    outputs: Vec<Value>,
    /// Its nodes, in the order of the tape.
    nodes: Vec<usize>,
}

/// A gradient after its normalization, if there is one.
struct Normalized {
    gradient: Value,
    norm: Option<Value>,
    /// Nodes of the normalization.
    nodes: Vec<usize>,
}

impl Tape {
    /// Fuses heads with their gradients. Called when precision has been chosen: features that are stored must have the
    /// type of their gradient.
    pub(super) fn fuse_heads(&mut self) {
        if !self.fusing {
            return;
        }
        let losses: Vec<usize> =
            (0..self.nodes.len()).filter(|&at| matches!(self.nodes[at].op, Op::LossBackward(_))).collect();
        for head in losses.into_iter().filter_map(|at| self.head(at)).collect::<Vec<_>>() {
            let (&last, before) = head.nodes.split_last().expect("a head has nodes");
            for &at in before {
                self.nodes[at].outputs.clear();
            }
            let node = &mut self.nodes[last];
            (node.op, node.inputs, node.outputs) = (Op::HeadBackward(head.fusion), head.inputs, head.outputs);
        }
        self.nodes.retain(|node| !node.outputs.is_empty());
    }

    /// The head whose loss has its gradient at node `loss`.
    fn head(&self, loss: usize) -> Option<Head> {
        let Op::LossBackward(rule) = self.nodes[loss].op else { return None };
        let &[logits, labels, dvalue] = &self.nodes[loss].inputs[..] else { return None };
        let layer = self.computing(logits)?;
        let &[read, w, bias] = &self.nodes[layer].inputs[..] else { return None };
        if self.nodes[layer].op != (Op::LinearBias { relu: false }) || self.only_use(logits)? != loss {
            return None;
        }
        let mean = self.computing(read).filter(|&at| self.nodes[at].op == Op::GlobalMean);
        let mean = mean.filter(|_| self.only_use(read) == Some(layer));
        let features = mean.map_or(read, |mean| self.nodes[mean].inputs[0]);

        let mut nodes: Vec<usize> = mean.into_iter().chain([layer, loss]).collect();
        let mut inputs = vec![features, w, bias, labels, dvalue];
        let mut norm = None;
        let mut gradient = self.nodes[loss].outputs[0];
        let mut normalize = |gradient: &mut Value, nodes: &mut Vec<usize>| {
            let normalized = self.normalized(*gradient);
            (*gradient, norm) = (normalized.gradient, normalized.norm);
            nodes.extend(normalized.nodes);
        };
        if mean.is_none() {
            normalize(&mut gradient, &mut nodes);
        }
        let back = self.only_use(gradient)?;
        let relu = match self.nodes[back].inputs[..] {
            [dy, weight] if (dy, weight) == (gradient, w) => false,
            [dy, weight, y] if (dy, weight, y) == (gradient, w, features) => true,
            _ => return None,
        };
        if self.nodes[back].op != Op::LinearBackwardInput || relu && mean.is_some() {
            return None;
        }
        nodes.push(back);
        gradient = self.nodes[back].outputs[0];
        let mut kind = if relu { HeadFeatures::Relu } else { HeadFeatures::Plain };
        if let Some(hidden) = self.hidden_layer(features, [layer, back], gradient).filter(|_| relu) {
            nodes.insert(0, hidden);
            inputs.splice(..1, self.nodes[hidden].inputs.iter().copied());
            kind = HeadFeatures::Hidden;
        }
        if mean.is_some() {
            normalize(&mut gradient, &mut nodes);
            let back = self.only_use(gradient)?;
            if self.nodes[back].op != Op::GlobalMeanBackward {
                return None;
            }
            nodes.push(back);
            kind = HeadFeatures::Mean;
            gradient = self.nodes[back].outputs[0];
            let norm = self.only_use(gradient).map(|at| (at, &self.nodes[at]));
            if let Some((at, node)) = norm.filter(|(_, node)| node.op == Op::BatchNormBackwardInput { relu: true })
                && let &[dy, weight, variance, y] = &node.inputs[..]
                && (dy, y) == (gradient, features)
            {
                nodes.push(at);
                inputs.extend([weight, variance]);
                kind = HeadFeatures::MeanOfBatchNorm;
                gradient = node.outputs[0];
            }
        }
        let fusion = HeadFusion { features: kind, rule, normalized: norm.is_some() };
        let [numbers, classes] = [read, logits].map(|value| self.dims(value)[1..].iter().product::<usize>());
        let one_type = kind == HeadFeatures::Hidden || self.dtype(features) == self.dtype(gradient);
        let fits = numbers + classes <= MOST_HEAD_NUMBERS && one_type;
        let together = nodes.iter().all(|&at| self.nodes[at].rows == self.nodes[loss].rows);
        (fits && together).then(|| Head {
            fusion,
            inputs,
            outputs: [gradient].into_iter().chain(norm).collect(),
            nodes,
        })
    }

    /// The linear layer with ReLU that computes features, if only the nodes `readers` read them. A layer on half
    /// operands needs a half `gradient`.
    fn hidden_layer(&self, features: Value, readers: [usize; 2], gradient: Value) -> Option<usize> {
        let at = self.computing(features).filter(|_| self.values[features.0].home.is_none())?;
        let (node, reads) = (&self.nodes[at], |at: usize| self.nodes[at].inputs.contains(&features));
        let alone = (0..self.nodes.len()).filter(|&at| reads(at)).eq(readers);
        let is_layer = node.op == (Op::LinearBias { relu: true }) && node.rows == self.nodes[readers[0]].rows;
        let typed = self.dtype(*node.inputs.get(1)?) == DType::F32 || self.dtype(gradient) == DType::F16;
        (is_layer && alone && typed).then_some(at)
    }

    /// A gradient brought to a norm, if that is its only use.
    fn normalized(&self, gradient: Value) -> Normalized {
        let none = Normalized { gradient, norm: None, nodes: Vec::new() };
        let users: Vec<usize> = (0..self.nodes.len()).filter(|&at| self.nodes[at].inputs.contains(&gradient)).collect();
        let &[reduce, map] = &users[..] else { return none };
        let norm = self.nodes[reduce].outputs[0];
        let sums = self.nodes[reduce].op == Op::Reduce(Reduction::Sum, norm_term());
        let divides = self.nodes[map].op == Op::Map(to_norm()) && self.nodes[map].inputs == [gradient, norm];
        if !sums || !divides || self.values[gradient.0].home.is_some() {
            return none;
        }
        Normalized { gradient: self.nodes[map].outputs[0], norm: Some(norm), nodes: users }
    }
}

#[cfg(test)]
#[path = "fuse_head_tests.rs"]
mod tests;
