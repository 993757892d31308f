//! `Tape::grad` against central differences of the same computation in double precision. It differentiates along no
//! other paths than those to the wanted values, and fills nothing with zeros.

mod normalization;
#[path = "../support/mod.rs"]
mod support;
mod two_passes;

use std::collections::HashMap;

use maxmargin::model::{InputLayer, LeNet5, Mode, Model, WideResNet, image_buffer};
use maxmargin::tape::{BatchNorm, Buffer, ConvWindow, Loss, LossRule, Memory, Op, Program, Tape, TargetedLoss, Value};
use support::double::evaluate;
use support::{Array, Random, TestDevice, devices};

// ---- A program, the content of its leaves, and its gradient, computed in both ways

/// Leaves with their content. All rows of a batch but the last are active.
#[derive(Default)]
struct Given {
    memory: Memory,
    leaves: Vec<(Buffer, Array)>,
}

impl Given {
    /// Adds a leaf.
    fn leaf(&mut self, tape: &mut Tape, name: &str, content: Array) -> Value {
        let buffer = self.memory.buffer(name, &content.dims, content.dtype);
        let value = tape.leaf(&buffer);
        self.leaves.push((buffer, content));
        value
    }
}

/// Records a computation. Returns its loss, one number a row, and the wanted values.
type Record<'a> = &'a dyn Fn(&mut Tape, &mut Given) -> (Value, Vec<Value>);

/// Capacity of a batch; all rows but the last are active.
const CAPACITY: usize = 4;

/// Gradients of `sum(loss * weights)` that a device computes, and the program.
fn gradients(make: TestDevice, fuse: bool, weights: &Array, record: Record) -> (Vec<Vec<f64>>, Program) {
    let mut tape = if fuse { Tape::new("gradient") } else { Tape::new("gradient").without_fusion() };
    let mut given = Given::default();
    let rows = given.memory.u32("rows", &[1]);
    tape.set_rows(&rows);
    let (loss, wanted) = record(&mut tape, &mut given);
    let weights = given.leaf(&mut tape, "weights", weights.clone());
    let found = tape.grad(loss, weights, &wanted);
    let kept: Vec<Buffer> = (found.iter().enumerate())
        .map(|(i, &value)| {
            let buffer = given.memory.f32(&format!("gradient {i}"), tape.dims(value));
            tape.keep(value, &buffer);
            buffer
        })
        .collect();
    let program = tape.finish();
    let mut device = make.open();
    device.allocate(&given.memory, &[&program]).expect("memory");
    device.write_u32(&rows, &[CAPACITY as u32 - 1]).unwrap();
    for (buffer, content) in &given.leaves {
        if buffer.dtype == maxmargin::tape::DType::U32 {
            device.write_u32(buffer, &content.values.iter().map(|&v| v as u32).collect::<Vec<_>>()).unwrap();
        } else {
            device.write_f32(buffer, &content.values.iter().map(|&v| v as f32).collect::<Vec<_>>()).unwrap();
        }
    }
    device.execute(&program).unwrap();
    (kept.iter().map(|b| device.read_f32(b).unwrap().into_iter().map(f64::from).collect()).collect(), program)
}

/// Central differences in double precision for up to `most` elements of each wanted value, as (index, difference).
fn differences(weights: &Array, most: usize, record: Record) -> Vec<Vec<(usize, f64)>> {
    const H: f64 = 1e-6;
    let (mut tape, mut given) = (Tape::new("differences").without_fusion(), Given::default());
    let (loss, wanted) = record(&mut tape, &mut given);
    let mut leaves: HashMap<Value, Vec<f64>> =
        given.leaves.iter().map(|(buffer, content)| (tape.leaf(buffer), content.values.clone())).collect();
    let total = |leaves: &HashMap<Value, Vec<f64>>| -> f64 {
        let losses = &evaluate(&tape, leaves, CAPACITY - 1)[&loss];
        losses.iter().zip(&weights.values).take(CAPACITY - 1).map(|(l, w)| l * w).sum()
    };
    let mut random = Random(99);
    let mut differences = Vec::new();
    for value in wanted {
        let len = leaves[&value].len();
        let indices: Vec<usize> =
            if len <= most { (0..len).collect() } else { (0..most).map(|_| random.below(len)).collect() };
        let difference = indices.into_iter().map(|index| {
            let before = leaves[&value][index];
            let [above, below] = [before + H, before - H].map(|v| {
                leaves.get_mut(&value).unwrap()[index] = v;
                total(&leaves)
            });
            leaves.get_mut(&value).unwrap()[index] = before;
            (index, (above - below) / (2.0 * H))
        });
        differences.push(difference.collect());
    }
    differences
}

