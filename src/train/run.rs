//! A training run: epochs, validation, metrics, checkpoints, resume.

use super::checkpoint::{self, BestValidation, RunState};
use super::method::record_step;
use super::statistics::StepSums;
use super::step::TrainingStep;
use crate::attack::StepLength;
use crate::batch::DeviceData;
use crate::config::{Config, as_written};
use crate::data::{Batches, Provenance, Splits};
use crate::device::{Device, Schedule, Snapshot};
use crate::evaluate::attacks::RecordedAttack;
use crate::evaluate::passes::Passes;
use crate::evaluate::{
    AttackName, AttackSettings, Examples, MarginMeasurement, VerifiedAttack, accuracy, attacks, mean, robust_examples,
};
use crate::interrupt;
use crate::model::{self, Model, ModelInPrecision};
use crate::record::run::{BEST, LAST, METRICS};
use crate::record::{EpochRecord, Kind, MarginCounts, Margins, Metrics, Progress, ResultRecord, RunFolder, StepRecord};
use crate::tape::{Loss, Memory, Metric};
use crate::text::{counted, length, si};
use crate::{Error, Result};

/// Number of images that evaluation passes through the network at once.
const EVALUATION_BATCH: usize = 100;
/// Iterations of PGD in the figures before and after training.
const RESULT_ITERATIONS: u32 = 40;
/// Random starts of PGD in the figures before and after training: one on the cross-entropy, one on the cw loss.
const RESULT_RESTARTS: u32 = 2;
/// Steps in a row that may be skipped.
const MOST_SKIPPED: u32 = 50;

/// Figures of a network on the test images.
#[derive(Clone, Debug, PartialEq)]
pub struct TestResult {
    /// Accuracy on clean images, in percent.
    pub clean: f64,
    /// Accuracy under PGD-40 at the config's `test_eps`, in percent.
    pub robust: f64,
    /// Margins of the images.
    pub margins: Margins,
}

/// Figures of a run that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingResult {
    /// Figures of the untrained network.
    pub before: TestResult,
    /// Figures of the best checkpoint.
    pub after: TestResult,
    /// Number of steps after which the best checkpoint was written.
    pub best_step: u32,
}

/// Training in progress: the device, what is recorded for it, and the run's state.
struct TrainingRun<'a> {
    config: &'a Config,
    folder: &'a RunFolder,
    device: &'a mut dyn Device,
    model: Box<dyn Model>,
    training: TrainingStep,
    batches: Batches,
    validation: MeasuredImages,
    test: MeasuredImages,
    /// PGD on the test images.
    test_attack: Vec<VerifiedAttack>,
    metrics: Metrics,
    /// Sums of metrics that are being copied from the device, with the number of steps done.
    sums: Option<(u32, Box<dyn Snapshot>)>,
    /// Number of steps until the last line of the metrics that were all skipped, because a gradient had overflowed.
    skipped_in_a_row: u32,
    progress: Progress,
    /// Text of the latest figures, for the progress.
    figures: String,
    /// Number of steps done, the best validation, and the validation that is due.
    state: RunState,
    /// Number of steps at the last checkpoint.
    saved: u32,
    /// Memory taken on the device, in bytes.
    device_bytes: usize,
    /// SHA-256 of the training, validation and test images.
    data_sha256: String,
    provenance: Provenance,
}

/// Images whose accuracy and margins are measured.
struct MeasuredImages {
    examples: Examples,
    margins: MarginMeasurement,
}

impl MeasuredImages {
    fn new(memory: &mut Memory, model: &dyn Model, name: &str, n: usize, config: &Config) -> Self {
        let examples = Examples::new(memory, model, name, n, EVALUATION_BATCH);
        // Figures of runs are compared, so they are single precision, whatever the attack in training is.
        let margins = MarginMeasurement::new(memory, &ModelInPrecision::single_precision(model), &examples, config);
        MeasuredImages { examples, margins }
    }

