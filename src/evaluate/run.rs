//! Run of an evaluation.
//!
//! Attacks in balls come first, from the smallest eps to the largest, each attack with all its runs. An image that is
//! adversarial at one eps is so at every larger one, and is not attacked again. Minimum-norm attacks on all correctly
//! classified images follow, then margins.

use std::time::Instant;

use super::attacks::record;
use super::checkpoint::{self, AttackRun, CheckpointWriter, EvaluationState};
use super::checks::{GradientCheck, Observations};
use super::claims::AdversarialClaims;
use super::clean_outputs::CleanOutputs;
use super::examples::Examples;
use super::findings::Findings;
use super::margins::{MarginMeasurement, MeasuredMargins};
use super::network::{ImageSet, Network, upload};
use super::passes::Passes;
use super::report::{AttackStatistics, EvaluationReport};
use super::request::{EvaluationRequest, OutputPaths};
use super::verified::{BatchRun, VerifiedAttack, VerifiedExample};
use crate::device::{Device, Schedule};
use crate::record::Progress;
use crate::tape::Memory;
use crate::text::{length, si};
use crate::{Error, Result};

impl EvaluationRequest {
    /// Runs the evaluation on a device that has no memory yet.
    ///
    /// # Errors
    /// The weights or the data cannot be read, or do not fit each other; a file cannot be written; the device failed;
    /// or a signal asked to stop ([`Error::Interrupted`], after the state was written).
    pub fn run(&self, device: &mut dyn Device, paths: &OutputPaths) -> Result<EvaluationReport> {
        let started = Instant::now();
        let mut network = Network::read(&self.weights, &self.weights_options)?;
        let images = ImageSet::load(&self.config, self.split, self.size, &self.data)?;
        let mut memory = Memory::default();
        network.declare(&mut memory, &images)?;
        let model = &*network.model;
        let examples = Examples::new(&mut memory, model, "images", images.dataset.len(), self.batch_size);
        let margins = self.margins.then(|| MarginMeasurement::new(&mut memory, model, &examples, &self.config));
        let attacks = record(&mut memory, model, &examples, &self.attacks, &self.config, &self.settings)?;
        let verified = attacks
            .into_iter()
            .map(|attack| VerifiedAttack::new(&mut memory, model, &examples, self.config.norm, attack));
        let (bounded, minimum_norm): (Vec<_>, Vec<_>) = verified.partition(|verified| verified.attack.eps.is_some());
        let gradients = GradientCheck::new(&mut memory, model, &examples);
        let programs = margins.iter().map(MarginMeasurement::schedule).flat_map(Schedule::programs);
        let programs = programs.chain(examples.programs()).chain([gradients.program()]);
        let programs = programs.chain(bounded.iter().chain(&minimum_norm).flat_map(VerifiedAttack::programs));
        let bytes = upload(device, &memory, &programs.collect::<Vec<_>>(), [(&network, &examples)], &images)?;

        let clean = examples.clean_predictions(device)?;
        let correct: Vec<bool> = clean.iter().map(|prediction| prediction.correct).collect();
        let empty = self.empty_state(&network, &bounded, &minimum_norm, &images, paths.keep_images);
        let found = paths.folder.as_deref().map(checkpoint::read).transpose()?.flatten();
        let found = found.filter(|state| state.continues(&empty));

        let runs = |attacks: &[VerifiedAttack]| attacks.iter().map(|a| u64::from(a.attack.runs)).sum::<u64>();
        let total = self.eps.len() as u64 * runs(&bounded) + runs(&minimum_norm) + u64::from(self.margins);
        let mut progress = Progress::new("runs", total, 0, self.quiet);
        progress.note(&format!("{} on {}; {}B of memory", model.describe(), device.describe(), si(bytes as f64)));
        network.remarks.iter().for_each(|remark| progress.note(&format!("{}: {remark}", self.weights.display())));
        if found.is_some() {
            progress.note("continuing an interrupted evaluation of the same request");
        }
        let mut run = EvaluationRun {
            request: self,
            device,
            examples: &examples,
            correct: &correct,
            step: network.step,
            state: found.unwrap_or(empty),
            checkpoint: CheckpointWriter::new(paths.folder.as_deref(), paths.checkpoint_interval),
            progress,
            started,
            runs_done: 0,
        };
        let margins = run.attack_and_measure(&bounded, &minimum_norm, margins.as_ref())?;
        let state = run.finish();
        let mut seen = Observations::new(model, device, &examples, &gradients, &correct, &state, &self.eps)?;
        seen.outputs = CleanOutputs::new(&network, &images, &clean)?;
        let (weights_sha256, dataset) = (&*network.sha256, &images.dataset);
        let claims = AdversarialClaims { request: self, weights_sha256, dataset, state: &state, correct: &correct };
        let adversarial = paths.keep_images.then(|| claims.images(device, &examples)).transpose()?;
        let findings = Findings {
            request: self,
            network: &network,
            images: &images,
            device: device.describe(),
            clean: &clean,
            bounded: &bounded,
            state: &state,
            margins,
            warnings: seen.warnings(),
        };
        Ok(EvaluationReport { adversarial, ..findings.report() })
    }