/// Checks the gradients of a computation, with fusion and without, on every device. The error is at most 1e-5 of the
/// largest derivative.
fn check(what: &str, most: usize, record: Record) {
    check_against(what, most, record, record);
}

/// [`check`] against the differences of another statement of the computation.
fn check_against(what: &str, most: usize, record: Record, statement: Record) {
    let weights = Array::f32(&[CAPACITY], [0.3, -2.0, 1.0, f64::NAN]);
    let expected = differences(&weights, most, statement);
    for (make, fuse) in devices().into_iter().flat_map(|make| [(make, true), (make, false)]) {
        let (found, program) = gradients(make, fuse, &weights, record);
        for (number, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let largest = expected.iter().fold(0f64, |m, (_, d)| m.max(d.abs()));
            for &(index, difference) in expected {
                let error = (found[index] - difference).abs();
                assert!(
                    error <= 1e-5 * largest + 1e-9,
                    "{what}, fused: {fuse}, wanted value {number}, element {index}: {}, not {difference}\n{program}",
                    found[index]
                );
            }
        }
        assert!(!program.nodes.iter().any(|node| matches!(node.op, Op::Fill { .. })), "{program}");
    }
}

/// Labels below `classes`.
fn labels(classes: usize) -> Array {
    Array::u32((0..CAPACITY as u32).map(|i| i * 2 % classes as u32))
}

/// Every loss.
fn rules() -> [LossRule; 5] {
    [Loss::Xent, Loss::Slm, Loss::Lm, Loss::Cw, Loss::Dlr].map(|loss| LossRule { loss, confidence: 50.0 })
}

// ---- LeNet5

/// Loss of a small LeNet5 on images of two channels, its input and its parameters. The inactive row is NaN.
fn lenet5(tape: &mut Tape, given: &mut Given, rule: LossRule) -> (Value, Value, Vec<Value>) {
    let model = LeNet5::with_sizes([8, 8, 2], [3, 4], 3, 6, 5);
    model_loss(tape, given, Box::new(model), Mode::Eval, rule, 5)
}

/// Loss of a model, its input and its parameters.
fn model_loss(
    tape: &mut Tape,
    given: &mut Given,
    mut model: Box<dyn Model>,
    mode: Mode,
    rule: LossRule,
    classes: usize,
) -> (Value, Value, Vec<Value>) {
    fill(given, &mut *model);
    let x = images(tape, given, &*model, "x", 5);
    let y = given.leaf(tape, "labels", labels(classes));
    let logits = model.logits(tape, x, mode);
    let loss = tape.loss(rule, logits, y);
    let params = model.params().leaves(tape);
    (loss, x, params)
}

/// Gives a model its initial values, moved for batch norm, whose initial values are all equal.
fn fill(given: &mut Given, model: &mut dyn Model) {
    model.declare(&mut given.memory);
    for (buffer, values) in model.input_layer().map(InputLayer::operands).unwrap_or_default() {
        let content = Array::f32(&buffer.dims, values.into_iter().map(f64::from));
        given.leaves.push((buffer, content));
    }
    let mut random = Random(8);
    for (params, values) in model.stored().zip(model.initial(3)) {
        let mut rest = values.iter().map(|&v| f64::from(v));
        for (buffer, p) in params.parts(params.buffer()).into_iter().zip(&params.list) {
            let own: Vec<f64> = rest.by_ref().take(p.len()).collect();
            let moved = own.into_iter().map(|v| if p.name.contains("bn") { v + 0.4 * random.unit() } else { v });
            given.leaves.push((buffer, Array::f32(&p.dims, moved)));
        }
    }
}

