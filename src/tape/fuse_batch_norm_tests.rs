//! Fusion of batch norm in training mode with convolutions of halves: what is fused, and what must not be.

use crate::tape::graph::{Tape, Value};
use crate::tape::half::{HalfFilter, HalfGradients};
use crate::tape::memory::{Buffer, Memory};
use crate::tape::op::Op;
use crate::tape::ops::batch_norm::BatchNorm;
use crate::tape::params::{ConvFusion, ConvGradientFusion, ConvWindow};

const SAME: ConvWindow = ConvWindow { padding: 1, stride: 1 };

/// A tape of layers of three channels.
struct HalfLayers {
    memory: Memory,
    tape: Tape,
    filters: Vec<HalfFilter>,
}

impl HalfLayers {
    /// A tape, and images of halves that two ops compute.
    fn new() -> (HalfLayers, Value) {
        let mut r = HalfLayers { memory: Memory::default(), tape: Tape::new("fusion"), filters: Vec::new() };
        let pixels = r.buffer(&[2, 4, 4, 3]);
        let x = r.tape.leaf(&pixels);
        let y = r.conv(x);
        let images = r.tape.relu(y);
        (r, images)
    }

    fn buffer(&mut self, dims: &[usize]) -> Buffer {
        self.memory.f32(&format!("buffer {}", self.memory.buffers.len()), dims)
    }

    fn conv(&mut self, x: Value) -> Value {
        let weight = self.buffer(&[3, 3, 3, 3]);
        self.filters.push(HalfFilter::declare(&mut self.memory, &weight));
        let w = self.tape.leaf(&weight);
        self.tape.conv2d(x, w, SAME)
    }

    fn norm(&mut self, x: Value) -> Value {
        let [weight, bias, running_mean, running_variance] = [(); 4].map(|()| self.buffer(&[3]));
        let [weight, bias] = [weight, bias].map(|buffer| self.tape.leaf(&buffer));
        self.tape.batch_norm_training(x, &BatchNorm { weight, bias, running_mean, running_variance })
    }

    fn norm_relu(&mut self, x: Value) -> Value {
        let y = self.norm(x);
        self.tape.relu(y)
    }

    /// Keeps the results of a convolution of `x`.
    fn keep_conv(&mut self, x: Value) {
        let y = self.conv(x);
        let dims = self.tape.dims(y).to_vec();
        let buffer = self.buffer(&dims);
        self.tape.keep(y, &buffer);
    }

    /// Ops of the finished program after those that compute the images.
    fn ops(mut self, half: bool) -> Vec<Op> {
        if half {
            self.tape.store_in_half(&self.filters, HalfGradients::AsRecorded);
        }
        self.tape.finish().nodes.into_iter().map(|node| node.op).skip(2).collect()
    }
}

fn fused(fusion: ConvFusion) -> Op {
    Op::Conv2dFused(fusion)
}

const ALONE: ConvFusion = ConvFusion {
    window: SAME,
    normalized: false,
    keeps_operand: false,
    shortcut: None,
    addend: false,
    sum: true,
    norm: false,
    statistics: false,
};

/// Statistics come from the convolution before, results from the one after.
#[test]
fn batch_norm_between_two_convolutions_of_halves_has_no_op_of_its_own() {
    for half in [true, false] {
        let (mut r, x) = HalfLayers::new();
        let before = r.conv(x);
        let y = r.norm_relu(before);
        let after = r.conv(y);
        r.keep_conv(after);
        let conv = Op::Conv2d(SAME);
        let expected = if half {
            vec![fused(ConvFusion { statistics: true, ..ALONE }), fused(ConvFusion { normalized: true, ..ALONE }), conv]
        } else {
            vec![conv.clone(), Op::BatchNormTraining { relu: true }, conv.clone(), conv]
        };
        assert_eq!(r.ops(half), expected);
    }
}

#[test]
fn a_convolution_may_have_both() {
    let (mut r, x) = HalfLayers::new();
    let first = r.conv(x);
    let y = r.norm_relu(first);
    let second = r.conv(y);
    let sum = r.tape.add(second, first);
    let z = r.norm_relu(sum);
    let third = r.conv(z);
    r.keep_conv(third);
    let expected = [
        fused(ConvFusion { statistics: true, ..ALONE }),
        fused(ConvFusion { normalized: true, addend: true, statistics: true, ..ALONE }),
        fused(ConvFusion { normalized: true, ..ALONE }),
        Op::Conv2d(SAME),
    ];
    assert_eq!(r.ops(true), expected);
}

