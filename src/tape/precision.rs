//! Precision: which values of a program are stored as half-precision numbers.
//!
//! A pass over a finished tape, after gradients are recorded and ops are fused. Ops compute in single precision
//! whatever their operands are: a half operand is widened when it is read, a half result is rounded once when it is
//! stored. [`roles`] says for each op which operands and results may be half. A value is half if the op that computes
//! it and all ops that read it allow that, and no buffer holds it.
//!
//! So images, the first layer's operands and its input gradient, the last layer and the losses stay in single
//! precision, as do parameters, their gradients, statistics and formulas. A layer reads half-precision copies of its
//! filters ([`HalfFilter`]) if its operand and its result are half.

use super::formula::Reduction;
use super::gradient_norm::{from_norm, norm_term, to_norm};
use super::graph::{Node, Tape, Value};
use super::half::{FilterCopy, HalfFilter, HalfGradients};
use super::memory::DType;
use super::op::Op;
use super::params::HeadFeatures;
use super::params::{PgdFusion, StepLayer};

/// Part that an operand or a result plays in an op's precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Single precision, or integers.
    Single,
    /// Half or single precision.
    Free,
    /// Half or single precision, as all others of this role in the op.
    Alike,
    /// Weight of a layer: half if the operand before it that is not [`Role::Single`], and the op's result, are half.
    Filter,
}

/// Roles of an op's operands and results; those that are not listed are [`Role::Single`].
struct Roles {
    inputs: Vec<Role>,
    outputs: Vec<Role>,
    /// True if the first operand is a gradient and the first result is one.
    backward: bool,
}

/// Roles of the operands and results of an op.
fn roles(op: &Op) -> Roles {
    use Role::{Alike, Filter, Free, Single};
    let forward = |inputs: &[Role], output| Roles { inputs: inputs.to_vec(), outputs: vec![output], backward: false };
    let backward = |inputs: &[Role], output| Roles { backward: true, ..forward(inputs, output) };
    match op {
        Op::Conv2d(_) | Op::ConvPool(_) | Op::Linear | Op::LinearBias { .. } => forward(&[Free, Filter], Free),
        Op::TwoConvPools { .. } => forward(&[Single, Single, Single, Filter], Free),
        Op::Conv2dBackwardInput(_) => backward(&[Free, Filter], Free),
        Op::ConvPoolBackwardInput(_) => backward(&[Free, Single, Filter], Free),
        Op::LinearBackwardInput => backward(&[Free, Filter, Free], Free),
        Op::Conv2dFused(fusion) => {
            let mut inputs = vec![Free, Filter];
            inputs.extend(fusion.shortcut.iter().flat_map(|_| [Free, Filter]));
            inputs.extend(fusion.addend.then_some(Alike));
            let mut outputs: Vec<Role> =
                [fusion.sum, fusion.norm].into_iter().filter(|given| *given).map(|_| Alike).collect();
            outputs.extend(fusion.keeps_operand.then_some(Alike));
            Roles { inputs, outputs, backward: false }
        }
        Op::Conv2dFusedBackwardInput(fusion) => {
            // Gradients that are added must have one scale.
            let gradient = if fusion.shortcut.is_some() || fusion.addend { Alike } else { Free };
            let mut inputs = vec![gradient, Filter];
            inputs.extend(fusion.shortcut.iter().flat_map(|_| [Alike, Filter]));
            inputs.extend(fusion.norm.then_some([Single, Single, Free]).into_iter().flatten());
            inputs.extend(fusion.addend.then_some(Alike));
            inputs.extend(fusion.norm_weight.then_some(Free));
            backward(&inputs, gradient)
        }
        Op::Add => forward(&[Alike, Alike], Alike),
        Op::AddBias | Op::Relu | Op::MaxPool2d | Op::BatchNorm { .. } | Op::BatchNormTraining { .. } => {
            forward(&[Alike], Alike)
        }
        Op::ReluBackward => backward(&[Alike, Free], Alike),
        Op::MaxPool2dBackward => backward(&[Alike], Alike),
        Op::BatchNormBackwardInput { .. } => backward(&[Alike, Single, Single, Free], Alike),
        Op::Conv2dBackwardWeight(_) | Op::LinearBackwardWeight => backward(&[Free, Free], Single),
        Op::ConvPoolBackwardWeight(_) => backward(&[Free, Single, Free], Single),
        Op::ConvPoolBackwardBias | Op::AddBiasBackwardBias => backward(&[Free], Single),
        Op::BatchNormBackwardWeight { .. } => backward(&[Alike, Alike], Single),
        Op::BatchNormTrainingBackwardInput { .. } => {
            let inputs = [vec![Alike; 2], vec![Single; 6], vec![Alike]].concat();
            backward(&inputs, Alike)
        }
        Op::GlobalMean => forward(&[Free], Single),
        Op::GlobalMeanBackward => backward(&[Single], Free),
        Op::PgdStepFused(PgdFusion { layer: Some(StepLayer::TwoConvPools { linear, .. }), .. }) => {
            let mut inputs = vec![Single, Free, Single, Single, Single, Single, Filter];
            inputs.extend(linear.then_some([Single, Filter]).into_iter().flatten());
            backward(&inputs, Single)
        }
        Op::PgdStepFused(fusion) if fusion.layer.is_some() => forward(&[Single, Free], Single),
        Op::StandardizeConv2d(fusion) => {
            let results = [fusion.layer.sum, fusion.layer.norm].into_iter().filter(|given| *given);
            Roles { inputs: vec![], outputs: results.map(|_| Alike).collect(), backward: false }
        }
        // Gradients have been brought to their norms when a head is fused: no scale enters here.
        Op::HeadBackward(fusion) if fusion.features == HeadFeatures::Hidden => forward(&[Free, Filter], Free),
        Op::HeadBackward(_) => backward(&[Alike], Alike),
        _ => forward(&[], Single),
    }
}

