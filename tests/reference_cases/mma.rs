//! Family `mma`: whole training steps.
//!
//! With LeNet5 single precision reproduces the set of correct examples, every margin within a search step, losses
//! within 1e-6 (a margin loss within 1e-4 if one gradient's sign in its attack differs), and weights after the last
//! step within 1e-6. A case says which examples of the first step single precision cannot decide: they are left.
//!
//! A wide ResNet is chaotic: batch norm over a dozen images spreads the effect of one differing sign to all of them.
//! Its first step is as exact as a forward pass up to the attack; outputs after the attack have wide tolerances.
//!
//! The margin of a misclassified example is exactly 0 with both.

use std::collections::BTreeMap;

use maxmargin::batch::DeviceData;
use maxmargin::catalog::{DatasetKind, ModelKind};
use maxmargin::config::{Config, Fidelity, Method, OptimizerKind};
use maxmargin::device::Device;
use maxmargin::model::{Parameter, Params, image_buffer};
use maxmargin::tape::{Loss, Memory, Precision};
use maxmargin::train::Mma;

use super::attack::{EPS_ASTRAY, STABLE_EPS_OFF};
use super::case::{start_noise, unit};
use super::comparison::{Comparison, exceeds, relative, relative_f64, worst};
use super::model::LOGITS;
use super::numbers::digest;
use super::{ReferenceCase, allocate};

const LOSS: f64 = 1e-5;
const LOSS_AT_A_SIGN: f64 = 1e-3;
const WEIGHTS: f64 = 1e-5;
/// Largest error of three quarters of the margins where no example is marked, in search steps.
const EPS_OFF: f64 = 1.0;

/// Largest error of a wide ResNet's clean loss in the first step.
const FIRST_LOSS: f64 = 2e-6;
/// Largest error of a wide ResNet's losses after an attack.
const CHAOTIC_LOSS: f64 = 0.1;
/// Largest error of the margins of three quarters of a wide ResNet's examples where none is marked, in search steps.
const CHAOTIC_EPS_OFF: f64 = 2.0;
/// Largest relative error of the change of a wide ResNet's tensors, as the median over the tensors, and of each tensor.
/// A tensor that does not change has an error of 1.
const CHAOTIC_CHANGE: f64 = 0.1;
const CHAOTIC_CHANGE_OF_ONE: f64 = 0.99;

/// Errors of a training step.
struct StepErrors {
    /// Examples that the case marks as stable; all if it marks none.
    held: Vec<usize>,
    /// True if the case marks the step's examples.
    marked: bool,
    /// True for each example that is correct in the case.
    expected_right: Vec<bool>,
    /// True for each example that is correct here.
    right: Vec<bool>,
    /// Error of the margin of each example, in search steps.
    eps: Vec<f64>,
    logits: f64,
    clean_loss: f64,
    mma_loss: f64,
}

