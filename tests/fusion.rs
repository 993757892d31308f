//! Fusion in wide ResNets. Fused programs give the results of the recorded ops, on every device: in the forward pass,
//! in an iteration of PGD and in a training pass. And the programs have the expected ops.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use maxmargin::attack::{Pgd, PgdSettings, StartNoise};
use maxmargin::batch::{Batch, DeviceData};
use maxmargin::config::{Config, Fidelity, preset};
use maxmargin::device::Schedule;
use maxmargin::device::cuda::{TYPICAL_MULTIPROCESSORS, TotalCost};
use maxmargin::model::{self, LeNet5, Mode, Model, ModelInPrecision, ModelState, WideResNet, image_buffer};
use maxmargin::tape::{
    Buffer, ConvFusion, ConvGradientFusion, ConvWindow, HalfFilter, HalfGradients, Loss, LossRule, Memory, Norm, Op,
    PgdRule, Precision, Program, Tape,
};
use maxmargin::train::{Mma, TrainingStep, record_step};
use support::{Random, TestDevice, devices};

/// Capacity of a batch.
const CAPACITY: usize = 4;
/// Number of active rows.
const ROWS: u32 = 3;

/// A pass of a wide ResNet: its model, inputs and results.
struct Pass {
    memory: Memory,
    model: Box<dyn Model>,
    x: Buffer,
    labels: Buffer,
    rows: Buffer,
    results: Vec<Buffer>,
}

/// Kind of a pass.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Forward(Mode),
    Attack,
    Training(Mode),
}

const KINDS: [Kind; 5] = [
    Kind::Forward(Mode::Eval),
    Kind::Forward(Mode::Train),
    Kind::Attack,
    Kind::Training(Mode::Eval),
    Kind::Training(Mode::Train),
];

/// Records a pass. Its results are written to `results`.
fn record(tape: &mut Tape, kind: Kind) -> Pass {
    let mut memory = Memory::default();
    let mut model: Box<dyn Model> = Box::new(WideResNet::new(10, 2));
    model.declare(&mut memory);
    let x = image_buffer(&mut memory, &*model, "x", CAPACITY);
    let (labels, rows) = (memory.u32("labels", &[CAPACITY]), memory.u32("rows", &[1]));
    tape.set_rows(&rows);
    let [image, label] = [&x, &labels].map(|b| tape.leaf(b));
    let mode = match kind {
        Kind::Forward(mode) | Kind::Training(mode) => mode,
        Kind::Attack => Mode::Eval,
    };
    let logits = model.logits(tape, image, mode);
    let mut results = Vec::new();
    let mut keep = |tape: &mut Tape, memory: &mut Memory, value| {
        let buffer = memory.f32(&format!("result {}", results.len()), tape.dims(value));
        tape.keep(value, &buffer);
        results.push(buffer);
    };
    // An attack uses the gradient alone.
    if kind != Kind::Attack {
        keep(tape, &mut memory, logits);
    }
    let loss = tape.loss(LossRule { loss: Loss::Slm, confidence: 0.0 }, logits, label);
    match kind {
        Kind::Forward(_) => {}
        Kind::Attack => {
            let ones = tape.fill(1.0, &[CAPACITY]);
            let dx = tape.grad(loss, ones, &[image])[0];
            let [eps, step] = [1.0, 0.25].map(|value| tape.fill(value, &[CAPACITY]));
            let Fidelity { l2_order, l2_grad_floor, .. } = Fidelity::RELEASED;
            let adv = image_buffer(&mut memory, &*model, "adv", CAPACITY);
            tape.pgd_step(PgdRule { norm: Norm::L2, l2_order, l2_grad_floor }, &adv, image, dx, eps, step);
            keep(tape, &mut memory, dx);
            results.push(adv);
        }
        Kind::Training(_) => {
            let mean = tape.mean_weights(CAPACITY);
            let wanted = model.params().leaves(tape);
            for value in tape.grad(loss, mean, &wanted) {
                keep(tape, &mut memory, value);
            }
        }
    }
    results.push(model.statistics().expect("the network has batch norm").buffer().clone());
    Pass { memory, model, x, labels, rows, results }
}

/// Initial parameters and statistics, moved so that batch norm is not the identity.
fn state(model: &dyn Model) -> ModelState {
    let mut random = Random(8);
    let mut state = model.initial(3);
    for (params, values) in model.stored().zip(&mut state) {
        let mut at = 0;
        for p in &params.list {
            let own = &mut values[at..at + p.len()];
            own.iter_mut().filter(|_| p.name.contains("bn")).for_each(|v| *v += 0.4 * random.unit() as f32);
            at += p.len();
        }
    }
    state
}