/// A batch of images for a model. The inactive image is NaN.
fn images(tape: &mut Tape, given: &mut Given, model: &dyn Model, name: &str, seed: u64) -> Value {
    let dims = [&[CAPACITY][..], &model.image()].concat();
    let mut content = Random(seed).image(&dims);
    let row = content.row();
    content.values[(CAPACITY - 1) * row..].fill(f64::NAN);
    let buffer = image_buffer(&mut given.memory, model, name, CAPACITY);
    let x = tape.leaf(&buffer);
    given.leaves.push((buffer, content));
    x
}

#[test]
fn lenet5_has_the_expected_gradients_with_respect_to_its_input_and_every_parameter() {
    for rule in rules() {
        check(&format!("input, {rule:?}"), 400, &|tape, given| {
            let (loss, x, _) = lenet5(tape, given, rule);
            (loss, vec![x])
        });
        check(&format!("parameters, {rule:?}"), 400, &|tape, given| {
            let (loss, _, params) = lenet5(tape, given, rule);
            (loss, params)
        });
    }
}

#[test]
fn a_targeted_loss_has_the_expected_gradient() {
    for targeted in [TargetedLoss::Minus(rules()[0]), TargetedLoss::Dlr, TargetedLoss::Difference] {
        check(&format!("{targeted:?}"), 400, &|tape, given| {
            let x = given.leaf(tape, "x", Random(1).signed(&[CAPACITY, 6]));
            let w = given.leaf(tape, "w", Random(2).signed(&[5, 6]));
            let (y, t) = (given.leaf(tape, "labels", labels(5)), given.leaf(tape, "targets", labels(4)));
            let logits = tape.linear(x, w);
            (tape.targeted_loss(targeted, logits, y, t), vec![x, w])
        });
    }
}

/// Names of the gradient ops of LeNet5's program; `choose` gives the wanted values from the input and the parameters.
fn backward_ops(fuse: bool, choose: &dyn Fn(Value, Vec<Value>) -> Vec<Value>) -> Vec<&'static str> {
    let weights = Array::f32(&[CAPACITY], [1.0; CAPACITY]);
    let (_, program) = gradients(devices()[0], fuse, &weights, &|tape, given| {
        let (loss, x, params) = lenet5(tape, given, rules()[0]);
        (loss, choose(x, params))
    });
    let names = program.nodes.iter().flat_map(|node| match &node.op {
        Op::RowWise(steps) => steps.iter().map(|step| step.op.name()).collect(),
        op => vec![op.name()],
    });
    names.filter(|name| name.contains("_backward")).collect()
}

#[test]
fn the_gradient_with_respect_to_the_input_computes_no_gradient_of_a_parameter() {
    assert_eq!(
        backward_ops(true, &|x, _| vec![x]),
        ["head_backward", "linear_backward_input", "conv_pool_backward_input", "conv_pool_backward_input",]
    );
    for name in backward_ops(false, &|x, _| vec![x]) {
        assert!(!name.contains("weight") && !name.contains("bias"), "{name}");
    }
}

#[test]
fn the_gradient_with_respect_to_the_parameters_stops_at_the_first_convolution() {
    let count = |names: &[&str], name: &str| names.iter().filter(|n| **n == name).count();
    let fused = backward_ops(true, &|_, params| params);
    assert_eq!(count(&fused, "conv_pool_backward_input"), 1, "only that of the second convolution: {fused:?}");
    assert_eq!(count(&fused, "conv_pool_backward_weight"), 2);
    assert_eq!(count(&fused, "conv_pool_backward_bias"), 2);
    let plain = backward_ops(false, &|_, params| params);
    assert_eq!(count(&plain, "conv2d_backward_input"), 1, "{plain:?}");
    assert_eq!(count(&plain, "conv2d_backward_weight"), 2);
}