impl Op {
    /// True if a number of the result depends on the gradients of several examples.
    fn sums_gradients(&self) -> bool {
        matches!(
            self,
            Op::Conv2dBackwardWeight(_)
                | Op::LinearBackwardWeight
                | Op::ConvPoolBackwardWeight(_)
                | Op::ConvPoolBackwardBias
                | Op::AddBiasBackwardBias
                | Op::BatchNormBackwardWeight { .. }
                | Op::BatchNormTrainingBackwardInput { .. }
        )
    }

    /// True if operand number `place` may be half.
    pub fn reads_half(&self, place: usize) -> bool {
        roles(self).inputs.get(place).is_some_and(|role| *role != Role::Single)
    }

    /// True if result number `place` may be half.
    pub fn writes_half(&self, place: usize) -> bool {
        roles(self).outputs.get(place).is_some_and(|role| *role != Role::Single)
    }

    /// True if all half operands and results of the op are half together.
    pub fn is_half_as_a_whole(&self) -> bool {
        roles(self).outputs.contains(&Role::Alike)
    }

    /// Copy of a weight that operand number `place` is if it is half. `None`: the operand is no weight of a layer.
    pub fn filter_copy(&self, place: usize) -> Option<FilterCopy> {
        let Roles { inputs, backward, .. } = roles(self);
        let copy = if backward { FilterCopy::Turned } else { FilterCopy::Plain };
        (inputs.get(place) == Some(&Role::Filter)).then_some(copy)
    }
}

impl Node {
    /// Values of a node with their roles: operands, and results.
    fn with_roles(&self) -> [Vec<(Value, Role)>; 2] {
        let Roles { inputs, outputs, .. } = roles(&self.op);
        let paired = |values: &[Value], roles: Vec<Role>| {
            let roles = roles.into_iter().chain(std::iter::repeat(Role::Single));
            values.iter().copied().zip(roles).collect()
        };
        [paired(&self.inputs, inputs), paired(&self.outputs, outputs)]
    }
}

impl Tape {
    /// Stores in half precision what [`Precision::Fp16`](super::Precision::Fp16) does. Layers read the copies `filters`
    /// of their weights; `gradients` is the scale of half gradients.
    pub fn store_in_half(&mut self, filters: &[HalfFilter], gradients: HalfGradients) {
        self.half = Some((filters.to_vec(), gradients));
    }

    /// Makes half what may be, if [`Tape::store_in_half`] was called. No op is recorded after this.
    pub(super) fn lower_precision(&mut self) {
        let Some((filters, gradients)) = self.half.take() else { return };
        match gradients {
            HalfGradients::AsRecorded => {
                let half = self.half_values(&[]);
                self.make_half(&half, &filters);
            }
            HalfGradients::ByExample => {
                let summed = self.nodes.iter().filter(|node| node.op.sums_gradients());
                let mut single: Vec<Value> =
                    summed.flat_map(|node| node.inputs.iter().chain(&node.outputs)).copied().collect();
                let (half, origins) = loop {
                    let half = self.half_values(&single);
                    match self.origins(&half) {
                        Ok(origins) => break (half, origins),
                        Err(sum) => single.push(sum),
                    }
                };
                self.make_half(&half, &filters);
                self.normalize_gradients(origins);
            }
        }
    }

    /// Stores the values of `half` in half precision.
    fn make_half(&mut self, half: &[bool], filters: &[HalfFilter]) {
        half.iter().zip(&mut self.values).filter(|(half, _)| **half).for_each(|(_, info)| info.dtype = DType::F16);
        self.read_half_filters(filters);
    }

