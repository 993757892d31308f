//! Fusion at a network's first layer when a tape is finished.

use crate::tape::graph::{Tape, Value};
use crate::tape::half::{HalfFilter, HalfGradients};
use crate::tape::loss::{Loss, LossRule};
use crate::tape::memory::{Buffer, Memory};
use crate::tape::op::Op;
use crate::tape::params::{
    AlongRule, ConvFusion, ConvWindow, Direction, FirstLayerFusion, L2Order, Norm, PgdFusion, PgdRule, StepLayer,
};

const SAME: ConvWindow = ConvWindow { padding: 1, stride: 1 };
const ALONG: AlongRule = AlongRule { norm: Norm::Linf, direction: Direction::Eps, clamp: false };

/// A tape with its own memory, and a batch of images.
struct FirstLayerTape {
    memory: Memory,
    tape: Tape,
    x: Value,
    each: Value,
}

impl FirstLayerTape {
    fn new(image: [usize; 3]) -> FirstLayerTape {
        let (mut memory, mut tape) = (Memory::default(), Tape::new("first layer"));
        let [h, w, c] = image;
        let x = tape.leaf(&memory.f32("x", &[2, h, w, c]));
        let each = tape.leaf(&memory.f32("one number an image", &[2]));
        FirstLayerTape { memory, tape, x, each }
    }

    fn buffer_like(&mut self, value: Value) -> Buffer {
        let dims = self.tape.dims(value).to_vec();
        self.memory.f32("a buffer", &dims)
    }

    fn keep(&mut self, value: Value) {
        let buffer = self.buffer_like(value);
        self.tape.keep(value, &buffer);
    }

    fn leaf(&mut self, dims: &[usize]) -> Value {
        let buffer = self.memory.f32("a weight", dims);
        self.tape.leaf(&buffer)
    }

    /// Standardization of `images`, and a convolution of the result with eight filters.
    fn layer(&mut self, images: Value, size: usize) -> [Value; 2] {
        let standardized = self.tape.standardize(images);
        let c = self.tape.dims(images)[3];
        let w = self.leaf(&[8, size, size, c]);
        [standardized, self.tape.conv2d(standardized, w, ConvWindow { padding: size / 2, stride: 1 })]
    }

    /// The point along a direction from the images.
    fn point(&mut self) -> Value {
        let adv = self.buffer_like(self.x);
        let adv = self.tape.leaf(&adv);
        self.tape.along_direction(ALONG, self.x, adv, self.each, self.each)
    }

    fn ops(self) -> Vec<Op> {
        self.tape.finish().nodes.into_iter().map(|node| node.op).collect()
    }
}

/// The fused op of a layer whose sum alone is needed.
fn fused(along: Option<AlongRule>, keeps_images: bool) -> Op {
    let layer = ConvFusion::alone(SAME);
    Op::StandardizeConv2d(FirstLayerFusion { along, layer, keeps_images })
}

#[test]
fn a_convolution_of_standardized_images_is_fused_with_the_standardization_and_the_point() {
    let mut plain = FirstLayerTape::new([4, 4, 3]);
    let [_, result] = plain.layer(plain.x, 3);
    plain.keep(result);
    assert_eq!(plain.ops(), [fused(None, false)]);

    let mut probe = FirstLayerTape::new([4, 4, 3]);
    let point = probe.point();
    let [_, result] = probe.layer(point, 3);
    probe.keep(result);
    assert_eq!(probe.ops(), [fused(Some(ALONG), false)]);
}

#[test]
fn standardized_images_that_are_needed_again_are_results_too() {
    let mut gradient = FirstLayerTape::new([4, 4, 3]);
    let [standardized, result] = gradient.layer(gradient.x, 3);
    gradient.keep(result);
    let copy = gradient.tape.copy(standardized);
    gradient.keep(copy);
    let program = gradient.tape.finish();
    let ops: Vec<_> = program.nodes.iter().map(|node| node.op.clone()).collect();
    assert_eq!(ops, [fused(None, true), Op::Copy]);
    assert_eq!((program.nodes[0].outputs.len(), program.nodes[0].outputs[1]), (3, program.nodes[1].inputs[0]));

    let mut kept = FirstLayerTape::new([4, 4, 3]);
    let [standardized, result] = kept.layer(kept.x, 3);
    kept.keep(standardized);
    kept.keep(result);
    assert_eq!(kept.ops(), [fused(None, true)]);
}

