//! Fusion of a network's head with its gradients when a tape is finished.

use crate::tape::graph::Tape;
use crate::tape::loss::{Loss, LossRule};
use crate::tape::memory::Memory;
use crate::tape::op::Op;
use crate::tape::ops::batch_norm::BatchNorm;
use crate::tape::params::{ConvWindow, HeadFeatures, HeadFusion};
use crate::tape::plan::Program;

const RULE: LossRule = LossRule { loss: Loss::Slm, confidence: 0.0 };

const KINDS: [HeadFeatures; 4] =
    [HeadFeatures::Plain, HeadFeatures::Relu, HeadFeatures::Mean, HeadFeatures::MeanOfBatchNorm];

/// Result of a head that a buffer holds beside the gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kept {
    Nothing,
    Logits,
    Loss,
}

/// Program of the gradient of a loss with respect to images: a layer whose results are features of `kind`, and a head.
fn program(kind: HeadFeatures, half: bool, kept: Kept) -> Program {
    let mut memory = Memory::default();
    let mut tape = Tape::new("head");
    if half {
        tape.store_in_half(&[]);
    }
    let x = tape.leaf(&memory.f32("x", &[2, 4, 4, 3]));
    let [linear, filters] = [&[8, 48][..], &[8, 1, 1, 3]].map(|dims| tape.leaf(&memory.f32("w", dims)));
    let features = match kind {
        HeadFeatures::Plain | HeadFeatures::Relu => tape.linear(x, linear),
        _ => tape.conv2d(x, filters, ConvWindow { padding: 0, stride: 1 }),
    };
    let features = match kind {
        HeadFeatures::Plain | HeadFeatures::Mean => features,
        HeadFeatures::Relu => {
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
    }
    tape.finish()
}

#[test]
fn a_head_is_one_op_with_its_gradients_in_both_precisions() {
    for (kind, half) in KINDS.into_iter().flat_map(|kind| [false, true].map(|half| (kind, half))) {
        let program = program(kind, half, Kept::Nothing);
        let ops: Vec<&str> = program.nodes.iter().map(|node| node.op.name()).collect();
        let [layer, back] = match kind {
            HeadFeatures::Plain => ["linear", "linear_backward_input"],
            HeadFeatures::Relu => ["linear_bias_relu", "linear_backward_input"],
            HeadFeatures::Mean => ["conv2d", "conv2d_backward_input"],
            HeadFeatures::MeanOfBatchNorm => ["conv2d_fused", "conv2d_backward_input"],
        };
        let mut expected = vec![layer, "head_backward", back];
        expected.extend(half.then_some("map"));
        assert_eq!(ops, expected, "{kind:?}, half: {half}\n{program}");
        let head = &program.nodes[1];
        assert_eq!(head.op, Op::HeadBackward(HeadFusion { features: kind, rule: RULE, normalized: half }));
        assert_eq!(head.inputs.len(), if kind == HeadFeatures::MeanOfBatchNorm { 7 } else { 5 });
        if half {
            let norm = head.outputs[1];
            assert_eq!((&program.values[norm.0].dims[..], program.nodes[3].inputs[1]), (&[2][..], norm));
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
