//! `maxmargin evaluate`: from flags to the attacks on a checkpoint, and the accuracies that are required of it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::device_flags::DeviceFlags;
use super::measure::{AttackFlags, Checkpoint, ImageFlags, Measure, radii, settings};
use super::output::{Outcome, output_file, print_beside, stopped, this_command};
use super::values::{RequiredAccuracy, percent, percent_at_eps, within};
use super::weights_flags::WeightsFlags;
use crate::config::ranges::BATCH;
use crate::evaluate::checks::is_fatal;
use crate::evaluate::folder::{self, ADVERSARIAL, EvaluationFolder, PreparedFolder};
use crate::evaluate::report::{EvaluationReport, RobustAccuracy};
use crate::evaluate::{AttackName, EvaluationRequest, OutputPaths};
use crate::tape::Norm;
use crate::text::counted;
use crate::{Error, Result, interrupt};

const EXAMPLES: &str = "\
Examples:
  maxmargin evaluate runs/quick-0
      the best weights of a run, under its norm and eps, on the test images
  maxmargin evaluate runs/quick-0 --attack pgd --eps 0.1,0.2,0.3 --json robust.json
      accuracy at several eps, also as a file
  maxmargin evaluate model.safetensors --dataset cifar10 --norm l2 --eps 1 --test-size 1000
      any LeNet5 or wide ResNet with PyTorch's names, the released code's or RobustBench's;
      the shapes of its tensors tell its architecture, --normalization what it does with an image
  maxmargin evaluate runs/quick-0 --require-clean 96 --require-robust 60@0.3
      exit code 1 when an accuracy is not reached";

/// Message on the folder of another evaluation, after its path.
const STAYS: &str = "is of other images, weights, flags or program and stays";

/// Attack a trained network and measure its margins
///
/// The default attack is the released evaluator's: PGD from several random starts, half of them on the cross-entropy
/// and half on the cw loss; an image is robust if none of them finds an adversarial one. Margins are measured by
/// AN-PGD, as in the selection of checkpoints. Warnings beside the figures begin with the name of a check;
/// docs/checks.md explains each.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct EvaluateArgs {
    /// Weights (.safetensors), or a run folder, whose best.safetensors and settings are taken
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoint: PathBuf,
    #[command(flatten)]
    pub run: EvaluateRunFlags,
    #[command(flatten)]
    pub weights: WeightsFlags,
    #[command(flatten)]
    pub images: ImageFlags,
    #[command(flatten)]
    pub attack: AttackFlags,
    #[command(flatten)]
    pub required: RequiredAccuracies,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Run")]
pub(super) struct EvaluateRunFlags {
    /// Write the report to this file, too; - is the standard output, and what is printed goes to the standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Folder for evaluation.json and images.csv [default: evaluation-NAME in the run's folder; none for weights alone]
    ///
    /// images.csv has a row for each image. An interrupted evaluation continues from the state in the folder. An
    /// evaluation of other images, weights or flags is not overwritten: the default is then evaluation-NAME-2 and so on.
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Write the adversarial images (those in balls, or else the nearest), each checked, to this file [default
    /// file: adversarial.safetensors in the evaluation's folder, where a report shows them]
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub save: Option<Option<PathBuf>>,
    #[command(flatten)]
    pub device_flags: DeviceFlags,
    /// Images per batch
    #[arg(long, value_name = "N", default_value = "100", value_parser = within(&BATCH))]
    pub batch_size: usize,
}

/// Accuracies that must be reached, in percent.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Checks")]
pub(super) struct RequiredAccuracies {
    /// Exit with code 1 if the clean accuracy is lower
    #[arg(long = "require-clean", value_name = "PERCENT", value_parser = percent)]
    clean: Option<f64>,
    /// Exit with code 1 if the accuracy under attack at this eps is lower; may be repeated
    #[arg(long = "require-robust", value_name = "PERCENT@EPS", value_parser = percent_at_eps)]
    robust: Vec<RequiredAccuracy>,
    /// Accept required accuracies beside warnings of the checks
    ///
    /// Without it, an accuracy whose evaluation has a warning does not meet what is required.
    #[arg(long)]
    allow_suspicious: bool,
}

/// Figures of an evaluation from which the requirements are decided.
struct RequiredFigures<'a> {
    /// Accuracy without an attack, in percent.
    clean: f64,
    /// Accuracies under attack.
    robust: &'a [RobustAccuracy],
    /// Warnings of the checks.
    warnings: &'a [String],
}

