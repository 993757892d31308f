//! Fusion of convolutions, shortcuts, sums and batch norm when a tape is finished.

use crate::tape::graph::{Tape, Value};
use crate::tape::memory::{Buffer, Memory};
use crate::tape::op::Op;
use crate::tape::ops::batch_norm::BatchNorm;
use crate::tape::params::{ConvFusion, ConvGradientFusion, ConvWindow};

/// A 3x3 convolution with this window keeps the size of an image.
const SAME: ConvWindow = ConvWindow { padding: 1, stride: 1 };

/// A tape with its own memory.
struct Recorded {
    memory: Memory,
    tape: Tape,
}

impl Recorded {
    fn new() -> Recorded {
        Recorded { memory: Memory::default(), tape: Tape::new("fusion") }
    }

    fn buffer(&mut self, dims: &[usize]) -> Buffer {
        self.memory.f32("a buffer", dims)
    }

    fn leaf(&mut self, dims: &[usize]) -> Value {
        let buffer = self.buffer(dims);
        self.tape.leaf(&buffer)
    }

    /// A convolution of x with `k` new filters, `size x size`.
    fn conv(&mut self, x: Value, k: usize, size: usize, window: ConvWindow) -> Value {
        let c = self.tape.dims(x)[3];
        let w = self.leaf(&[k, size, size, c]);
        self.tape.conv2d(x, w, window)
    }

    /// Batch norm of x with new operands, in training or in evaluation mode.
    fn norm(&mut self, x: Value, training: bool) -> Value {
        let c = self.tape.dims(x)[3];
        let [weight, bias] = [(); 2].map(|()| self.leaf(&[c]));
        let [running_mean, running_variance] = [(); 2].map(|()| self.buffer(&[c]));
        let norm = BatchNorm { weight, bias, running_mean, running_variance };
        match training {
            true => self.tape.batch_norm_training(x, &norm),
            false => self.tape.batch_norm(x, &norm),
        }
    }

    fn norm_relu(&mut self, x: Value, training: bool) -> Value {
        let normalized = self.norm(x, training);
        self.tape.relu(normalized)
    }

    fn keep(&mut self, value: Value) {
        let dims = self.tape.dims(value).to_vec();
        let buffer = self.buffer(&dims);
        self.tape.keep(value, &buffer);
    }

    /// Ops of the finished program. Checks that each value that a buffer holds is computed once.
    fn ops(self) -> Vec<Op> {
        let kept: Vec<Value> = (0..self.tape.values.len()).map(Value).collect();
        let computed = |v: &&Value| self.tape.nodes.iter().any(|node| node.outputs.contains(v));
        let kept: Vec<Value> =
            kept.iter().filter(computed).filter(|v| self.tape.values[v.0].home.is_some()).copied().collect();
        let program = self.tape.finish();
        for value in kept {
            let results = program.nodes.iter().filter(|node| node.outputs.contains(&value)).count();
            assert_eq!(results, 1, "{value:?} is computed once\n{program}");
        }
        program.nodes.into_iter().map(|node| node.op).collect()
    }
}

fn fused(window: ConvWindow, shortcut: Option<usize>, addend: bool, sum: bool, norm: bool) -> Op {
    Op::Conv2dFused(ConvFusion { shortcut, addend, sum, norm, ..ConvFusion::alone(window) })
}

fn fused_gradient(window: ConvWindow, shortcut: Option<usize>, norm: bool, addend: bool) -> Op {
    Op::Conv2dFusedBackwardInput(ConvGradientFusion { shortcut, norm, addend, ..ConvGradientFusion::alone(window) })
}

#[test]
fn a_convolution_is_fused_with_the_batch_norm_and_relu_of_its_result() {
    let mut r = Recorded::new();
    let x = r.leaf(&[2, 4, 4, 3]);
    let conv = r.conv(x, 5, 3, SAME);
    let y = r.norm_relu(conv, false);
    r.keep(y);
    assert_eq!(r.ops(), [fused(SAME, None, false, false, true)]);
}

#[test]
fn a_sum_that_another_op_reads_or_a_buffer_holds_is_an_output_too() {
    for kept in [false, true] {
        let mut r = Recorded::new();
        let x = r.leaf(&[2, 4, 4, 3]);
        let conv = r.conv(x, 3, 3, SAME);
        let sum = r.tape.add(x, conv);
        let y = r.norm_relu(sum, false);
        r.keep(y);
        if kept {
            r.keep(sum);
            assert_eq!(r.ops(), [fused(SAME, None, true, true, true)]);
        } else {
            let half = r.tape.scale(sum, 0.5);
            r.keep(half);
            assert_eq!(r.ops(), [fused(SAME, None, true, true, true), Op::Scale { factor: 0.5 }]);
        }
    }
}

