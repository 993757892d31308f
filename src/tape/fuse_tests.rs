//! What becomes of convolutions, shortcuts, sums and batch norm when a tape is finished.

use std::collections::BTreeMap;

use crate::attack::{Pgd, PgdSettings, StartNoise};
use crate::batch::Batch;
use crate::config::Fidelity;
use crate::model::{Mode, Model, WideResNet};
use crate::tape::{
    BatchNorm, Buffer, ConvFusion, ConvGradientFusion, ConvWindow, Loss, LossRule, Memory, Norm, Op, PgdRule, Program,
    Tape, Value,
};

const SAME: ConvWindow = ConvWindow { padding: 1, stride: 1 };

/// A tape with leaves of its own.
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

    /// A convolution of x with filters of their own: `k` of them, `size x size`.
    fn conv(&mut self, x: Value, k: usize, size: usize, window: ConvWindow) -> Value {
        let c = self.tape.dims(x)[3];
        let w = self.leaf(&[k, size, size, c]);
        self.tape.conv2d(x, w, window)
    }

    /// Batch norm of x in a mode.
    fn norm(&mut self, x: Value, mode: Mode) -> Value {
        let c = self.tape.dims(x)[3];
        let [weight, bias] = [(); 2].map(|()| self.leaf(&[c]));
        let [running_mean, running_variance] = [(); 2].map(|()| self.buffer(&[c]));
        let norm = BatchNorm { weight, bias, running_mean, running_variance };
        match mode {
            Mode::Train => self.tape.batch_norm_training(x, &norm),
            Mode::Eval => self.tape.batch_norm(x, &norm),
        }
    }

    fn norm_relu(&mut self, x: Value, mode: Mode) -> Value {
        let normalized = self.norm(x, mode);
        self.tape.relu(normalized)
    }

    fn keep(&mut self, value: Value) {
        let dims = self.tape.dims(value).to_vec();
        let buffer = self.buffer(&dims);
        self.tape.keep(value, &buffer);
    }

    /// The finished program's ops. Every value that a buffer keeps is a result of one of them.
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
    Op::Conv2dFused(ConvFusion { window, shortcut, addend, sum, norm })
}

fn fused_gradient(window: ConvWindow, shortcut: Option<usize>, norm: bool, addend: bool) -> Op {
    Op::Conv2dFusedBackwardInput(ConvGradientFusion { window, shortcut, norm, addend })
}

#[test]
fn a_convolution_takes_the_batch_norm_and_relu_of_its_result() {
    let mut r = Recorded::new();
    let x = r.leaf(&[2, 4, 4, 3]);
    let conv = r.conv(x, 5, 3, SAME);
    let y = r.norm_relu(conv, Mode::Eval);
    r.keep(y);
    assert_eq!(r.ops(), [fused(SAME, None, false, false, true)]);
}