/// Results of a pass, and the names of its program's ops.
fn run(make: TestDevice, kind: Kind, fuse: bool) -> (Vec<Vec<f32>>, Vec<&'static str>) {
    let mut tape = if fuse { Tape::new("fused") } else { Tape::new("plain").without_fusion() };
    let pass = record(&mut tape, kind);
    let program = tape.finish();
    let mut device = make.open();
    device.allocate(&pass.memory, &[&program]).expect("memory");
    pass.model.load(&mut *device, &state(&*pass.model)).unwrap();
    // With these images no input of a ReLU is so near 0 that rounding decides its sign.
    let x: Vec<f32> = Random(6).image(&pass.x.dims).values.iter().map(|&v| v as f32).collect();
    device.write_f32(&pass.x, &x).unwrap();
    device.write_u32(&pass.labels, &[3, 1, 4, 1]).unwrap();
    device.write_u32(&pass.rows, &[ROWS]).unwrap();
    device.execute(&program).unwrap();
    let results = pass.results.iter().map(|buffer| device.read_f32(buffer).unwrap()).collect();
    (results, program.nodes.iter().map(|node| node.op.name()).collect())
}

/// The difference is at most 1e-5 of a result's l2 norm: the order of roundings differs.
#[test]
fn fused_and_unfused_passes_of_a_wide_resnet_agree() {
    for (make, kind) in devices().into_iter().flat_map(|make| KINDS.map(|kind| (make, kind))) {
        let ((fused, ops), (plain, plain_ops)) = (run(make, kind, true), run(make, kind, false));
        assert!(ops.iter().any(|op| op.contains("fused")), "{kind:?}: {ops:?}");
        assert!(!plain_ops.iter().any(|op| op.contains("fused") || op.contains("norm_relu")), "{plain_ops:?}");
        assert_eq!(fused.len(), plain.len());
        for (number, (fused, plain)) in fused.iter().zip(&plain).enumerate() {
            let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            let off = norm(&mut fused.iter().zip(plain).map(|(f, p)| f - p));
            let size = norm(&mut plain.iter().copied());
            assert!(size > 0.0 && off <= 1e-5 * size, "{kind:?}, result {number}: off by {off} of {size}");
        }
    }
}

/// Number of ops of each name in a program.
fn counted(program: &Program) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    program.nodes.iter().for_each(|node| *counts.entry(node.op.name()).or_default() += 1);
    counts
}

/// The wide ResNet 28-4, declared in `memory`.
fn wide_resnet_28_4(memory: &mut Memory) -> WideResNet {
    let mut model = WideResNet::new(28, 4);
    model.declare(memory);
    model
}

fn linf_settings() -> PgdSettings {
    let Fidelity { l2_order, l2_grad_floor, .. } = Fidelity::RELEASED;
    PgdSettings {
        loss: LossRule { loss: Loss::Slm, confidence: 0.0 },
        rule: PgdRule { norm: Norm::Linf, l2_order, l2_grad_floor },
        iterations: 10,
        noise: StartNoise::None,
    }
}

/// 25 convolutions, three of them with a shortcut. Each, with all ops that follow it, is one op forward and one
/// backward; the first includes standardization, and the last gradient the step.
#[test]
fn an_iteration_of_pgd_on_the_wide_resnet_has_one_op_each_way_for_a_convolution_and_few_others() {
    let mut memory = Memory::default();
    let model = wide_resnet_28_4(&mut memory);
    let batch = Batch::new(&mut memory, &model, "attack", 2);
    let pgd = Pgd::new(&mut memory, &model, &batch, &linf_settings());
    let iteration = pgd.schedule.programs().find(|p| p.name == "pgd_iteration").expect("PGD has iterations");
    let expected = [
        ("standardize_conv2d", 1),
        ("conv2d_fused", 24),
        ("head_backward", 1),
        ("conv2d_fused_backward_input", 24),
        ("pgd_step_fused", 1),
    ];
    assert_eq!(counted(iteration), BTreeMap::from(expected), "{iteration}");
}