#[test]
fn a_convolution_whose_own_result_is_needed_is_not_fused_with_a_sum() {
    for kept in [false, true] {
        let mut r = Recorded::new();
        let x = r.leaf(&[2, 4, 4, 3]);
        let conv = r.conv(x, 3, 3, SAME);
        let sum = r.tape.add(x, conv);
        r.keep(sum);
        let rest = if kept {
            r.keep(conv);
            vec![]
        } else {
            let half = r.tape.scale(conv, 0.5);
            r.keep(half);
            vec![Op::Scale { factor: 0.5 }]
        };
        assert_eq!(r.ops(), [vec![Op::Conv2d(SAME), Op::Add], rest].concat());
    }
}

#[test]
fn batch_norm_without_relu_or_whose_own_result_is_needed_is_not_fused() {
    let mut r = Recorded::new();
    let x = r.leaf(&[2, 4, 4, 3]);
    let conv = r.conv(x, 3, 3, SAME);
    let y = r.norm(conv, false);
    r.keep(y);
    let positive = r.tape.relu(y);
    r.keep(positive);
    assert_eq!(r.ops(), [Op::Conv2d(SAME), Op::BatchNorm { relu: false }, Op::Relu]);
}

#[test]
fn a_shortcut_is_fused_if_it_is_recorded_before_its_convolution_or_after_it() {
    for (stride, first) in [(1, true), (1, false), (2, true), (2, false)] {
        let window = ConvWindow { padding: 0, stride };
        let main = ConvWindow { padding: 1, stride };
        let mut r = Recorded::new();
        let x = r.leaf(&[2, 7, 6, 3]);
        let early = first.then(|| r.conv(x, 5, 1, window));
        let conv = r.conv(x, 5, 3, main);
        let shortcut = early.unwrap_or_else(|| r.conv(x, 5, 1, window));
        let sum = r.tape.add(shortcut, conv);
        let y = r.norm_relu(sum, false);
        r.keep(y);
        assert_eq!(r.ops(), [fused(main, Some(stride), false, false, true)], "stride {stride}, first: {first}");
    }
}

#[test]
fn a_shortcut_whose_own_result_is_needed_is_an_addend() {
    let mut r = Recorded::new();
    let x = r.leaf(&[2, 4, 4, 3]);
    let shortcut = r.conv(x, 5, 1, ConvWindow { padding: 0, stride: 1 });
    r.keep(shortcut);
    let conv = r.conv(x, 5, 3, SAME);
    let sum = r.tape.add(shortcut, conv);
    r.keep(sum);
    let single = Op::Conv2d(ConvWindow { padding: 0, stride: 1 });
    assert_eq!(r.ops(), [single, fused(SAME, None, true, true, false)]);
}

#[test]
fn batch_norm_in_training_mode_is_not_fused_with_a_convolution() {
    let mut r = Recorded::new();
    let x = r.leaf(&[2, 4, 4, 3]);
    let conv = r.conv(x, 3, 3, SAME);
    let sum = r.tape.add(conv, x);
    let y = r.norm_relu(sum, true);
    r.keep(y);
    assert_eq!(r.ops(), [fused(SAME, None, true, true, false), Op::BatchNormTraining { relu: true }]);
}

/// Input gradients of a residual block, with and without a convolution as its shortcut: of its second convolution, then
/// of its first, which is fused with the shortcut's gradient or with the sum of the identity shortcut.
#[test]
fn the_input_gradients_of_a_block_are_fused_with_batch_norm_and_the_shortcut() {
    for stride in [None, Some(1), Some(2)] {
        let mut r = Recorded::new();
        let before = r.leaf(&[2, 8, 8, 3]);
        let x = r.tape.scale(before, 1.0);
        let active = r.norm_relu(x, false);
        let channels = if stride.is_some() { 5 } else { 3 };
        let shortcut = match stride {
            Some(stride) => r.conv(active, channels, 1, ConvWindow { padding: 0, stride }),
            None => x,
        };
        let main = ConvWindow { padding: 1, stride: stride.unwrap_or(1) };
        let inner = r.conv(active, channels, 3, main);
        let inner = r.norm_relu(inner, false);
        let inner = r.conv(inner, channels, 3, SAME);
        let sum = r.tape.add(shortcut, inner);
        let dims = r.tape.dims(sum).to_vec();
        let dy = r.leaf(&dims);
        let dx = r.tape.grad(sum, dy, &[before])[0];
        r.keep(dx);
        let ops = r.ops();
        let backward = |op: &&Op| op.name().contains("backward");
        let expected = [fused_gradient(SAME, None, true, false), fused_gradient(main, stride, true, stride.is_none())];
        assert_eq!(ops.iter().filter(backward).cloned().collect::<Vec<Op>>(), expected, "{stride:?}");
    }
}