#[test]
fn the_gradient_with_respect_to_the_last_layer_goes_no_further() {
    assert_eq!(
        backward_ops(true, &|_, params| params[6..].to_vec()),
        ["loss_backward", "linear_backward_weight", "add_bias_backward_bias"]
    );
}

// ---- Wide ResNets

const MODES: [Mode; 2] = [Mode::Eval, Mode::Train];

/// Batch norm of x and ReLU, with new leaves; weight and bias are wanted values.
fn norm_relu(tape: &mut Tape, given: &mut Given, x: Value, mode: Mode, wanted: &mut Vec<Value>) -> Value {
    let c = *tape.dims(x).last().unwrap();
    let number = wanted.len();
    let mut leaf = |tape: &mut Tape, part: &str, lowest: f64| {
        let values = Random((10 * number + part.len()) as u64).image(&[c]).values;
        given.leaf(tape, &format!("{part} {number}"), Array::f32(&[c], values.iter().map(|v| v + lowest)))
    };
    let [weight, bias] = [leaf(tape, "weight", 0.5), leaf(tape, "bias", -0.5)];
    leaf(tape, "running mean", -0.5);
    leaf(tape, "running variance", 0.5);
    let [running_mean, running_variance] = [2, 1].map(|i| given.leaves[given.leaves.len() - i].0.clone());
    wanted.extend([weight, bias]);
    let norm = BatchNorm { weight, bias, running_mean, running_variance };
    let normalized = match mode {
        Mode::Eval => tape.batch_norm(x, &norm),
        Mode::Train => tape.batch_norm_training(x, &norm),
    };
    tape.relu(normalized)
}

/// A residual block on standardized images. Its shortcut is a 1x1 convolution with `stride`, recorded before or after
/// the main convolutions, or the identity (`None`).
fn block(
    tape: &mut Tape,
    given: &mut Given,
    mode: Mode,
    stride: Option<usize>,
    shortcut_first: bool,
) -> (Value, Vec<Value>) {
    let (from, to) = (3, if stride.is_some() { 5 } else { 3 });
    let mut content = Random(1).image(&[CAPACITY, 7, 6, from]);
    content.values[(CAPACITY - 1) * 126..].fill(f64::NAN);
    let x = given.leaf(tape, "x", content);
    let mut wanted = vec![x];
    let standard = tape.standardize(x);
    let active = norm_relu(tape, given, standard, mode, &mut wanted);
    let filters = |tape: &mut Tape, given: &mut Given, wanted: &mut Vec<Value>, dims: [usize; 4]| {
        let w = given.leaf(tape, &format!("filters {}", wanted.len()), Random(wanted.len() as u64).signed(&dims));
        wanted.push(w);
        w
    };
    let shortcut = |tape: &mut Tape, given: &mut Given, wanted: &mut Vec<Value>| match stride {
        Some(stride) => {
            let w = filters(tape, given, wanted, [to, 1, 1, from]);
            tape.conv2d(active, w, ConvWindow { padding: 0, stride })
        }
        None => standard,
    };
    let early = shortcut_first.then(|| shortcut(tape, given, &mut wanted));
    let w = filters(tape, given, &mut wanted, [to, 3, 3, from]);
    let inner = tape.conv2d(active, w, ConvWindow { padding: 1, stride: stride.unwrap_or(1) });
    let inner = norm_relu(tape, given, inner, mode, &mut wanted);
    let w = filters(tape, given, &mut wanted, [to, 3, 3, to]);
    let inner = tape.conv2d(inner, w, ConvWindow { padding: 1, stride: 1 });
    let other = early.unwrap_or_else(|| shortcut(tape, given, &mut wanted));
    let sum = tape.add(other, inner);
    let active = norm_relu(tape, given, sum, mode, &mut wanted);
    let features = tape.global_mean(active);
    let last = given.leaf(tape, "last", Random(4).signed(&[5, to]));
    wanted.push(last);
    let logits = tape.linear(features, last);
    let y = given.leaf(tape, "labels", labels(5));
    (tape.loss(rules()[0], logits, y), wanted)
}

