//! Transfer: adversarial images made on one network, classified by others. An example counts as robust on a network if
//! no image made on any of them is adversarial for it, as in the paper.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::attacks::{AttackName, AttackSettings, RecordedAttack, record};
use super::checks::Observations;
use super::clean_outputs::CleanOutputs;
use super::examples::Examples;
use super::network::{ImageSet, Network, upload};
use super::passes::Passes;
use super::planned::{PlannedPasses, PlannedRuns};
use super::report::{in_precision, origin};
use super::request::Split;
use super::statistics::accuracy;
use super::strength::{AttackStrength, NamedStrength, strength_lines};
use super::verified::{Verifier, begin};
use crate::Result;
use crate::attack::Attack;
use crate::config::Config;
use crate::data::Provenance;
use crate::device::Device;
use crate::interrupt;
use crate::model::state_dict::WeightsOptions;
use crate::record::Progress;
use crate::tape::{Memory, Norm, Precision};
use crate::text::{counted, length};

/// Transfer between networks on test images.
#[derive(Clone, Debug)]
pub struct TransferRequest {
    /// Weights of the networks, each of which is a source and a target.
    pub weights: Vec<PathBuf>,
    /// Options of their reading.
    pub weights_options: WeightsOptions,
    /// Data set, norm, fidelity.
    pub config: Config,
    /// Number of test images; `None`: all.
    pub size: Option<usize>,
    /// Folder of the data sets.
    pub data: PathBuf,
    /// Attacks in balls.
    pub attacks: Vec<AttackName>,
    /// Settings of the attacks.
    pub settings: AttackSettings,
    /// Radius of the balls, as it was written.
    pub eps: f64,
    /// Images per batch.
    pub batch_size: usize,
    /// True if no progress is shown.
    pub quiet: bool,
}

/// Result of a transfer. Accuracies are in percent.
#[derive(Clone, Debug, Serialize)]
pub struct TransferReport {
    /// Files of weights.
    pub weights: Vec<String>,
    /// SHA-256 of each.
    pub weights_sha256: Vec<String>,
    /// Description of each network in a line.
    pub models: Vec<String>,
    /// Normalization of images by each network.
    pub normalizations: Vec<String>,
    /// Remarks on the reading of each file of weights.
    pub weights_remarks: Vec<Vec<String>>,
    /// Origin of the images.
    pub images: String,
    /// SHA-256 of number, size, labels and pixels of the images.
    pub images_sha256: String,
    /// Provenance of the images.
    pub provenance: Provenance,
    /// Number of images.
    pub count: usize,
    /// Norm of eps.
    pub norm: Norm,
    /// Radius of the balls.
    pub eps: f64,
    /// Attacks by name.
    pub attacks: Vec<AttackName>,
    /// Strength of each attack that these names stand for.
    pub strengths: Vec<NamedStrength>,
    /// Precision of the attacks; verdicts are single precision.
    pub precision: Precision,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Accuracy of each target without an attack.
    pub clean: Vec<f64>,
    /// Accuracy by source, then by target, under the images made on the source.
    pub accuracy: Vec<Vec<f64>>,
    /// Accuracy of each target under the images of all sources.
    pub union: Vec<f64>,
    /// Warnings of the checks of clean images, each beginning with the check's name.
    pub warnings: Vec<String>,
    /// Passes, summed over the images.
    #[serde(flatten)]
    pub passes: Passes,
    /// Duration in seconds.
    pub seconds: f64,
}

/// Network on which images are made.
struct SourceNetwork {
    examples: Examples,
    attacks: Vec<SourceAttack>,
}

/// Attack on a source, whose results are verified on every target.
struct SourceAttack {
    attack: Attack,
    strength: AttackStrength,
    /// Passes of a run for each example.
    passes: Passes,
    /// Verification by each target.
    verifiers: Vec<Verifier>,
}

impl SourceAttack {
    fn named_strength(&self) -> NamedStrength {
        NamedStrength { name: self.attack.name.clone(), strength: self.strength.clone() }
    }

    /// Passes of a run and its verification for an image.
    fn of_image(&self) -> u64 {
        self.passes.total() + self.verifiers.len() as u64
    }
}

