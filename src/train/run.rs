//! A training run: epochs, validation, metrics, checkpoints, resume.
//!
//! A run's state is the step's number and what [`checkpoint`](self) holds: weights, running statistics of batch norm, the
//! optimizer's state, with MMA the margin table, sums of metrics. Everything else is a function of the settings and of the data, so a run that goes on from
//! a checkpoint ends with the same bits as one that never stopped.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Step;
use super::lines::StepLine;
use crate::attack::StepLength;
use crate::batch::DeviceData;
use crate::config::{Config, as_written};
use crate::data::{Batches, Splits};
use crate::device::{Device, Schedule, Snapshot};
use crate::evaluate::{
    AttackName, AttackSettings, Examples, MarginMeasurement, VerifiedAttack, accuracy, attacks, mean, robust_examples,
};
use crate::model::state_dict::{from_tensors, state_from_tensors, state_to_tensors, to_tensors};
use crate::model::{self, Model};
use crate::record::run::{BEST, LAST, METRICS};
use crate::record::{Kind, MarginCounts, Metrics, Progress, RunFolder, Tensor, TensorFile, write_tensors};
use crate::tape::{Loss, Memory, Metric};
use crate::text::{length, si};
use crate::{Error, Result};

/// Images that evaluation looks at together.
const EVALUATION_BATCH: usize = 100;
/// PGD's iterations, and its restarts (one xent, one cw), in the figures before and after training.
const RESULT_ITERATIONS: u32 = 40;
const RESULT_RESTARTS: u32 = 2;

/// What a network is worth on the test images.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Accuracy without an attack, in percent.
    pub clean: f64,
    /// Accuracy under PGD-40 at the config's `test_eps`, in percent.
    pub robust: f64,
    /// Each image's margin, 0 where it is wrong.
    pub margins: Vec<f32>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Before the first step.
    pub before: Standing,
    /// The best checkpoint.
    pub after: Standing,
    /// The step after which the best checkpoint was written.
    pub best_step: u32,
}

#[derive(Serialize)]
struct EpochLine {
    epoch: u32,
    validation_accuracy: f64,
    validation_mean_margin: f64,
    best: bool,
    /// The validation margins.
    margins: MarginCounts,
}

#[derive(Serialize)]
struct ResultLine<'a> {
    weights: &'a str,
    weights_step: u32,
    test_images: usize,
    clean_accuracy: f64,
    robust_accuracy: f64,
    robust_attack: String,
    mean_margin: f64,
    device_bytes: usize,
}

/// Training in progress: the device, what is recorded for it, and the run's state.
struct Run<'a> {
    config: &'a Config,
    folder: &'a RunFolder,
    device: &'a mut dyn Device,
    model: Box<dyn Model>,
    training: Step,
    batches: Batches,
    validation: (Examples, MarginMeasurement),
    test: (Examples, MarginMeasurement, Vec<VerifiedAttack>),
    metrics: Metrics,
    /// Sums of metrics on their way from the device, and after which step.
    sums: Option<(u32, Box<dyn Snapshot>)>,
    progress: Progress,
    /// What the last line of metrics says.
    figures: String,
    step: u32,
    /// The step of the last checkpoint.
    saved: u32,
    /// Memory taken on the device.
    device_bytes: usize,
    best: Option<(f64, u32)>,
}

/// Trains, in a folder that holds a new run or, if `resume`, one that stopped. `splits` is the data that the config
/// names, cut to its sizes.
///
/// # Errors
/// Files that cannot be read or written, a checkpoint of another run, or losses or weights that are not numbers any
/// more; or the device failed. The last checkpoint stays whole, and a run that cannot go on from it is as it was.
pub fn run(
    config: &Config,
    splits: &Splits,
    folder: &RunFolder,
    device: &mut dyn Device,
    resume: bool,
    quiet: bool,
) -> Result<Summary> {
    let mut run = Run::new(config, splits, folder, device, resume, quiet)?;
    let summary = run.train().map_err(|error| match error {
        Error::Device(message) => Error::Device(format!("{message}\n{}", run.way_on())),
        other => other,
    })?;
    run.progress.finish();
    Ok(summary)
}

