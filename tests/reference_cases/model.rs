//! Family `model`: logits, the gradients with respect to images and parameters, and, in batch norm's training mode, the
//! running statistics after one forward pass.
//!
//! Single precision reproduces logits within 8e-7, running statistics within 1e-7, the gradient with respect to the
//! images within 1e-6 and those with respect to parameters within 3e-6. Where rounding decides a ReLU or the maximum of
//! a pool otherwise, gradients differ by up to 3e-4. Few examples have such a tie, so the larger tolerance holds only
//! if the gradient with respect to the image of most examples meets the smaller one.

use std::sync::Arc;

use maxmargin::config::{Fidelity, SearchMode};
use maxmargin::device::{Device, Schedule};
use maxmargin::model::{Mode, Model, Parameter, image_buffer};
use maxmargin::tape::{LossRule, Memory, Tape};

use super::case::unit;
use super::comparison::{Comparison, relative, relative_f64, worst};
use super::decisions::{self, Decisions, DoublePrecision, Wanted};
use super::numbers::{digest, to_nchw};
use super::{ReferenceCase, allocate};

/// Largest error of logits, in every family.
pub const LOGITS: f64 = 8e-6;
const RUNNING_STATISTICS: f64 = 1e-6;
const INPUT_GRAD: f64 = 1e-5;
/// Largest error of one example's gradient, relative to its own norm; and the same if an example of LeNet5 has a tie.
const INPUT_GRAD_OF_ONE: f64 = 1e-3;
const INPUT_GRAD_OF_ONE_AT_A_TIE: f64 = 0.25;
const PARAMETER_GRAD: f64 = 3e-5;
/// Largest error of LeNet5's gradients if an example has a tie. For a wide ResNet's ties see [`decisions`].
const GRAD_AT_A_TIE: f64 = 3e-3;

pub fn replay(case: &ReferenceCase, device: &mut dyn Device) -> Vec<Comparison> {
    let mode = batch_norm(case.choice("mode"));
    let (mut model, state) = case.model();
    let (images, n) = case.images("images", &*model);
    let mut memory = Memory::default();
    model.declare(&mut memory);
    let labels = memory.u32("labels", &[n]);
    let x = image_buffer(&mut memory, &*model, "x", n);
    let dx = image_buffer(&mut memory, &*model, "dx", n);
    let logits = memory.f32("logits", &case.tensor("logits").shape);
    let gradient = memory.f32("gradient", &[model.params().len()]);
    let rule = LossRule { loss: case.choice("loss"), confidence: Fidelity::RELEASED.cw_confidence };

    let [mut by_image, mut by_parameters, mut whole] = [(); 3].map(|()| Schedule::default());
    let mut tape = Tape::new("input_gradient");
    let (image, label) = (tape.leaf(&x), tape.leaf(&labels));
    let found = model.logits(&mut tape, image, mode);
    tape.keep(found, &logits);
    let wide = case.has("model", "wide_resnet");
    let relus = if wide { decisions::keep(&mut tape, &mut memory) } else { Vec::new() };
    let loss = tape.loss(rule, found, label);
    let ones = tape.fill(1.0, &[n]);
    let gradient_by_image = tape.grad(loss, ones, &[image])[0];
    tape.keep(gradient_by_image, &dx);
    by_image.then(&Arc::new(tape.finish()), 1);

    let mut tape = Tape::new("parameter_gradient");
    let (image, label) = (tape.leaf(&x), tape.leaf(&labels));
    let found = model.logits(&mut tape, image, mode);
    let loss = tape.loss(rule, found, label);
    let mean = tape.mean_weights(n);
    let wanted = model.params().leaves(&mut tape);
    for (value, part) in tape.grad(loss, mean, &wanted).into_iter().zip(model.params().parts(&gradient)) {
        tape.keep(value, &part);
    }
    by_parameters.then(&Arc::new(tape.finish()), 1);

    whole.extend(&by_image);
    whole.extend(&by_parameters);
    allocate(device, &memory, &whole);
    model.load(device, &state).unwrap();
    device.write_f32(&x, &unit(&images)).unwrap();
    device.write_u32(&labels, &case.u32s("labels")).unwrap();
    device.replay(&by_image).unwrap();
    let mut checks =
        vec![Comparison::new("logits", relative(&device.read_f32(&logits).unwrap(), case.values("logits")), LOGITS)];
    if mode == Mode::Train {
        checks.extend(running_statistics(case, &*model, device, RUNNING_STATISTICS));
    }
    let decisions = decisions::read(device, &relus);
    device.replay(&by_parameters).unwrap();

    let (by_image, by_parameters) = (device.read_f32(&dx).unwrap(), device.read_f32(&gradient).unwrap());
    let near = gradients(case, &*model, &by_image, &by_parameters);
    if near.iter().all(Comparison::passes) {
        checks.extend(near);
    } else if wide {
        let x: Vec<f64> = unit(&images).into_iter().map(f64::from).collect();
        let (labels, wanted) = (case.u32s("labels"), Wanted::ImagesAndParameters);
        let exact = DoublePrecision::new(&*model, &state, mode, rule, &x, &labels, wanted);
        checks.extend(with_decisions(case, &*model, &exact, &decisions, (&by_image, &by_parameters)));
    } else {
        let tie =
            some_examples_have_a_tie(&to_nchw(&by_image, &case.tensor("images").shape), case.values("input_grad"), n);
        let at_a_tie = |c: Comparison| {
            let of_one = c.allowed == INPUT_GRAD_OF_ONE;
            Comparison { allowed: if of_one { INPUT_GRAD_OF_ONE_AT_A_TIE } else { GRAD_AT_A_TIE }, ..c }
        };
        checks.extend(near.into_iter().map(|c| if tie { at_a_tie(c) } else { c }));
    }
    checks
}

