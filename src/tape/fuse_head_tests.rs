//! Fusion of a network's head with its gradients when a tape is finished.

use crate::tape::graph::Tape;
use crate::tape::half::{HalfFilter, HalfGradients};
use crate::tape::loss::{Loss, LossRule};
use crate::tape::memory::Memory;
use crate::tape::op::Op;
use crate::tape::ops::batch_norm::BatchNorm;
use crate::tape::params::{ConvWindow, HeadFeatures, HeadFusion};
use crate::tape::plan::Program;

const RULE: LossRule = LossRule { loss: Loss::Slm, confidence: 0.0 };

const KINDS: [HeadFeatures; 5] =
    [HeadFeatures::Plain, HeadFeatures::Relu, HeadFeatures::Hidden, HeadFeatures::Mean, HeadFeatures::MeanOfBatchNorm];

/// Result that a buffer holds beside the gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kept {
    Nothing,
    Logits,
    Loss,
    Features,
    /// Result of another op on the features.
    OfFeatures,
}

/// Program of the gradient of a loss with respect to images: a layer whose results are features of `kind`, and a head.
fn program(kind: HeadFeatures, half: bool, kept: Kept) -> Program {
    let mut memory = Memory::default();
    let mut tape = Tape::new("head");
    if half {
        tape.store_in_half(&[], HalfGradients::ByExample);
    }
    let x = tape.leaf(&memory.f32("x", &[2, 4, 4, 3]));
    let [linear, filters] = [&[8, 48][..], &[8, 1, 1, 3]].map(|dims| tape.leaf(&memory.f32("w", dims)));
    let features = match kind {
        HeadFeatures::Plain | HeadFeatures::Relu | HeadFeatures::Hidden => tape.linear(x, linear),
        _ => tape.conv2d(x, filters, ConvWindow { padding: 0, stride: 1 }),
    };
    let features = match kind {
        HeadFeatures::Plain | HeadFeatures::Mean => features,
        HeadFeatures::Relu => tape.relu(features),
        HeadFeatures::Hidden => {
            let bias = tape.leaf(&memory.f32("bias", &[8]));
            let biased = tape.add_bias(features, bias);
            tape.relu(biased)
        }
        HeadFeatures::MeanOfBatchNorm => {
            let [weight, bias] = [(); 2].map(|()| tape.leaf(&memory.f32("norm", &[8])));
            let [running_mean, running_variance] = [(); 2].map(|()| memory.f32("statistics", &[8]));
            let normalized = tape.batch_norm(features, &BatchNorm { weight, bias, running_mean, running_variance });
            tape.relu(normalized)
        }
    };
    let read = if kind.are_averaged() { tape.global_mean(features) } else { features };
    let [w, bias] = [memory.f32("last w", &[3, 8]), memory.f32("last bias", &[3])].map(|buffer| tape.leaf(&buffer));
    let product = tape.linear(read, w);
    let logits = tape.add_bias(product, bias);
    let [labels, ones] = [memory.u32("labels", &[2]), memory.f32("ones", &[2])].map(|buffer| tape.leaf(&buffer));
    let loss = tape.loss(RULE, logits, labels);
    let gradient = tape.grad(loss, ones, &[x])[0];
    tape.keep(gradient, &memory.f32("gradient", &[2, 4, 4, 3]));
    match kept {
        Kept::Nothing => {}
        Kept::Logits => tape.keep(logits, &memory.f32("logits", &[2, 3])),
        Kept::Loss => tape.keep(loss, &memory.f32("loss", &[2])),
        Kept::Features => tape.keep(features, &memory.f32("features", &[2, 8])),
        Kept::OfFeatures => {
            let scaled = tape.scale(features, 2.0);
            tape.keep(scaled, &memory.f32("scaled features", &[2, 8]));
        }
    }
    tape.finish()
}

