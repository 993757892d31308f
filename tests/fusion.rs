//! Fused programs compute what the recorded ops compute: a wide ResNet's forward pass, an iteration of PGD and a training
//! pass, on every device.

mod support;

use maxmargin::config::Fidelity;
use maxmargin::model::{Mode, Model, ModelState, WideResNet, image_buffer};
use maxmargin::tape::{Buffer, Loss, LossRule, Memory, Norm, PgdRule, Tape};
use support::{Random, TestDevice, devices};

/// Rows of a batch, and how many of them are active.
const CAPACITY: usize = 4;
const ROWS: u32 = 3;

/// A pass of a wide ResNet: its model, what it has to be given, what it computes.
struct Pass {
    memory: Memory,
    model: Box<dyn Model>,
    x: Buffer,
    labels: Buffer,
    rows: Buffer,
    results: Vec<Buffer>,
}

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

/// Records a pass; what it computes stands in `results`.
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
    keep(tape, &mut memory, logits);
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
    results.push(model.statistics().expect("batch norm has some").buffer().clone());
    Pass { memory, model, x, labels, rows, results }
}

/// Numbers with which batch norm is no identity.
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

/// All results of a pass, and the names of its program's ops.
fn run(make: TestDevice, kind: Kind, fuse: bool) -> (Vec<Vec<f32>>, Vec<&'static str>) {
    let mut tape = if fuse { Tape::new("fused") } else { Tape::new("plain").without_fusion() };
    let pass = record(&mut tape, kind);
    let program = tape.finish();
    let mut device = make.open();
    device.allocate(&pass.memory, &[&program]).expect("memory");
    pass.model.load(&mut *device, &state(&*pass.model)).unwrap();
    // With these images no ReLU's input is so near 0 that a rounding decides what it lets pass.
    let x: Vec<f32> = Random(6).image(&pass.x.dims).values.iter().map(|&v| v as f32).collect();
    device.write_f32(&pass.x, &x).unwrap();
    device.write_u32(&pass.labels, &[3, 1, 4, 1]).unwrap();
    device.write_u32(&pass.rows, &[ROWS]).unwrap();
    device.execute(&program).unwrap();
    let results = pass.results.iter().map(|buffer| device.read_f32(buffer).unwrap()).collect();
    (results, program.nodes.iter().map(|node| node.op.name()).collect())
}

/// Off by at most 1e-5 of a result's length: the order of roundings is another.
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
