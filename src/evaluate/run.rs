//! Run of an evaluation.
//!
//! Attacks in balls come first, from the smallest eps to the largest, each attack with all its runs. An image that is
//! adversarial at one eps is so at every larger one, and is not attacked again. Minimum-norm attacks on all correctly
//! classified images follow, then margins.

use std::time::Instant;

use super::attacks::record;
use super::checkpoint::{AttackRun, CheckpointWriter, EvaluationState, FormerState, state_file};
use super::checks::{GradientCheck, Observations};
use super::claims::AdversarialClaims;
use super::clean_outputs::CleanOutputs;
use super::examples::Examples;
use super::findings::Findings;
use super::margins::{MarginMeasurement, MeasuredMargins};
use super::network::{ImageSet, Network, upload};
use super::passes::Passes;
use super::planned::{PlannedPasses, PlannedRuns};
use super::report::{AttackStatistics, EvaluationReport};
use super::request::{EvaluationRequest, OutputPaths};
use super::strength::AttackStrength;
use super::verified::{BatchRun, VerifiedAttack, VerifiedExample};
use crate::device::{Device, Schedule};
use crate::record::Progress;
use crate::tape::Memory;
use crate::text::{counted, length, si};
use crate::{Error, Result};

/// Network and images of a request, read from their files.
pub struct EvaluationInputs<'a> {
    request: &'a EvaluationRequest,
    network: Network,
    images: ImageSet,
    hash: String,
}

impl EvaluationRequest {
    /// Reads the weights and the data.
    ///
    /// # Errors
    /// The weights or the data cannot be read, or do not fit each other.
    pub fn read(&self) -> Result<EvaluationInputs<'_>> {
        let network = Network::read(&self.weights, &self.weights_options)?;
        let images = ImageSet::load(&self.config, self.split, self.size, &self.data)?;
        network.check(&images)?;
        Ok(EvaluationInputs { hash: self.hash(&network, &images), request: self, network, images })
    }

    /// Reads the weights and the data, and runs the evaluation on a device that has no memory yet.
    ///
    /// # Errors
    /// The weights or the data cannot be read, or do not fit each other; a file cannot be written; the device failed;
    /// or a signal asked to stop ([`Error::Interrupted`], after the state was written).
    pub fn run(&self, device: &mut dyn Device, paths: &OutputPaths) -> Result<EvaluationReport> {
        self.read()?.run(device, paths)
    }
}

impl EvaluationInputs<'_> {
    /// SHA-256 of the identity of the evaluation: of weights, images and every setting that its result depends on.
    pub fn request_hash(&self) -> &str {
        &self.hash
    }

    /// Runs the evaluation on a device that has no memory yet.
    ///
    /// # Errors
    /// A file cannot be read or written, or the device failed.
    pub fn run(self, device: &mut dyn Device, paths: &OutputPaths) -> Result<EvaluationReport> {
        let started = Instant::now();
        let EvaluationInputs { request, mut network, images, hash } = self;
        let mut memory = Memory::default();
        network.model.declare(&mut memory);
        let model = &*network.model;
        let examples = Examples::new(&mut memory, model, "images", images.dataset.len(), request.batch_size);
        let attacked = network.attacked(&mut memory, request.config.precision)?;
        let margins =
            request.margins.then(|| MarginMeasurement::new(&mut memory, &attacked, &examples, &request.config));
        let attacks = record(&mut memory, &attacked, &examples, &request.attacks, &request.config, &request.settings)?;
        let evaluated = attacks.into_iter().map(|recorded| EvaluatedAttack {
            strength: AttackStrength::of(&recorded, &request.config, &request.settings),
            verified: VerifiedAttack::new(&mut memory, model, &examples, request.config.norm, recorded.attack),
        });
        let (bounded, minimum_norm): (Vec<_>, Vec<_>) =
            evaluated.partition(|evaluated| evaluated.verified.attack.eps.is_some());
        let gradients = GradientCheck::new(&mut memory, model, &examples);
        let programs = margins.iter().map(MarginMeasurement::schedule).flat_map(Schedule::programs);
        let programs = programs.chain(examples.programs()).chain([gradients.program()]);
        let programs =
            programs.chain(bounded.iter().chain(&minimum_norm).flat_map(|attack| attack.verified.programs()));
        let bytes = upload(device, &memory, &programs.collect::<Vec<_>>(), [(&network, &examples)], &images)?;

        let clean = examples.clean_predictions(device)?;
        let correct: Vec<bool> = clean.iter().map(|prediction| prediction.correct).collect();
        let empty = request.empty_state(hash, &bounded, &minimum_norm, &images, paths.keep_images);
        let former = paths.folder.as_deref().map_or(Ok(FormerState::None), |folder| empty.former(folder))?;

        let planned = |attacks: &[EvaluatedAttack], robust_only: bool| -> Vec<PlannedRuns> {
            let of = |EvaluatedAttack { verified, .. }: &EvaluatedAttack| PlannedRuns {
                runs: verified.attack.runs,
                passes: verified.passes().total(),
                robust_only,
            };
            attacks.iter().map(of).collect()
        };
        let of_margins =
            margins.iter().map(|m| PlannedRuns { runs: 1, passes: m.passes().total(), robust_only: false });
        let in_balls = planned(&bounded, true).repeat(request.eps.len());
        let plan = [in_balls, planned(&minimum_norm, false), of_margins.collect()];
        let mut progress = Progress::of_work("evaluation", request.quiet);
        progress.note(&format!("{}; {}; {}B of memory", model.describe(), device.describe(), si(bytes as f64)));
        network.remarks.iter().for_each(|remark| progress.note(&format!("{}: {remark}", request.weights.display())));
        if let Some(note) = former.note() {
            progress.note(&note);
        }
        let continued = paths.folder.as_deref().filter(|_| matches!(former, FormerState::Continued(_))).map(state_file);
        let mut run = EvaluationRun {
            request,
            device,
            examples: &examples,
            correct: &correct,
            step: network.step,
            state: former.state().unwrap_or(empty),
            checkpoint: CheckpointWriter::new(paths.folder.as_deref(), paths.checkpoint_interval),
            progress,
            planned: PlannedPasses::new(&plan.concat()),
            started,
            runs_done: 0,
            passes_done: 0,
        };
        let margins = run.attack_and_measure(&bounded, &minimum_norm, margins.as_ref())?;
        let state = run.finish();
        let mut seen = Observations::new(model, device, &examples, &gradients, &correct, &state, &request.eps)?;
        seen.outputs = CleanOutputs::new(&network, &images, &clean)?;
        let claims = AdversarialClaims {
            request,
            weights_sha256: &network.sha256,
            images_sha256: &images.sha256,
            dataset: &images.dataset,
            state: &state,
            correct: &correct,
        };
        let adversarial = paths.keep_images.then(|| claims.images(device, &examples)).transpose();
        let adversarial = adversarial.map_err(|error| match (error, &continued) {
            (Error::Failed(message), Some(file)) => {
                Error::format(file, format!("{message}; the evaluation continued from it: remove it to start again"))
            }
            (error, _) => error,
        })?;
        let findings = Findings {
            request,
            network: &network,
            images: &images,
            device: device.describe(),
            clean: &clean,
            state: &state,
            margins,
            warnings: seen.warnings(),
        };
        Ok(EvaluationReport { adversarial, ..findings.report() })
    }
}