impl RequiredAccuracies {
    /// A line for each accuracy that was not reached, and for each that is doubtful because of warnings.
    fn failures(&self, figures: &RequiredFigures) -> Vec<String> {
        let clean = self.clean.map(|required| {
            let (flag, found) = (format!("--require-clean {required}"), figures.clean);
            self.failure(&flag, required, found, "are classified correctly", figures.warnings)
        });
        let robust = self.robust.iter().filter_map(|RequiredAccuracy { percent, eps }| {
            let found = figures.robust.iter().find(|found| is_same_eps(found.eps, *eps))?.accuracy;
            let flag = format!("--require-robust {percent}@{eps}");
            Some(self.failure(&flag, *percent, found, "are classified correctly under attack", figures.warnings))
        });
        clean.into_iter().chain(robust).flatten().collect()
    }

    fn failure(&self, flag: &str, required: f64, found: f64, what: &str, warnings: &[String]) -> Option<String> {
        match warnings.first() {
            _ if found < required => Some(format!("check failed: {flag}: {found:.2} % {what}")),
            Some(warning) if !self.allow_suspicious => Some(format!(
                "check failed: {flag}: {found:.2} % {what}, but the figure is doubtful: {warning}; docs/checks.md \
                 explains it, and --allow-suspicious accepts it"
            )),
            _ => None,
        }
    }

    /// Refuses an eps at which no attack is run, and --allow-suspicious where nothing is required.
    fn check(&self, eps: &[f64]) -> Result<()> {
        if self.allow_suspicious && self.clean.is_none() && self.robust.is_empty() {
            return Err(Error::usage("--allow-suspicious: expected --require-clean or --require-robust beside it"));
        }
        let is_attacked = |required: &&RequiredAccuracy| eps.iter().any(|&eps| is_same_eps(eps, required.eps));
        let Some(RequiredAccuracy { percent, eps: at }) = self.robust.iter().find(|required| !is_attacked(required))
        else {
            return Ok(());
        };
        let attacked: Vec<_> = eps.iter().map(f64::to_string).collect();
        let found = match attacked.is_empty() {
            true => "none: no attack in a ball was asked for".into(),
            false => attacked.join(", "),
        };
        Err(Error::usage(format!(
            "--require-robust {percent}@{at}: expected one of the attacked eps; found eps {found}"
        )))
    }
}

/// True if two radii are one in single precision, which attacks compute in.
fn is_same_eps(one: f64, other: f64) -> bool {
    one as f32 == other as f32
}

/// File for the adversarial images.
#[derive(Debug)]
enum SaveTo {
    /// In the evaluation's folder.
    InFolder,
    /// Given file.
    File(PathBuf),
}

/// Checked arguments of `evaluate`.
#[derive(Debug)]
struct EvaluatePlan {
    request: EvaluationRequest,
    /// Folder of the evaluation, if it has one.
    folder: Option<EvaluationFolder>,
    /// File for the adversarial images.
    save: Option<SaveTo>,
    /// File for the report, beside the folder.
    json: Option<PathBuf>,
    device_flags: DeviceFlags,
    required: RequiredAccuracies,
}

