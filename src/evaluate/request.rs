//! What a checkpoint is worth: the question as `maxmargin evaluate` asks it, and how it is answered.
//!
//! Attacks in balls come first, from the smallest eps to the largest, each attack with all its runs. What was broken is
//! broken at every larger eps, and is not attacked again: it cannot change the result. Then come minimum-norm attacks
//! on all examples that are right, then margins.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::adversarial::{AdversarialFile, Adversarials};
use super::attacks::{AttackName, AttackSettings, PGD_ITERATIONS, record};
use super::checkpoint::{AttackStatistics, CheckpointWriter, Cursor, EvaluationState};
use super::checks::{GradientCheck, suspicious};
use super::examples::CleanPrediction;
use super::passes::Passes;
use super::report::{EvaluationReport, ImageRow, MinimumNormResult, RobustAccuracy};
use super::verified::VerifiedAttack;
use super::{Examples, MarginMeasurement, accuracy, mean};
use crate::catalog::CLASSES;
use crate::choice::choices;
use crate::config::{Config, Method};
use crate::data::{self, Dataset};
use crate::device::{Device, Schedule};
use crate::model::Model;
use crate::model::state_dict::{LoadedModel, load_model};
use crate::record::Progress;
use crate::tape::Memory;
use crate::text::{length, si};
use crate::{Error, Result};

choices! {
    /// Which images of a data set.
    pub enum Split {
        /// The test images.
        Test = "test",
        /// The images held out of training.
        Validation = "validation",
        /// The images trained on.
        Train = "train",
    }
}

/// What is to be measured of a checkpoint.
#[derive(Clone, Debug)]
pub struct EvaluationRequest {
    /// The weights.
    pub weights: PathBuf,
    /// Data set, norm, and AN-PGD's settings for the margins.
    pub config: Config,
    /// How the weights were trained, where they are a run's: by what, and with which d_max or eps.
    pub trained: Option<(Method, Option<f64>)>,
    /// Which images.
    pub split: Split,
    /// Only so many of them.
    pub size: Option<usize>,
    /// Where images are looked for.
    pub data: PathBuf,
    /// The name of the published protocol that the attacks and eps are those of.
    pub protocol: Option<String>,
    /// What is tried, in this order.
    pub attacks: Vec<AttackName>,
    /// How.
    pub settings: AttackSettings,
    /// The radii of the balls, as they were written, ascending.
    pub eps: Vec<f64>,
    /// Whether margins are measured.
    pub margins: bool,
    /// Images at a time.
    pub batch_size: usize,
    /// Whether no progress is shown.
    pub quiet: bool,
}

/// Where an evaluation is kept.
#[derive(Clone, Debug)]
pub struct OutputPaths {
    /// The evaluation's folder, which exists: a killed evaluation goes on from what it left there.
    pub folder: Option<PathBuf>,
    /// The least time between two writes of what is done so far.
    pub keep_every: Duration,
    /// The file for the adversarial images.
    pub save: Option<PathBuf>,
}

impl Default for OutputPaths {
    fn default() -> OutputPaths {
        OutputPaths { folder: None, keep_every: Duration::from_secs(5), save: None }
    }
}

impl EvaluationRequest {
    /// What distinguishes this question from others, as a hash: of the weights' bytes and of every setting that the
    /// answer depends on.
    ///
    /// # Errors
    /// The weights cannot be read.
    pub fn hash(&self) -> Result<String> {
        Ok(self.hash_of(&file_hash(&self.weights)?))
    }

    /// The same, where the weights' own hash is known.
    fn hash_of(&self, weights: &str) -> String {
        let EvaluationRequest { config, split, size, attacks, settings, eps, margins, .. } = self;
        let asked = (weights, config, split, size, attacks, settings, eps, margins);
        sha256(format!("{} {asked:?}", env!("CARGO_PKG_VERSION")).as_bytes())
    }