impl<'a> Run<'a> {
    fn new(
        config: &'a Config,
        splits: &Splits,
        folder: &'a RunFolder,
        device: &'a mut dyn Device,
        resume: bool,
        quiet: bool,
    ) -> Result<Self> {
        let n = splits.train.len();
        if n == 0 {
            return Err(Error::usage(format!("{}: no training images are left after validation", splits.source)));
        }
        let mut memory = Memory::default();
        let mut model = model::build(&config.architecture());
        if model.image() != [splits.train.height, splits.train.width, splits.train.channels] {
            return Err(Error::usage(format!(
                "--model: {} takes images {:?} (height, width, channels); those of {} are {:?}",
                model.describe(),
                model.image(),
                splits.source,
                [splits.train.height, splits.train.width, splits.train.channels]
            )));
        }
        model.declare(&mut memory);
        let data = DeviceData::new(&mut memory, &*model, "train", n);
        let training = super::record(&mut memory, &*model, &data, config);
        let examples =
            |memory: &mut Memory, name: &str, n: usize| Examples::new(memory, &*model, name, n, EVALUATION_BATCH);
        let validation = examples(&mut memory, "validation", splits.validation.len());
        let test = examples(&mut memory, "test", splits.test.len());
        let validation_margins = MarginMeasurement::new(&mut memory, &*model, &validation, config);
        let test_margins = MarginMeasurement::new(&mut memory, &*model, &test, config);
        let settings = AttackSettings {
            nb_iter: Some(RESULT_ITERATIONS),
            nb_restart: RESULT_RESTARTS,
            step: StepLength::EpsOver(30.0),
            loss: Loss::Xent,
            nb_sample: 0,
            seed: config.seed,
        };
        let pgd = attacks::record(&mut memory, &*model, &test, &[AttackName::Pgd], config, &settings)?;
        let norm = config.norm;
        let pgd: Vec<VerifiedAttack> =
            pgd.into_iter().map(|attack| VerifiedAttack::new(&mut memory, &*model, &test, norm, attack)).collect();

        let schedules = [&training.schedule, validation_margins.schedule(), test_margins.schedule()];
        let programs =
            schedules.into_iter().flat_map(Schedule::programs).chain(pgd.iter().flat_map(VerifiedAttack::programs));
        let clean = validation.programs().into_iter().chain(test.programs());
        let device_bytes = device.allocate(&memory, &programs.chain(clean).collect::<Vec<_>>())?;
        data.upload(device, &splits.train)?;
        validation.upload(device, &splits.validation)?;
        test.upload(device, &splits.test)?;

        let (step, best, metrics) = if resume {
            // All is read before anything is changed.
            let (step, best) = restore(config, folder, &*model, &training, device)?;
            let metrics = Metrics::resume(&folder.file(METRICS), u64::from(step))?;
            folder.write_config(&config.to_toml())?;
            (step, best, metrics)
        } else {
            model.load(device, &model.initial(config.seed))?;
            folder.write_config(&config.to_toml())?;
            (0, None, Metrics::create(&folder.file(METRICS))?)
        };
        let mut run = Run {
            config,
            folder,
            device,
            batches: Batches::new(config.seed, n, config.training_batch_size),
            model,
            training,
            validation: (validation, validation_margins),
            test: (test, test_margins, pgd),
            metrics,
            sums: None,
            progress: Progress::new("steps", u64::from(config.max_num_training_steps), u64::from(step), quiet),
            figures: String::new(),
            step,
            saved: step,
            device_bytes,
            best,
        };
        if !resume {
            run.checkpoint()?;
        }
        let (model, device, bytes) = (run.model.describe(), run.device.describe(), si(device_bytes as f64));
        run.progress.note(&format!("{model} on {device}; {bytes}B of memory"));
        Ok(run)
    }

    /// All steps, and what the network was worth before them and is worth after.
    fn train(&mut self) -> Result<Summary> {
        let before = self.before()?;
        let end = self.config.max_num_training_steps;
        while self.step < end {
            self.train_step()?;
            let done = self.step;
            if done.is_multiple_of(self.config.disp_interval) || done == end {
                self.take_sums()?;
            }
            let validates = self.epoch_ends() || done == end;
            let saves = validates || done.is_multiple_of(self.config.checkpoint_interval);
            self.log(saves)?;
            self.progress.update(u64::from(done), &self.figures);
            if saves {
                self.check_weights()?;
            }
            if validates {
                self.validate()?;
            }
            if saves {
                self.checkpoint()?;
            }
        }
        self.finish(before)
    }