pub(super) fn run(args: EvaluateArgs) -> Result<Outcome> {
    let plan = plan(args)?;
    let check = |flag, path: &Path| output_file(flag, path, &[&plan.request.weights]);
    let json = plan.json.as_deref().map(|path| check("--json", path)).transpose()?;
    let given = match &plan.save {
        Some(SaveTo::File(path)) => Some(check("--save", path)?),
        _ => None,
    };
    given.iter().zip(&json).try_for_each(|(save, json)| save.refuse_same(json))?;
    let inputs = plan.request.read()?;
    let mut device = plan.device_flags.open()?;
    let folder = plan.folder.map(|folder| folder.prepare(inputs.request_hash())).transpose()?;
    if let Some(PreparedFolder { passed_over, .. }) = folder.as_ref().filter(|_| !plan.device_flags.quiet) {
        for other in passed_over {
            // Nobody is left to be told if this fails.
            let _ = writeln!(std::io::stderr(), "{} {STAYS}", other.display());
        }
    }
    let folder = folder.map(|prepared| prepared.path);
    let save = match (&plan.save, &folder) {
        (Some(SaveTo::InFolder), Some(folder)) => Some(check("--save", &folder.join(ADVERSARIAL))?),
        _ => given,
    };
    let paths = OutputPaths { folder, keep_images: save.is_some(), ..OutputPaths::default() };
    interrupt::install("keeping the finished batches");
    let report = match inputs.run(device.as_mut(), &paths) {
        Err(Error::Interrupted(signal)) => return Ok(stopped(signal, &remains(paths.folder.as_deref()))),
        result => result?,
    };
    let print = |text: &str| print_beside(json.iter().chain(&save), text);
    print(&report.table())?;
    // Each is tried: an output that fails does not take the others with it.
    let saved = [
        paths.folder.as_ref().map_or(Ok(()), |folder| {
            folder::write(folder, &report)?;
            print(&format!("{} has the report, and a row for each image\n", folder.display()))
        }),
        json.as_ref().map_or(Ok(()), |json| folder::write_report(json, &report)),
        save.as_ref().zip(report.adversarial.as_ref()).map_or(Ok(()), |(save, adversarial)| {
            adversarial.write(save)?;
            print(&format!("{}: {}, each checked\n", save.path().display(), counted(report.count as u64, "image")))
        }),
    ];
    saved.into_iter().collect::<Result<()>>()?;
    let EvaluationReport { clean_accuracy: clean, robust, warnings, .. } = &report;
    match warnings.iter().any(|warning| is_fatal(warning)) {
        true => Ok(Outcome::CheckFailed),
        false => conclude(&plan.required, &RequiredFigures { clean: *clean, robust, warnings }, print),
    }
}

/// Text about what remains of an evaluation that a signal stopped, given its folder.
fn remains(folder: Option<&Path>) -> String {
    match folder {
        Some(folder) => {
            format!("{} has what was found; the same command goes on:\n  {}", folder.display(), this_command())
        }
        None => "nothing was kept: weights alone have no folder (`evaluate --out FOLDER` gives them one)".into(),
    }
}

/// Prints the required accuracies that were not reached.
///
/// # Errors
/// The standard output cannot be written.
fn conclude(
    required: &RequiredAccuracies,
    figures: &RequiredFigures,
    print: impl Fn(&str) -> Result<()>,
) -> Result<Outcome> {
    let failures = required.failures(figures);
    failures.iter().try_for_each(|failure| print(&format!("{failure}\n")))?;
    Ok(if failures.is_empty() { Outcome::Done } else { Outcome::CheckFailed })
}

