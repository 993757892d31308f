//! Choice of the values that are stored in half precision when a tape is finished.

use crate::tape::graph::{Tape, Value};
use crate::tape::half::{HalfFilter, HalfGradients};
use crate::tape::memory::{Buffer, DType, Memory};
use crate::tape::op::Op;
use crate::tape::ops::batch_norm::BatchNorm;
use crate::tape::params::ConvWindow;
use crate::tape::plan::Program;

const SAME: ConvWindow = ConvWindow { padding: 1, stride: 1 };

/// A tape with its own memory, and copies of all filters that were recorded.
struct HalfTape {
    memory: Memory,
    tape: Tape,
    filters: Vec<HalfFilter>,
}

impl HalfTape {
    fn new() -> HalfTape {
        HalfTape { memory: Memory::default(), tape: Tape::new("precision"), filters: Vec::new() }
    }

    fn buffer(&mut self, dims: &[usize]) -> Buffer {
        self.memory.f32(&format!("buffer {}", self.memory.buffers.len()), dims)
    }

    fn leaf(&mut self, dims: &[usize]) -> Value {
        let buffer = self.buffer(dims);
        self.tape.leaf(&buffer)
    }

    fn weight(&mut self, dims: &[usize]) -> Value {
        let weight = self.buffer(dims);
        self.filters.push(HalfFilter::declare(&mut self.memory, &weight));
        self.tape.leaf(&weight)
    }

    fn conv(&mut self, x: Value, k: usize) -> Value {
        let c = self.tape.dims(x)[3];
        let w = self.weight(&[k, 3, 3, c]);
        self.tape.conv2d(x, w, SAME)
    }

    fn linear(&mut self, x: Value, out: usize) -> Value {
        let row = self.tape.dims(x)[1..].iter().product();
        let w = self.weight(&[out, row]);
        self.tape.linear(x, w)
    }

    fn norm(&mut self, x: Value) -> Value {
        let c = *self.tape.dims(x).last().unwrap();
        let [weight, bias] = [(); 2].map(|()| self.leaf(&[c]));
        let [running_mean, running_variance] = [(); 2].map(|()| self.buffer(&[c]));
        self.tape.batch_norm(x, &BatchNorm { weight, bias, running_mean, running_variance })
    }

    fn keep(&mut self, value: Value) {
        let dims = self.tape.dims(value).to_vec();
        let buffer = self.buffer(&dims);
        self.tape.keep(value, &buffer);
    }

    /// Keeps the gradient of the rows' sums of `y` with respect to `x`.
    fn keep_gradient(&mut self, y: Value, x: Value) {
        let dims = self.tape.dims(y).to_vec();
        let weights = self.leaf(&dims);
        let dx = self.tape.grad(y, weights, &[x])[0];
        self.keep(dx);
    }

    /// Keeps the gradient of the rows' sums of `y` with respect to all weights.
    fn keep_weight_gradients(&mut self, y: Value) {
        let dims = self.tape.dims(y).to_vec();
        let ones = self.leaf(&dims);
        let wanted: Vec<Value> = self.filters.iter().map(|filter| self.tape.leaf(&filter.weight)).collect();
        for dw in self.tape.grad(y, ones, &wanted) {
            self.keep(dw);
        }
    }

    /// The finished program, with the copies of all filters or, if not `copied`, of none.
    fn program(mut self, copied: bool) -> Program {
        let filters = if copied { self.filters } else { Vec::new() };
        self.tape.store_in_half(&filters, HalfGradients::ByExample);
        self.tape.finish()
    }

    /// The finished program of a training pass.
    fn training_program(mut self) -> Program {
        self.tape.store_in_half(&self.filters, HalfGradients::AsRecorded);
        self.tape.finish()
    }
}

/// Types of operands and results of each op: `h` half, `s` single precision, `-` other.
fn types(program: &Program) -> Vec<String> {
    let of = |values: &[Value]| -> String {
        let letter = |value: &Value| match program.values[value.0].dtype {
            DType::F16 => 'h',
            DType::F32 => 's',
            _ => '-',
        };
        values.iter().map(letter).collect()
    };
    let line = |node: &crate::tape::Node| format!("{} {}>{}", node.op.name(), of(&node.inputs), of(&node.outputs));
    program.nodes.iter().map(line).collect()
}