#[test]
fn results_with_a_later_reader_are_an_output_of_the_convolution_too() {
    let (mut r, x) = HalfLayers::new();
    let before = r.conv(x);
    let y = r.norm_relu(before);
    let first = r.conv(y);
    let second = r.conv(y);
    let sum = r.tape.add(first, second);
    r.keep_conv(sum);
    let expected = [
        fused(ConvFusion { statistics: true, ..ALONE }),
        fused(ConvFusion { normalized: true, keeps_operand: true, ..ALONE }),
        fused(ConvFusion { addend: true, ..ALONE }),
        Op::Conv2d(SAME),
    ];
    assert_eq!(r.ops(true), expected);
}

#[test]
fn results_that_are_read_otherwise_first_or_have_no_relu_are_written() {
    let statistics = fused(ConvFusion { statistics: true, ..ALONE });
    let (mut r, x) = HalfLayers::new();
    let before = r.conv(x);
    let y = r.norm_relu(before);
    let after = r.conv(y);
    let sum = r.tape.add(after, y);
    r.keep_conv(sum);
    let addend = fused(ConvFusion { addend: true, ..ALONE });
    assert_eq!(r.ops(true), [statistics.clone(), Op::BatchNorm { relu: true }, addend, Op::Conv2d(SAME)]);

    let (mut r, x) = HalfLayers::new();
    let before = r.conv(x);
    let y = r.norm(before);
    let after = r.conv(y);
    r.keep_conv(after);
    assert_eq!(r.ops(true), [statistics, Op::BatchNorm { relu: false }, Op::Conv2d(SAME), Op::Conv2d(SAME)]);
}

/// In both precisions.
#[test]
fn the_sum_of_a_residual_block_s_gradients_is_part_of_batch_norm_s() {
    for half in [false, true] {
        let (mut r, x) = HalfLayers::new();
        let before = r.conv(x);
        let y = r.norm_relu(before);
        let after = r.conv(y);
        let sum = r.tape.add(after, before);
        let dims = r.tape.dims(sum).to_vec();
        let dy = r.buffer(&dims);
        let dy = r.tape.leaf(&dy);
        let dy = r.tape.relu(dy);
        let dx = r.tape.grad(sum, dy, &[x])[0];
        r.keep_conv(dx);
        if half {
            r.tape.store_in_half(&r.filters, HalfGradients::AsRecorded);
        }
        let program = r.tape.finish();
        let gradient = Op::BatchNormTrainingBackwardInput { relu: true };
        let addends: Vec<usize> =
            program.nodes.iter().filter(|node| node.op == gradient).map(|node| node.inputs.len() - 8).collect();
        assert_eq!(addends, [1], "{program}");
        assert!(!program.nodes.iter().any(|node| node.op == Op::Add), "{program}");
    }
}

/// In half precision, where the input gradient of a convolution is what they are summed from.
#[test]
fn the_gradients_of_batch_norm_s_weight_come_from_the_convolution_s_input_gradient() {
    let gradient_ops = |half: bool| {
        let (mut r, x) = HalfLayers::new();
        let before = r.conv(x);
        let [weight, bias, mean, variance] = [(); 4].map(|()| r.buffer(&[3]));
        let [w, b] = [&weight, &bias].map(|buffer| r.tape.leaf(buffer));
        let norm = BatchNorm { weight: w, bias: b, running_mean: mean, running_variance: variance };
        let y = r.tape.batch_norm_training(before, &norm);
        let y = r.tape.relu(y);
        let after = r.conv(y);
        let dims = r.tape.dims(after).to_vec();
        let dy = r.buffer(&dims);
        let dy = r.tape.leaf(&dy);
        let dy = r.conv(dy);
        for gradient in r.tape.grad(after, dy, &[w, b]) {
            let buffer = r.buffer(&[3]);
            r.tape.keep(gradient, &buffer);
        }
        let ops = r.ops(half);
        ops.into_iter().filter(|op| op.name().contains("backward")).collect::<Vec<_>>()
    };
    let separate = [Op::Conv2dBackwardInput(SAME), Op::BatchNormBackwardWeight { relu: true }];
    assert_eq!(gradient_ops(false), separate);
    let fusion = ConvGradientFusion { norm_weight: true, ..ConvGradientFusion::alone(SAME) };
    assert_eq!(gradient_ops(true), [Op::Conv2dFusedBackwardInput(fusion)]);
}

#[test]
fn statistics_of_other_values_than_a_convolutions_results_have_their_own_launch() {
    let (mut r, x) = HalfLayers::new();
    let y = r.norm_relu(x);
    let after = r.conv(y);
    r.keep_conv(after);
    assert_eq!(r.ops(true), [Op::BatchNormTraining { relu: true }, Op::Conv2d(SAME), Op::Conv2d(SAME)]);
}