    /// Margins by a network that was trained for `step` steps. `progress` is given the fraction of the images that is
    /// done.
    fn measure_margins(&self, device: &mut dyn Device, step: u32, mut progress: impl FnMut(f64)) -> Result<Margins> {
        let n = self.examples.len().max(1) as f64;
        Ok(self.margins.measure(device, &self.examples, step, |measured| progress(measured as f64 / n))?.margins)
    }
}

/// Trains in a folder that holds a new run or, if `resume`, one that was stopped. `splits` is the data that the config
/// names, cut to its sizes.
///
/// # Errors
/// Files cannot be read or written, a checkpoint is another run's, losses or weights are infinite or NaN, the device
/// failed, or a signal asked to stop ([`Error::Interrupted`], after a checkpoint of the last step). The last checkpoint
/// stays whole. A run that cannot be resumed is left unchanged.
pub fn run(
    config: &Config,
    splits: &Splits,
    folder: &RunFolder,
    device: &mut dyn Device,
    resume: bool,
    quiet: bool,
) -> Result<TrainingResult> {
    let mut run = TrainingRun::new(config, splits, folder, device, resume, quiet)?;
    let result = run.train().map_err(|error| match error {
        Error::Device(message) => Error::Device(format!("{message}\n{}", run.resume_hint())),
        other => other,
    })?;
    run.progress.finish();
    Ok(result)
}

impl<'a> TrainingRun<'a> {
    fn new(
        config: &'a Config,
        splits: &Splits,
        folder: &'a RunFolder,
        device: &'a mut dyn Device,
        resume: bool,
        quiet: bool,
    ) -> Result<Self> {
        let mut model = model::build(&config.architecture());
        check_images(&*model, splits)?;
        let n = splits.train.len();
        let mut memory = Memory::default();
        model.declare(&mut memory);
        let data = DeviceData::new(&mut memory, &*model, "train", n);
        let training = record_step(&mut memory, &*model, &data, config);
        let measured =
            |memory: &mut Memory, name: &str, n: usize| MeasuredImages::new(memory, &*model, name, n, config);
        let validation = measured(&mut memory, "validation", splits.validation.len());
        let test = measured(&mut memory, "test", splits.test.len());
        let test_attack = record_test_attack(&mut memory, &*model, &test.examples, config)?;

        let schedules = [&training.schedule, validation.margins.schedule(), test.margins.schedule()];
        let programs = schedules
            .into_iter()
            .flat_map(Schedule::programs)
            .chain(test_attack.iter().flat_map(VerifiedAttack::programs))
            .chain(validation.examples.programs())
            .chain(test.examples.programs());
        let device_bytes = device.allocate(&memory, &programs.collect::<Vec<_>>())?;
        data.upload(device, &splits.train)?;
        validation.examples.upload(device, &splits.validation)?;
        test.examples.upload(device, &splits.test)?;

        let data_sha256 = splits.sha256();
        let (state, metrics) = if resume {
            // Everything is read before anything is changed.
            let state = checkpoint::load_last(config, folder, &*model, &training, device, &data_sha256)?;
            let metrics = Metrics::resume(&folder.file(METRICS), u64::from(state.step), state.validation_due)?;
            folder.write_config(&config.to_toml())?;
            (state, metrics)
        } else {
            model.load(device, &model.initial(config.seed))?;
            folder.write_config(&config.to_toml())?;
            (RunState::default(), Metrics::create(&folder.file(METRICS))?)
        };
        let mut run = TrainingRun {
            config,
            folder,
            device,
            batches: Batches::new(config.seed, n, config.training_batch_size),
            model,
            training,
            validation,
            test,
            test_attack,
            metrics,
            sums: None,
            progress: Progress::new("steps", u64::from(config.max_num_training_steps), u64::from(state.step), quiet),
            skipped_in_a_row: 0,
            figures: String::new(),
            state,
            saved: state.step,
            device_bytes,
            data_sha256,
            provenance: splits.provenance(),
        };
        if !resume {
            run.write_checkpoint()?;
        }
        let (model, device, bytes) = (run.model.describe(), run.device.describe(), si(device_bytes as f64));
        run.progress.note(&format!("{model}; {device}; {bytes}B of memory"));
        Ok(run)
    }