#[test]
fn a_sum_that_something_else_reads_or_a_buffer_keeps_is_a_result_too() {
    for kept in [false, true] {
        let mut r = Recorded::new();
        let x = r.leaf(&[2, 4, 4, 3]);
        let conv = r.conv(x, 3, 3, SAME);
        let sum = r.tape.add(x, conv);
        let y = r.norm_relu(sum, Mode::Eval);
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
fn a_convolution_whose_own_result_is_needed_takes_no_sum() {
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
fn batch_norm_without_relu_or_whose_own_result_is_needed_is_not_taken() {
    let mut r = Recorded::new();
    let x = r.leaf(&[2, 4, 4, 3]);
    let conv = r.conv(x, 3, 3, SAME);
    let y = r.norm(conv, Mode::Eval);
    r.keep(y);
    let positive = r.tape.relu(y);
    r.keep(positive);
    assert_eq!(r.ops(), [Op::Conv2d(SAME), Op::BatchNorm { relu: false }, Op::Relu]);
}

#[test]
fn a_shortcut_is_taken_whether_it_is_recorded_before_its_convolution_or_after_it() {
    for (stride, first) in [(1, true), (1, false), (2, true), (2, false)] {
        let window = ConvWindow { padding: 0, stride };
        let main = ConvWindow { padding: 1, stride };
        let mut r = Recorded::new();
        let x = r.leaf(&[2, 7, 6, 3]);
        let early = first.then(|| r.conv(x, 5, 1, window));
        let conv = r.conv(x, 5, 3, main);
        let shortcut = early.unwrap_or_else(|| r.conv(x, 5, 1, window));
        let sum = r.tape.add(shortcut, conv);
        let y = r.norm_relu(sum, Mode::Eval);
        r.keep(y);
        assert_eq!(r.ops(), [fused(main, Some(stride), false, false, true)], "stride {stride}, first: {first}");
    }
}

#[test]
fn a_shortcut_whose_own_result_is_needed_is_added_as_it_is() {
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
fn batch_norm_in_training_mode_is_taken_by_no_convolution() {
    let mut r = Recorded::new();
    let x = r.leaf(&[2, 4, 4, 3]);
    let conv = r.conv(x, 3, 3, SAME);
    let sum = r.tape.add(conv, x);
    let y = r.norm_relu(sum, Mode::Train);
    r.keep(y);
    assert_eq!(r.ops(), [fused(SAME, None, true, true, false), Op::BatchNormTraining { relu: true }]);
}

/// The gradients by the inputs of a block with and without a convolution as its shortcut: of its second convolution,
/// then of its first, which takes the shortcut's or the sum with what came through the block's input.
#[test]
fn a_blocks_gradients_take_batch_norm_and_the_shortcut() {
    for stride in [None, Some(1), Some(2)] {
        let mut r = Recorded::new();
        let before = r.leaf(&[2, 8, 8, 3]);
        let x = r.tape.scale(before, 1.0);
        let active = r.norm_relu(x, Mode::Eval);
        let channels = if stride.is_some() { 5 } else { 3 };
        let shortcut = match stride {
            Some(stride) => r.conv(active, channels, 1, ConvWindow { padding: 0, stride }),
            None => x,
        };
        let main = ConvWindow { padding: 1, stride: stride.unwrap_or(1) };
        let inner = r.conv(active, channels, 3, main);
        let inner = r.norm_relu(inner, Mode::Eval);
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

/// How many ops of each name a program has.
fn counted(program: &Program) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    program.nodes.iter().for_each(|node| *counts.entry(node.op.name()).or_default() += 1);
    counts
}

/// The wide ResNet 28-4, declared.
fn network(memory: &mut Memory) -> WideResNet {
    let mut model = WideResNet::new(28, 4);
    model.declare(memory);
    model
}

/// 25 convolutions and three shortcuts, each with all that follows it: one op forward and one backward.
#[test]
fn an_iteration_of_pgd_on_the_wide_resnet_is_an_op_for_each_convolution_and_few_more() {
    let mut memory = Memory::default();
    let model = network(&mut memory);
    let target = Batch::new(&mut memory, &model, "attack", 2);
    let Fidelity { l2_order, l2_grad_floor, .. } = Fidelity::RELEASED;
    let settings = PgdSettings {
        loss: LossRule { loss: Loss::Slm, confidence: 0.0 },
        rule: PgdRule { norm: Norm::Linf, l2_order, l2_grad_floor },
        iterations: 10,
        noise: StartNoise::None,
    };
    let pgd = Pgd::new(&mut memory, &model, &target, &settings);
    let iteration = pgd.schedule.programs().find(|p| p.name == "pgd_iteration").expect("PGD has iterations");
    let expected = [
        ("standardize", 1),
        ("conv2d_fused", 25),
        ("global_mean", 1),
        ("linear_bias", 1),
        ("loss_backward", 1),
        ("linear_backward_input", 1),
        ("global_mean_backward", 1),
        ("batch_norm_relu_backward_input", 1),
        ("conv2d_fused_backward_input", 24),
        ("conv2d_backward_input", 1),
        ("standardize_backward", 1),
        ("pgd_step", 1),
    ];
    assert_eq!(counted(iteration), BTreeMap::from(expected), "{iteration}");
}

#[test]
fn a_training_pass_of_the_wide_resnet_normalizes_by_itself() {
    let mut memory = Memory::default();
    let model = network(&mut memory);
    let mut tape = Tape::new("training");
    let x = tape.leaf(&memory.f32("x", &[2, 32, 32, 3]));
    let labels = tape.leaf(&memory.u32("labels", &[2]));
    let logits = model.logits(&mut tape, x, Mode::Train);
    let loss = tape.loss(LossRule { loss: Loss::Xent, confidence: 0.0 }, logits, labels);
    let mean = tape.mean_weights(2);
    let wanted = model.params().leaves(&mut tape);
    for value in tape.grad(loss, mean, &wanted) {
        let buffer = memory.f32("gradient", tape.dims(value));
        tape.keep(value, &buffer);
    }
    let program = tape.finish();
    for node in &program.nodes {
        let norm = matches!(&node.op, Op::Conv2dFused(ConvFusion { norm: true, .. }));
        let gradient = matches!(&node.op, Op::Conv2dFusedBackwardInput(ConvGradientFusion { norm: true, .. }));
        assert!(!norm && !gradient, "{:?}", node.op);
    }
    let counts = counted(&program);
    // 12 blocks end in a sum, three of them with a shortcut; batch norm follows each convolution, and ReLU batch norm.
    let of = |name: &str| counts.get(name).copied().unwrap_or(0);
    assert_eq!((of("conv2d_fused"), of("conv2d")), (12, 13), "{counts:?}");
    for name in
        ["batch_norm_relu_training", "batch_norm_relu_backward_weight", "batch_norm_relu_training_backward_input"]
    {
        assert_eq!(of(name), 25, "{name}");
    }
    assert_eq!(of("conv2d_backward_weight"), 28);
}
