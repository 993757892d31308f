//! Fusion of two layers with pooling when a tape is finished.

use crate::tape::graph::{Tape, Value};
use crate::tape::half::{HalfFilter, HalfGradients};
use crate::tape::memory::Memory;
use crate::tape::op::Op;
use crate::tape::params::{AlongRule, ConvWindow, Direction, Norm};

const SAME: ConvWindow = ConvWindow { padding: 2, stride: 1 };
const ALONG: AlongRule = AlongRule { norm: Norm::Linf, direction: Direction::Eps, clamp: false };

/// Ops of a network of layers with pooling, with so many filters, and a linear layer. `half`: in half precision.
/// `read_again`: the first layer's results have another reader. `along`: the images are points along a direction.
fn ops(layers: &[usize], half: bool, read_again: bool, along: bool) -> Vec<Op> {
    let (mut memory, mut tape) = (Memory::default(), Tape::new("layers"));
    let mut filters = Vec::new();
    let [x, adv] = ["x", "adv"].map(|name| tape.leaf(&memory.f32(name, &[2, 16, 16, 1])));
    let each = tape.leaf(&memory.f32("one number an image", &[2]));
    let mut features = if along { tape.along_direction(ALONG, x, adv, each, each) } else { x };
    let mut results: Vec<Value> = Vec::new();
    for &k in layers {
        let c = tape.dims(features)[3];
        let (w, bias) = (memory.f32("filters", &[k, 5, 5, c]), memory.f32("bias", &[k]));
        filters.push(HalfFilter::declare(&mut memory, &w));
        let [w, bias] = [&w, &bias].map(|buffer| tape.leaf(buffer));
        let sums = tape.conv2d(features, w, SAME);
        let biased = tape.add_bias(sums, bias);
        let positive = tape.relu(biased);
        features = tape.max_pool2d(positive);
        results.push(features);
    }
    if half {
        tape.store_in_half(&filters, HalfGradients::ByExample);
    }
    let readers = read_again.then_some(results[0]).into_iter().chain([features]);
    for reader in readers {
        let numbers = tape.dims(reader)[1..].iter().product::<usize>();
        let w = tape.leaf(&memory.f32("weight", &[3, numbers]));
        let logits = tape.linear(reader, w);
        let kept = memory.f32("logits", &[2, 3]);
        tape.keep(logits, &kept);
    }
    tape.finish().nodes.into_iter().map(|node| node.op).collect()
}

#[test]
fn a_pair_of_layers_with_half_results_is_fused() {
    let two = Op::TwoConvPools { along: None, first: SAME, second: SAME };
    assert_eq!(ops(&[32, 64], true, false, false), [two.clone(), Op::Linear]);
    assert_eq!(ops(&[32, 64, 8], true, false, false), [two, Op::ConvPool(SAME), Op::Linear]);
}

#[test]
fn layers_of_other_sizes_in_single_precision_and_layers_whose_results_are_read_again_are_not_fused() {
    let apart = [Op::ConvPool(SAME), Op::ConvPool(SAME), Op::Linear];
    assert_eq!(ops(&[32, 64], false, false, false), apart);
    assert_eq!(ops(&[16, 32], true, false, false), apart);
    assert_eq!(ops(&[32], true, false, false), [Op::ConvPool(SAME), Op::Linear]);
    let read_again = ops(&[32, 64], true, true, false);
    assert_eq!(read_again.iter().filter(|op| **op == Op::ConvPool(SAME)).count(), 2, "{read_again:?}");
}

#[test]
fn the_point_along_a_direction_that_the_images_are_is_fused() {
    let two = Op::TwoConvPools { along: Some(ALONG), first: SAME, second: SAME };
    assert_eq!(ops(&[32, 64], true, false, true), [two, Op::Linear]);
    assert_eq!(ops(&[16, 32], true, false, true)[0], Op::AlongDirection(ALONG));
}