fn plan(args: EvaluateArgs) -> Result<EvaluatePlan> {
    let EvaluateArgs { checkpoint, run, weights: weights_flags, images, attack, required } = args;
    let Checkpoint { weights, config, run: of_run, trained } = Checkpoint::find(&checkpoint, &images, &attack)?;
    let measures = measures(&attack);
    attack.check_effect(&measures)?;
    let attacks = attacks(&measures, config.norm)?;
    let balls = attacks.iter().any(|name| !name.is_minimum_norm());
    let eps = if balls { radii(&attack, &config)? } else { Vec::new() };
    required.check(&eps)?;
    let name = match attack.protocol {
        Some(protocol) => protocol.to_string(),
        None => measures.iter().map(|measure| measure.text()).collect::<Vec<_>>().join("+"),
    };
    let request = EvaluationRequest {
        weights,
        weights_options: weights_flags.options(),
        settings: settings(&attack, &config)?,
        config,
        trained,
        split: images.split,
        size: images.test_size,
        data: images.data,
        protocol: attack.protocol.map(|protocol| protocol.to_string()),
        attacks,
        eps,
        margins: measures.contains(&Measure::Margins),
        batch_size: run.batch_size,
        quiet: run.device_flags.quiet,
    };
    let folder = run.out.map(EvaluationFolder::At);
    let folder = folder.or_else(|| of_run.map(|run| EvaluationFolder::InRun { run, name }));
    let save = run.save.map(|file| file.map_or(SaveTo::InFolder, SaveTo::File));
    if matches!(save, Some(SaveTo::InFolder)) && folder.is_none() {
        return Err(Error::usage("--save: expected a file: weights alone have no folder without --out"));
    }
    Ok(EvaluatePlan { request, folder, save, json: run.json, device_flags: run.device_flags, required })
}

/// Measurements that the flags name, in their order.
fn measures(flags: &AttackFlags) -> Vec<Measure> {
    match flags.protocol {
        Some(protocol) => protocol.attacks().into_iter().map(Measure::Attack).collect(),
        None if flags.attack.is_empty() => vec![Measure::Attack(AttackName::Pgd), Measure::Margins],
        None => flags.attack.clone(),
    }
}

/// Attacks among the measurements, each once.
///
/// # Errors
/// An attack is not defined for the norm.
fn attacks(measures: &[Measure], norm: Norm) -> Result<Vec<AttackName>> {
    let mut attacks: Vec<AttackName> = Vec::new();
    for measure in measures {
        if let Measure::Attack(name) = measure
            && !attacks.contains(name)
        {
            attacks.push(*name);
        }
    }
    for name in &attacks {
        if let Some(only) = name.only_norm().filter(|only| *only != norm) {
            return Err(Error::usage(format!("--attack {name}: expected --norm {only}, its only one; found {norm}")));
        }
    }
    Ok(attacks)
}

#[cfg(test)]
mod tests {
    use super::super::output::print;
    use super::*;
    use crate::attack::StepLength;
    use crate::catalog::DatasetKind;
    use crate::config::{Config, DEFAULT_PRESET, preset};
    use crate::evaluate::{AttackSettings, Split};
    use clap::{CommandFactory as _, FromArgMatches as _, Parser};

    #[derive(Parser)]
    struct EvaluateProgram {
        #[command(flatten)]
        args: EvaluateArgs,
    }

    fn planned(line: &str) -> Result<EvaluationRequest> {
        Ok(plan_of(line)?.request)
    }

    fn plan_of(line: &str) -> Result<EvaluatePlan> {
        let command = super::super::spelling::released_spellings(EvaluateProgram::command());
        let matches = command.try_get_matches_from(format!("program {line}").split(' ')).unwrap();
        plan(EvaluateProgram::from_arg_matches(&matches).unwrap().args)
    }

    #[test]
    fn weights_alone_are_attacked_as_published() {
        let plan = planned("w.safetensors").unwrap();
        assert_eq!(plan.weights, PathBuf::from("w.safetensors"));
        assert_eq!((plan.config.dataset, plan.config.norm), (DatasetKind::Digits, Norm::Linf));
        assert_eq!((plan.config.hinge_maxeps, plan.config.val_size), (0.45, 500));
        assert_eq!((plan.attacks, plan.eps), (vec![AttackName::Pgd], vec![0.3]));
        let AttackSettings { nb_iter, nb_restart, step, seed, .. } = plan.settings;
        assert_eq!((nb_iter, nb_restart, seed, plan.batch_size), (None, 10, 0, 100));
        assert_eq!(step, StepLength::EpsOver(40.0));
        assert!(plan.margins && plan.split == Split::Test && plan.size.is_none());
    }