#[test]
fn residual_blocks_with_every_shortcut_have_the_expected_gradients_in_both_modes() {
    for mode in MODES {
        for (stride, first) in [(None, true), (Some(1), true), (Some(1), false), (Some(2), true), (Some(2), false)] {
            let what = format!("{mode:?}, shortcut's stride {stride:?}, recorded first: {first}");
            check(&what, 40, &|tape, given| block(tape, given, mode, stride, first));
        }
    }
}

/// One image has almost one colour, so its deviation is at its least value.
#[test]
fn standardization_passes_no_gradient_through_a_deviation_at_its_least_value() {
    check("one colour", 48, &|tape, given| {
        let mut content = Random(1).image(&[CAPACITY, 4, 4, 1]);
        content.values[16..32].iter_mut().for_each(|v| *v = f64::from((0.5 + 0.01 * *v) as f32));
        let x = given.leaf(tape, "x", content);
        let standard = tape.standardize(x);
        let w = given.leaf(tape, "w", Random(2).signed(&[3, 16]));
        let logits = tape.linear(standard, w);
        let y = given.leaf(tape, "labels", labels(3));
        (tape.loss(rules()[0], logits, y), vec![x, w])
    });
}

fn wide_resnet(tape: &mut Tape, given: &mut Given, mode: Mode) -> (Value, Value, Vec<Value>) {
    model_loss(tape, given, Box::new(WideResNet::new(10, 1)), mode, rules()[0], 10)
}

#[test]
fn a_wide_resnet_has_the_expected_gradients_with_respect_to_its_input_and_every_parameter_in_both_modes() {
    for mode in MODES {
        check(&format!("wide ResNet, {mode:?}"), 3, &|tape, given| {
            let (loss, x, params) = wide_resnet(tape, given, mode);
            (loss, [vec![x], params].concat())
        });
    }
}

// ---- Programs of other kinds

/// A program of random layers, some of whose values are used twice. The image and every parameter are wanted.
fn random_program(seed: u64, tape: &mut Tape, given: &mut Given) -> (Value, Vec<Value>) {
    let mut random = Random(seed);
    let image = [CAPACITY, 4 + 2 * random.below(3), 4 + 2 * random.below(3), 1 + random.below(3)];
    let content = random.image(&image);
    let mut x = given.leaf(tape, "x", content);
    let mut wanted = vec![x];
    let mut parameter = |tape: &mut Tape, given: &mut Given, random: &mut Random, dims: &[usize]| {
        let content = random.signed(dims);
        let value = given.leaf(tape, &format!("parameter {}", wanted.len()), content);
        wanted.push(value);
        value
    };
    for _ in 0..5 {
        let dims = tape.dims(x).to_vec();
        let even = dims[1].is_multiple_of(2) && dims[2].is_multiple_of(2);
        x = match random.below(6) {
            0 | 1 if dims[1] > 2 && dims[2] > 2 => {
                let (filters, kernel) = (1 + random.below(4), [1, 3][random.below(2)]);
                let window = ConvWindow { padding: random.below(2), stride: 1 + random.below(2) };
                let w = parameter(tape, given, &mut random, &[filters, kernel, kernel, dims[3]]);
                let conv = tape.conv2d(x, w, window);
                let bias = parameter(tape, given, &mut random, &[filters]);
                tape.add_bias(conv, bias)
            }
            2 => tape.relu(x),
            3 if even => tape.max_pool2d(x),
            4 => {
                let positive = tape.relu(x);
                tape.add(x, positive)
            }
            _ => {
                let scaled = tape.scale(x, -0.7);
                let both = tape.add(scaled, x);
                tape.add(both, both)
            }
        };
    }
    let features = tape.dims(x)[1..].iter().product();
    let w = parameter(tape, given, &mut random, &[5, features]);
    let mut logits = tape.linear(x, w);
    if random.below(2) == 0 {
        let bias = parameter(tape, given, &mut random, &[5]);
        logits = tape.add_bias(logits, bias);
    }
    if random.below(2) == 0 {
        logits = tape.relu(logits);
    }
    let y = given.leaf(tape, "labels", labels(5));
    let rule = rules()[random.below(4)];
    (tape.loss(rule, logits, y), wanted)
}