#[test]
fn a_point_that_is_needed_again_is_not_fused() {
    let mut probe = FirstLayerTape::new([4, 4, 3]);
    let point = probe.point();
    let [_, result] = probe.layer(point, 3);
    probe.keep(result);
    probe.keep(point);
    assert_eq!(probe.ops(), [Op::AlongDirection(ALONG), fused(None, false)]);
}

#[test]
fn images_that_a_block_cannot_hold_are_standardized_by_an_op_of_their_own() {
    for (side, fuses) in [(62, true), (64, false)] {
        let mut large = FirstLayerTape::new([side, side, 3]);
        let [_, result] = large.layer(large.x, 3);
        large.keep(result);
        assert_eq!(large.ops().len(), if fuses { 1 } else { 2 }, "images of {side} x {side}");
    }
}

/// Last op of an attack's iteration on a network whose first layers, so many, are pooled; without any, its first layer is
/// a convolution.
fn step(pooled: usize, standardized: bool, norm: Norm, half: bool) -> Op {
    let mut attack = FirstLayerTape::new([8, 8, 1]);
    let rule = PgdRule { norm, l2_order: L2Order::BoxBall, l2_grad_floor: 1e-6 };
    let mut features = if standardized { attack.tape.standardize(attack.x) } else { attack.x };
    let mut filters = Vec::new();
    for _ in 0..pooled.max(1) {
        let c = attack.tape.dims(features)[3];
        let w = attack.memory.f32("filters", &[8, 3, 3, c]);
        filters.push(HalfFilter::declare(&mut attack.memory, &w));
        let w = attack.tape.leaf(&w);
        features = attack.tape.conv2d(features, w, SAME);
        if pooled > 0 {
            let bias = attack.leaf(&[8]);
            let biased = attack.tape.add_bias(features, bias);
            let positive = attack.tape.relu(biased);
            features = attack.tape.max_pool2d(positive);
        }
    }
    if half {
        attack.tape.store_in_half(&filters, HalfGradients::ByExample);
    }
    let numbers = attack.tape.dims(features)[1..].iter().product::<usize>();
    let w = attack.leaf(&[3, numbers]);
    let logits = attack.tape.linear(features, w);
    let labels = attack.memory.u32("labels", &[2]);
    let labels = attack.tape.leaf(&labels);
    let loss = attack.tape.loss(LossRule { loss: Loss::Slm, confidence: 0.0 }, logits, labels);
    let (x, each) = (attack.x, attack.each);
    let dx = attack.tape.grad(loss, each, &[x])[0];
    let adv = attack.buffer_like(x);
    attack.tape.pgd_step(rule, &adv, x, dx, each, each);
    attack.ops().pop().expect("a step")
}

#[test]
fn a_step_of_pgd_includes_the_first_layers_pooled_or_not() {
    let two = StepLayer::TwoConvPools { first: SAME, second: SAME, linear: false };
    for (pooled, standardized, norm, layer) in [
        (0, false, Norm::Linf, Some(StepLayer::Conv(SAME))),
        (0, true, Norm::L2, Some(StepLayer::Conv(SAME))),
        (1, false, Norm::Linf, Some(StepLayer::ConvPool(SAME))),
        (2, false, Norm::Linf, Some(two)),
        // These need sums over an image.
        (1, true, Norm::Linf, None),
        (2, false, Norm::L2, None),
    ] {
        for half in [false, true] {
            let op = step(pooled, standardized, norm, half);
            let rule = PgdRule { norm, l2_order: L2Order::BoxBall, l2_grad_floor: 1e-6 };
            let fused = Op::PgdStepFused(PgdFusion { layer, from_norm: half, standardized, rule });
            let expected = if layer.is_some() || standardized || half { fused } else { Op::PgdStep(rule) };
            assert_eq!(op, expected, "half: {half}");
        }
    }
}