/// LeNet5's two layers with pooling, in half precision, with random numbers. Where the first layer's results are read a
/// second time, each layer is an op; otherwise both are one, which gives the same bits.
#[test]
fn two_layers_with_pooling_in_one_op_give_the_bits_of_one_op_each() {
    let mut memory = Memory::default();
    let x = memory.f32("x", &[CAPACITY, 28, 28, 1]);
    let rows = memory.u32("rows", &[1]);
    let shapes = [[&[32, 5, 5, 1][..], &[32]], [&[64, 5, 5, 32], &[64]]];
    let layers = shapes.map(|[w, bias]| [memory.f32("filters", w), memory.f32("bias", bias)]);
    let [last, other] = [3136, 6272].map(|numbers| memory.f32("last layer", &[3, numbers]));
    let filters = layers.each_ref().map(|[w, _]| HalfFilter::declare(&mut memory, w));
    let mut results = Vec::new();
    let mut record = |read_again: bool| {
        let mut tape = Tape::new("layers");
        tape.set_rows(&rows);
        let mut values = vec![tape.leaf(&x)];
        for layer in &layers {
            let [w, bias] = layer.each_ref().map(|buffer| tape.leaf(buffer));
            let sums = tape.conv2d(values[values.len() - 1], w, ConvWindow { padding: 2, stride: 1 });
            let biased = tape.add_bias(sums, bias);
            let positive = tape.relu(biased);
            values.push(tape.max_pool2d(positive));
        }
        tape.store_in_half(&filters, HalfGradients::ByExample);
        for (value, w) in [(values[2], &last), (values[1], &other)].into_iter().take(1 + usize::from(read_again)) {
            let w = tape.leaf(w);
            let logits = tape.linear(value, w);
            let buffer = memory.f32("logits", &[CAPACITY, 3]);
            tape.keep(logits, &buffer);
            results.push(buffer);
        }
        tape.finish()
    };
    let programs = [record(false), record(true)];
    let names = programs.each_ref().map(|program| program.nodes.iter().map(|node| node.op.name()).collect::<Vec<_>>());
    assert_eq!(names, [vec!["two_conv_pools", "linear"], vec!["conv_pool", "conv_pool", "linear", "linear"]]);
    let mut pack = Tape::new("pack_filters");
    pack.pack_filters(&filters);
    let pack = pack.finish();
    for make in devices() {
        let mut device = make.open();
        device.allocate(&memory, &[&pack, &programs[0], &programs[1]]).expect("memory");
        let parameters = layers.iter().flatten().chain([&x, &last, &other]);
        for (seed, buffer) in parameters.enumerate() {
            let numbers = Random(seed as u64).signed(&buffer.dims).values;
            device.write_f32(buffer, &numbers.iter().map(|&v| v as f32).collect::<Vec<_>>()).unwrap();
        }
        device.write_u32(&rows, &[ROWS]).unwrap();
        device.execute(&pack).unwrap();
        programs.iter().for_each(|program| device.execute(program).unwrap());
        let [fused, plain] = [0, 1].map(|i| device.read_f32(&results[i]).unwrap());
        let active = ROWS as usize * 3;
        assert!(fused[..active].iter().all(|v| v.is_finite() && *v != 0.0), "{fused:?}");
        assert_eq!(fused[..active], plain[..active], "{make:?}");
    }
}

/// Launches of an iteration of PGD on an H100, at the presets' batch sizes.
#[test]
fn an_iteration_of_pgd_has_few_launches_in_both_precisions() {
    let launches = |model: &mut dyn Model, n: usize, precision: Precision| {
        let mut memory = Memory::default();
        model.declare(&mut memory);
        let attacked = ModelInPrecision::attacked(&mut memory, model, precision);
        let batch = Batch::new(&mut memory, &attacked, "attack", n);
        let pgd = Pgd::new(&mut memory, &attacked, &batch, &linf_settings());
        let iteration = pgd.schedule.programs().find(|p| p.name == "pgd_iteration").expect("PGD has iterations");
        TotalCost::of(iteration, TYPICAL_MULTIPROCESSORS).launches
    };
    for (precision, expected) in [(Precision::Fp32, [51, 8, 8]), (Precision::Fp16, [51, 5, 8])] {
        let wide_resnet = launches(&mut WideResNet::new(28, 4), 128, precision);
        // The kernels of two layers are for the published width.
        let lenet5 = [1.0, 0.5].map(|width| launches(&mut LeNet5::new(width), 50, precision));
        assert_eq!([wide_resnet, lenet5[0], lenet5[1]], expected, "{precision}");
    }
}

