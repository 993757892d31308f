//! What `evaluate`, `attack` and `transfer` share: which images, which attacks, with which settings.

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::builder::PossibleValue;
use clap::{ArgAction, Args, ValueEnum};

use super::values::{count, number, single, whole};
use crate::attack::StepLength;
use crate::catalog::DatasetKind;
use crate::config::{Config, DEFAULT_PRESET, as_written, preset};
use crate::evaluate::request::Split;
use crate::evaluate::{AttackName, AttackSettings, Protocol};
use crate::tape::{Loss, Norm};
use crate::{Error, Result};

#[derive(Args, Debug)]
#[command(next_help_heading = "Data")]
pub(super) struct ImageFlags {
    /// Which images [default: the run's; digits for weights alone]
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<DatasetKind>,
    /// Which of them
    #[arg(long, default_value = "test")]
    pub split: Split,
    /// Only the first N of them [default: all]
    #[arg(long, value_name = "N", value_parser = count)]
    pub test_size: Option<usize>,
    /// Where MNIST and CIFAR10 are
    #[arg(long, value_name = "FOLDER", default_value = "data")]
    pub data: PathBuf,
}

/// What may be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// Margins, by AN-PGD in its test form.
    Margins,
    /// What an attack leaves or finds.
    Attack(AttackName),
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
            Measure::Margins => Some(PossibleValue::new("margins").help("AN-PGD in the form that selects checkpoints")),
            Measure::Attack(name) => name.to_possible_value(),
        }
    }
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Margins and attack")]
pub(super) struct AttackFlags {
    /// What to measure, one or several: attacks in balls are run in turn on what is left [default: pgd,margins]
    #[arg(long, value_delimiter = ',', action = ArgAction::Append)]
    pub attack: Vec<Measure>,
    /// A published protocol: its attacks, and its eps if --eps does not name others
    #[arg(long, conflicts_with_all = ["attack", "eps_iter", "nb_iter", "nb_restart"])]
    pub protocol: Option<Protocol>,
    /// The norm [default: the run's; linf for weights alone]
    #[arg(long)]
    pub norm: Option<Norm>,
    /// The balls' radius, one or several: 0.3 or 8/255 or 0.1,0.2,0.3. What is broken at one is broken at every larger one
    /// [default: the run's or the norm's preset's test-eps]
    #[arg(long, value_name = "EPS", value_delimiter = ',', action = ArgAction::Append, value_parser = number)]
    pub eps: Vec<f64>,
    /// PGD's step [default: eps / 40 for linf on digits and mnist, eps / 4 otherwise]
    #[arg(long, value_name = "EPS", value_parser = single)]
    pub eps_iter: Option<f32>,
    /// Iterations, or Square's queries [default: as published; 100 of PGD]
    #[arg(long, value_name = "N", value_parser = whole::<u32>)]
    pub nb_iter: Option<u32>,
    /// PGD's random starts: half on xent (one more if odd), half on cw
    #[arg(long, value_name = "N", default_value = "10", value_parser = whole::<u32>)]
    pub nb_restart: u32,
    /// The loss of the attacks pgd-loss and pgd-t
    #[arg(long, default_value = "xent")]
    pub loss: Loss,
    /// SPSA's samples of a gradient, each two passes
    #[arg(long, value_name = "N", default_value = "8192", value_parser = whole::<u32>)]
    pub nb_sample: u32,
    /// Margins are searched up to 1.05 times this [default: the run's or the norm's preset's]
    #[arg(long, value_name = "EPS", alias = "hinge-max-eps", value_parser = single)]
    pub hinge_maxeps: Option<f32>,
    /// The seed of the random starts
    #[arg(long, value_name = "N", default_value = "0", value_parser = whole::<u64>)]
    pub seed: u64,
}

/// The published settings for `norm` on `dataset`; the bundled digits are measured as MNIST is.
pub(super) fn published(dataset: DatasetKind, norm: Norm) -> Result<Config> {
    let named = |name: &str| {
        preset(name).map(|preset| preset.config).ok_or_else(|| Error::usage(format!("no preset is called {name}")))
    };
    let config = named(&dataset.preset(norm))?;
    Ok(match dataset {
        DatasetKind::Digits => Config { dataset, val_size: named(DEFAULT_PRESET)?.val_size, ..config },
        _ => config,
    })
}

/// `config` with what the flags say of images, norm and margins. Lengths mean nothing in another norm, nor does the
/// size of the validation set for other images: there the published ones hold.
pub(super) fn measured(config: Config, data: &ImageFlags, attack: &AttackFlags) -> Result<Config> {
    let dataset = data.dataset.unwrap_or(config.dataset);
    let norm = attack.norm.unwrap_or(config.norm);
    let published = published(dataset, norm)?;
    let mut measured = Config { dataset, norm, ..config.clone() };
    if dataset != config.dataset {
        // That the weights do not fit the images is told of the weights.
        (measured.model, measured.depth, measured.width) = (published.model, published.depth, published.width);
        measured.val_size = published.val_size;
        measured.train_size = None;
    }
    if norm != config.norm {
        measured.hinge_maxeps = published.hinge_maxeps;
        measured.attack_mineps = published.attack_mineps;
        measured.test_eps = published.test_eps;
        measured.test_eps_iter = published.test_eps_iter;
    }
    if let Some(hinge) = attack.hinge_maxeps {
        measured.hinge_maxeps = hinge;
        // Training's search alone uses it: no reason to refuse a small bound.
        measured.attack_mineps = measured.attack_mineps.min(measured.max_eps());
    }
    measured.validate()?;
    Ok(measured)
}

/// The radii of the balls, ascending, each once.
pub(super) fn radii(attack: &AttackFlags, config: &Config) -> Result<Vec<f64>> {
    if let Some(eps) = attack.eps.iter().find(|&&eps| eps < 0.0) {
        return Err(Error::usage(format!("--eps: expected a number that is not negative; found {eps}")));
    }
    let mut eps = match attack.protocol {
        Some(protocol) if attack.eps.is_empty() => protocol.eps(config.dataset, config.norm),
        None if attack.eps.is_empty() => vec![as_written(config.test_eps)],
        _ => attack.eps.clone(),
    };
    eps.sort_by(f64::total_cmp);
    eps.dedup();
    Ok(eps)
}

/// How the attacks are run; PGD's step as the released evaluator chooses it.
pub(super) fn settings(attack: &AttackFlags, config: &Config) -> Result<AttackSettings> {
    let counts =
        [("nb-iter", attack.nb_iter), ("nb-restart", Some(attack.nb_restart)), ("nb-sample", Some(attack.nb_sample))];
    for (flag, number) in counts {
        if number == Some(0) {
            return Err(Error::usage(format!("--{flag}: expected at least 1; found 0")));
        }
    }
    if let Some(step) = attack.eps_iter.filter(|&step| step <= 0.0) {
        return Err(Error::usage(format!("--eps-iter: expected a positive number; found {step}")));
    }
    let parts = config.dataset.radii(config.norm).pgd_step_divisor;
    let AttackFlags { nb_iter, nb_restart, loss, nb_sample, seed, .. } = *attack;
    let step = attack.eps_iter.map_or(StepLength::EpsOver(parts), StepLength::Fixed);
    Ok(AttackSettings { nb_iter, nb_restart, step, loss, nb_sample, seed })
}
