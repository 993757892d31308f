//! Fusion of a network's head with its gradients when a tape is finished.

use crate::tape::graph::{Tape, Value};
use crate::tape::half::HalfFilter;
use crate::tape::loss::{Loss, LossRule};
use crate::tape::memory::{DType, Memory};
use crate::tape::op::Op;
use crate::tape::ops::batch_norm::BatchNorm;
use crate::tape::params::{HeadFeatures, HeadFusion};
use crate::tape::plan::Program;

const RULE: LossRule = LossRule { loss: Loss::Slm, confidence: 0.0 };

/// Values of the gradient of a head that a test holds in buffers.
#[derive(Clone, Copy, PartialEq)]
enum Kept {
    /// The gradient alone.
    Gradient,
    Logits,
    Loss,
}

/// Records features of `kind`, their head and its gradient with respect to what the features are computed from.
fn recorded(kind: HeadFeatures, half: bool, kept: Kept) -> Program {
    let mut memory = Memory::default();
    let mut tape = Tape::new("head");
    if half {
        tape.store_in_half(&[] as &[HalfFilter]);
    }
    let averaged = kind.are_averaged();
    let dims: &[usize] = if averaged { &[2, 4, 4, 8] } else { &[2, 8] };
    let [x, addend] = ["x", "addend"].map(|name| tape.leaf(&memory.f32(name, dims)));
    let sum = tape.add(x, addend);
    let features = match kind {
        HeadFeatures::Plain | HeadFeatures::Mean => sum,
        HeadFeatures::Relu => tape.relu(sum),
        HeadFeatures::MeanOfBatchNorm => {
            let [weight, bias] = ["weight", "bias"].map(|name| tape.leaf(&memory.f32(name, &[8])));
            let [running_mean, running_variance] = ["mean", "variance"].map(|name| memory.f32(name, &[8]));
            let normalized = tape.batch_norm(sum, &BatchNorm { weight, bias, running_mean, running_variance });
            tape.relu(normalized)
        }
    };
    let read = if averaged { tape.global_mean(features) } else { features };
    let [w, bias] = [memory.f32("w", &[3, 8]), memory.f32("b", &[3])].map(|buffer| tape.leaf(&buffer));
    let product = tape.linear(read, w);
    let logits = tape.add_bias(product, bias);
    let labels = tape.leaf(&memory.u32("labels", &[2]));
    let loss = tape.loss(RULE, logits, labels);
    let ones = tape.leaf(&memory.f32("ones", &[2]));
    let gradient = tape.grad(loss, ones, &[x])[0];
    // A half gradient is read by another op before a buffer holds it.
    let gradient = if half { tape.max_pool2d_backward_of(gradient) } else { gradient };
    let mut keep = |value: Value| {
        let buffer = memory.f32("kept", &tape.dims(value).to_vec());
        tape.keep(value, &buffer);
    };
    keep(gradient);
    match kept {
        Kept::Gradient => {}
        Kept::Logits => keep(logits),
        Kept::Loss => keep(loss),
    }
    tape.finish()
}