/// Training step of a preset.
fn step_of(name: &str, precision: Precision) -> TrainingStep {
    let config = Config { precision, ..preset(name).expect("a preset").config };
    let mut memory = Memory::default();
    let mut model = model::build(&config.architecture());
    model.declare(&mut memory);
    let data = DeviceData::new(&mut memory, &*model, "train", config.training_batch_size);
    record_step(&mut memory, &*model, &data, &config)
}

/// Launches of each program on an H100, with the number of its runs, and of the whole step.
#[test]
fn a_step_of_mma_training_has_few_launches_in_both_precisions() {
    for (name, precision, expected) in [
        (
            "mnist-linf",
            Precision::Fp32,
            "1 clean_pass 23, 1 gather_correct 1, 1 pgd_start 1, 40 pgd_iteration 8, 1 search_start 5, \
             9 search_probe 6, 1 margin_pass 22, 1 update 2: 428",
        ),
        (
            "mnist-linf",
            Precision::Fp16,
            "1 pack_filters 1, 1 clean_pass 23, 1 gather_correct 1, 1 pgd_start 1, 40 pgd_iteration 5, \
             1 search_start 4, 9 search_probe 4, 1 margin_pass 22, 1 update 3: 291",
        ),
        (
            "cifar10-linf",
            Precision::Fp32,
            "1 clean_pass 215, 1 gather_correct 1, 1 pgd_start 1, 10 pgd_iteration 51, 1 search_start 76, \
             9 search_probe 76, 1 search_end 75, 1 margin_pass 212, 1 update 2: 1776",
        ),
        (
            "cifar10-linf",
            Precision::Fp16,
            "1 pack_filters 1, 1 clean_pass 149, 1 gather_correct 1, 1 pgd_start 1, 10 pgd_iteration 51, \
             1 search_start 31, 9 search_probe 31, 1 search_end 30, 1 margin_pass 146, 1 update 3: 1151",
        ),
    ] {
        let (mut parts, mut all) = (Vec::new(), 0);
        for (program, times) in &step_of(name, precision).schedule.stages {
            let TotalCost { launches, .. } = TotalCost::of(program, TYPICAL_MULTIPROCESSORS);
            parts.push(format!("{times} {} {launches}", program.name));
            all += u64::from(*times) * launches;
        }
        assert_eq!(format!("{}: {all}", parts.join(", ")), expected, "{name}, {precision}");
    }
}

/// Bytes of the values of a step of the wide ResNet 28-4 that live at once, at a batch of 128.
#[test]
fn values_of_a_step_in_half_precision_take_half_of_the_memory() {
    let bytes = |precision| {
        let step = step_of("cifar10-linf", precision);
        step.schedule.programs().map(|program| program.workspace).max().expect("a step has programs")
    };
    let [single, attack, half] = [Precision::Fp32, Precision::Fp16Attack, Precision::Fp16].map(bytes);
    assert!(single <= 970_000_000 && attack <= single && half <= 490_000_000, "{single}, {attack}, {half}");
}

/// Ops of gathering, of PGD's start, of the search and of losses, each group one launch.
#[test]
fn small_ops_of_a_step_are_one_launch_where_they_are_neighbours() {
    let step = step_of("mnist-linf", Precision::Fp32);
    let row_wise = |name: &str| {
        let program = step.schedule.programs().find(|program| program.name == name).expect("a program of the step");
        let steps = program.nodes.iter().filter_map(|node| match &node.op {
            Op::RowWise(steps) => Some(steps.iter().map(|step| step.op.name()).collect::<Vec<_>>().join(" ")),
            _ => None,
        });
        steps.collect::<Vec<_>>()
    };
    assert_eq!(
        row_wise("clean_pass"),
        ["gather_rows bytes_to_unit gather_rows copy fill", "linear_bias loss loss loss mean_weights loss_backward"]
    );
    assert_eq!(row_wise("gather_correct"), ["gather_rows gather_rows gather_rows gather_rows clamp_min scale"]);
    assert_eq!(row_wise("pgd_start"), ["uniform pgd_start fill"]);
    assert_eq!(row_wise("search_start"), ["linear_bias loss copy fill fill bisect"]);
    assert_eq!(row_wise("search_probe"), ["linear_bias loss bisect"]);
    let boundary = "along_direction scatter_rows scatter_rows";
    assert_eq!(row_wise("margin_pass"), [boundary, "linear_bias scatter_rows loss hinge_weights loss_backward"]);
}