impl TransferRequest {
    /// Runs the transfer on a device that has no memory yet.
    ///
    /// # Errors
    /// Weights or data cannot be read, or do not fit each other; the device failed; or a signal asked to stop.
    pub fn run(&self, device: &mut dyn Device) -> Result<TransferReport> {
        let start = Instant::now();
        let read = |path: &PathBuf| Network::read(path, &self.weights_options);
        let mut networks = self.weights.iter().map(read).collect::<Result<Vec<_>>>()?;
        let images = ImageSet::load(&self.config, Split::Test, self.size, &self.data)?;
        let mut memory = Memory::default();
        networks.iter().try_for_each(|network| network.check(&images))?;
        networks.iter_mut().for_each(|network| network.model.declare(&mut memory));
        let n = images.dataset.len();
        let sources = self.sources(&mut memory, &networks, n)?;
        let programs = sources.iter().flat_map(|source| {
            let attacks = source
                .attacks
                .iter()
                .flat_map(|at| at.attack.schedule.programs().chain(at.verifiers.iter().map(Verifier::program)));
            attacks.chain(source.examples.programs())
        });
        let examples = sources.iter().map(|source| &source.examples);
        upload(device, &memory, &programs.collect::<Vec<_>>(), networks.iter().zip(examples), &images)?;

        let mut correct = Vec::with_capacity(sources.len());
        let mut warnings = Vec::new();
        for (source, network) in sources.iter().zip(&networks) {
            let clean = source.examples.clean_predictions(device)?;
            correct.push(clean.iter().map(|prediction| prediction.correct).collect::<Vec<_>>());
            let found = Observations::of_outputs(CleanOutputs::new(network, &images, &clean)?).warnings();
            warnings.extend(found.into_iter().map(|warning| format!("{warning} ({})", network.path.display())));
        }
        let mut passes = Passes { forward: (n * networks.len()) as u64, backward: 0 };
        let robust = self.robust(device, &sources, &correct, &mut passes)?;
        let under_all =
            |target: usize| -> Vec<bool> { (0..n).map(|i| robust.iter().all(|targets| targets[target][i])).collect() };
        Ok(TransferReport {
            weights: self.weights.iter().map(|path| path.display().to_string()).collect(),
            weights_sha256: networks.iter().map(|network| network.sha256.clone()).collect(),
            models: networks.iter().map(|network| network.model.describe()).collect(),
            normalizations: networks.iter().map(|network| network.model.normalization().to_string()).collect(),
            weights_remarks: networks.iter().map(|network| network.remarks.clone()).collect(),
            images: images.origin.clone(),
            images_sha256: images.sha256.clone(),
            provenance: images.dataset.provenance,
            count: n,
            norm: self.config.norm,
            eps: self.eps,
            attacks: self.attacks.clone(),
            strengths: sources[0].attacks.iter().map(SourceAttack::named_strength).collect(),
            precision: self.config.precision,
            seed: self.settings.seed,
            clean: correct.iter().map(|correct| accuracy(correct)).collect(),
            accuracy: robust.iter().map(|targets| targets.iter().map(|robust| accuracy(robust)).collect()).collect(),
            union: (0..networks.len()).map(|target| accuracy(&under_all(target))).collect(),
            warnings,
            passes,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// Records the attacks on each network for `n` examples, and the verification of their results by every network.
    fn sources(&self, memory: &mut Memory, networks: &[Network], n: usize) -> Result<Vec<SourceNetwork>> {
        let source = |network: &Network| {
            let model = &*network.model;
            let examples = Examples::new(memory, model, "images", n, self.batch_size);
            let attacked = network.attacked(memory, self.config.precision)?;
            let attacks = record(memory, &attacked, &examples, &self.attacks, &self.config, &self.settings)?;
            let source_attack = |recorded: RecordedAttack| {
                let strength = AttackStrength::of(&recorded, &self.config, &self.settings);
                let attack = recorded.attack;
                let verifier = |target: &Network| {
                    Verifier::new(memory, &*target.model, &examples.batch, self.config.norm, &attack)
                };
                let verifiers = networks.iter().map(verifier).collect();
                let passes = Passes::of_schedule(&attack.schedule, model, attack.adv.dims[0]);
                SourceAttack { attack, strength, passes, verifiers }
            };
            let attacks = attacks.into_iter().map(source_attack).collect();
            Ok(SourceNetwork { examples, attacks })
        };
        networks.iter().map(source).collect()
    }

    /// Robust examples by source, target and example, starting from those that are `correct` by target and example.
    fn robust(
        &self,
        device: &mut dyn Device,
        sources: &[SourceNetwork],
        correct: &[Vec<bool>],
        passes: &mut Passes,
    ) -> Result<Vec<Vec<Vec<bool>>>> {
        let n = correct[0].len() as u32;
        let eps = self.eps as f32;
        let planned = sources.iter().flat_map(|source| &source.attacks);
        let planned = planned.map(|at| PlannedRuns { runs: at.attack.runs, passes: at.of_image(), robust_only: false });
        let planned = PlannedPasses::new(&planned.collect::<Vec<_>>());
        let mut progress = Progress::of_work("transfer", self.quiet);
        let (mut runs_done, mut passes_done) = (0, 0);
        let mut robust = vec![correct.to_vec(); sources.len()];
        for ((source, path), robust) in sources.iter().zip(&self.weights).zip(&mut robust) {
            for source_attack in &source.attacks {
                let SourceAttack { attack, passes: of_run, verifiers, .. } = source_attack;
                let (of_image, executions) = (source_attack.of_image(), attack.schedule.executions());
                let figures = format!("images made on {}, {}", path.display(), attack.name);
                for run in 0..attack.runs {
                    runs_done += 1;
                    let later = planned.left(runs_done, 0, correct[0].len());
                    // An example that is not robust on any target is not attacked again.
                    let given: Vec<u32> = (0..n).filter(|&i| robust.iter().any(|target| target[i as usize])).collect();
                    let mut left = later + given.len() as u64 * of_image;
                    for index in source.examples.batches(&given) {
                        let of_batch = index.len() as u64 * of_image;
                        source.examples.load(device, index)?;
                        begin(attack, device, index.len(), eps, run)?;
                        device.replay_observed(&attack.schedule, &mut |executed| {
                            let part = of_batch * u64::from(executed) / u64::from(executions);
                            progress.advance(passes_done + part, left - part, &figures);
                            interrupt::check()
                        })?;
                        *passes += *of_run * index.len() as u64;
                        for (verifier, robust) in verifiers.iter().zip(robust.iter_mut()) {
                            let results = verifier.verify(device, index.len(), eps)?;
                            passes.forward += index.len() as u64;
                            index.iter().zip(results).for_each(|(&i, r)| robust[i as usize] &= !r.adversarial);
                        }
                        (passes_done, left) = (passes_done + of_batch, left - of_batch);
                        progress.advance(passes_done, left, &figures);
                    }
                }
            }
        }
        progress.finish();
        Ok(robust)
    }
}

impl TransferReport {
    /// Matrix for the terminal: a row a source, a column a target.
    pub fn table(&self) -> String {
        let number = |i: usize| format!("({})", i + 1);
        let row = |name: &str, values: &[f64]| {
            let values: String = values.iter().map(|value| format!("{value:>10.2}")).collect();
            format!("{name:36}{values}\n")
        };
        let mut text = String::new();
        for (i, (weights, model)) in self.weights.iter().zip(&self.models).enumerate() {
            text += &format!("{} {weights}: {model}\n", number(i));
            self.weights_remarks[i].iter().for_each(|remark| text += &format!("    {remark}\n"));
        }
        let attacks: Vec<_> = self.attacks.iter().map(ToString::to_string).collect();
        let (eps, attacks) = (length(self.eps), attacks.join(" + "));
        let images = origin(&self.images, Some(self.provenance));
        text += &format!(
            "\n{} ({images}), {} eps {eps}, {attacks}{}; accuracy in %\n\n",
            counted(self.count as u64, "image"),
            self.norm,
            in_precision(&self.precision.to_string()),
        );
        let targets: String = (0..self.weights.len()).map(|i| format!("{:>10}", number(i))).collect();
        text += &format!("{:36}{targets}\n", "classified by");
        text += &row("no attack", &self.clean);
        for (i, values) in self.accuracy.iter().enumerate() {
            text += &row(&format!("images made on {}", number(i)), values);
        }
        text += &row("images made on any", &self.union);
        text += &strength_lines(self.strengths.iter().map(|named| (&*named.name, &named.strength)));
        text += &format!("\n{:.1} s; seed {}\n", self.seconds, self.seed);
        self.warnings.iter().for_each(|warning| text += &format!("warning: {warning}\n"));
        text
    }
}
