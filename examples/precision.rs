//! Half precision beside single precision, on a network in a file of weights: the signs of the input gradients that
//! attacks follow, their zeros, and margins by AN-PGD.
//!
//! ```text
//! cargo run --release --example precision                                        # trains a small network first
//! cargo run --release --example precision -- runs/quick-0/best.safetensors digits 500
//! cargo run --release --example precision -- runs/cifar10-quick-0/best.safetensors cifar10 200
//! ```
//!
//! `maxmargin evaluate --precision fp16` measures accuracy under attack.

mod digits;

use std::path::Path;
use std::sync::Arc;

use maxmargin::Result;
use maxmargin::attack::{AnPgd, Pgd, PgdSettings, Search, SearchStart, StartNoise};
use maxmargin::catalog::DatasetKind;
use maxmargin::choice::Choice;
use maxmargin::config::{Config, Method, preset};
use maxmargin::data::{self, Dataset};
use maxmargin::device::{Device, Schedule, cpu::Cpu};
use maxmargin::evaluate::Examples;
use maxmargin::model::state_dict::{LoadedModel, load_model};
use maxmargin::model::{AttackedModel, Mode, Model, image_buffer};
use maxmargin::rng::Purpose;
use maxmargin::tape::{Buffer, Loss, LossRule, Memory, Norm, Precision};

/// Images that pass through the network at once.
const BATCH: usize = 50;

/// Losses whose gradients are compared.
const LOSSES: [Loss; 3] = [Loss::Slm, Loss::Xent, Loss::Dlr];

/// Programs on the network in one precision, and their results.
struct InPrecision {
    /// Gradient with respect to the images by loss, and the program that computes it.
    gradients: Vec<(Schedule, Buffer)>,
    /// AN-PGD.
    an_pgd: AnPgd,
}

impl InPrecision {
    fn record(
        memory: &mut Memory,
        model: &dyn Model,
        examples: &Examples,
        precision: Precision,
        config: &Config,
    ) -> Self {
        let model = &AttackedModel::new(memory, model, precision);
        let batch = &examples.batch;
        let gradient = |loss: &Loss| {
            let found = image_buffer(memory, model, "gradient", batch.capacity());
            let mut tape = batch.tape("gradient");
            let [x, labels] = [&batch.x, &batch.labels].map(|buffer| tape.leaf(buffer));
            let logits = model.logits(&mut tape, x, Mode::Eval);
            let loss = tape.loss(LossRule { loss: *loss, confidence: 0.0 }, logits, labels);
            let ones = tape.fill(1.0, &batch.labels.dims);
            let dx = tape.grad(loss, ones, &[x])[0];
            tape.keep(dx, &found);
            let mut schedule = model.preparation();
            schedule.then(&Arc::new(tape.finish()), 1);
            (schedule, found)
        };
        let gradients = LOSSES.iter().map(gradient).collect();
        let step = memory.u32("start", &[1]);
        let noise = StartNoise::CounterBased { seed: 0, purpose: Purpose::MarginStart, step };
        let settings =
            PgdSettings { loss: config.loss_rule(Loss::Slm), rule: config.pgd_rule(), iterations: 10, noise };
        let pgd = Pgd::new(memory, model, batch, &settings);
        let search = Search {
            loss: config.loss_rule(Loss::Lm),
            steps: 16,
            max_eps: config.max_eps(),
            start: SearchStart::HalfMaxEps,
            norm: config.norm,
            direction: config.fidelity.direction,
            result: config.fidelity.search_result,
            mode: Mode::Eval,
        };
        InPrecision { gradients, an_pgd: AnPgd::new(memory, model, batch, pgd, search) }
    }
}

/// Gradients of half precision beside those of single precision.
#[derive(Default)]
struct Signs {
    /// Numbers, and those whose signs are equal.
    count: [f64; 2],
    /// The same, each number with its absolute value in single precision as its weight.
    weight: [f64; 2],
    /// Zeros in each precision.
    zeros: [usize; 2],
}

impl Signs {
    fn add(&mut self, [single, half]: &[Vec<f32>; 2]) {
        for (&one, &other) in single.iter().zip(half) {
            assert!(other.is_finite() || !one.is_finite(), "a gradient overflowed");
            let equal = (one > 0.0) == (other > 0.0) && (one < 0.0) == (other < 0.0);
            let weight = f64::from(one.abs());
            for (sums, term) in [(&mut self.count, 1.0), (&mut self.weight, weight)] {
                sums[0] += term;
                sums[1] += if equal { term } else { 0.0 };
            }
            self.zeros[0] += usize::from(one == 0.0);
            self.zeros[1] += usize::from(other == 0.0);
        }
    }
}

