//! Fusion at a network's first layer: from images to its results ([`Op::StandardizeConv2d`]), and from their gradient
//! to a step of PGD ([`Op::PgdStepFused`]).

use super::gradient_norm::from_norm;
use super::graph::{Tape, Value};
use super::memory::DType;
use super::op::Op;
use super::params::{
    ConvFusion, ConvWindow, FIRST_LAYER_FILTERS, FirstLayerFusion, MOST_FIRST_LAYER_NUMBERS, MOST_STEP_CHANNELS, Norm,
    PgdFusion, PgdRule, StepLayer, is_layer_pair,
};

impl Tape {
    /// Fuses steps of PGD with the gradient of standardization, with the return of a gradient from its norm and with
    /// the first layer's input gradient. Called when precision has been chosen.
    pub(super) fn fuse_pgd_steps(&mut self) {
        if !self.fusing {
            return;
        }
        for at in 0..self.nodes.len() {
            let Op::PgdStep(rule) = self.nodes[at].op else { continue };
            // The only use of the step's gradient so far, and the node that computes it with `op`.
            let before = |tape: &Tape, reader: usize, gradient: Value, op: &Op| {
                let found = tape
                    .computing(gradient)
                    .filter(|&i| tape.nodes[i].op == *op && tape.nodes[i].rows == tape.nodes[at].rows);
                found.filter(|_| tape.only_use(gradient) == Some(reader))
            };
            let mut inputs = self.nodes[at].inputs.clone();
            let (mut reader, mut operands) = (at, Vec::new());
            let standardization = before(self, reader, inputs[1], &Op::StandardizeBackward);
            if let Some(found) = standardization {
                (inputs[1], reader) = (self.nodes[found].inputs[0], found);
                operands = self.nodes[found].inputs[1..].to_vec();
            }
            let norm = before(self, reader, inputs[1], &Op::Map(from_norm()));
            if let Some(found) = norm {
                inputs.push(self.nodes[found].inputs[1]);
                inputs[1] = self.nodes[found].inputs[0];
            }
            let standardized = standardization.is_some();
            let layers = self.step_layers(norm.unwrap_or(reader), inputs[1], rule, standardized);
            if !standardized && norm.is_none() && layers.is_none() {
                continue;
            }
            let (layer, of_layers) = layers.unzip();
            let mut place = 4;
            for &found in of_layers.iter().flatten() {
                // The operands of an input gradient are dy, (choice,) w; those of the step dy, .., w, (choice).
                let [dy, others @ ..] = &self.nodes[found].inputs[..] else { unreachable!("it reads dy") };
                inputs[1] = *dy;
                inputs.splice(place..place, others.iter().rev().copied());
                place += others.len();
            }
            inputs.extend(operands);
            for found in standardization.into_iter().chain(norm).chain(of_layers.into_iter().flatten()) {
                self.nodes[found].outputs.clear();
                self.nodes[found].inputs.clear();
            }
            let fusion = PgdFusion { layer, from_norm: norm.is_some(), standardized, rule };
            (self.nodes[at].op, self.nodes[at].inputs) = (Op::PgdStepFused(fusion), inputs);
        }
        self.nodes.retain(|node| !node.outputs.is_empty());
    }

    /// The layers whose input gradient only node `reader` reads, and their nodes, the first layer's first, if a step of
    /// PGD may include them.
    fn step_layers(
        &self,
        reader: usize,
        gradient: Value,
        rule: PgdRule,
        standardized: bool,
    ) -> Option<(StepLayer, Vec<usize>)> {
        let at = self.computing(gradient).filter(|_| self.only_use(gradient) == Some(reader))?;
        let (node, image) = (&self.nodes[at], self.dims(gradient));
        let w = *node.inputs.last().expect("an input gradient reads filters");
        let (layer, window) = match node.op {
            Op::Conv2dBackwardInput(window) => (StepLayer::Conv(window), window),
            // Blocks don't have whole images, so there are no sums over an image.
            Op::ConvPoolBackwardInput(window) if rule.norm == Norm::Linf && !standardized => {
                (StepLayer::ConvPool(window), window)
            }
            _ => return None,
        };
        let &[k, kh, kw, c] = self.dims(w) else { return None };
        let numbers = image[1..].iter().product::<usize>() + k * kh * kw * MOST_STEP_CHANNELS;
        let fits = window.stride == 1 && c <= MOST_STEP_CHANNELS && numbers <= MOST_FIRST_LAYER_NUMBERS;
        if !fits || self.dtype(w) != DType::F32 || node.rows != self.nodes[reader].rows {
            return None;
        }
        match (layer, self.pooled_layer_before(at)) {
            (StepLayer::ConvPool(first), Some((before, second))) => {
                let linear = self.linear_layer_before(before, image, w, [first, second]);
                let layers = [at, before].into_iter().chain(linear).collect();
                Some((StepLayer::TwoConvPools { first, second, linear: linear.is_some() }, layers))
            }
            (layer, _) => Some((layer, vec![at])),
        }
    }