pub fn replay(case: &ReferenceCase, device: &mut dyn Device) -> Vec<Comparison> {
    let (mut model, state) = case.model();
    let steps: usize = case.number("train_steps");
    let named = |k: usize, part: &str| format!("step{k}.{part}");
    let indices = (0..steps).map(|k| case.u32s(&named(k, "index")).into_iter().max());
    let examples = 1 + indices.max().flatten().expect("a case has examples") as usize;
    let capacity = (0..steps).map(|k| case.tensor(&named(k, "labels")).shape[0]).max().expect("a case has steps");
    let config = config(case, capacity);
    let seeds: Vec<&str> = case.text("noise").split(',').collect();
    assert!(seeds.len() == steps || seeds == ["none"], "noise {seeds:?} for {steps} steps");

    let mut memory = Memory::default();
    model.declare(&mut memory);
    let data = DeviceData::new(&mut memory, &*model, "train", examples);
    let numbers = image_buffer(&mut memory, &*model, "noise", capacity);
    let mma = Mma::new(&mut memory, &*model, &data, &config, Some(&numbers));
    allocate(device, &memory, &mma.schedule);
    model.load(device, &state).unwrap();

    let row: usize = model.image().iter().product();
    let (mut images, mut labels) = (vec![0; examples * row], vec![0; examples]);
    let mut found = Vec::new();
    for k in 0..steps {
        let (bytes, n) = case.images(&named(k, "images"), &*model);
        let index = case.u32s(&named(k, "index"));
        for ((&at, image), label) in index.iter().zip(bytes.chunks(row)).zip(case.u32s(&named(k, "labels"))) {
            images[at as usize * row..][..row].copy_from_slice(image);
            labels[at as usize] = label;
        }
        device.write_u8(&data.images, &images).unwrap();
        device.write_u32(&data.labels, &labels).unwrap();
        device.write_u32(&mma.batch.index, &index).unwrap();
        device.write_u32(&mma.batch.rows, &[n as u32]).unwrap();
        device.write_f32(&numbers, &start_noise(seeds[k % seeds.len()], config.norm, &*model, &unit(&bytes))).unwrap();
        device.replay(&mma.schedule).unwrap();

        let (selected, count) = (&mma.selected, &mma.correct);
        let mut right = vec![false; n];
        let count = device.read_u32(count).unwrap()[0] as usize;
        device.read_u32(selected).unwrap()[..count].iter().for_each(|&i| right[i as usize] = true);
        let rows = |buffer| device.read_f32(buffer).unwrap()[..n].iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let of_one = |value: f64, part: &str| relative_f64(&[value], case.values(&named(k, part)));
        let (margin_loss, shares) = (&mma.margin_loss, &mma.margin_weights);
        let (expected_right, expected_eps) = (case.values(&named(k, "right")), case.values(&named(k, "eps")));
        let search_step = f64::from(config.max_eps()) * 0.5f64.powi(config.num_search_steps as i32);
        let off = rows(&mma.eps).into_iter().zip(expected_eps).map(|(eps, e)| (eps - e).abs() / search_step);
        let stable = case.stable(&named(k, "stable"));
        let logits = &device.read_f32(&mma.logits).unwrap()[..case.tensor(&named(k, "logits")).values.len()];
        found.push(StepErrors {
            held: (0..n).filter(|&i| stable.as_ref().is_none_or(|stable| stable[i])).collect(),
            marked: stable.is_some(),
            expected_right: expected_right.iter().map(|&right| right == 1.0).collect(),
            right,
            eps: off.collect(),
            logits: relative(logits, case.values(&named(k, "logits"))),
            clean_loss: of_one(rows(&mma.clean_loss).iter().sum::<f64>() / n as f64, "clean_loss"),
            mma_loss: of_one(
                rows(margin_loss).iter().zip(rows(shares)).map(|(loss, share)| loss * share).sum(),
                "mma_loss",
            ),
        });
    }
    let after = model.read(device).unwrap();
    if case.has("model", "wide_resnet") {
        let mut checks = chaotic_steps(&found);
        let kept = model.stored().zip(state.iter().zip(&after));
        checks.extend(kept.flat_map(|(params, (before, after))| change(case, params, before, after)));
        checks
    } else {
        let mut checks = steps_of(&found);
        let values = model.params().split_to_torch(&after[0]);
        for (p, found) in model.params().list.iter().zip(values) {
            let name = format!("after.{}", p.name);
            let error = match config.optimizer {
                OptimizerKind::Adam => relative_f64(&digest(&found), case.values(&name)),
                OptimizerKind::Sgd => relative(&found, case.values(&name)),
            };
            checks.push(Comparison::new(name, error, WEIGHTS));
        }
        checks
    }
}

impl StepErrors {
    /// Number of held examples that are correct in the case and misclassified here, or the other way round.
    fn differing(&self) -> f64 {
        self.held.iter().filter(|&&i| self.right[i] != self.expected_right[i]).count() as f64
    }

    /// Held examples that are correct, or misclassified, in the case and here.
    fn both(&self, right: bool) -> Vec<usize> {
        let both = |&i: &usize| self.right[i] == right && self.expected_right[i] == right;
        self.held.iter().copied().filter(both).collect()
    }

    /// Comparison of the margins of misclassified examples, which are 0.
    fn misclassified(&self, k: usize) -> Comparison {
        worst(&format!("step{k}.eps, misclassified (in search steps)"), &self.both(false), |i| self.eps[i], 0.0)
    }

    /// Comparisons of the margins of correct examples, of which three quarters lie within `allowed`.
    fn most_eps(&self, k: usize, allowed: f64) -> [Comparison; 2] {
        let right = self.both(true);
        let off = right.iter().filter(|&&i| exceeds(self.eps[i], allowed)).count() as f64;
        let name = format!("step{k}.eps");
        [
            Comparison::new(format!("{name} (examples)"), off, right.len().div_ceil(4) as f64),
            worst(&format!("{name} (in search steps)"), &right, |i| self.eps[i], EPS_ASTRAY),
        ]
    }
}

/// Comparisons of LeNet5's steps.
fn steps_of(steps: &[StepErrors]) -> Vec<Comparison> {
    let mut checks = Vec::new();
    for (k, step) in steps.iter().enumerate() {
        checks.push(Comparison::new(format!("step{k}.right"), step.differing(), 0.0));
        if step.marked {
            let name = format!("step{k}.eps (in search steps)");
            checks.push(worst(&name, &step.both(true), |i| step.eps[i], STABLE_EPS_OFF));
        } else {
            checks.extend(step.most_eps(k, EPS_OFF));
        }
        checks.push(step.misclassified(k));
        checks.push(Comparison::new(format!("step{k}.logits"), step.logits, LOGITS));
        checks.push(Comparison::new(format!("step{k}.clean_loss"), step.clean_loss, LOSS));
        let allowed = if step.mma_loss > LOSS { LOSS_AT_A_SIGN } else { LOSS };
        checks.push(Comparison::new(format!("step{k}.mma_loss"), step.mma_loss, allowed));
    }
    // Differing signs are rare: half of the steps, rounded up, may have one. A wrong formula shows in every step.
    let accidents = steps.iter().filter(|step| step.mma_loss > LOSS).count();
    checks.push(Comparison::new(
        "steps whose mma_loss a sign changed",
        accidents as f64,
        steps.len().div_ceil(2) as f64,
    ));
    checks
}

