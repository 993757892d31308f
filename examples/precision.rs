//! Half precision beside single precision, on a network in a file of weights: the signs of the input gradients that
//! attacks follow, their zeros, margins by AN-PGD, and the gradients of the weights in training. Two precisions that graphics cards have stand beside it: TF32,
//! which PyTorch's convolutions use on them, and bfloat16.
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
use maxmargin::model::{Mode, Model, ModelInPrecision, StepModels, image_buffer};
use maxmargin::rng::Purpose;
use maxmargin::tape::{Buffer, Loss, LossRule, Memory, Norm, Precision, Program};

/// Images that pass through the network at once.
const BATCH: usize = 50;

/// Losses whose gradients are compared.
const LOSSES: [Loss; 3] = [Loss::Slm, Loss::Xent, Loss::Dlr];

/// Precisions by name: what is stored, and the bits to which the operands of products are rounded.
const PRECISIONS: [(&str, Precision, Option<u32>); 4] = [
    ("fp32", Precision::Fp32, None),
    ("fp16", Precision::Fp16, None),
    ("tf32", Precision::Fp32, Some(11)),
    ("bf16", Precision::Fp32, Some(8)),
];

/// Programs on the network in one precision, and their results.
struct InPrecision {
    /// Gradient with respect to the images by loss, and the program that computes it.
    gradients: Vec<(Schedule, Buffer)>,
    /// Buffers of AN-PGD, and its programs.
    an_pgd: AnPgd,
    search: Schedule,
}

impl InPrecision {
    fn record(
        memory: &mut Memory,
        model: &dyn Model,
        examples: &Examples,
        config: &Config,
        (_, precision, bits): (&str, Precision, Option<u32>),
    ) -> Self {
        let model = &ModelInPrecision::attacked(memory, model, precision);
        let batch = &examples.batch;
        let rounded = |schedule: &Schedule| {
            let mut all = Schedule::default();
            for (program, times) in &schedule.stages {
                let program = (**program).clone();
                let program = bits.map_or(program.clone(), |bits| program.with_rounded_operands(bits));
                all.then(&Arc::new(program), *times);
            }
            all
        };
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
            (rounded(&schedule), found)
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
        let an_pgd = AnPgd::new(memory, model, batch, pgd, search);
        InPrecision { gradients, search: rounded(&an_pgd.schedule), an_pgd }
    }

    fn programs(&self) -> impl Iterator<Item = &Program> {
        self.gradients.iter().map(|(schedule, _)| schedule).chain([&self.search]).flat_map(Schedule::programs)
    }

    /// Gradients of a loss for the `n` examples of the batch.
    fn gradient(&self, device: &mut dyn Device, loss: usize, n: usize) -> Result<Vec<f32>> {
        let (schedule, gradient) = &self.gradients[loss];
        device.replay(schedule)?;
        let row = gradient.len() / gradient.dims[0];
        Ok(device.read_f32(gradient)?[..n * row].to_vec())
    }

    /// Margins of the `n` examples of the batch.
    fn margins(&self, device: &mut dyn Device, config: &Config, n: usize) -> Result<Vec<f32>> {
        let AnPgd { pgd, margin, .. } = &self.an_pgd;
        device.write_f32(&pgd.eps, &vec![config.test_eps; pgd.eps.len()])?;
        device.write_f32(&pgd.step, &vec![config.test_eps / 4.0; pgd.step.len()])?;
        device.replay(&self.search)?;
        Ok(device.read_f32(margin)?[..n].to_vec())
    }
}

/// Scales of the loss whose gradients with respect to the weights are compared.
const LOSS_SCALES: [f32; 6] = [1.0, 32.0, 1024.0, 32_768.0, 1_048_576.0, 16_777_216.0];

/// Gradient of the mean cross-entropy of a batch with respect to the weights, as a training pass records it.
struct WeightGradient {
    name: String,
    schedule: Schedule,
    gradient: Buffer,
    scale: f32,
    /// Sums over the batches that did not overflow: the length of the difference from single precision's, over that
    /// one's length; numbers that are 0 here alone.
    error: f64,
    vanished: usize,
    /// Batches that overflowed.
    overflowed: usize,
}