#[test]
fn a_head_is_one_op_with_its_gradients_in_both_precisions() {
    for (kind, half) in KINDS.into_iter().flat_map(|kind| [false, true].map(|half| (kind, half))) {
        let program = program(kind, half, Kept::Nothing);
        let ops: Vec<&str> = program.nodes.iter().map(|node| node.op.name()).collect();
        let (layers, back, operands) = match kind {
            HeadFeatures::Plain => (&["linear"][..], "linear_backward_input", 5),
            HeadFeatures::Relu => (&["linear", "relu"][..], "linear_backward_input", 5),
            HeadFeatures::Hidden => (&[][..], "linear_backward_input", 7),
            HeadFeatures::Mean => (&["conv2d"][..], "conv2d_backward_input", 5),
            HeadFeatures::MeanOfBatchNorm => (&["conv2d_fused"][..], "conv2d_backward_input", 7),
        };
        let mut expected = [layers, &["head_backward", back]].concat();
        expected.extend(half.then_some("map"));
        assert_eq!(ops, expected, "{kind:?}, half: {half}\n{program}");
        let head = &program.nodes[layers.len()];
        assert_eq!(head.op, Op::HeadBackward(HeadFusion { features: kind, rule: RULE, normalized: half }));
        assert_eq!(head.inputs.len(), operands);
        let last = &program.values[head.inputs[kind.operands()].0];
        assert_eq!(last.home.as_ref().map(|buffer| &buffer.name[..]), Some("last w"));
        if half {
            let norm = head.outputs[1];
            let from_norm = program.nodes.last().expect("a map").inputs[1];
            assert_eq!((&program.values[norm.0].dims[..], from_norm), (&[2][..], norm));
        }
    }
}

#[test]
fn a_head_whose_logits_or_loss_a_buffer_holds_is_not_fused() {
    for (kind, kept) in KINDS.into_iter().flat_map(|kind| [Kept::Logits, Kept::Loss].map(|kept| (kind, kept))) {
        let program = program(kind, false, kept);
        let fused = program.nodes.iter().any(|node| matches!(node.op, Op::HeadBackward(_)));
        assert!(!fused, "{kind:?}, {kept:?}\n{program}");
    }
}

/// Features that something else reads are stored, and the head reads them.
#[test]
fn a_hidden_layer_whose_results_are_read_by_others_is_not_part_of_the_head() {
    for kept in [Kept::Features, Kept::OfFeatures] {
        let program = program(HeadFeatures::Hidden, false, kept);
        let ops: Vec<&str> = program.nodes.iter().map(|node| node.op.name()).filter(|name| *name != "scale").collect();
        assert_eq!(ops, ["linear_bias_relu", "head_backward", "linear_backward_input"], "{kept:?}\n{program}");
        let head = program.nodes.iter().find_map(|node| match &node.op {
            Op::HeadBackward(fusion) => Some(fusion.features),
            _ => None,
        });
        assert_eq!(head, Some(HeadFeatures::Relu));
    }
}

/// The sum of the rows' gradients is the bias's gradient, which is single precision.
#[test]
fn a_hidden_layer_on_halves_with_a_gradient_in_single_precision_is_not_part_of_the_head() {
    let mut memory = Memory::default();
    let mut tape = Tape::new("head");
    let w = memory.f32("w", &[8, 8]);
    tape.store_in_half(&[HalfFilter::declare(&mut memory, &w)], HalfGradients::ByExample);
    let x = tape.leaf(&memory.f32("x", &[2, 48]));
    let [first, bias] = [&[8, 48][..], &[8]].map(|dims| tape.leaf(&memory.f32("operand", dims)));
    let below = tape.linear(x, first);
    let w = tape.leaf(&w);
    let product = tape.linear(below, w);
    let biased = tape.add_bias(product, bias);
    let features = tape.relu(biased);
    let last = tape.leaf(&memory.f32("last w", &[3, 8]));
    let product = tape.linear(features, last);
    let last_bias = tape.leaf(&memory.f32("last bias", &[3]));
    let logits = tape.add_bias(product, last_bias);
    let [labels, ones] = [memory.u32("labels", &[2]), memory.f32("ones", &[2])].map(|buffer| tape.leaf(&buffer));
    let loss = tape.loss(RULE, logits, labels);
    let gradient = tape.grad(loss, ones, &[bias])[0];
    tape.keep(gradient, &memory.f32("gradient", &[8]));
    let program = tape.finish();
    let ops: Vec<&str> = program.nodes.iter().map(|node| node.op.name()).collect();
    assert!(ops.contains(&"linear_bias_relu") && !ops.contains(&"head_backward"), "{program}");
}