    #[test]
    fn l2_has_its_own_lengths_and_a_larger_step() {
        let plan = planned("w.safetensors --norm L2 --dataset mnist").unwrap();
        assert_eq!((plan.config.hinge_maxeps, plan.config.test_eps_iter, plan.config.val_size), (4.0, 0.125, 5000));
        assert_eq!((plan.eps, plan.settings.step), (vec![2.0], StepLength::EpsOver(4.0)));
    }

    #[test]
    fn cifar10_has_its_own_lengths_and_the_larger_step_in_both_norms() {
        let plan = planned("w.safetensors --dataset cifar10").unwrap();
        assert_eq!((plan.config.hinge_maxeps, plan.config.test_eps_iter), (0.0471, 2.0 / 255.0));
        assert_eq!((plan.eps[0] as f32, plan.settings.step), (8.0 / 255.0, StepLength::EpsOver(4.0)));
        let plan = planned("w.safetensors --dataset cifar10 --norm l2").unwrap();
        assert_eq!((plan.config.hinge_maxeps, plan.eps), (1.0, vec![1.0]));
    }

    #[test]
    fn several_eps_come_as_a_list_or_one_by_one_and_are_tried_in_their_order() {
        let plan = planned("w.safetensors --eps 0.3,8/255 --eps 0.1,0.3 --eps_iter 0.01 --attack pgd").unwrap();
        assert_eq!(plan.eps, [8.0 / 255.0, 0.1, 0.3]);
        assert!(plan.settings.step == StepLength::Fixed(0.01) && !plan.margins);
        assert!(planned("w.safetensors --attack margins,an-pgd").unwrap().eps.is_empty());
    }

