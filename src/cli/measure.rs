//! Flags that `evaluate`, `attack` and `transfer` share: the network, the images, the attacks and their settings.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clap::builder::PossibleValue;
use clap::{ArgAction, Args, ValueEnum};

use super::choices::attack_precision;
use super::values::{number, single, whole, within};
use crate::attack::StepLength;
use crate::catalog::DatasetKind;
use crate::choice::Choice as _;
use crate::config::ranges::{IMAGES, QUERIES, RESTARTS, SAMPLES};
use crate::config::{Config, DEFAULT_PRESET, as_written, preset};
use crate::evaluate::request::TrainedBy;
use crate::evaluate::{AttackFlag, AttackName, AttackSettings, Protocol, Split};
use crate::record::run::{BEST, CONFIG};
use crate::tape::{Loss, Norm, Precision};
use crate::{Error, Result};

#[derive(Args, Debug)]
#[command(next_help_heading = "Data")]
pub(super) struct ImageFlags {
    /// Data set [default: the run's; digits for weights alone]
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<DatasetKind>,
    /// Part of the data set
    #[arg(long, default_value = "test")]
    pub split: Split,
    /// Number of images, the first of that part [default: the run's test-size; all for weights alone]
    #[arg(long, value_name = "N", value_parser = within(&IMAGES))]
    pub test_size: Option<usize>,
    /// Folder of MNIST and CIFAR10
    #[arg(long, value_name = "FOLDER", default_value = "data")]
    pub data: PathBuf,
}

/// Measurement that `--attack` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// Margins by AN-PGD in its test form.
    Margins,
    /// Accuracy under an attack, or the distances that a minimum-norm attack finds.
    Attack(AttackName),
}

impl Measure {
    /// Name in flags.
    pub fn text(self) -> String {
        let value = self.to_possible_value().expect("every measurement has a name");
        value.get_name().to_owned()
    }

    /// True if a flag changes the measurement.
    fn reads(self, flag: AttackFlag) -> bool {
        match self {
            Measure::Margins => flag == AttackFlag::HingeMaxeps,
            Measure::Attack(name) => flag.is_read_by(name),
        }
    }
}

impl ValueEnum for Measure {
    fn value_variants<'a>() -> &'a [Measure] {
        static ALL: LazyLock<Vec<Measure>> = LazyLock::new(|| {
            let attacks = AttackName::value_variants().iter().copied().map(Measure::Attack);
            attacks.chain([Measure::Margins]).collect()
        });
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Measure::Margins => {
                Some(PossibleValue::new("margins").help("Margins by AN-PGD, as they select checkpoints"))
            }
            Measure::Attack(name) => name.to_possible_value(),
        }
    }
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Margins and attack")]
pub(super) struct AttackFlags {
    /// Attacks, and margins: one or several. Attacks in balls are run in turn on the images that are still correct
    /// [default: pgd,margins]
    #[arg(long, value_delimiter = ',', action = ArgAction::Append)]
    pub attack: Vec<Measure>,
    /// Published protocol: its attacks, and its eps unless --eps names others
    #[arg(long, conflicts_with_all = ["attack", "eps_iter", "nb_iter", "nb_restart"])]
    pub protocol: Option<Protocol>,
    /// Norm [default: the run's; linf for weights alone]
    #[arg(long)]
    pub norm: Option<Norm>,
    #[arg(long, help = AttackFlag::Eps.help(), long_help = AttackFlag::Eps.long_help(), value_name = "EPS",
          value_delimiter = ',', action = ArgAction::Append, value_parser = number)]
    pub eps: Vec<f64>,
    #[arg(long, help = AttackFlag::EpsIter.help(), long_help = AttackFlag::EpsIter.long_help(), value_name = "EPS",
          value_parser = single)]
    pub eps_iter: Option<f32>,
    #[arg(long, help = AttackFlag::NbIter.help(), long_help = AttackFlag::NbIter.long_help(), value_name = "N",
          value_parser = within(&QUERIES))]
    pub nb_iter: Option<u32>,
    #[arg(long, help = AttackFlag::NbRestart.help(), long_help = AttackFlag::NbRestart.long_help(), value_name = "N",
          value_parser = within(&RESTARTS))]
    pub nb_restart: Option<u32>,
    #[arg(long, hide_short_help = true, help = AttackFlag::Loss.help(), long_help = AttackFlag::Loss.long_help())]
    pub loss: Option<Loss>,
    #[arg(long, hide_short_help = true, help = AttackFlag::NbSample.help(), long_help = AttackFlag::NbSample.long_help(), value_name = "N",
          value_parser = within(&SAMPLES))]
    pub nb_sample: Option<u32>,
    #[arg(long, hide_short_help = true, help = AttackFlag::HingeMaxeps.help(), long_help = AttackFlag::HingeMaxeps.long_help(),
          value_name = "EPS", alias = "hinge-max-eps", value_parser = single)]
    pub hinge_maxeps: Option<f32>,
    /// Precision of activations, gradients and filters in attacks; every result is verified in single precision
    #[arg(long, default_value = "fp32", value_name = "PRECISION", value_parser = attack_precision())]
    pub precision: Precision,
    #[arg(long, help = AttackFlag::Seed.help(), long_help = AttackFlag::Seed.long_help(), value_name = "N",
          value_parser = whole::<u64>)]
    pub seed: Option<u64>,
}