    /// Runs all steps, and measures the network before and after them.
    fn train(&mut self) -> Result<TrainingResult> {
        let before = self.measure_untrained()?;
        if self.state.validation_due {
            self.validate_and_save()?;
        }
        while self.state.step < self.config.max_num_training_steps {
            self.train_step()?;
            self.end_step()?;
        }
        self.measure_best(before)
    }

    /// Writes and measures what is due after a step. If a signal asked to stop, that is a checkpoint, and the end.
    fn end_step(&mut self) -> Result<()> {
        let (done, end) = (self.state.step, self.config.max_num_training_steps);
        if done.is_multiple_of(self.config.disp_interval) || done == end {
            self.request_sums()?;
        }
        self.state.validation_due = self.epoch_ends() || done == end;
        let stop = interrupt::check();
        let saves = self.state.validation_due || stop.is_err() || done.is_multiple_of(self.config.checkpoint_interval);
        self.write_sums(saves)?;
        self.progress.update(u64::from(done), &self.figures);
        if saves {
            self.check_weights()?;
            self.validate_and_save()?;
        }
        stop
    }

    /// Validates the network if that is due, and writes a checkpoint. A signal ends the validation, but not the
    /// writing: a run that is resumed from the checkpoint begins with the validation.
    fn validate_and_save(&mut self) -> Result<()> {
        let validated = if self.state.validation_due { self.validate() } else { Ok(()) };
        match validated {
            Ok(()) | Err(Error::Interrupted(_)) => self.write_checkpoint().and(validated),
            error => error,
        }
    }

    /// Message that says how to resume after the device has failed.
    fn resume_hint(&self) -> String {
        format!(
            "the checkpoint of step {} is whole; `maxmargin train --resume {}` goes on from it",
            self.saved,
            self.folder.path().display()
        )
    }

    /// Runs one step on the next batch.
    fn train_step(&mut self) -> Result<()> {
        let index = self.batches.at(self.state.step);
        self.device.write_u32(&self.training.batch.index, index)?;
        self.device.write_u32(&self.training.batch.rows, &[index.len() as u32])?;
        self.device.replay(&self.training.schedule)?;
        self.state.step += 1;
        Ok(())
    }

    fn epoch_ends(&self) -> bool {
        self.batches.epoch_of(self.state.step) > self.batches.epoch_of(self.state.step - 1)
    }

    /// Requests the sums of metrics since the last request from the device, without waiting for them, and sets them to
    /// 0.
    fn request_sums(&mut self) -> Result<()> {
        self.write_sums(true)?;
        self.sums = Some((self.state.step, self.device.snapshot(&self.training.metrics)?));
        self.device.write_f32(&self.training.metrics, &[0.0; Metric::COUNT])
    }

    /// Writes the line of the requested sums if they have arrived, or waits for them if `wait`. Waiting before anything
    /// else is written keeps the lines in order, and no checkpoint is written after a divergence.
    fn write_sums(&mut self, wait: bool) -> Result<()> {
        let Some((step, snapshot)) = self.sums.take() else { return Ok(()) };
        if !(wait || snapshot.ready()?) {
            self.sums = Some((step, snapshot));
            return Ok(());
        }
        let sums = snapshot.f32s()?;
        let sums = StepSums(&sums);
        self.skipped_in_a_row =
            if sums.all_skipped() { self.skipped_in_a_row + sums.skipped_steps() as u32 } else { 0 };
        let line = StepRecord {
            skipped_steps: self.config.training_loss_scale().map(|_| sums.skipped_steps() as u32),
            learning_rate: Some(self.learning_rate(step)),
            ..(self.training.figures)(&sums)
        };
        self.metrics.write(Kind::Step, u64::from(step), &line)?;
        if let Some(losses) = line.divergence() {
            return Err(self.diverged(step, &losses));
        }
        if self.skipped_in_a_row >= MOST_SKIPPED {
            return Err(Error::failed(format!(
                "training passes of the last {} steps overflowed half precision, so all of these were skipped; a \
                 smaller --loss-scale than {} may help, or --precision fp16-attack, with which training passes are \
                 single precision. The last checkpoint is {}",
                self.skipped_in_a_row,
                self.config.loss_scale,
                self.folder.file(LAST).display()
            )));
        }
        self.figures = line.to_string();
        Ok(())
    }