#[test]
fn between_the_first_layer_and_the_last_all_is_half() {
    let mut r = HalfTape::new();
    let x = r.leaf(&[2, 4, 4, 3]);
    let first = r.conv(x, 5);
    let second = r.conv(first, 6);
    let hidden = r.linear(second, 7);
    let hidden = r.tape.relu(hidden);
    let logits = r.linear(hidden, 4);
    r.keep(logits);
    let expected = ["conv2d ss>h", "conv2d hh>h", "linear hh>h", "relu h>h", "linear hs>s"];
    assert_eq!(types(&r.program(true)), expected);
}

#[test]
fn a_tape_that_does_not_ask_for_it_is_single_precision() {
    let mut r = HalfTape::new();
    let x = r.leaf(&[2, 4, 4, 3]);
    let first = r.conv(x, 5);
    let second = r.conv(first, 6);
    r.keep(second);
    assert!(!r.tape.finish().stores_half());
}

#[test]
fn gradients_between_the_layers_are_half_and_are_normalized_at_both_ends() {
    let mut r = HalfTape::new();
    let x = r.leaf(&[2, 4, 4, 3]);
    let first = r.conv(x, 5);
    let second = r.conv(first, 6);
    let logits = r.linear(second, 4);
    r.keep_gradient(logits, x);
    let program = r.program(true);
    // The forward pass of a linear network is not needed for its gradient.
    let expected = [
        "reduce s>s",
        "map ss>s",
        "linear_backward_input ss>h",
        "conv2d_backward_input hh>h",
        "conv2d_backward_input hs>s",
        "map ss>s",
    ];
    assert_eq!(types(&program), expected);
}

#[test]
fn layers_read_plain_copies_forward_and_turned_ones_backward() {
    let mut r = HalfTape::new();
    let x = r.leaf(&[2, 4, 4, 3]);
    let first = r.conv(x, 5);
    let first = r.tape.relu(first);
    let second = r.conv(first, 6);
    let second = r.tape.relu(second);
    let logits = r.linear(second, 4);
    r.keep(logits);
    r.keep_gradient(logits, x);
    let copies = r.filters[1].clone();
    let program = r.program(true);
    let filter = |op: &Op| {
        let node =
            program.nodes.iter().rfind(|node| node.op == *op && program.values[node.inputs[1].0].dtype == DType::F16);
        program.values[node.expect("a half convolution").inputs[1].0].home.clone().unwrap()
    };
    assert_eq!(filter(&Op::Conv2d(SAME)), copies.plain);
    assert_eq!(filter(&Op::Conv2dBackwardInput(SAME)), copies.turned);
    assert_eq!((copies.plain.dims, copies.turned.dims), (vec![6, 3, 3, 5], vec![5, 3, 3, 6]));
}

#[test]
fn a_layer_without_copies_reads_its_weight() {
    let mut r = HalfTape::new();
    let x = r.leaf(&[2, 4, 4, 3]);
    let first = r.conv(x, 5);
    let second = r.conv(first, 6);
    let third = r.conv(second, 6);
    r.keep(third);
    assert_eq!(types(&r.program(false)), ["conv2d ss>h", "conv2d hs>h", "conv2d hs>s"]);
}

#[test]
fn an_op_that_reads_single_precision_or_a_buffer_keeps_a_value_single() {
    for kept in [false, true] {
        let mut r = HalfTape::new();
        let x = r.leaf(&[2, 4, 4, 3]);
        let first = r.conv(x, 5);
        let middle = r.conv(first, 5);
        if kept {
            r.keep(middle);
        } else {
            let scaled = r.tape.scale(middle, 2.0);
            r.keep(scaled);
        }
        let last = r.conv(middle, 5);
        let last = r.conv(last, 5);
        r.keep(last);
        let mut found = types(&r.program(true));
        found.retain(|line| line.starts_with("conv2d"));
        assert_eq!(found, ["conv2d ss>h", "conv2d hs>s", "conv2d ss>h", "conv2d hs>s"], "a buffer: {kept}");
    }
}

#[test]
fn ops_on_images_are_single_precision() {
    let mut r = HalfTape::new();
    let image = r.leaf(&[2, 4, 4, 3]);
    let normalized = r.norm(image);
    let pooled = r.tape.max_pool2d(normalized);
    let first = r.conv(pooled, 5);
    let second = r.conv(first, 5);
    let last = r.linear(second, 4);
    r.keep_gradient(last, image);
    let expected = [
        "batch_norm sssss>s",
        "max_pool2d s>s-",
        "reduce s>s",
        "map ss>s",
        "linear_backward_input ss>h",
        "conv2d_backward_input hh>h",
        "conv2d_backward_input hs>s",
        "map ss>s",
        "max_pool2d_backward s->s",
        "batch_norm_backward_input sss>s",
    ];
    assert_eq!(types(&r.program(true)), expected);
}