    /// The images that are asked for.
    fn images(&self) -> Result<(Dataset, String)> {
        let config = &self.config;
        let splits = data::load(config.dataset, &self.data, config.val_size)?.cut(config.train_size, config.test_size);
        let dataset = match self.split {
            Split::Test => splits.test,
            Split::Validation => splits.validation,
            Split::Train => splits.train,
        };
        let source = format!("{}, {}", splits.source, format!("{:?}", self.split).to_lowercase());
        Ok((dataset.take(self.size.unwrap_or(usize::MAX)), source))
    }

    /// Measures it on a device that has no memory yet.
    ///
    /// # Errors
    /// The weights or the data cannot be read, or do not fit each other; a place cannot be written; or the device failed.
    pub fn run(&self, device: &mut dyn Device, places: &OutputPaths) -> Result<EvaluationReport> {
        let start = Instant::now();
        let LoadedModel { mut model, state: weights, .. } = load_model(&self.weights)?;
        let (dataset, images) = self.images()?;
        fitting_images(&*model, &self.weights, &dataset, &images)?;
        let mut memory = Memory::default();
        model.declare(&mut memory);
        let examples = Examples::new(&mut memory, &*model, "images", dataset.len(), self.batch_size);
        let margins = self.margins.then(|| MarginMeasurement::new(&mut memory, &*model, &examples, &self.config));
        let attacks = record(&mut memory, &*model, &examples, &self.attacks, &self.config, &self.settings)?;
        let norm = self.config.norm;
        let judged: Vec<VerifiedAttack> = attacks
            .into_iter()
            .map(|attack| VerifiedAttack::new(&mut memory, &*model, &examples, norm, attack))
            .collect();
        let gradients = GradientCheck::new(&mut memory, &*model, &examples);
        let programs =
            margins.iter().map(MarginMeasurement::schedule).flat_map(Schedule::programs).chain(examples.programs());
        let programs = programs.chain(judged.iter().flat_map(VerifiedAttack::programs)).chain(gradients.programs());
        let bytes = device.allocate(&memory, &programs.collect::<Vec<_>>())?;
        model.load(device, &weights)?;
        examples.upload(device, &dataset)?;

        let (bounded, nearest): (Vec<VerifiedAttack>, Vec<VerifiedAttack>) =
            judged.into_iter().partition(|judged| judged.attack.eps.is_some());
        let clean = examples.clean(device)?;
        let right: Vec<bool> = clean.iter().map(|clean| clean.right).collect();
        let hash = file_hash(&self.weights)?;
        let begun = self.begin(self.hash_of(&hash), &bounded, &nearest, &dataset, places.save.is_some());
        let keeper = CheckpointWriter::new(places.folder.as_deref(), places.keep_every);
        let state = keeper.load()?.filter(|state| state.goes_on_from(&begun));
        let resumed = state.is_some();
        let state = state.unwrap_or(begun);

        let runs = |attacks: &[VerifiedAttack]| attacks.iter().map(|judged| u64::from(judged.attack.runs)).sum::<u64>();
        let total = self.eps.len() as u64 * runs(&bounded) + runs(&nearest) + u64::from(self.margins);
        let mut progress = Progress::new("runs", total, 0, self.quiet);
        progress.note(&format!("{} on {}; {}B of memory", model.describe(), device.describe(), si(bytes as f64)));
        if resumed {
            progress.note("going on with what an earlier evaluation of the same question left");
        }
        let mut work = EvaluationRun {
            question: self,
            device,
            examples: &examples,
            right: &right,
            state,
            keeper,
            progress,
            start,
            done: 0,
        };
        work.bounded(&bounded)?;
        work.nearest(&nearest)?;
        let margins = margins.map(|margins| work.margins(&margins)).transpose()?;
        let (state, seconds) = work.finish();
        let odd = suspicious(&*model, device, &examples, &gradients, &right, &state, &self.eps)?;
        let evaluation = EvaluationReport {
            maxmargin: env!("CARGO_PKG_VERSION"),
            commit: option_env!("MAXMARGIN_COMMIT"),
            weights: self.weights.display().to_string(),
            weights_sha256: hash,
            question: state.question.clone(),
            model: model.describe(),
            dataset: self.config.dataset,
            split: format!("{:?}", self.split).to_lowercase(),
            images,
            count: dataset.len(),
            norm,
            protocol: self.protocol.clone(),
            method: self.trained.map(|(method, _)| method),
            d_max: self.trained.and_then(|(_, length)| length),
            seed: self.settings.seed,
            batch_size: self.batch_size,
            device: device.describe(),
            clean_accuracy: accuracy(&right),
            average_robust_accuracy: None,
            average_accuracy: None,
            robust: self.robust(&state, &right),
            minimum_norm: self.minimum_norms(&state),
            mean_margin: margins.as_deref().map(mean),
            margins: margins.clone(),
            max_eps: self.config.max_eps(),
            passes: state
                .tallies
                .iter()
                .flatten()
                .chain(&state.nearest_tallies)
                .map(|t| t.passes)
                .fold(Passes { forward: dataset.len() as u64, backward: 0 }, |sum, passes| sum + passes),
            seconds,
            suspicious: odd,
            rows: self.rows(&dataset, &clean, &state, margins.as_deref(), &bounded),
        };
        let evaluation = evaluation.with_averages();
        if let Some(file) = &places.save {
            let adversarials = Adversarials { dataset: &dataset, question: self, state: &state, right: &right };
            let saved = AdversarialFile { file, norm, weights_sha256: &evaluation.weights_sha256 };
            saved.write_and_check(&adversarials, device, &examples)?;
        }
        Ok(evaluation)
    }