    /// State before the first batch. `save`: adversarial images are wanted.
    fn empty_state(
        &self,
        network: &Network,
        bounded: &[VerifiedAttack],
        minimum_norm: &[VerifiedAttack],
        images: &ImageSet,
        save: bool,
    ) -> EvaluationState {
        let statistics = |attacks: &[VerifiedAttack]| -> Vec<AttackStatistics> {
            let empty = |name: &String| AttackStatistics { name: name.clone(), ..AttackStatistics::default() };
            attacks.iter().map(|verified| empty(&verified.attack.name)).collect()
        };
        let n = images.dataset.len();
        let pixels = || images.dataset.images.iter().map(|&byte| f32::from(byte) / 255.0).collect();
        EvaluationState {
            request: self.hash_with(&network.sha256),
            batch_size: self.batch_size,
            next: Default::default(),
            found_by: vec![None; n],
            bounded: vec![statistics(bounded); self.eps.len()],
            distances: vec![vec![None; n]; minimum_norm.len()],
            minimum_norm: statistics(minimum_norm),
            images: if save { pixels() } else { Vec::new() },
            seconds: 0.0,
        }
    }
}

/// Evaluation in progress.
struct EvaluationRun<'a> {
    request: &'a EvaluationRequest,
    device: &'a mut dyn Device,
    examples: &'a Examples,
    /// True for each example that is classified correctly without an attack.
    correct: &'a [bool],
    /// Number of training steps after which the weights were written.
    step: u32,
    state: EvaluationState,
    checkpoint: CheckpointWriter,
    progress: Progress,
    /// Time from which the state's seconds are not yet counted.
    started: Instant,
    /// Runs done, for the progress.
    runs_done: u64,
}

