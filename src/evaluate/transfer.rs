//! Transfer: adversarial images made on one network, tried on others. A network is robust where no image made on any of
//! them breaks it: so the paper counts.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::attacks::{AttackName, AttackSettings, record};
use super::passes::Passes;
use super::request::{file_hash, fitting_images};
use super::verified::{Verifier, begin};
use super::{Examples, accuracy};
use crate::Result;
use crate::attack::Attack;
use crate::config::Config;
use crate::device::Device;
use crate::model::Model;
use crate::model::state_dict::{LoadedModel, load_model};
use crate::record::Progress;
use crate::tape::{Memory, Norm};
use crate::text::length;

/// What is to be tried.
#[derive(Clone, Debug)]
pub struct TransferRequest {
    /// Weights of the networks: each is a source and a target.
    pub weights: Vec<PathBuf>,
    /// Data set, norm, fidelity.
    pub config: Config,
    /// Only the first so many test images.
    pub size: Option<usize>,
    /// Where images are looked for.
    pub data: PathBuf,
    /// Attacks in balls.
    pub attacks: Vec<AttackName>,
    /// How they are run.
    pub settings: AttackSettings,
    /// The balls' radius, as it was written.
    pub eps: f64,
    /// Images at a time.
    pub batch_size: usize,
    /// Whether no progress is shown.
    pub quiet: bool,
}

/// What was found. Accuracies are in percent.
#[derive(Clone, Debug, Serialize)]
pub struct TransferReport {
    /// The files of weights.
    pub weights: Vec<String>,
    /// Their SHA-256.
    pub weights_sha256: Vec<String>,
    /// How many images.
    pub count: usize,
    /// The norm of eps.
    pub norm: Norm,
    /// The balls' radius.
    pub eps: f64,
    /// The attacks by name.
    pub attacks: Vec<AttackName>,
    /// The seed of all random numbers.
    pub seed: u64,
    /// By target: accuracy without an attack.
    pub clean: Vec<f64>,
    /// By source, then by target: accuracy under the images made on the source.
    pub accuracy: Vec<Vec<f64>>,
    /// By target: accuracy under the images of all sources.
    pub union: Vec<f64>,
    /// Examples that went through a network.
    #[serde(flatten)]
    pub passes: Passes,
    /// How long it took.
    pub seconds: f64,
}

/// A network that images are made on.
struct SourceNetwork {
    examples: Examples,
    attacks: Vec<(Attack, Passes)>,
    /// By attack, then by target.
    judges: Vec<Vec<Verifier>>,
}