impl AttackFlags {
    /// Refuses a flag that none of the measurements reads.
    ///
    /// # Errors
    /// Names the flag, and the attacks that read it.
    pub(super) fn check_effect(&self, measures: &[Measure]) -> Result<()> {
        let given = |flag: AttackFlag| match flag {
            AttackFlag::Eps => !self.eps.is_empty(),
            AttackFlag::EpsIter => self.eps_iter.is_some(),
            AttackFlag::NbIter => self.nb_iter.is_some(),
            AttackFlag::NbRestart => self.nb_restart.is_some(),
            AttackFlag::Loss => self.loss.is_some(),
            AttackFlag::NbSample => self.nb_sample.is_some(),
            AttackFlag::HingeMaxeps => self.hinge_maxeps.is_some(),
            AttackFlag::Seed => self.seed.is_some(),
        };
        let without_effect =
            |flag: &&AttackFlag| given(**flag) && !measures.iter().any(|measure| measure.reads(**flag));
        let Some(flag) = AttackFlag::ALL.iter().find(without_effect) else { return Ok(()) };
        let readers = Measure::value_variants().iter().filter(|measure| measure.reads(*flag));
        Err(Error::usage(format!(
            "--{flag}: expected one of the measurements that it has an effect on ({}); found {}",
            readers.map(|measure| measure.text()).collect::<Vec<_>>().join(", "),
            measures.iter().map(|measure| measure.text()).collect::<Vec<_>>().join(", "),
        )))
    }
}

/// Weights, and the settings under which they are measured.
#[derive(Debug)]
pub(super) struct Checkpoint {
    /// File of weights.
    pub weights: PathBuf,
    /// Settings, with those of the flags.
    pub config: Config,
    /// Folder of the run that trained the weights, if it is known.
    pub run: Option<PathBuf>,
    /// Training of the weights, if they are a run's.
    pub trained: Option<TrainedBy>,
}

impl Checkpoint {
    /// The best weights of a run folder with the run's settings; or a file of weights with published settings.
    ///
    /// # Errors
    /// The run's settings cannot be read, or the flags contradict them.
    pub(super) fn find(path: &Path, images: &ImageFlags, attack: &AttackFlags) -> Result<Checkpoint> {
        let weights = weights(path);
        if !path.is_dir() {
            let dataset = images.dataset.unwrap_or(DatasetKind::Digits);
            let published = published(dataset, attack.norm.unwrap_or(Norm::Linf))?;
            return Ok(Checkpoint { weights, config: measured(published, images, attack)?, run: None, trained: None });
        }
        let of_run = Config::load(&path.join(CONFIG))?;
        let trained = TrainedBy { method: of_run.method, d_max: of_run.trained_with() };
        let config = measured(of_run, images, attack)?;
        Ok(Checkpoint { weights, config, run: Some(path.to_owned()), trained: Some(trained) })
    }
}

