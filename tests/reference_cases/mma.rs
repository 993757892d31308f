//! `mma`: whole training steps.
//!
//! Single precision reaches: which examples are right, every margin below a search step, losses 1e-6 (a margin loss
//! 1e-4 where one sign of its attack falls the other way), weights after the last step 1e-6.

use std::collections::BTreeMap;

use maxmargin::attack::DeviceData;
use maxmargin::config::{Config, Fidelity, OptimizerKind};
use maxmargin::data::DatasetKind;
use maxmargin::device::Device;
use maxmargin::model::{Model, image_buffer};
use maxmargin::tape::{Loss, Memory};
use maxmargin::train::Mma;

use super::case::{noise, unit};
use super::check::{Check, largest, relative, relative_f64};
use super::model::LOGITS;
use super::numbers::digest;
use super::{Case, allocate};

const LOSS: f64 = 1e-5;
const LOSS_AT_A_SIGN: f64 = 1e-3;
const WEIGHTS: f64 = 1e-5;
/// How far a margin may be off, in search steps.
const EPS_OFF: f64 = 1.0;

pub fn replay(case: &Case, device: &mut dyn Device) -> Vec<Check> {
    let (mut model, state) = case.model();
    let steps: usize = case.number("train_steps");
    let named = |k: usize, part: &str| format!("step{k}.{part}");
    let largest_of = |part: &str| (0..steps).map(|k| case.u32s(&named(k, part)).into_iter().max()).max();
    let examples = 1 + largest_of("index").flatten().expect("a case has examples") as usize;
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
    let mut checks = Vec::new();
    let mut margin_losses = Vec::new();
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
        device.write_f32(&numbers, &noise(seeds[k % seeds.len()], config.norm, &*model, &unit(&bytes))).unwrap();
        device.replay(&mma.schedule).unwrap();

        let [selected, count] = &mma.right;
        let mut right = vec![0f64; n];
        let count = device.read_u32(count).unwrap()[0] as usize;
        device.read_u32(selected).unwrap()[..count].iter().for_each(|&i| right[i as usize] = 1.0);
        let wrong = right.iter().zip(case.values(&named(k, "right"))).filter(|(a, b)| a != b).count();
        checks.push(Check::new(named(k, "right"), wrong as f64, 0.0));

        let search_step = f64::from(config.max_eps()) * 0.5f64.powi(config.num_search_steps as i32);
        let off = largest(&device.read_f32(&mma.eps).unwrap()[..n], case.values(&named(k, "eps"))) / search_step;
        checks.push(Check::new(format!("step{k}.eps (in search steps)"), off, EPS_OFF));

        let logits = device.read_f32(&mma.logits).unwrap();
        let expected = case.values(&named(k, "logits"));
        checks.push(Check::new(named(k, "logits"), relative(&logits[..expected.len()], expected), LOGITS));

        let rows = |buffer| device.read_f32(buffer).unwrap()[..n].iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let clean = rows(&mma.clean_loss).iter().sum::<f64>() / n as f64;
        checks.push(Check::new(
            named(k, "clean_loss"),
            relative_f64(&[clean], case.values(&named(k, "clean_loss"))),
            LOSS,
        ));
        let [margin_loss, shares] = &mma.margin_loss;
        let margin = rows(margin_loss).iter().zip(rows(shares)).map(|(loss, share)| loss * share).sum();
        margin_losses.push(relative_f64(&[margin], case.values(&named(k, "mma_loss"))));
    }
    // A sign that falls the other way is a rare accident: half of the steps, rounded up, may have one; a wrong
    // formula shows in all.
    let accidents = margin_losses.iter().filter(|&&error| error > LOSS).count();
    checks.push(Check::new("steps whose mma_loss a sign changed", accidents as f64, steps.div_ceil(2) as f64));
    for (k, &error) in margin_losses.iter().enumerate() {
        let allowed = if error > LOSS { LOSS_AT_A_SIGN } else { LOSS };
        checks.push(Check::new(named(k, "mma_loss"), error, allowed));
    }
    let after = model.params().split_to_torch(&device.read_f32(model.params().buffer()).unwrap());
    for (p, found) in model.params().list.iter().zip(after) {
        let name = format!("after.{}", p.name);
        let error = match config.optimizer {
            OptimizerKind::Adam => relative_f64(&digest(&found), case.values(&name)),
            OptimizerKind::Sgd => relative(&found, case.values(&name)),
        };
        checks.push(Check::new(name, error, WEIGHTS));
    }
    checks
}

/// The case's hyper-parameters; the losses are those of every case.
fn config(case: &Case, capacity: usize) -> Config {
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
        width: 1.0,
        norm: case.choice("norm"),
        hinge_maxeps: number("hinge_max_eps"),
        clean_loss_fn: Loss::Xent,
        margin_loss_fn: Loss::Xent,
        attack_loss_fn: Loss::Slm,
        search_loss_fn: Loss::Slm,
        clean_loss_coeff: number("clean_loss_coeff"),
        nb_iter: case.number("attack_steps"),
        eps_iter_scale: number("step_scale"),
        num_search_steps: case.number("search_steps"),
        attack_mineps: number("min_eps"),
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