#[test]
fn a_training_pass_of_the_wide_resnet_has_no_batch_norm_fused_with_a_convolution() {
    let mut memory = Memory::default();
    let model = wide_resnet_28_4(&mut memory);
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
    // 12 blocks end in a sum, three of them with a shortcut. The first convolution includes standardization. Batch norm
    // follows each convolution, and ReLU follows batch norm.
    let of = |name: &str| counts.get(name).copied().unwrap_or(0);
    let layers = [of("conv2d_fused"), of("conv2d"), of("standardize_conv2d")];
    assert_eq!(layers, [12, 12, 1], "{counts:?}");
    for name in
        ["batch_norm_relu_training", "batch_norm_relu_backward_weight", "batch_norm_relu_training_backward_input"]
    {
        assert_eq!(of(name), 25, "{name}");
    }
    assert_eq!(of("conv2d_backward_weight"), 28);
}

/// The schedule with each row-wise op replaced by its steps.
fn without_row_wise_ops(schedule: &Schedule) -> Schedule {
    let mut alone = Schedule::default();
    for (program, times) in &schedule.stages {
        alone.then(&Arc::new(Program { nodes: program.ops(), ..Program::clone(program) }), *times);
    }
    alone
}

/// Content of all buffers after a step, the number of correct examples, and the class that each example's logits favour.
fn after_a_step(make: TestDevice, precision: Precision, labels: &[u32], fused: bool) -> (Vec<Vec<u8>>, u32, Vec<u32>) {
    let quick = preset("quick").expect("a preset").config;
    let fidelity = Fidelity { right_when: Loss::Lm, ..Fidelity::RELEASED };
    let (nb_iter, num_search_steps, training_batch_size) = (2, 3, labels.len());
    let config = Config { width: 0.125, nb_iter, num_search_steps, training_batch_size, precision, fidelity, ..quick };
    let (mut memory, mut model) = (Memory::default(), model::build(&config.architecture()));
    model.declare(&mut memory);
    let data = DeviceData::new(&mut memory, &*model, "train", labels.len());
    let mma = Mma::new(&mut memory, &*model, &data, &config, None);
    let schedule = if fused { mma.schedule.clone() } else { without_row_wise_ops(&mma.schedule) };
    let mut device = make.open();
    device.allocate(&memory, &schedule.programs().collect::<Vec<_>>()).unwrap();
    model.load(&mut *device, &model.initial(3)).unwrap();
    let mut random = Random(7);
    device.write_u8(&data.images, &(0..data.images.len()).map(|_| random.word() as u8).collect::<Vec<_>>()).unwrap();
    device.write_u32(&data.labels, labels).unwrap();
    device.write_u32(&mma.batch.index, &(0..labels.len() as u32).collect::<Vec<_>>()).unwrap();
    device.write_u32(&mma.batch.rows, &[labels.len() as u32]).unwrap();
    device.replay(&schedule).unwrap();
    let content = |buffer: &Buffer| {
        let mut bytes = vec![0; buffer.bytes()];
        device.read_bytes(buffer, &mut bytes).unwrap();
        bytes
    };
    let best = |z: &[f32]| (0..z.len()).max_by(|&a, &b| z[a].total_cmp(&z[b])).expect("classes") as u32;
    let classes = device.read_f32(&mma.logits).unwrap().chunks(model.classes()).map(best).collect();
    let correct = device.read_u32(&mma.correct).unwrap()[0];
    (memory.buffers.iter().map(content).collect(), correct, classes)
}

#[test]
fn a_step_gives_the_same_bits_with_row_wise_ops_and_with_their_steps_alone() {
    const EXAMPLES: usize = 8;
    for make in devices() {
        for precision in [Precision::Fp32, Precision::Fp16] {
            let (_, _, classes) = after_a_step(make, precision, &[0; EXAMPLES], true);
            for correct in [0, 1, 7, EXAMPLES] {
                let label = |(i, class): (usize, &u32)| (class + u32::from(i >= correct)) % 10;
                let labels: Vec<u32> = classes.iter().enumerate().map(label).collect();
                let fused = after_a_step(make, precision, &labels, true);
                assert_eq!(fused.1, correct as u32);
                assert!(fused == after_a_step(make, precision, &labels, false), "{make:?}, {precision}, {correct}");
            }
        }
    }
}