#[test]
fn random_programs_have_the_expected_gradients() {
    for seed in 0..60 {
        check(&format!("program {seed}"), 12, &|tape, given| random_program(seed, tape, given));
    }
}

/// Fusion leaves a chain alone if another op reads a value inside it.
#[test]
fn a_chain_with_a_second_reader_is_not_fused() {
    check("second reader", 30, &|tape, given| {
        let x = given.leaf(tape, "x", Random(1).signed(&[CAPACITY, 4, 4, 2]));
        let w = given.leaf(tape, "w", Random(2).signed(&[2, 3, 3, 2]));
        let bias = given.leaf(tape, "bias", Random(3).signed(&[2]));
        let conv = tape.conv2d(x, w, ConvWindow { padding: 1, stride: 1 });
        let biased = tape.add_bias(conv, bias);
        let positive = tape.relu(biased);
        let (pooled, skipped) = (tape.max_pool2d(positive), tape.max_pool2d(biased));
        let both = tape.add(pooled, skipped);
        let last = given.leaf(tape, "last", Random(4).signed(&[3, 8]));
        let logits = tape.linear(both, last);
        let y = given.leaf(tape, "labels", labels(3));
        (tape.loss(rules()[0], logits, y), vec![x, w, bias, last])
    });
}

/// Names of the forward ops and ReLU gradients of a network with a hidden linear layer, bias and ReLU. Another op reads
/// the result of number `second` of these three ops.
fn hidden_layer(second: Option<usize>) -> Vec<&'static str> {
    let record = |tape: &mut Tape, given: &mut Given| {
        let x = given.leaf(tape, "x", Random(1).signed(&[CAPACITY, 6]));
        let w = given.leaf(tape, "w", Random(2).signed(&[5, 6]));
        let bias = given.leaf(tape, "bias", Random(3).signed(&[5]));
        let product = tape.linear(x, w);
        let biased = tape.add_bias(product, bias);
        let positive = tape.relu(biased);
        let read = second.map(|i| tape.scale([product, biased, positive][i], 0.5));
        let sum = read.map_or(positive, |read| tape.add(positive, read));
        let last = given.leaf(tape, "last", Random(4).signed(&[3, 5]));
        let logits = tape.linear(sum, last);
        let y = given.leaf(tape, "labels", labels(3));
        (tape.loss(rules()[0], logits, y), vec![x, w, bias, last])
    };
    check(&format!("a second reader: {second:?}"), 30, &record);
    let weights = Array::f32(&[CAPACITY], [1.0; CAPACITY]);
    let (_, program) = gradients(devices()[0], true, &weights, &record);
    let ends =
        |name: &&str| ["linear", "linear_bias", "linear_bias_relu", "add_bias", "relu", "relu_backward"].contains(name);
    program.nodes.iter().map(|node| node.op.name()).filter(ends).collect()
}

#[test]
fn a_linear_layer_is_fused_with_the_only_reader_of_its_result() {
    // The second linear layer has no bias. If the result of ReLU has one reader, its gradient is fused, too.
    assert_eq!(hidden_layer(None), ["linear_bias_relu", "linear"]);
    assert_eq!(hidden_layer(Some(0)), ["linear", "add_bias", "relu", "linear", "relu_backward"]);
    assert_eq!(hidden_layer(Some(1)), ["linear_bias", "relu", "linear", "relu_backward"]);
    assert_eq!(hidden_layer(Some(2)), ["linear_bias_relu", "linear", "relu_backward"]);
}

#[test]
#[should_panic(expected = "the loss does not depend on")]
fn a_gradient_with_respect_to_a_value_that_the_loss_does_not_depend_on_is_refused() {
    let weights = Array::f32(&[CAPACITY], [1.0; CAPACITY]);
    gradients(devices()[0], true, &weights, &|tape, given| {
        let a = given.leaf(tape, "a", Random(1).signed(&[CAPACITY]));
        let b = given.leaf(tape, "b", Random(1).signed(&[CAPACITY]));
        (tape.scale(a, 2.0), vec![b])
    });
}