impl WeightGradient {
    /// Records the gradient in single precision, in half precision with each scale, and in other precisions.
    fn record_all(memory: &mut Memory, model: &dyn Model, examples: &Examples) -> Vec<WeightGradient> {
        let single = PRECISIONS.iter().filter(|(_, precision, _)| *precision == Precision::Fp32);
        let single = single.map(|&(name, precision, bits)| (name.to_owned(), precision, bits, 1.0));
        let half = LOSS_SCALES.map(|scale| (format!("fp16, loss scale {scale}"), Precision::Fp16, None, scale));
        let mut record = |(name, precision, bits, scale): (String, Precision, Option<u32>, f32)| {
            let StepModels { trained, preparation, .. } = StepModels::new(memory, model, precision);
            let gradient = memory.f32("weights.gradient", &[model.params().len()]);
            let mut tape = examples.batch.tape("training_pass");
            let [x, labels] = [&examples.batch.x, &examples.batch.labels].map(|buffer| tape.leaf(buffer));
            let logits = trained.logits(&mut tape, x, Mode::Train);
            let loss = tape.loss(LossRule { loss: Loss::Xent, confidence: 0.0 }, logits, labels);
            let mean = tape.mean_weights(examples.batch.capacity());
            let weights = tape.scale(mean, scale);
            let wanted = model.params().leaves(&mut tape);
            for (value, part) in tape.grad(loss, weights, &wanted).into_iter().zip(model.params().parts(&gradient)) {
                tape.keep(value, &part);
            }
            let program = tape.finish();
            let mut schedule = preparation;
            schedule.then(&Arc::new(bits.map_or(program.clone(), |bits| program.with_rounded_operands(bits))), 1);
            WeightGradient { name, schedule, gradient, scale, error: 0.0, vanished: 0, overflowed: 0 }
        };
        single.chain(half).map(&mut record).collect()
    }

    /// Gradient of the batch, without the scale.
    fn values(&self, device: &mut dyn Device) -> Result<Vec<f32>> {
        device.replay(&self.schedule)?;
        Ok(device.read_f32(&self.gradient)?.into_iter().map(|value| value / self.scale).collect())
    }

    /// Adds the gradient of the batch beside single precision's.
    fn add(&mut self, single: &[f32], own: &[f32]) {
        if own.iter().any(|value| !value.is_finite()) {
            self.overflowed += 1;
            return;
        }
        let length = |terms: &mut dyn Iterator<Item = f32>| terms.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let apart = length(&mut single.iter().zip(own).map(|(one, other)| one - other));
        self.error += apart / length(&mut single.iter().copied());
        self.vanished += single.iter().zip(own).filter(|(one, other)| **one != 0.0 && **other == 0.0).count();
    }
}

/// Gradients in a precision beside those in single precision.
#[derive(Clone, Default)]
struct Signs {
    /// Numbers, and those whose signs are equal.
    count: [f64; 2],
    /// The same, each number with its absolute value in single precision as its weight.
    weight: [f64; 2],
    /// Zeros.
    zeros: usize,
}

impl Signs {
    fn add(&mut self, single: &[f32], other: &[f32]) {
        for (&one, &other) in single.iter().zip(other) {
            assert!(other.is_finite() || !one.is_finite(), "a gradient overflowed");
            let equal = (one > 0.0) == (other > 0.0) && (one < 0.0) == (other < 0.0);
            for (sums, term) in [(&mut self.count, 1.0), (&mut self.weight, f64::from(one.abs()))] {
                sums[0] += term;
                sums[1] += if equal { term } else { 0.0 };
            }
            self.zeros += usize::from(other == 0.0);
        }
    }

    /// Part of the absolute sum whose signs are equal.
    fn weighted(&self) -> f64 {
        self.weight[1] / self.weight[0]
    }
}

/// Margins in a precision beside those in single precision.
#[derive(Clone, Default)]
struct MarginSums {
    sum: f64,
    apart: f64,
}