/// Compares the gradients with respect to the images and to all parameters, both in this project's layouts. A case has
/// each parameter's gradient as a whole or as a digest.
fn gradients(case: &ReferenceCase, model: &dyn Model, by_image: &[f32], by_parameters: &[f32]) -> Vec<Comparison> {
    let by_image = to_nchw(by_image, &case.tensor("images").shape);
    let mut checks =
        input_gradients("input_grad", &by_image, case.values("input_grad"), case.tensor("labels").shape[0]);
    for (p, found) in model.params().list.iter().zip(model.params().split_to_torch(by_parameters)) {
        let (whole, short) = (format!("grad.{}", p.name), format!("grad_digest.{}", p.name));
        let (name, error) = match case.find(&whole) {
            Some(expected) => (whole, relative(&found, &expected.values)),
            None => (short.clone(), relative_f64(&digest(&found), case.values(&short))),
        };
        checks.push(Comparison::new(name, error, PARAMETER_GRAD));
    }
    checks
}

/// Compares the gradients of `n` images: all together, and each.
fn input_gradients(name: &str, found: &[f32], expected: &[f64], n: usize) -> Vec<Comparison> {
    let row = expected.len() / n;
    let of_example = |i: usize| relative(&found[i * row..][..row], &expected[i * row..][..row]);
    vec![
        Comparison::new(name, relative(found, expected), INPUT_GRAD),
        worst(name, &Vec::from_iter(0..n), of_example, INPUT_GRAD_OF_ONE),
    ]
}

/// Compares gradients with those that follow from the device's decisions, within the tolerances of a case without ties.
fn with_decisions(
    case: &ReferenceCase,
    model: &dyn Model,
    exact: &DoublePrecision,
    decisions: &Decisions,
    (by_image, by_parameters): (&[f32], &[f32]),
) -> Vec<Comparison> {
    let single = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
    let (own_by_image, own_by_parameter) = exact.gradients(None);
    let mut checks = gradients(case, model, &single(&own_by_image), &single(&own_by_parameter.concat()));
    checks.push(exact.ties(decisions));
    let (exact_by_image, exact_by_parameter) = exact.gradients(Some(decisions));
    let decided = |name: &str| format!("{name} of ReLU's decisions");
    let n = case.tensor("labels").shape[0];
    checks.extend(input_gradients(&decided("input_grad"), by_image, &exact_by_image, n));
    let mut rest = by_parameters;
    for (p, expected) in model.params().list.iter().zip(exact_by_parameter) {
        let (found, after) = rest.split_at(p.len());
        rest = after;
        checks.push(Comparison::new(decided(&format!("grad.{}", p.name)), relative(found, &expected), PARAMETER_GRAD));
    }
    checks
}

/// Mode of batch norm during the search.
pub fn batch_norm(mode: SearchMode) -> Mode {
    match mode {
        SearchMode::Train => Mode::Train,
        SearchMode::Eval => Mode::Eval,
    }
}

/// Compares the running statistics on a device with the case's.
pub fn running_statistics(
    case: &ReferenceCase,
    model: &dyn Model,
    device: &dyn Device,
    allowed: f64,
) -> Vec<Comparison> {
    let Some(statistics) = model.statistics() else { return Vec::new() };
    let found = statistics.split_to_torch(&device.read_f32(statistics.buffer()).unwrap());
    let check = |(p, found): (&Parameter, Vec<f32>)| {
        let name = format!("after.{}", p.name);
        Comparison::new(name.clone(), relative(&found, case.values(&name)), allowed)
    };
    statistics.list.iter().zip(found).map(check).collect()
}

/// True if the gradient of some examples, but of fewer than half, has a larger error than rounding explains. Errors are
/// relative to the gradient's root mean square over the examples, because a confident example's own gradient is tiny.
fn some_examples_have_a_tie(found: &[f32], expected: &[f64], n: usize) -> bool {
    let typical = (expected.iter().map(|e| e * e).sum::<f64>() / n as f64).sqrt();
    let row = expected.len() / n;
    let off = |(f, e): (&[f32], &[f64])| {
        f.iter().zip(e).map(|(&f, e)| (f64::from(f) - e).powi(2)).sum::<f64>().sqrt() > INPUT_GRAD * typical
    };
    let differing = found.chunks(row).zip(expected.chunks(row)).filter(|&pair| off(pair)).count();
    0 < differing && 2 * differing < n
}