impl EvaluationRun<'_> {
    /// Runs all attacks, and measures margins if they are wanted. If a signal asks to stop, the batch of the
    /// moment is dropped, and the state of those before it is written.
    fn attack_and_measure(
        &mut self,
        bounded: &[VerifiedAttack],
        minimum_norm: &[VerifiedAttack],
        margins: Option<&MarginMeasurement>,
    ) -> Result<Option<MeasuredMargins>> {
        let mut run = || {
            self.bounded(bounded)?;
            self.minimum_norm(minimum_norm)?;
            margins.map(|margins| self.margins(margins)).transpose()
        };
        let result = run();
        if let Err(Error::Interrupted(_)) = result {
            self.state.seconds += self.started.elapsed().as_secs_f64();
            self.checkpoint.write(&self.state)?;
        }
        result
    }

    /// Runs attacks in balls, from the smallest eps to the largest.
    fn bounded(&mut self, attacks: &[VerifiedAttack]) -> Result<()> {
        for eps in 0..self.request.eps.len() {
            for (at, attack) in attacks.iter().enumerate() {
                for run in 0..attack.attack.runs as usize {
                    let this = AttackRun { eps, attack: at, run };
                    // Examples that this run found before an interruption were among its inputs, too.
                    let given = |i: usize| self.state.found_by[i].is_none_or(|by| by == this);
                    let given = self.correct_examples().filter(|&i| given(i as usize)).collect::<Vec<_>>();
                    self.attack_run(this, attack, &given)?;
                }
            }
        }
        Ok(())
    }

    /// Runs minimum-norm attacks on all correctly classified examples.
    fn minimum_norm(&mut self, attacks: &[VerifiedAttack]) -> Result<()> {
        let given: Vec<u32> = self.correct_examples().collect();
        for (at, attack) in attacks.iter().enumerate() {
            for run in 0..attack.attack.runs as usize {
                self.attack_run(AttackRun { eps: self.request.eps.len(), attack: at, run }, attack, &given)?;
            }
        }
        Ok(())
    }

    /// Indices of the examples that are classified correctly without an attack.
    fn correct_examples(&self) -> impl Iterator<Item = u32> {
        let correct = self.correct.iter().enumerate().filter(|(_, correct)| **correct);
        correct.map(|(i, _)| i as u32)
    }

    /// Radius of a run's balls; `None` for minimum-norm attacks.
    fn eps(&self, run: AttackRun) -> Option<f64> {
        self.request.eps.get(run.eps).copied()
    }

    /// Attacks the examples `given` in batches, from the cursor on.
    fn attack_run(&mut self, this: AttackRun, attack: &VerifiedAttack, given: &[u32]) -> Result<()> {
        self.runs_done += 1;
        if self.state.next >= this.end() {
            return Ok(());
        }
        let eps = self.eps(this);
        let name = format!("{} run {} of {}", attack.attack.name, this.run + 1, attack.attack.runs);
        let label = eps.map_or(name.clone(), |eps| format!("eps {} {name}", length(eps)));
        let batches: Vec<&[u32]> = self.examples.batches(given).collect();
        for (b, index) in batches.iter().enumerate() {
            if this.batch(b) < self.state.next {
                continue;
            }
            let began = Instant::now();
            let (progress, done) = (&mut self.progress, self.runs_done - 1);
            let left = given.len() - b * self.examples.batch.capacity();
            let images = !self.state.images.is_empty();
            let batch = BatchRun { index, eps: eps.unwrap_or_default() as f32, run: this.run as u32, images };
            let results = attack.run(self.device, self.examples, &batch, |part| {
                let percent = 100.0 * (b as f64 + part) / batches.len() as f64;
                progress.update(done, &format!("{label}: {left} images, {percent:.0} %"));
            })?;
            self.record(this, index, &results.examples);
            self.count(this, &results.examples, results.passes, began);
            self.state.next = this.batch(b + 1);
            self.state.seconds += self.started.elapsed().as_secs_f64();
            self.started = Instant::now();
            self.checkpoint.write_if_due(&self.state)?;
        }
        self.state.next = this.end();
        self.progress.update(self.runs_done, &name);
        Ok(())
    }

    /// Adds the results of a batch to the examples' results.
    fn record(&mut self, this: AttackRun, index: &[u32], results: &[VerifiedExample]) {
        let bounded = self.eps(this).is_some();
        for (&i, result) in index.iter().zip(results) {
            let i = i as usize;
            let better = if bounded {
                self.state.found_by[i] = result.adversarial.then_some(this);
                true
            } else {
                let least = &mut self.state.distances[this.attack][i];
                let better = result.adversarial && least.is_none_or(|before| result.distance < before);
                *least = if better { Some(result.distance) } else { *least };
                better
            };
            // The images of minimum-norm attacks are saved only if there are no balls.
            if !self.state.images.is_empty() && better && (bounded || self.request.eps.is_empty()) {
                let len = result.image.len();
                self.state.images[i * len..(i + 1) * len].copy_from_slice(&result.image);
            }
        }
    }

    /// Adds a batch to the attack's statistics.
    fn count(&mut self, this: AttackRun, results: &[VerifiedExample], passes: Passes, began: Instant) {
        let bounded = self.eps(this).is_some();
        let statistics = match bounded {
            true => &mut self.state.bounded[this.eps][this.attack],
            false => &mut self.state.minimum_norm[this.attack],
        };
        if this.run == 0 {
            statistics.attacked += results.len();
        }
        let found = results.iter().filter(|result| result.adversarial && (bounded || this.run == 0));
        statistics.found += found.count();
        statistics.moved += results.iter().filter(|result| result.distance > 0.0).count() as u64;
        statistics.passes += passes;
        statistics.seconds += began.elapsed().as_secs_f64();
        statistics.runs = this.run as u32 + 1;
    }

    fn margins(&mut self, margins: &MarginMeasurement) -> Result<MeasuredMargins> {
        let (progress, done, n) = (&mut self.progress, self.runs_done, self.correct.len());
        margins.measure(self.device, self.examples, self.step, |measured| {
            progress.update(done + u64::from(measured == n), &format!("margins: {measured} of {n} images"));
        })
    }

    /// Ends the progress; returns the state with the whole duration.
    fn finish(mut self) -> EvaluationState {
        self.state.seconds += self.started.elapsed().as_secs_f64();
        self.progress.finish();
        self.state
    }
}