    /// What is whole, and how to go on from it, where the device cannot.
    fn way_on(&self) -> String {
        format!(
            "the checkpoint of step {} is whole; `maxmargin train --resume {}` goes on from it",
            self.saved,
            self.folder.path().display()
        )
    }

    /// One step on the next batch.
    fn train_step(&mut self) -> Result<()> {
        let index = self.batches.at(self.step);
        self.device.write_u32(&self.training.batch.index, index)?;
        self.device.write_u32(&self.training.batch.rows, &[index.len() as u32])?;
        self.device.replay(&self.training.schedule)?;
        self.step += 1;
        Ok(())
    }

    fn epoch_ends(&self) -> bool {
        self.batches.epoch_of(self.step) > self.batches.epoch_of(self.step - 1)
    }

    /// Asks the device for what was summed since it was asked before, and lets it sum anew, without waiting for it.
    fn take_sums(&mut self) -> Result<()> {
        self.log(true)?;
        self.sums = Some((self.step, self.device.snapshot(&self.training.metrics)?));
        self.device.write_f32(&self.training.metrics, &[0.0; Metric::COUNT])
    }

    /// Writes the line of the sums that were asked for, if they have come; if `wait`, when they have. Before anything
    /// else is written, they must: so the lines keep their order, and what diverged is not saved.
    fn log(&mut self, wait: bool) -> Result<()> {
        let Some((step, snapshot)) = self.sums.take() else { return Ok(()) };
        if !(wait || snapshot.ready()?) {
            self.sums = Some((step, snapshot));
            return Ok(());
        }
        let line = StepLine::new(self.config, step, &snapshot.f32s()?);
        self.metrics.write(Kind::Step, u64::from(step), &line)?;
        if let Some(found) = line.diverged() {
            return Err(self.diverged(step, &found));
        }
        self.figures = line.to_string();
        Ok(())
    }

    /// Refuses weights and running statistics that are not numbers: what is written shall be of use.
    fn check_weights(&self) -> Result<()> {
        let state = self.model.read(self.device)?;
        let broken = |values: &Vec<f32>| values.iter().copied().find(|value| !value.is_finite());
        for (what, values) in ["a weight", "a running statistic of batch norm"].iter().zip(&state) {
            if let Some(value) = broken(values) {
                return Err(self.diverged(self.step, &format!("{what} is {value}")));
            }
        }
        Ok(())
    }

    fn diverged(&self, step: u32, found: &str) -> Error {
        Error::failed(format!(
            "training diverged by step {step}: {found}; a smaller --learning-rate-schedule may help. The last \
             checkpoint is {}",
            self.folder.file(LAST).display()
        ))
    }

    /// Measures the validation images' margins and keeps the weights if their mean is the largest so far.
    fn validate(&mut self) -> Result<()> {
        let (examples, margins) = &self.validation;
        let margins = margins.measure(self.device, examples, |_| ())?;
        let (mean, right) = (mean(&margins), accuracy(&examples.correct(self.device)?));
        let best = self.best.is_none_or(|(before, _)| mean > before);
        if best {
            self.best = Some((mean, self.step));
            let metadata = BTreeMap::from([
                ("step".into(), self.step.to_string()),
                ("validation_mean_margin".into(), mean.to_string()),
            ]);
            write_tensors(&self.folder.file(BEST), &self.weights("")?, &metadata)?;
        }
        let epoch = self.batches.epoch_of(self.step - 1) + 1;
        let margins = MarginCounts::of(&margins, self.config.max_eps(), MarginCounts::RECORDED);
        let line = EpochLine { epoch, validation_accuracy: right, validation_mean_margin: mean, best, margins };
        self.metrics.write(Kind::Epoch, u64::from(self.step), &line)?;
        let mark = if best { ", the best so far" } else { "" };
        self.progress.note(&format!("epoch {epoch}: validation {right:.2} % right, mean margin {mean:.4}{mark}"));
        Ok(())
    }

    fn weights(&self, prefix: &str) -> Result<Vec<Tensor>> {
        Ok(state_to_tensors(&*self.model, prefix, &self.model.read(self.device)?))
    }