    #[test]
    fn a_protocol_has_its_own_eps_and_a_folder_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.toml"), preset("cifar10-linf").unwrap().config.to_toml()).unwrap();
        let plan = plan_of(&format!("{} --protocol paper", folder.path().display())).unwrap();
        assert_eq!(plan.request.eps.len(), 8);
        assert_eq!(plan.request.protocol.as_deref(), Some("paper"));
        assert_eq!(plan.folder, Some(EvaluationFolder::InRun { run: folder.path().into(), name: "paper".into() }));
        let plan = plan_of(&format!("{} --attack margins,pgd", folder.path().display())).unwrap();
        assert_eq!(
            plan.folder,
            Some(EvaluationFolder::InRun { run: folder.path().into(), name: "margins+pgd".into() })
        );
        assert_eq!(plan_of("w.safetensors").unwrap().folder, None);
    }

    #[test]
    fn a_run_brings_its_settings_and_another_norm_brings_its_lengths() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().display();
        let config = Config { hinge_maxeps: 0.2, test_eps: 0.15, ..preset(DEFAULT_PRESET).unwrap().config };
        std::fs::write(folder.path().join("config.toml"), config.to_toml()).unwrap();

        let plan = planned(&format!("{run}")).unwrap();
        assert_eq!(plan.weights, folder.path().join("best.safetensors"));
        assert_eq!((plan.config, plan.eps), (config, vec![0.15]));
        let other = planned(&format!("{run} --norm l2 --dataset mnist")).unwrap().config;
        assert_eq!((other.hinge_maxeps, other.test_eps, other.val_size, other.nb_iter), (4.0, 2.0, 5000, 5));
        let small = planned(&format!("{run} --hinge-maxeps 0.05")).unwrap().config;
        assert_eq!(small.hinge_maxeps, 0.05);
    }

    #[test]
    fn an_accuracy_is_too_low_below_the_required_percentage_and_not_at_it() {
        let required = plan_of("w --eps 0.2,0.3 --require-clean 96 --require-robust 60@0.3").unwrap().required;
        let at = |eps, accuracy| RobustAccuracy { eps, accuracy, ..RobustAccuracy::default() };
        let failures =
            |clean, robust: &[RobustAccuracy]| required.failures(&RequiredFigures { clean, robust, warnings: &[] });
        assert!(failures(96.0, &[at(0.2, 10.0), at(0.3, 60.0)]).is_empty());
        assert_eq!(
            failures(95.99, &[at(0.2, 80.0), at(0.3, 59.994)]),
            [
                "check failed: --require-clean 96: 95.99 % are classified correctly",
                "check failed: --require-robust 60@0.3: 59.99 % are classified correctly under attack"
            ]
        );
        let outcome = |accuracy| {
            let figures = RequiredFigures { clean: 97.0, robust: &[at(0.3, accuracy)], warnings: &[] };
            conclude(&required, &figures, print).unwrap()
        };
        assert_eq!((outcome(61.0), outcome(1.0)), (Outcome::Done, Outcome::CheckFailed));
    }

    #[test]
    fn a_requirement_is_not_met_by_a_doubtful_figure_unless_that_is_accepted() {
        let robust = [RobustAccuracy { eps: 0.3, accuracy: 84.0, ..RobustAccuracy::default() }];
        let warnings = ["zero-gradient: the gradient is zero".to_owned()];
        let figures = RequiredFigures { clean: 97.0, robust: &robust, warnings: &warnings };
        let failures = |flags: &str| plan_of(format!("w {flags}").trim()).unwrap().required.failures(&figures);
        let found = failures("--require-robust 70@0.3 --require-clean 96");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[1].contains("84.00 %") && found[1].contains("doubtful: zero-gradient: "), "{found:?}");
        assert!(failures("--require-robust 70@0.3 --allow-suspicious").is_empty());
        assert_eq!(failures("--require-robust 90@0.3 --allow-suspicious").len(), 1);
        assert!(failures("").is_empty());
        let message = plan_of("w --allow-suspicious").unwrap_err().to_string();
        assert!(message.contains("--allow-suspicious: expected --require-clean or --require-robust"), "{message}");
    }

    #[test]
    fn radii_are_compared_as_single_precision() {
        for flags in ["", "--eps 8/255", "--eps 0.03137255"] {
            let plan = plan_of(&format!("w --dataset cifar10 {flags} --require-robust 60@8/255").replace("  ", " "));
            let required = plan.unwrap().required;
            let robust = [RobustAccuracy { eps: 0.03137255, accuracy: 1.0, ..RobustAccuracy::default() }];
            let figures = RequiredFigures { clean: 97.0, robust: &robust, warnings: &[] };
            assert_eq!(required.failures(&figures).len(), 1, "{flags}");
        }
        assert_eq!(planned("w --eps 8/255,0.03137255").unwrap().eps.len(), 1);
    }

    #[test]
    fn a_flag_without_effect_is_refused_with_the_attacks_that_read_it() {
        for (flags, flag) in [
            ("--attack autoattack --nb-iter 3", "--nb-iter"),
            ("--attack an-pgd --nb-iter 3", "--nb-iter"),
            ("--attack margins --nb-iter 3", "--nb-iter"),
            ("--attack margins --seed 1", "--seed"),
            ("--attack margins --eps 0.1", "--eps"),
            ("--attack an-pgd --eps 0.1", "--eps"),
            ("--attack apgd-ce --eps-iter 0.1", "--eps-iter"),
            ("--attack square,apgd-t --nb-restart 3", "--nb-restart"),
            ("--attack pgd --loss cw", "--loss"),
            ("--attack pgd --nb-sample 64", "--nb-sample"),
            ("--attack pgd --hinge-maxeps 0.3", "--hinge-maxeps"),
            ("--attack fab-t --seed 1", "--seed"),
            ("--protocol autoattack --loss cw", "--loss"),
        ] {
            let message = plan_of(&format!("w {flags}")).map(drop).expect_err(flags).to_string();
            assert!(message.starts_with(&format!("{flag}: expected one of")), "{flags}: {message}");
            let given = flags.split(' ').nth(1).unwrap();
            assert!(message.ends_with(&format!("found {}", given.replace(',', ", "))), "{flags}: {message}");
        }
        for flags in ["--nb-iter 3 --nb-restart 2", "--attack autoattack,pgd --nb-iter 3", "--attack pgd-t --loss cw"] {
            assert!(plan_of(&format!("w {flags}")).is_ok(), "{flags}");
        }
    }
}