    /// True for each value that is stored in half precision, if those of `single` are not.
    fn half_values(&self, single: &[Value]) -> Vec<bool> {
        let mut half = vec![false; self.values.len()];
        let mut nodes: Vec<_> = self.nodes.iter().map(Node::with_roles).collect();
        for (value, role) in nodes.iter().flat_map(|[_, outputs]| outputs) {
            let info = &self.values[value.0];
            half[value.0] = *role != Role::Single && info.dtype == DType::F32 && info.home.is_none();
        }
        let read = nodes.iter().flat_map(|[inputs, _]| inputs);
        let read_in_single = read.filter(|(_, role)| matches!(role, Role::Single | Role::Filter));
        read_in_single.map(|(value, _)| value).chain(single).for_each(|value| half[value.0] = false);
        // Values that have one type: one that is single makes all of them single, and so on through the tape.
        nodes.iter_mut().flatten().for_each(|values| values.retain(|(_, role)| *role == Role::Alike));
        loop {
            let mut changed = false;
            for alike in nodes.iter().map(|node| node.iter().flatten().map(|(value, _)| value.0)) {
                if alike.clone().any(|value| !half[value]) {
                    changed |= alike.fold(false, |any, value| std::mem::replace(&mut half[value], false) | any);
                }
            }
            if !changed {
                return half;
            }
        }
    }

    /// For each half gradient, the single one that it was computed from.
    ///
    /// # Errors
    /// The sum of two gradients that were computed from different ones: it has no scale.
    fn origins(&self, half: &[bool]) -> Result<Vec<Option<Value>>, Value> {
        let mut origins: Vec<Option<Value>> = vec![None; self.values.len()];
        for node in &self.nodes {
            let result = node.outputs[0];
            let mut found = node.inputs.iter().filter_map(|value| origins[value.0]);
            let first = found.next();
            if found.any(|other| Some(other) != first) {
                return Err(result);
            }
            let enters = first.is_none() && roles(&node.op).backward;
            if half[result.0] {
                origins[result.0] = first.or(enters.then(|| node.inputs[0]));
            }
        }
        Ok(origins)
    }

    /// Replaces the weights of layers whose operand and result are half by their copies.
    fn read_half_filters(&mut self, filters: &[HalfFilter]) {
        for at in 0..self.nodes.len() {
            let [inputs, outputs] = self.nodes[at].with_roles();
            let is_half = |tape: &Tape, value: Value| tape.values[value.0].dtype == DType::F16;
            let mut operand = None;
            for (place, (value, role)) in inputs.into_iter().enumerate() {
                match role {
                    Role::Free | Role::Alike => operand = Some(value),
                    Role::Filter if is_half(self, outputs[0].0) && operand.is_some_and(|x| is_half(self, x)) => {
                        let home = self.values[value.0].home.clone();
                        if let Some(copies) = filters.iter().find(|copies| Some(&copies.weight) == home.as_ref()) {
                            let turned = self.nodes[at].op.filter_copy(place) == Some(FilterCopy::Turned);
                            self.nodes[at].inputs[place] =
                                self.leaf(if turned { &copies.turned } else { &copies.plain });
                        }
                    }
                    Role::Single | Role::Filter => {}
                }
            }
        }
    }

    /// Brings the gradient of each example to a norm before it is first stored in half precision, and back where it
    /// leaves half precision ([`super::gradient_norm`]).
    fn normalize_gradients(&mut self, mut origins: Vec<Option<Value>>) {
        // Gradients that are stored in half precision, their norms `[n]`, and the same brought to the norm.
        let mut normalized: Vec<(Value, Value, Value)> = Vec::new();
        for mut node in std::mem::take(&mut self.nodes) {
            self.rows = node.rows;
            origins.resize(self.values.len(), None);
            let result = node.outputs[0];
            let read = node.inputs.iter().find_map(|value| origins[value.0]);
            match (read, origins[result.0]) {
                (None, Some(origin)) => {
                    let known = normalized.iter().find(|(gradient, ..)| *gradient == origin).map(|known| known.2);
                    node.inputs[0] = known.unwrap_or_else(|| {
                        let norm = self.reduce(Reduction::Sum, [origin], |_| norm_term());
                        let scaled = self.map([origin, norm], |_| to_norm());
                        normalized.push((origin, norm, scaled));
                        scaled
                    });
                    self.nodes.push(node);
                }
                (Some(origin), None) => {
                    let norm = normalized.iter().find(|(gradient, ..)| *gradient == origin).expect("it was read").1;
                    let dims = self.dims(result).to_vec();
                    let scaled = self.value(&dims, DType::F32, None);
                    node.outputs[0] = scaled;
                    self.nodes.push(node);
                    self.push(Op::Map(from_norm()), &[scaled, norm], &[result]);
                }
                _ => self.nodes.push(node),
            }
        }
    }
}

#[cfg(test)]
#[path = "precision_tests.rs"]
mod tests;