    /// Where nothing is done yet.
    fn begin(
        &self,
        question: String,
        bounded: &[VerifiedAttack],
        nearest: &[VerifiedAttack],
        dataset: &Dataset,
        saves: bool,
    ) -> EvaluationState {
        let tally = |judged: &VerifiedAttack| AttackStatistics {
            name: judged.attack.name.clone(),
            ..AttackStatistics::default()
        };
        EvaluationState {
            question,
            batch_size: self.batch_size,
            next: [0; 4],
            broken: vec![None; dataset.len()],
            tallies: self.eps.iter().map(|_| bounded.iter().map(tally).collect()).collect(),
            nearest: vec![vec![None; dataset.len()]; nearest.len()],
            nearest_tallies: nearest.iter().map(tally).collect(),
            images: if saves {
                dataset.images.iter().map(|&byte| f32::from(byte) / 255.0).collect()
            } else {
                Vec::new()
            },
            seconds: 0.0,
        }
    }

    fn robust(&self, state: &EvaluationState, right: &[bool]) -> Vec<RobustAccuracy> {
        let at = |(e, &eps): (usize, &f64)| {
            let stays = |(right, broken): (&bool, &Option<[usize; 3]>)| *right && broken.is_none_or(|by| by[0] > e);
            let stays: Vec<bool> = right.iter().zip(&state.broken).map(stays).collect();
            RobustAccuracy {
                eps,
                accuracy: accuracy(&stays),
                eps_iter: self.settings.step.at(eps as f32),
                attack: self.describe_attacks(),
                attacks: state.tallies[e].clone(),
            }
        };
        self.eps.iter().enumerate().map(at).collect()
    }

    /// The attacks within balls in a line.
    fn describe_attacks(&self) -> String {
        let AttackSettings { nb_restart, loss, .. } = &self.settings;
        let (norm, nb_iter) = (self.config.norm, self.settings.nb_iter.unwrap_or(PGD_ITERATIONS));
        let one = |name: &AttackName| match name {
            AttackName::Pgd => Some(format!("PGD-{nb_iter} {norm}, {nb_restart} starts")),
            AttackName::PgdT => Some(format!("PGD-{nb_iter} {norm} on {loss}, towards each other class")),
            AttackName::PgdLoss => Some(format!("PGD-{nb_iter} {norm} on {loss}, {nb_restart} starts")),
            name if name.is_minimum_norm() => None,
            name => Some(format!("{} {norm}", name)),
        };
        self.attacks.iter().filter_map(one).collect::<Vec<_>>().join(" + ")
    }