/// File of weights at `path`: the best ones of a run folder, or the file itself.
pub(super) fn weights(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(BEST) } else { path.to_owned() }
}

/// Published settings for `norm` on `dataset`; the bundled digits are measured like MNIST.
fn published(dataset: DatasetKind, norm: Norm) -> Result<Config> {
    let named = |name: &str| {
        preset(name).map(|preset| preset.config).ok_or_else(|| Error::usage(format!("no preset is called {name}")))
    };
    let config = named(&dataset.preset(norm))?;
    Ok(match dataset {
        DatasetKind::Digits => Config { dataset, val_size: named(DEFAULT_PRESET)?.val_size, ..config },
        _ => config,
    })
}

/// `config` with the flags for images, norm and margins. Lengths have no meaning in another norm, and the size of the
/// validation set has none for another data set: there the published values are taken.
fn measured(config: Config, images: &ImageFlags, attack: &AttackFlags) -> Result<Config> {
    let dataset = images.dataset.unwrap_or(config.dataset);
    let norm = attack.norm.unwrap_or(config.norm);
    let published = published(dataset, norm)?;
    let mut measured = Config { dataset, norm, precision: attack.precision, ..config.clone() };
    if dataset != config.dataset {
        // Weights that do not fit the images are refused when they are read.
        (measured.model, measured.depth, measured.width) = (published.model, published.depth, published.width);
        measured.val_size = published.val_size;
        (measured.train_size, measured.test_size) = (None, None);
    }
    if norm != config.norm {
        measured.hinge_maxeps = published.hinge_maxeps;
        measured.attack_mineps = published.attack_mineps;
        measured.attack_eps = published.attack_eps;
        measured.test_eps = published.test_eps;
        measured.test_eps_iter = published.test_eps_iter;
    }
    if let Some(hinge) = attack.hinge_maxeps {
        measured.hinge_maxeps = hinge;
        // Only the search of training uses the least eps; it must not refuse a small bound.
        measured.attack_mineps = measured.attack_mineps.min(measured.max_eps());
    }
    measured.validate()?;
    Ok(measured)
}

/// Radii of the balls, ascending, each once.
pub(super) fn radii(attack: &AttackFlags, config: &Config) -> Result<Vec<f64>> {
    let found = || attack.eps.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
    if attack.eps.iter().any(|&eps| eps <= 0.0) {
        let comma = if attack.eps.len() > 1 { " (a decimal comma makes two numbers of one: write 0.3)" } else { "" };
        return Err(Error::usage(format!("--eps: expected positive numbers; found {}{comma}", found())));
    }
    if attack.eps.iter().any(|&eps| eps > f64::from(config.largest_distance())) {
        return Err(Error::usage(format!("--eps: expected {}; found {}", config.length_range(), found())));
    }
    let mut eps = match attack.protocol {
        Some(protocol) if attack.eps.is_empty() => protocol.eps(config.dataset, config.norm),
        None if attack.eps.is_empty() => vec![as_written(config.test_eps)],
        _ => attack.eps.clone(),
    };
    eps.sort_by(f64::total_cmp);
    eps.dedup_by_key(|eps| *eps as f32);
    Ok(eps)
}

/// Settings of the attacks; the default step size of PGD is the released evaluator's.
pub(super) fn settings(attack: &AttackFlags, config: &Config) -> Result<AttackSettings> {
    if let Some(step) = attack.eps_iter.filter(|&step| step <= 0.0) {
        return Err(Error::usage(format!("--eps-iter: expected a positive number; found {step}")));
    }
    if let Some(step) = attack.eps_iter.filter(|&step| step > config.largest_distance()) {
        return Err(Error::usage(format!("--eps-iter: expected {}; found {step}", config.length_range())));
    }
    let published = AttackSettings::published(config);
    Ok(AttackSettings {
        nb_iter: attack.nb_iter,
        nb_restart: attack.nb_restart.unwrap_or(published.nb_restart),
        step: attack.eps_iter.map_or(published.step, StepLength::Fixed),
        loss: attack.loss.unwrap_or(published.loss),
        nb_sample: attack.nb_sample.unwrap_or(published.nb_sample),
        seed: attack.seed.unwrap_or(published.seed),
    })
}