/// Compares the precisions on the correctly classified images, and prints the figures. Returns the weighted part of
/// equal signs, by precision and loss.
fn compare(loaded: LoadedModel, images: &Dataset, config: &Config) -> Result<Vec<Vec<f64>>> {
    let LoadedModel { mut model, state, .. } = loaded;
    let mut memory = Memory::default();
    model.declare(&mut memory);
    let examples = Examples::new(&mut memory, &*model, "images", images.len(), BATCH);
    let recorded = PRECISIONS.map(|precision| InPrecision::record(&mut memory, &*model, &examples, config, precision));
    let mut weights = WeightGradient::record_all(&mut memory, &*model, &examples);
    let device: &mut dyn Device = &mut Cpu::new();
    let training = weights.iter().flat_map(|gradient| gradient.schedule.programs());
    let programs = recorded.iter().flat_map(InPrecision::programs).chain(examples.programs()).chain(training);
    device.allocate(&memory, &programs.collect::<Vec<_>>())?;
    model.load(device, &state)?;
    examples.upload(device, images)?;

    let mut signs = vec![vec![Signs::default(); LOSSES.len()]; PRECISIONS.len()];
    let mut margins = vec![MarginSums::default(); PRECISIONS.len()];
    let correct = examples.correct(device)?;
    let attacked: Vec<u32> = (0..images.len() as u32).filter(|&i| correct[i as usize]).collect();
    for index in attacked.chunks(BATCH) {
        examples.load(device, index)?;
        let n = index.len();
        for loss in 0..LOSSES.len() {
            let single = recorded[0].gradient(device, loss, n)?;
            for (one, signs) in recorded.iter().zip(&mut signs) {
                signs[loss].add(&single, &one.gradient(device, loss, n)?);
            }
        }
        let single = recorded[0].margins(device, config, n)?;
        for (one, sums) in recorded.iter().zip(&mut margins) {
            for (margin, single) in one.margins(device, config, n)?.into_iter().zip(&single) {
                sums.sum += f64::from(margin);
                sums.apart += f64::from((margin - single).abs());
            }
        }
    }
    // A training pass moves running statistics, which no figure above may see.
    let batches: Vec<Vec<u32>> = attacked.chunks(BATCH).map(<[u32]>::to_vec).collect();
    for index in &batches {
        examples.load(device, index)?;
        let single = weights[0].values(device)?;
        for gradient in &mut weights {
            let own = gradient.values(device)?;
            gradient.add(&single, &own);
        }
    }

    println!("{}; {} correctly classified images, margins in {}\n", model.describe(), attacked.len(), config.norm);
    println!("{:5}{:>15}{:>12}{:>10}", "loss", "signs equal", "by weight", "zeros");
    for (loss, name) in LOSSES.iter().enumerate() {
        for ((precision, ..), signs) in PRECISIONS.iter().zip(&signs).skip(1) {
            let Signs { count: [all, equal], zeros, .. } = signs[loss];
            let (equal, weighted) = (100.0 * equal / all, 100.0 * signs[loss].weighted());
            println!("{name:5}{precision}{equal:>10.3} %{weighted:>10.4} %{zeros:>10}");
        }
        println!("{name:5}fp32{:>34}", signs[0][loss].zeros);
    }
    println!("\n{:9}{:>12}{:>28}", "", "mean margin", "mean distance from fp32's");
    for ((precision, ..), MarginSums { sum, apart }) in PRECISIONS.iter().zip(&margins) {
        let n = attacked.len().max(1) as f64;
        println!("{precision:9}{:>12.5}{:>28.1e}", sum / n, apart / n);
    }
    println!("\ngradients of the weights{:>18}{:>10}{:>13}", "distance", "vanished", "overflowed");
    for WeightGradient { name, gradient, error, vanished, overflowed, .. } in &weights[1..] {
        let whole = (batches.len() - overflowed).max(1) as f64;
        let (error, vanished) = (error / whole, 100.0 * *vanished as f64 / gradient.len() as f64 / whole);
        println!("{name:27}{error:>14.1e}{vanished:>8.2} %{overflowed:>13}");
    }
    Ok(signs.iter().map(|losses| losses.iter().map(Signs::weighted).collect()).collect())
}

pub fn main() -> Result<()> {
    // Under `cargo test` the arguments are those of the test program.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [weights, dataset, count] = &arguments[..] else {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = digits::settings(Method::Std);
        let loaded = load_model(&digits::trained_weights(&folder.path().join("run"))?)?;
        let found = compare(loaded, &digits::images(&config)?.test.take(100), &config)?;
        for (loss, (half, tf32)) in LOSSES.iter().zip(found[1].iter().zip(&found[2])) {
            assert!(*half > 0.998 && *half > tf32 - 0.001, "the law of docs/precision.md, {loss}: {half}, {tf32}");
        }
        return Ok(());
    };
    let dataset = DatasetKind::from_name(dataset).expect("digits, mnist or cifar10");
    let config = preset(&dataset.preset(Norm::Linf)).expect("a published preset").config;
    let splits = data::load(dataset, Path::new("data"), config.val_size.min(100))?;
    let images = splits.test.take(count.parse().expect("a number of images"));
    compare(load_model(Path::new(weights))?, &images, &config)?;
    Ok(())
}