    /// Writes all that a run needs to go on.
    fn checkpoint(&mut self) -> Result<()> {
        let mut tensors = self.weights("weights.")?;
        for state in &self.training.optimizer_state {
            let values = self.device.read_f32(state)?;
            tensors.extend(to_tensors(self.model.params(), &format!("{}.", state.name), &values));
        }
        for buffer in self.training.margins.iter().chain([&self.training.metrics]) {
            tensors.push(Tensor::new(&buffer.name, &buffer.dims, self.device.read_f32(buffer)?));
        }
        let mut metadata = BTreeMap::from([("step".into(), self.step.to_string())]);
        if let Some((margin, step)) = self.best {
            // As bits: what is compared after a resume is what was compared before.
            metadata.insert("best_margin_bits".into(), margin.to_bits().to_string());
            metadata.insert("best_step".into(), step.to_string());
        }
        write_tensors(&self.folder.file(LAST), &tensors, &metadata)?;
        self.saved = self.step;
        Ok(())
    }

    /// What the network on the device is worth on the test images.
    fn stand(&mut self) -> Result<Standing> {
        let (examples, margins, pgd) = &self.test;
        let eps = self.config.test_eps;
        Ok(Standing {
            clean: accuracy(&examples.correct(self.device)?),
            robust: accuracy(&robust_examples(pgd, self.device, examples, eps)?),
            margins: margins.measure(self.device, examples, |_| ())?,
        })
    }

    fn result(&mut self, standing: &Standing, weights: &str, weights_step: u32) -> Result<()> {
        let eps = as_written(self.config.test_eps);
        let line = ResultLine {
            weights,
            weights_step,
            test_images: standing.margins.len(),
            clean_accuracy: standing.clean,
            robust_accuracy: standing.robust,
            robust_attack: format!("PGD-{RESULT_ITERATIONS}, eps {}, {RESULT_RESTARTS} starts (xent, cw)", length(eps)),
            mean_margin: mean(&standing.margins),
            device_bytes: self.device_bytes,
        };
        self.metrics.write(Kind::Result, u64::from(self.step), &line)
    }

    /// The untrained network's standing: measured with the initial weights, which the seed gives.
    fn before(&mut self) -> Result<Standing> {
        let now = self.model.read(self.device)?;
        self.model.load(self.device, &self.model.initial(self.config.seed))?;
        let images = self.test.0.len();
        self.progress.note(&format!("measuring the untrained network on {images} test images"));
        let standing = self.stand()?;
        self.model.load(self.device, &now)?;
        if self.step == 0 {
            self.result(&standing, "initial", 0)?;
        }
        Ok(standing)
    }

    /// The best checkpoint's standing, and the end of the record.
    fn finish(&mut self, before: Standing) -> Result<Summary> {
        let best = TensorFile::read(&self.folder.file(BEST))?;
        self.model.load(self.device, &state_from_tensors(&*self.model, "", &best)?)?;
        let images = self.test.0.len();
        self.progress.note(&format!("measuring the best checkpoint on {images} test images"));
        let after = self.stand()?;
        let best_step = best.meta("step")?;
        self.result(&after, BEST, best_step)?;
        Ok(Summary { before, after, best_step })
    }
}

/// Puts a run's last checkpoint on the device. Returns its step, and the best margin with its step.
fn restore(
    config: &Config,
    folder: &RunFolder,
    model: &dyn Model,
    training: &Step,
    device: &mut dyn Device,
) -> Result<(u32, Option<(f64, u32)>)> {
    let file = TensorFile::read(&folder.file(LAST))?;
    model.load(device, &state_from_tensors(model, "weights.", &file)?)?;
    for state in &training.optimizer_state {
        device.write_f32(state, &from_tensors(model.params(), &format!("{}.", state.name), &file)?)?;
    }
    for buffer in training.margins.iter().chain([&training.metrics]) {
        device.write_f32(buffer, file.get::<f32>(&buffer.name, &buffer.dims)?)?;
    }
    let (step, end) = (file.meta("step")?, config.max_num_training_steps);
    if step > end {
        let message = format!("metadata `step`: expected at most the run's {end}, found {step}");
        return Err(Error::format(&file.path, message));
    }
    device.write_u32(&training.step, &[step])?;
    if !file.metadata.contains_key("best_step") {
        return Ok((step, None));
    }
    // The run ends with these weights: better told now if they are not there.
    state_from_tensors(model, "", &TensorFile::read(&folder.file(BEST))?)?;
    Ok((step, Some((f64::from_bits(file.meta("best_margin_bits")?), file.meta("best_step")?))))
}