#[test]
fn a_residual_sum_has_one_type() {
    for single in [false, true] {
        let mut r = HalfTape::new();
        let x = r.leaf(&[2, 4, 4, 3]);
        let first = r.conv(x, 5);
        let second = r.conv(first, 5);
        if single {
            r.keep(first);
        }
        let sum = r.tape.add(first, second);
        let last = r.linear(sum, 4);
        r.keep(last);
        let expected = match single {
            false => ["conv2d ss>h", "conv2d_fused hhh>h", "linear hs>s"],
            true => ["conv2d ss>s", "conv2d_fused sss>s", "linear ss>s"],
        };
        assert_eq!(types(&r.program(true)), expected);
    }
}

/// Each head's gradient has a norm of its own, so their sum has no scale.
#[test]
fn gradients_of_two_heads_are_added_in_single_precision() {
    let mut r = HalfTape::new();
    let x = r.leaf(&[2, 4, 4, 3]);
    let first = r.conv(x, 5);
    let features = r.conv(first, 6);
    let mean = r.tape.global_mean(features);
    let [one, other] = [mean, features].map(|features| r.linear(features, 4));
    let logits = r.tape.add(one, other);
    r.keep_gradient(logits, x);
    let expected = [
        "linear_backward_input ss>s",
        "linear_backward_input ss>s",
        "global_mean_backward s>s",
        "add ss>s",
        "reduce s>s",
        "map ss>s",
        "conv2d_backward_input ss>h",
        "conv2d_backward_input hs>s",
        "map ss>s",
    ];
    assert_eq!(types(&r.program(true)), expected);
}

#[test]
fn two_gradients_of_one_tape_have_norms_of_their_own() {
    let mut r = HalfTape::new();
    let x = r.leaf(&[2, 4, 4, 3]);
    let first = r.conv(x, 5);
    let second = r.conv(first, 6);
    let logits = r.linear(second, 4);
    r.keep_gradient(logits, x);
    r.keep_gradient(logits, x);
    let found = types(&r.program(true));
    assert_eq!(found.iter().filter(|line| line.starts_with("reduce")).count(), 2, "{found:?}");
    assert_eq!(found.iter().filter(|line| line.starts_with("map")).count(), 4, "{found:?}");
}

/// Three layers with weights' gradients: a convolution of images, a convolution with batch norm, a linear layer.
fn training_tape() -> HalfTape {
    let mut r = HalfTape::new();
    let x = r.leaf(&[2, 4, 4, 3]);
    let first = r.conv(x, 5);
    let first = r.tape.relu(first);
    let second = r.conv(first, 6);
    let [weight, bias] = [(); 2].map(|()| r.leaf(&[6]));
    let [running_mean, running_variance] = [(); 2].map(|()| r.buffer(&[6]));
    let second = r.tape.batch_norm_training(second, &BatchNorm { weight, bias, running_mean, running_variance });
    let logits = r.linear(second, 4);
    r.keep(logits);
    r.keep_weight_gradients(logits);
    r
}

/// The first layer's images and the logits' gradient are single precision, as are all gradients of weights.
#[test]
fn a_training_pass_stores_activations_and_their_gradients_in_half_as_they_are_recorded() {
    let expected = [
        "conv2d ss>h",
        "relu h>h",
        "conv2d_fused hh>hssss",
        "batch_norm hssss>h",
        "linear hs>s",
        "linear_backward_input ss>h",
        "linear_backward_weight sh>s",
        "batch_norm_backward_weight hhssss>ss",
        "batch_norm_training_backward_input hhssssss>h",
        "conv2d_backward_input hh>h",
        "conv2d_backward_weight hh>s",
        "relu_backward hh>h",
        "conv2d_backward_weight hs>s",
    ];
    assert_eq!(types(&training_tape().training_program()), expected);
}

/// A sum over examples would mix their norms.
#[test]
fn gradients_by_example_are_single_precision_where_they_are_summed() {
    let found = types(&training_tape().program(true));
    let gradients = found.iter().filter(|line| line.contains("backward"));
    let types = |line: &String| line.split(' ').nth(1).expect("a name and types").to_owned();
    assert!(gradients.map(types).all(|types| !types.contains('h')), "{found:?}");
    assert!(!found.iter().any(|line| line.starts_with("map") || line.starts_with("reduce")), "{found:?}");
}