    /// Learning rate of the last of `step` steps.
    fn learning_rate(&self, step: u32) -> f32 {
        let schedule = &self.config.learning_rate_schedule;
        schedule.iter().take_while(|(from, _)| *from < step).last().map_or(0.0, |(_, rate)| *rate)
    }

    /// Refuses weights, running statistics and states of the optimizer that are infinite or NaN, so that none are saved;
    /// and weights that the attack's precision cannot hold.
    fn check_weights(&self) -> Result<()> {
        let state = self.model.read(self.device)?;
        for (what, values) in ["a weight", "a running statistic of batch norm"].iter().zip(&state) {
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                return Err(self.diverged(self.state.step, &format!("{what} is {value}")));
            }
        }
        let attacked = ModelInPrecision::attacked(&mut Memory::default(), &*self.model, self.config.precision);
        if let Some(found) = attacked.overflow(&state) {
            return Err(self.diverged(self.state.step, &format!("with --precision {}, {found}", self.config.precision)));
        }
        for buffer in &self.training.optimizer_state {
            if let Some(value) = self.device.read_f32(buffer)?.iter().find(|value| !value.is_finite()) {
                return Err(self.diverged(self.state.step, &format!("a number of {} is {value}", buffer.name)));
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

    /// Measures the validation images' margins, and saves the weights if their mean is the largest so far.
    fn validate(&mut self) -> Result<()> {
        self.progress.begin_part();
        let progress = |part| self.progress.part("validation images", part);
        let margins = self.validation.measure_margins(self.device, self.state.step, progress)?;
        let (mean_margin, accuracy) = (mean(&margins.values), accuracy(&margins.correct));
        let best = self.state.best.is_none_or(|before| mean_margin > before.mean_margin);
        if best {
            let found = BestValidation { mean_margin, step: self.state.step };
            self.state.best = Some(found);
            checkpoint::write_best(self.folder, &*self.model, self.device, found)?;
        }
        let epoch = self.batches.epoch_of(self.state.step - 1) + 1;
        let line = EpochRecord {
            epoch: epoch.into(),
            validation_accuracy: Some(accuracy),
            validation_mean_margin: Some(mean_margin),
            best,
            margins: Some(MarginCounts::of(&margins, self.config.max_eps(), MarginCounts::RECORDED)),
        };
        self.metrics.write(Kind::Epoch, u64::from(self.state.step), &line)?;
        let mark = if best { ", the best so far" } else { "" };
        let figures = format!("{accuracy:.2} % correct, mean margin {mean_margin:.4}{mark}");
        self.progress.note(&format!("epoch {epoch}: validation {figures}"));
        self.state.validation_due = false;
        Ok(())
    }

    /// Writes the state to resume from.
    fn write_checkpoint(&mut self) -> Result<()> {
        let (model, training) = (&*self.model, &self.training);
        checkpoint::write_last(self.folder, model, training, self.device, self.state, &self.data_sha256)?;
        self.saved = self.state.step;
        Ok(())
    }

    /// Measures the network on the device, which was trained for `step` steps, on the test images.
    fn test(&mut self, step: u32) -> Result<TestResult> {
        let of_attack: u64 = self.test_attack.iter().map(VerifiedAttack::passes_of_runs).sum();
        let attack_share = of_attack as f64 / (of_attack + self.test.margins.passes().total()) as f64;
        self.progress.begin_part();
        let mut progress = |part: f64| self.progress.part("test images", part);
        let eps = self.config.test_eps;
        let robust = robust_examples(&self.test_attack, self.device, &self.test.examples, eps, |part| {
            progress(attack_share * part);
        })?;
        let margins = self.test.measure_margins(self.device, step, |part| {
            progress(attack_share + (1.0 - attack_share) * part);
        })?;
        Ok(TestResult { clean: accuracy(&margins.correct), robust: accuracy(&robust), margins })
    }

    fn write_result(&mut self, result: &TestResult, weights: &str, weights_step: u32) -> Result<()> {
        let passes = self.passes();
        let eps = as_written(self.config.test_eps);
        let line = ResultRecord {
            weights: weights.into(),
            weights_step: weights_step.into(),
            test_images: result.margins.values.len() as u64,
            clean_accuracy: Some(result.clean),
            robust_accuracy: Some(result.robust),
            robust_attack: format!("PGD-{RESULT_ITERATIONS}, eps {}, {RESULT_RESTARTS} starts (xent, cw)", length(eps)),
            mean_margin: Some(mean(&result.margins.values)),
            device_bytes: Some(self.device_bytes as u64),
            data_sha256: self.data_sha256.clone(),
            data_provenance: self.provenance.to_string(),
            device: self.device.describe(),
            training_forward_passes: Some(passes.forward),
            training_backward_passes: Some(passes.backward),
        };
        self.metrics.write(Kind::Result, u64::from(self.state.step), &line)
    }

    /// Passes of the steps done, as if every image of a batch were attacked.
    fn passes(&self) -> Passes {
        let of_image = Passes::of_schedule(&self.training.schedule, &*self.model, self.training.batch.capacity());
        of_image * self.batches.visited(self.state.step)
    }

    /// Measures the untrained network, whose weights the seed gives.
    fn measure_untrained(&mut self) -> Result<TestResult> {
        let now = self.model.read(self.device)?;
        self.model.load(self.device, &self.model.initial(self.config.seed))?;
        let images = self.test.examples.len();
        self.progress.note(&format!("measuring the untrained network on {}", counted(images as u64, "test image")));
        let result = self.test(0)?;
        self.model.load(self.device, &now)?;
        self.progress.restart_clock();
        if self.state.step == 0 {
            self.write_result(&result, "initial", 0)?;
        }
        Ok(result)
    }

    /// Measures the best checkpoint, and writes the last line of the metrics.
    fn measure_best(&mut self, before: TestResult) -> Result<TrainingResult> {
        let best_step = checkpoint::load_best(self.folder, &*self.model, self.device)?;
        let images = self.test.examples.len();
        self.progress.note(&format!("measuring the best checkpoint on {}", counted(images as u64, "test image")));
        let after = self.test(best_step)?;
        self.write_result(&after, BEST, best_step)?;
        Ok(TrainingResult { before, after, best_step })
    }
}

/// Refuses data without training images, or whose images the model does not take.
fn check_images(model: &dyn Model, splits: &Splits) -> Result<()> {
    let Splits { train, source, .. } = splits;
    if train.is_empty() {
        return Err(Error::usage(format!("{source}: no training images are left after validation")));
    }
    if model.image() != train.image_dims() {
        return Err(Error::usage(format!(
            "--model: {} takes images {:?} (height, width, channels); those of {source} are {:?}",
            model.describe(),
            model.image(),
            train.image_dims()
        )));
    }
    Ok(())
}

/// Records the attack of the figures before and after training.
fn record_test_attack(
    memory: &mut Memory,
    model: &dyn Model,
    examples: &Examples,
    config: &Config,
) -> Result<Vec<VerifiedAttack>> {
    let settings = AttackSettings {
        nb_iter: Some(RESULT_ITERATIONS),
        nb_restart: RESULT_RESTARTS,
        step: StepLength::EpsOver(30.0),
        loss: Loss::Xent,
        nb_sample: 0,
        seed: config.seed,
    };
    let attacked = ModelInPrecision::single_precision(model);
    let recorded = attacks::record(memory, &attacked, examples, &[AttackName::Pgd], config, &settings)?;
    let verified = |one: RecordedAttack| VerifiedAttack::new(memory, model, examples, config.norm, one.attack);
    Ok(recorded.into_iter().map(verified).collect())
}