    fn minimum_norms(&self, state: &EvaluationState) -> Vec<MinimumNormResult> {
        let one = |(found, tally): (&Vec<Option<f32>>, &AttackStatistics)| MinimumNormResult::new(tally, found);
        state.nearest.iter().zip(&state.nearest_tallies).map(one).collect()
    }

    fn rows(
        &self,
        dataset: &Dataset,
        clean: &[CleanPrediction],
        state: &EvaluationState,
        margins: Option<&[f32]>,
        bounded: &[VerifiedAttack],
    ) -> Vec<ImageRow> {
        let row = |i: usize| {
            let (broken_eps, broken_by) = match state.broken[i] {
                _ if !clean[i].right => (Some(0.0), Some("clean".into())),
                Some([e, a, _]) => (Some(self.eps[e]), Some(bounded[a].attack.name.clone())),
                None => (None, None),
            };
            let nearest = state.nearest.iter().filter_map(|found| found[i]).reduce(f32::min);
            ImageRow {
                index: i,
                label: dataset.labels[i],
                clean_prediction: clean[i].prediction,
                margin: margins.map_or(nearest, |margins| Some(margins[i])),
                broken_eps,
                broken_by,
            }
        };
        (0..dataset.len()).map(row).collect()
    }
}

/// An evaluation in the doing.
struct EvaluationRun<'a> {
    question: &'a EvaluationRequest,
    device: &'a mut dyn Device,
    examples: &'a Examples,
    right: &'a [bool],
    state: EvaluationState,
    keeper: CheckpointWriter,
    progress: Progress,
    start: Instant,
    /// Runs done, for the progress.
    done: u64,
}