impl EvaluationRequest {
    /// State before the first batch. `save`: adversarial images are wanted.
    fn empty_state(
        &self,
        hash: String,
        bounded: &[EvaluatedAttack],
        minimum_norm: &[EvaluatedAttack],
        images: &ImageSet,
        save: bool,
    ) -> EvaluationState {
        let statistics = |attacks: &[EvaluatedAttack]| -> Vec<AttackStatistics> {
            let empty = |EvaluatedAttack { verified, strength }: &EvaluatedAttack| AttackStatistics {
                name: verified.attack.name.clone(),
                strength: Some(strength.clone()),
                ..AttackStatistics::default()
            };
            attacks.iter().map(empty).collect()
        };
        let n = images.dataset.len();
        let pixels = || images.dataset.images.iter().map(|&byte| f32::from(byte) / 255.0).collect();
        EvaluationState {
            request: hash,
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

/// Attack of an evaluation, with its strength.
struct EvaluatedAttack {
    verified: VerifiedAttack,
    strength: AttackStrength,
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
    planned: PlannedPasses,
    /// Time from which the state's seconds are not yet counted.
    started: Instant,
    /// Runs done, for the progress.
    runs_done: usize,
    /// Passes that this process has done, for the progress.
    passes_done: u64,
}

impl EvaluationRun<'_> {
    /// Runs all attacks, and measures margins if they are wanted. If a signal asks to stop, the batch of the
    /// moment is dropped, and the state of those before it is written.
    fn attack_and_measure(
        &mut self,
        bounded: &[EvaluatedAttack],
        minimum_norm: &[EvaluatedAttack],
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
    fn bounded(&mut self, attacks: &[EvaluatedAttack]) -> Result<()> {
        for eps in 0..self.request.eps.len() {
            for (at, EvaluatedAttack { verified: attack, .. }) in attacks.iter().enumerate() {
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
    fn minimum_norm(&mut self, attacks: &[EvaluatedAttack]) -> Result<()> {
        let given: Vec<u32> = self.correct_examples().collect();
        for (at, EvaluatedAttack { verified: attack, .. }) in attacks.iter().enumerate() {
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
        let of_image = attack.passes().total();
        let later = self.planned.left(self.runs_done, given.len(), self.correct.len());
        for (b, index) in self.examples.batches(given).enumerate() {
            if this.batch(b) < self.state.next {
                continue;
            }
            let began = Instant::now();
            let (progress, done) = (&mut self.progress, self.passes_done);
            let images_left = given.len() - b * self.examples.batch.capacity();
            let left = later + images_left as u64 * of_image;
            let figures = format!("{label}: {}", counted(images_left as u64, "image"));
            let images = !self.state.images.is_empty();
            let batch = BatchRun { index, eps: eps.unwrap_or_default() as f32, run: this.run as u32, images };
            let results = attack.run(self.device, self.examples, &batch, |part| {
                let part = (part * (index.len() as u64 * of_image) as f64) as u64;
                progress.advance(done + part, left - part, &figures);
            })?;
            self.record(this, index, &results.examples);
            self.count(this, &results.examples, results.passes, began);
            self.passes_done += results.passes.total();
            self.progress.advance(self.passes_done, left - index.len() as u64 * of_image, &figures);
            self.state.next = this.batch(b + 1);
            self.state.seconds += self.started.elapsed().as_secs_f64();
            self.started = Instant::now();
            self.checkpoint.write_if_due(&self.state)?;
        }
        self.state.next = this.end();
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
        let (progress, done, n) = (&mut self.progress, self.passes_done, self.correct.len());
        let of_image = margins.passes().total();
        margins.measure(self.device, self.examples, self.step, |measured| {
            let left = (n - measured) as u64 * of_image;
            progress.advance(done + measured as u64 * of_image, left, &format!("margins: {measured} of {n} images"));
        })
    }

    /// Ends the progress; returns the state with the whole duration.
    fn finish(mut self) -> EvaluationState {
        self.state.seconds += self.started.elapsed().as_secs_f64();
        self.progress.finish();
        self.state
    }
}