impl TransferRequest {
    /// Tries it on a device that has no memory yet.
    ///
    /// # Errors
    /// Weights or data cannot be read, or do not fit each other; or the device failed.
    pub fn run(&self, device: &mut dyn Device) -> Result<TransferReport> {
        let start = Instant::now();
        let loaded = self.weights.iter().map(|path| load_model(path)).collect::<Result<Vec<LoadedModel>>>()?;
        let splits = crate::data::load(self.config.dataset, &self.data, self.config.val_size)?;
        let (images, dataset) = (splits.source.clone(), splits.test.take(self.size.unwrap_or(usize::MAX)));
        let mut memory = Memory::default();
        let (mut models, mut states): (Vec<Box<dyn Model>>, Vec<_>) = (Vec::new(), Vec::new());
        for (LoadedModel { mut model, state, .. }, path) in loaded.into_iter().zip(&self.weights) {
            fitting_images(&*model, path, &dataset, &images)?;
            model.declare(&mut memory);
            models.push(model);
            states.push(state);
        }
        let n = dataset.len();
        let norm = self.config.norm;
        let mut sources = Vec::new();
        for model in &models {
            let examples = Examples::new(&mut memory, &**model, "images", n, self.batch_size);
            let attacks = record(&mut memory, &**model, &examples, &self.attacks, &self.config, &self.settings)?;
            let judge = |memory: &mut Memory, attack: &Attack| -> Vec<Verifier> {
                models.iter().map(|target| Verifier::new(memory, &**target, &examples.target, norm, attack)).collect()
            };
            let judges = attacks.iter().map(|attack| judge(&mut memory, attack)).collect();
            let counted =
                |attack: Attack| (Passes::of_schedule(&attack.schedule, &**model, attack.adv.dims[0]), attack);
            let attacks = attacks.into_iter().map(counted).map(|(passes, attack)| (attack, passes)).collect();
            sources.push(SourceNetwork { examples, attacks, judges });
        }
        let programs = sources.iter().flat_map(|source| {
            let attacks = source.attacks.iter().flat_map(|(attack, _)| attack.schedule.programs());
            attacks.chain(source.judges.iter().flatten().map(Verifier::program)).chain(source.examples.programs())
        });
        device.allocate(&memory, &programs.collect::<Vec<_>>())?;
        for ((model, state), source) in models.iter().zip(&states).zip(&sources) {
            model.load(device, state)?;
            source.examples.upload(device, &dataset)?;
        }

        let mut passes = Passes { forward: (n * models.len()) as u64, backward: 0 };
        let right = sources.iter().map(|source| source.examples.right(device)).collect::<Result<Vec<_>>>()?;
        let runs = sources.iter().flat_map(|source| &source.attacks).map(|(attack, _)| u64::from(attack.runs)).sum();
        let mut progress = Progress::new("runs", runs, 0, self.quiet);
        let mut done = 0;
        // By source, target and example.
        let mut stays: Vec<Vec<Vec<bool>>> = vec![right.clone(); models.len()];
        for (s, source) in sources.iter().enumerate() {
            for ((attack, of_run), judges) in source.attacks.iter().zip(&source.judges) {
                for run in 0..attack.runs {
                    // What is broken on every target is not attacked again.
                    let given = |i: &u32| stays[s].iter().any(|stays| stays[*i as usize]);
                    let given: Vec<u32> = (0..n as u32).filter(given).collect();
                    for index in source.examples.batches(&given) {
                        source.examples.load(device, index)?;
                        begin(attack, device, index.len(), self.eps as f32, run)?;
                        device.replay(&attack.schedule)?;
                        passes += *of_run * index.len() as u64;
                        for (judge, stays) in judges.iter().zip(&mut stays[s]) {
                            let found = judge.verdicts(device, index.len(), self.eps as f32)?;
                            passes.forward += index.len() as u64;
                            index.iter().zip(found).for_each(|(&i, found)| stays[i as usize] &= !found.broken);
                        }
                    }
                    done += 1;
                    progress.update(done, &format!("images made on {}, {}", self.weights[s].display(), attack.name));
                }
            }
        }
        progress.finish();
        let all = |t: usize| -> Vec<bool> { (0..n).map(|i| stays.iter().all(|targets| targets[t][i])).collect() };
        Ok(TransferReport {
            weights: self.weights.iter().map(|path| path.display().to_string()).collect(),
            weights_sha256: self.weights.iter().map(|path| file_hash(path)).collect::<Result<_>>()?,
            count: n,
            norm,
            eps: self.eps,
            attacks: self.attacks.clone(),
            seed: self.settings.seed,
            clean: right.iter().map(|right| accuracy(right)).collect(),
            accuracy: stays.iter().map(|targets| targets.iter().map(|stays| accuracy(stays)).collect()).collect(),
            union: (0..models.len()).map(|t| accuracy(&all(t))).collect(),
            passes,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

impl TransferReport {
    /// The matrix for a person: a row a source, a column a target.
    pub fn table(&self) -> String {
        let number = |i: usize| format!("({})", i + 1);
        let row = |name: &str, values: &[f64]| {
            let values: String = values.iter().map(|value| format!("{value:>10.2}")).collect();
            format!("{name:36}{values}\n")
        };
        let mut text = String::new();
        for (i, weights) in self.weights.iter().enumerate() {
            text += &format!("{} {weights}\n", number(i));
        }
        let attacks: Vec<_> = self.attacks.iter().map(ToString::to_string).collect();
        text += &format!(
            "\n{} images, {} eps {}, {}; % right\n\n",
            self.count,
            self.norm,
            length(self.eps),
            attacks.join(" + ")
        );
        let targets: String = (0..self.weights.len()).map(|i| format!("{:>10}", number(i))).collect();
        text += &format!("{:36}{targets}\n", "tried on");
        text += &row("no attack", &self.clean);
        for (i, values) in self.accuracy.iter().enumerate() {
            text += &row(&format!("images made on {}", number(i)), values);
        }
        text + &row("images made on any", &self.union) + &format!("\n{:.1} s; seed {}\n", self.seconds, self.seed)
    }
}