/// Compares the precisions on the images, and prints the figures. Returns the weighted part of equal signs by loss.
fn compare(loaded: LoadedModel, images: &Dataset, config: &Config) -> Result<Vec<f64>> {
    let LoadedModel { mut model, state, .. } = loaded;
    println!("{}; {} images", model.describe(), images.len());
    let mut memory = Memory::default();
    model.declare(&mut memory);
    let examples = Examples::new(&mut memory, &*model, "images", images.len(), BATCH);
    let recorded = [Precision::Fp32, Precision::Fp16]
        .map(|precision| InPrecision::record(&mut memory, &*model, &examples, precision, config));
    let device: &mut dyn Device = &mut Cpu::new();
    let schedules = recorded.iter().flat_map(|one| one.gradients.iter().map(|(schedule, _)| schedule));
    let schedules = schedules.chain(recorded.iter().map(|one| &one.an_pgd.schedule));
    let programs = schedules.flat_map(Schedule::programs).chain(examples.programs()).collect::<Vec<_>>();
    device.allocate(&memory, &programs)?;
    model.load(device, &state)?;
    examples.upload(device, images)?;

    let mut signs: Vec<Signs> = LOSSES.iter().map(|_| Signs::default()).collect();
    let (mut margins, mut apart) = ([0.0; 2], 0.0);
    let correct = examples.correct(device)?;
    let attacked: Vec<u32> = (0..images.len() as u32).filter(|&i| correct[i as usize]).collect();
    for index in attacked.chunks(BATCH) {
        examples.load(device, index)?;
        for (loss, signs) in signs.iter_mut().enumerate() {
            let mut read = |one: &InPrecision| {
                let (schedule, gradient) = &one.gradients[loss];
                device.replay(schedule)?;
                let row = gradient.len() / gradient.dims[0];
                Ok(device.read_f32(gradient)?[..index.len() * row].to_vec())
            };
            signs.add(&[read(&recorded[0])?, read(&recorded[1])?]);
        }
        let mut measure = |AnPgd { pgd, margin, schedule, .. }: &AnPgd| -> Result<Vec<f32>> {
            device.write_f32(&pgd.eps, &[config.test_eps; BATCH])?;
            device.write_f32(&pgd.step, &[config.test_eps / 4.0; BATCH])?;
            device.replay(schedule)?;
            Ok(device.read_f32(margin)?[..index.len()].to_vec())
        };
        let [single, half] = [measure(&recorded[0].an_pgd)?, measure(&recorded[1].an_pgd)?];
        for (one, other) in single.into_iter().zip(half).map(|(one, other)| (f64::from(one), f64::from(other))) {
            margins = [margins[0] + one, margins[1] + other];
            apart += (one - other).abs();
        }
    }
    println!("{:6} {:>13} {:>13} {:>12} {:>12}", "loss", "signs equal", "by weight", "zeros, fp32", "zeros, fp16");
    for (loss, Signs { count, weight, zeros }) in LOSSES.iter().zip(&signs) {
        let percent = |[all, equal]: [f64; 2]| 100.0 * equal / all;
        let [equal, weighted] = [percent(*count), percent(*weight)];
        println!("{:6} {equal:>11.3} % {weighted:>11.4} % {:>12} {:>12}", loss.to_string(), zeros[0], zeros[1]);
    }
    let n = attacked.len().max(1) as f64;
    let [single, half] = margins.map(|sum| sum / n);
    println!(
        "mean margin, {}: {single:.5} in fp32, {half:.5} in fp16; mean distance of the two {:.1e}",
        config.norm,
        apart / n
    );
    Ok(signs.iter().map(|signs| signs.weight[1] / signs.weight[0]).collect())
}

pub fn main() -> Result<()> {
    // Under `cargo test` the arguments are those of the test program.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [weights, dataset, count] = &arguments[..] else {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = digits::settings(Method::Std);
        let loaded = load_model(&digits::trained_weights(&folder.path().join("run"))?)?;
        let found = compare(loaded, &digits::images(&config)?.test.take(100), &config)?;
        assert!(found.iter().all(|equal| *equal > 0.998), "the law of docs/precision.md: {found:?}");
        return Ok(());
    };
    let dataset = DatasetKind::from_name(dataset).expect("digits, mnist or cifar10");
    let config = preset(&dataset.preset(Norm::Linf)).expect("a published preset").config;
    let splits = data::load(dataset, Path::new("data"), config.val_size.min(100))?;
    let images = splits.test.take(count.parse().expect("a number of images"));
    compare(load_model(Path::new(weights))?, &images, &config)?;
    Ok(())
}