    /// The layer with pooling whose input gradient only node `reader` reads: its node, and its geometry.
    fn pooled_layer_before(&self, reader: usize) -> Option<(usize, ConvWindow)> {
        let gradient = self.nodes[reader].inputs[0];
        let at = self.computing(gradient).filter(|_| self.only_use(gradient) == Some(reader))?;
        let node = &self.nodes[at];
        let Op::ConvPoolBackwardInput(window) = node.op else { return None };
        let &[dy, _, w] = &node.inputs[..] else { return None };
        (node.rows == self.nodes[reader].rows && self.dtype(dy) == self.dtype(w)).then_some((at, window))
    }

    /// The linear layer whose input gradient only node `reader` reads, the second one of a pair of layers with pooling,
    /// in half precision. `w` are the first one's filters.
    fn linear_layer_before(
        &self,
        reader: usize,
        images: &[usize],
        w: Value,
        windows: [ConvWindow; 2],
    ) -> Option<usize> {
        let &[gradient, _, turned] = &self.nodes[reader].inputs[..] else { return None };
        let at = self.computing(gradient).filter(|_| self.only_use(gradient) == Some(reader))?;
        let node = &self.nodes[at];
        let &[c, kh, kw, k] = self.dims(turned) else { return None };
        let pair = is_layer_pair(images, [self.dims(w), &[k, kh, kw, c]], windows);
        let half = node.inputs.iter().chain([&gradient]).all(|&value| self.dtype(value) == DType::F16);
        let plain =
            node.op == Op::LinearBackwardInput && node.inputs.len() == 2 && node.rows == self.nodes[reader].rows;
        (plain && half && pair).then_some(at)
    }

    /// Fuses the convolution of standardized images with the standardization, and with the point along a direction that
    /// the images are. Called when precision has been chosen.
    pub(super) fn fuse_first_layers(&mut self) {
        if !self.fusing {
            return;
        }
        for at in 1..self.nodes.len() {
            let layer = match self.nodes[at].op {
                Op::Conv2d(window) => ConvFusion::alone(window),
                Op::Conv2dFused(layer) if layer.shortcut.is_none() && !layer.addend => layer,
                _ => continue,
            };
            // Ops between them could change the images.
            let before = at - 1;
            let [images, w] = [0, 1].map(|i| self.nodes[at].inputs[i]);
            let standardization = &self.nodes[before];
            let of_images = standardization.op == Op::Standardize && standardization.outputs[0] == images;
            if !of_images || standardization.rows != self.nodes[at].rows || !self.fits_first_layer(images, w) {
                continue;
            }
            let standardized = standardization.outputs.clone();
            let used = |&value: &Value| self.nodes.iter().filter(|node| node.inputs.contains(&value)).count();
            let keeps_images = used(&images) > 1 || used(&standardized[1]) > 0;
            let keeps_images = keeps_images || standardized.iter().any(|value| self.values[value.0].home.is_some());
            let mut inputs = vec![standardization.inputs[0], w];
            let mut along = None;
            if let Some(first) = before.checked_sub(1).map(|first| &self.nodes[first])
                && let Op::AlongDirection(rule) = first.op
                && self.only_use(first.outputs[0]) == Some(before)
                && first.outputs[0] == inputs[0]
                && first.rows == standardization.rows
            {
                (along, inputs[0]) = (Some(rule), first.inputs[0]);
                inputs.extend_from_slice(&first.inputs[1..]);
            }
            inputs.extend_from_slice(&self.nodes[at].inputs[2..]);
            for cleared in at - 1 - usize::from(along.is_some())..at {
                self.nodes[cleared].outputs.clear();
                self.nodes[cleared].inputs.clear();
            }
            let node = &mut self.nodes[at];
            (node.op, node.inputs) = (Op::StandardizeConv2d(FirstLayerFusion { along, layer, keeps_images }), inputs);
            node.outputs.extend(keeps_images.then_some(standardized).into_iter().flatten());
        }
        self.nodes.retain(|node| !node.outputs.is_empty());
    }

    /// True if a GPU's block holds an image and the filters `w`, which are single precision.
    fn fits_first_layer(&self, images: Value, w: Value) -> bool {
        let &[k, kh, kw, c] = self.dims(w) else { return false };
        let image: usize = self.dims(images)[1..].iter().product();
        // Scale and shift of batch norm are with each filter's weights.
        let numbers = image + k.next_multiple_of(FIRST_LAYER_FILTERS) * (kh * kw * c + 2);
        self.dtype(w) == DType::F32 && numbers <= MOST_FIRST_LAYER_NUMBERS
    }
}

#[cfg(test)]
#[path = "fuse_first_layer_tests.rs"]
mod tests;