/// Comparisons of a wide ResNet's steps.
fn chaotic_steps(steps: &[StepErrors]) -> Vec<Comparison> {
    let mut checks = Vec::new();
    for (k, step) in steps.iter().enumerate() {
        let first = k == 0;
        checks.push(Comparison::new(format!("step{k}.right"), step.differing(), if first { 0.0 } else { 1.0 }));
        checks.push(step.misclassified(k));
        checks.extend(step.most_eps(k, if step.marked { STABLE_EPS_OFF } else { CHAOTIC_EPS_OFF }));
        let clean_loss = if first { FIRST_LOSS } else { CHAOTIC_LOSS };
        checks.push(Comparison::new(format!("step{k}.clean_loss"), step.clean_loss, clean_loss));
        checks.push(Comparison::new(format!("step{k}.mma_loss"), step.mma_loss, CHAOTIC_LOSS));
        if first {
            checks.push(Comparison::new("step0.logits", step.logits, LOGITS));
        }
    }
    checks
}

/// Compares the change of `params`, by the relative errors of its tensors: each, and their median.
fn change(case: &ReferenceCase, params: &Params, before: &[f32], after: &[f32]) -> Vec<Comparison> {
    let [before, after] = [before, after].map(|values| params.split_to_torch(values));
    let one = |((p, before), after): ((&Parameter, &Vec<f32>), &Vec<f32>)| {
        let name = format!("after.{}", p.name);
        let expected = case.values(&name);
        let changes = |values: &mut dyn Iterator<Item = f64>| -> Vec<f64> {
            values.zip(before).map(|(after, &before)| after - f64::from(before)).collect()
        };
        let found = changes(&mut after.iter().map(|&v| f64::from(v)));
        let error = relative_f64(&found, &changes(&mut expected.iter().copied()));
        Comparison::new(format!("{name} (change)"), error, CHAOTIC_CHANGE_OF_ONE)
    };
    let mut checks: Vec<Comparison> = params.list.iter().zip(&before).zip(&after).map(one).collect();
    let mut errors: Vec<f64> = checks.iter().map(|check| check.error).collect();
    errors.sort_by(f64::total_cmp);
    let name = format!("after.* (change of {}, median)", params.buffer().name);
    checks.push(Comparison::new(name, errors[errors.len() / 2], CHAOTIC_CHANGE));
    checks
}

/// Settings of the case. All cases have the same losses.
fn config(case: &ReferenceCase, capacity: usize) -> Config {
    let number = |key: &str| case.number::<f64>(key) as f32;
    let changes: BTreeMap<String, f64> = serde_json::from_str(case.text("lr_at"))
        .unwrap_or_else(|e| panic!("metadata lr_at = {:?}: {e}", case.text("lr_at")));
    let step = |text: &String| text.parse::<u32>().unwrap_or_else(|_| panic!("lr_at: {text:?} is not a step"));
    let mut schedule: Vec<_> = changes.iter().map(|(from, &rate)| (step(from), rate as f32)).collect();
    schedule.push((0, number("lr")));
    schedule.sort_by_key(|&(from, _)| from);
    Config {
        preset: "reference case".into(),
        seed: 0,
        dataset: DatasetKind::Digits,
        train_size: None,
        val_size: 0,
        test_size: None,
        augment: false,
        model: if case.has("model", "wide_resnet") { ModelKind::WideResNet } else { ModelKind::LeNet5 },
        depth: None,
        width: 1.0,
        method: Method::Mma,
        norm: case.choice("norm"),
        hinge_maxeps: number("hinge_max_eps"),
        clean_loss_fn: Loss::Xent,
        margin_loss_fn: Loss::Xent,
        attack_loss_fn: Loss::Slm,
        search_loss_fn: Loss::Slm,
        clean_loss_coeff: number("clean_loss_coeff"),
        nb_iter: case.number("attack_steps"),
        precision: Precision::Fp32,
        loss_scale: 1.0,
        eps_iter_scale: number("step_scale"),
        num_search_steps: case.number("search_steps"),
        attack_mineps: number("min_eps"),
        attack_eps: 0.0,
        eps_ramp_steps: 0,
        trades_beta: 0.0,
        optimizer: case.choice("optimizer"),
        momentum: number("momentum"),
        weight_decay: number("weight_decay"),
        learning_rate_schedule: schedule,
        training_batch_size: capacity,
        max_num_training_steps: case.number("train_steps"),
        test_eps: 0.0,
        test_eps_iter: 0.0,
        disp_interval: 1,
        checkpoint_interval: 1,
        fidelity: Fidelity::RELEASED,
    }
}