impl EvaluationRun<'_> {
    /// Attacks in balls, from the smallest to the largest.
    fn bounded(&mut self, attacks: &[VerifiedAttack]) -> Result<()> {
        for (e, &eps) in self.question.eps.iter().enumerate() {
            for (a, judged) in attacks.iter().enumerate() {
                for run in 0..judged.attack.runs as usize {
                    let unit = [e, a, run];
                    // Whoever this very run has broken was given to it, too.
                    let given = |i: usize| self.right[i] && self.state.broken[i].is_none_or(|by| by == unit);
                    let given: Vec<u32> = (0..self.right.len()).filter(|&i| given(i)).map(|i| i as u32).collect();
                    self.run([e, a, run, 0], judged, eps as f32, &given)?;
                }
            }
        }
        Ok(())
    }

    /// Minimum-norm attacks on all that are right.
    fn nearest(&mut self, attacks: &[VerifiedAttack]) -> Result<()> {
        let given: Vec<u32> = (0..self.right.len()).filter(|&i| self.right[i]).map(|i| i as u32).collect();
        for (a, judged) in attacks.iter().enumerate() {
            for run in 0..judged.attack.runs as usize {
                self.run([self.question.eps.len(), a, run, 0], judged, 0.0, &given)?;
            }
        }
        Ok(())
    }

    /// One run, from the batch on that is next.
    fn run(&mut self, from: Cursor, judged: &VerifiedAttack, eps: f32, given: &[u32]) -> Result<()> {
        let [e, a, run, _] = from;
        self.done += 1;
        let after = [e, a, run + 1, 0];
        if self.state.next >= after {
            return Ok(());
        }
        let batches: Vec<&[u32]> = self.examples.batches(given).collect();
        let bounded = e < self.question.eps.len();
        for (b, index) in batches.iter().enumerate() {
            if [e, a, run, b] < self.state.next {
                continue;
            }
            let began = Instant::now();
            let mut passes = Passes::default();
            let (progress, done, count) = (&mut self.progress, self.done - 1, batches.len());
            let what = if bounded { format!("eps {} ", length(self.question.eps[e])) } else { String::new() };
            let left = given.len() - b * self.examples.target.capacity();
            let text = format!("{what}{} run {} of {}: {left} images", judged.attack.name, run + 1, judged.attack.runs);
            let told = |share: f64| {
                let percent = 100.0 * (b as f64 + share) / count as f64;
                progress.update(done, &format!("{text}, {percent:.0} %"));
            };
            let saves = !self.state.images.is_empty();
            let found = judged.run(self.device, self.examples, index, eps, run as u32, saves, &mut passes, told)?;
            for (&i, found) in index.iter().zip(&found) {
                let i = i as usize;
                let better = if bounded {
                    self.state.broken[i] = found.broken.then_some([e, a, run]);
                    true
                } else {
                    let nearest = &mut self.state.nearest[a][i];
                    let better = found.broken && nearest.is_none_or(|before| found.length < before);
                    *nearest = if better { Some(found.length) } else { *nearest };
                    better
                };
                // Where there are balls, the images saved are those found in them.
                if saves && better && (bounded || self.question.eps.is_empty()) {
                    let row = found.image.len();
                    self.state.images[i * row..(i + 1) * row].copy_from_slice(&found.image);
                }
            }
            let tally = if bounded { &mut self.state.tallies[e][a] } else { &mut self.state.nearest_tallies[a] };
            if run == 0 {
                tally.attacked += index.len();
            }
            tally.broken += found.iter().filter(|found| found.broken && (bounded || run == 0)).count();
            tally.moved += found.iter().filter(|found| found.length > 0.0).count() as u64;
            tally.passes += passes;
            tally.seconds += began.elapsed().as_secs_f64();
            tally.runs = run as u32 + 1;
            self.state.next = [e, a, run, b + 1];
            self.state.seconds += self.start.elapsed().as_secs_f64();
            self.start = Instant::now();
            self.keeper.keep(&self.state)?;
        }
        self.state.next = after;
        self.progress.update(self.done, &format!("{} run {} of {}", judged.attack.name, run + 1, judged.attack.runs));
        Ok(())
    }

    fn margins(&mut self, margins: &MarginMeasurement) -> Result<Vec<f32>> {
        let (progress, done, n) = (&mut self.progress, self.done, self.right.len());
        margins.measure(self.device, self.examples, |measured| {
            progress.update(done + u64::from(measured == n), &format!("margins: {measured} of {n} images"));
        })
    }

    fn finish(self) -> (EvaluationState, f64) {
        let seconds = self.state.seconds + self.start.elapsed().as_secs_f64();
        self.progress.finish();
        (self.state, seconds)
    }
}

/// SHA-256 in hexadecimal digits.
fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Refuses images that the network at `weights` does not take; `source` is where they came from.
///
/// # Errors
/// Their shape is another, or the network does not tell as many classes apart as there are.
pub(super) fn fitting_images(model: &dyn Model, weights: &Path, dataset: &Dataset, source: &str) -> Result<()> {
    let found = [dataset.height, dataset.width, dataset.channels];
    if model.image() != found {
        return Err(Error::usage(format!(
            "--dataset: {} takes images {:?} (height, width, channels); those of {source} are {found:?}",
            weights.display(),
            model.image(),
        )));
    }
    if model.classes() != CLASSES {
        let expected = format!("expected {CLASSES} classes, found {}", model.classes());
        return Err(Error::format(weights, format!("{}: {expected}", model.output_layer().weight)));
    }
    Ok(())
}

pub(super) fn file_hash(path: &Path) -> Result<String> {
    Ok(sha256(&std::fs::read(path).map_err(|source| Error::io(path, "read", source))?))
}
