//! `maxmargin train`: from flags to the settings of a run and its folder.

use std::path::{Path, PathBuf};

use clap::Args;

use super::device_flags::DeviceFlags;
use super::output::{Outcome, print, print_message, shell_command, stopped};
use super::presets;
use super::settings::{SettingsFlags, losses};
use crate::catalog::DatasetKind;
use crate::config::{Config, DEFAULT_PRESET, Method, as_written, preset};
use crate::data::{self, Dataset, Provenance, Splits};
use crate::evaluate::mean;
use crate::record::RunFolder;
use crate::record::run::{BEST, CONFIG, LAST};
use crate::tape::Norm;
use crate::text::{counted, histogram, length};
use crate::train::{TestResult, TrainingResult};
use crate::{Error, Result, interrupt, train};

const BRIEF_EXAMPLES: &str = "\
Defaults are those of the preset quick; `maxmargin presets` lists every preset's.
`maxmargin train --help` lists every flag.

Examples:
  maxmargin train
      the bundled digits, in minutes
  maxmargin train --preset mnist-linf --hinge-maxeps 0.3
      the published settings, with another d_max
  maxmargin train --resume runs/quick-0
      resume a run from its last checkpoint";

const EXAMPLES: &str = "\
Examples:
  maxmargin train
      the bundled digits, in minutes
  maxmargin train --preset mnist-linf
      the published settings; --method omma leaves out the clean loss
  maxmargin train --method pgd --attack-eps 0.2
      another method, here PGD training; every preset has the settings of all methods
  maxmargin train --preset cifar10-linf-trades
      the published settings of another method; `maxmargin presets` lists all
  maxmargin train --dataset mnist --norm L2 --hinge_maxeps 2. --seed 1 --savepath runs/l2
      flags of the released program work as they are: MNIST and CIFAR10 take the preset of their norm
  maxmargin train --preset cifar10-quick
      a small wide ResNet on CIFAR10
  maxmargin train --config mine.toml --hinge-maxeps 76.5/255
      settings from a file (`maxmargin presets mnist-linf > mine.toml`); numbers may be fractions
  maxmargin train --resume runs/quick-0 --max-num-training-steps 5000
      resume a run from its last checkpoint, here for longer than planned";

/// Folder of the data sets unless a flag names another.
const DEFAULT_DATA: &str = "data";

/// Flags that may be given with `--resume`: they do not change the results of a run, except the number of steps.
const ALLOWED_ON_RESUME: [&str; 10] = [
    "--resume",
    "--max-num-training-steps",
    "--data",
    "--device",
    "--sync",
    "--threads",
    "--quiet",
    "--verbose",
    "--dry-run",
    "--tensorboard",
];

/// Train a network by MMA or another method; without flags a LeNet5 on the bundled digits, in minutes
///
/// Settings start from a preset or a file; flags override them. The defaults below are those of the preset `quick`;
/// `maxmargin presets` lists every preset's. The effective settings are written to config.toml in the run folder, and
/// printed with --verbose. A run is a function of them and of the data: the same settings give the same weights, for
/// any number of threads.
#[derive(Args, Debug)]
#[command(after_help = BRIEF_EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{}", losses()))]
pub(super) struct TrainArgs {
    #[command(flatten)]
    run: TrainRunFlags,
    #[command(flatten)]
    settings: SettingsFlags,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Run")]
struct TrainRunFlags {
    /// Preset to start from: quick, mnist-linf, mnist-l2, cifar10-linf, cifar10-l2, cifar10-quick, or one of another
    /// method, such as mnist-linf-pgd [default: quick; with --dataset mnist or cifar10 the preset of --norm and
    /// --method]
    #[arg(long, value_name = "NAME", value_parser = presets::names(), hide_possible_values = true)]
    #[arg(conflicts_with = "config")]
    preset: Option<String>,
    /// File of settings to start from, as `presets NAME` prints them
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Run folder, for settings, metrics and checkpoints [default: runs/PRESET-SEED, or the next number that is free]
    #[arg(long, value_name = "RUN", visible_alias = "out")]
    savepath: Option<PathBuf>,
    /// Resume the run in this folder from its last checkpoint, bit for bit as if it had not stopped
    #[arg(long, value_name = "RUN")]
    resume: Option<PathBuf>,
    /// Folder of the data sets MNIST and CIFAR10
    #[arg(long, value_name = "FOLDER", default_value = DEFAULT_DATA)]
    data: PathBuf,
    /// Also write the metrics to a TensorBoard event file; a resumed run continues the file
    #[arg(long, hide_short_help = true)]
    tensorboard: bool,
    #[command(flatten)]
    device_flags: DeviceFlags,
    /// Print every setting before training
    #[arg(long, conflicts_with = "quiet")]
    verbose: bool,
    /// Print every setting and exit
    #[arg(long)]
    dry_run: bool,
}

/// Folder of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RunPlace {
    /// A new folder, named after preset and seed.
    Numbered,
    /// A named folder, which holds no run yet.
    New(PathBuf),
    /// The folder of a run that is resumed.
    Resumed(PathBuf),
}

/// Checked request for a run.
#[derive(Debug)]
struct TrainPlan {
    /// Settings.
    config: Config,
    /// Run folder.
    place: RunPlace,
    /// Folder of the data sets.
    data: PathBuf,
    /// True if metrics are also written to a TensorBoard event file.
    tensorboard: bool,
    /// True if every setting is printed instead of a summary.
    verbose: bool,
    /// Device, and how much is printed.
    device_flags: DeviceFlags,
}

/// Runs `train`; `given` are the flags of the command line, as `--name`.
pub(super) fn run(args: TrainArgs, given: &[String]) -> Result<Outcome> {
    let dry_run = args.run.dry_run;
    let plan = plan(args, given)?;
    if dry_run {
        print(&plan.config.describe())?;
        return Ok(Outcome::Done);
    }
    execute(&plan)
}

/// Trains a network, and prints the results.
fn execute(plan: &TrainPlan) -> Result<Outcome> {
    let TrainPlan { config, place, .. } = plan;
    let splits = data::load(config.dataset, &plan.data, config.val_size)?;
    if !matches!(place, RunPlace::Resumed(_)) {
        check_sizes(config, &splits)?;
    }
    let splits = splits.cut(config.train_size, config.test_size);
    let mut device = plan.device_flags.open()?;
    let folder = match place {
        RunPlace::Numbered => RunFolder::create_below(Path::new("runs"), &name(config), config.seed)?,
        RunPlace::New(path) => RunFolder::create(path)?,
        RunPlace::Resumed(path) => RunFolder::open(path)?,
    };
    if let Some(notice) = folder.notice().filter(|_| !plan.device_flags.quiet) {
        print_message(&notice);
    }
    if plan.tensorboard {
        folder.record_events()?;
    }
    let shown = folder.path().display();
    if !plan.device_flags.quiet {
        let Splits { train, validation, test, source } = &splits;
        let other = match splits.provenance() {
            Provenance::Other => format!("{source}: not the published files; no figure of the paper is comparable\n"),
            _ => String::new(),
        };
        let counts = [train, validation, test].map(Dataset::len);
        let [train, validation, test] = counts;
        let settings = if plan.verbose { config.describe() } else { summary(config) };
        print(&format!(
            "{settings}\n{source}: {train} training, {validation} validation, {test} test images\n{other}run folder {shown}\n\n"
        ))?;
    }
    // A run that stopped before its first checkpoint begins anew.
    let resume = matches!(place, RunPlace::Resumed(_)) && folder.file(LAST).is_file();
    interrupt::install("finishing the step");
    let summary = match train::run(config, &splits, &folder, device.as_mut(), resume, plan.device_flags.quiet) {
        Err(Error::Interrupted(signal)) => {
            let command = resume_command(plan, &folder);
            return Ok(stopped(signal, &format!("this resumes the run, bit for bit:\n  {command}")));
        }
        result => result?,
    };
    print(&table(config, &summary))?;
    print(&format!(
        "\n{shown}/{BEST} holds the weights after step {}, PyTorch's names and layouts\n",
        summary.best_step
    ))?;
    Ok(Outcome::Done)
}

/// Summary of a run for its beginning: preset and changes to it, network, method, steps.
fn summary(config: &Config) -> String {
    let overridden = config.overridden();
    let changes = config.fields().into_iter().filter_map(|(name, value)| {
        let of_preset = overridden.get(name)?;
        Some(format!("{name} = {value} (instead of {of_preset})"))
    });
    let changes = changes.collect::<Vec<_>>().join(", ");
    let preset = format!("{}{}{changes}", config.preset, if changes.is_empty() { "" } else { ", with " });
    let depth = config.depth.map_or(String::new(), |depth| format!(", depth {depth}"));
    let length = match config.trained_with() {
        Some(d_max) if config.method.is_mma() => format!(", {}, d_max {}", config.norm, length(d_max)),
        Some(eps) => format!(", {}, eps {}", config.norm, length(eps)),
        None => String::new(),
    };
    format!(
        "preset    {preset}\n\
         network   {}{depth}, width {}\n\
         method    {}{length}\n\
         training  {} of {}, {}, seed {}\n\
         --verbose shows every setting, and so does {CONFIG} in the run folder\n",
        config.model,
        config.width,
        config.method,
        counted(config.max_num_training_steps.into(), "step"),
        counted(config.training_batch_size as u64, "image"),
        config.optimizer,
        config.seed
    )
}

/// Refuses sizes that the data does not have.
fn check_sizes(config: &Config, splits: &Splits) -> Result<()> {
    for (flag, part, size, set) in [
        ("--train-size", "training", config.train_size, &splits.train),
        ("--test-size", "test", config.test_size, &splits.test),
    ] {
        if let Some(size) = size.filter(|&size| size > set.len()) {
            let (n, source) = (set.len(), &splits.source);
            return Err(Error::usage(format!(
                "{flag}: expected at most {n}, the {part} images of {source}; found {size}"
            )));
        }
    }
    Ok(())
}

/// Command that resumes the run in `folder` with the data, the device and the output of this one.
fn resume_command(plan: &TrainPlan, folder: &RunFolder) -> String {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let mut words = vec!["train".to_owned(), "--resume".to_owned(), path(folder.path())];
    if plan.data != Path::new(DEFAULT_DATA) {
        words.extend(["--data".to_owned(), path(&plan.data)]);
    }
    words.extend(plan.device_flags.words());
    shell_command(&words)
}

/// Name of a run: its preset, and the method if it is not the preset's.
fn name(config: &Config) -> String {
    match preset(&config.preset) {
        Some(preset) if preset.config.method == config.method => config.preset.clone(),
        _ => format!("{}-{}", config.preset, config.method),
    }
}

/// Table of the accuracies before and after training, and histograms of the margins.
fn table(config: &Config, summary: &TrainingResult) -> String {
    let TrainingResult { before, after, .. } = summary;
    let eps = length(as_written(config.test_eps));
    let mut text = format!(
        "{:34}{:>12}{:>12}\n",
        counted(after.margins.values.len() as u64, "test image"),
        "untrained",
        "trained"
    );
    let mut row = |name: String, before: String, after: String| text += &format!("{name:34}{before:>12}{after:>12}\n");
    let percent = |value: f64| format!("{value:.2} %");
    row("clean accuracy".into(), percent(before.clean), percent(after.clean));
    row(format!("accuracy under PGD-40, eps {eps}"), percent(before.robust), percent(after.robust));
    let margin = |result: &TestResult| format!("{:.4}", mean(&result.margins.values));
    row(format!("mean margin, {}", config.norm), margin(before), margin(after));
    let max = config.max_eps();
    for (title, result) in [("untrained", before), ("trained", after)] {
        text += &format!("\nmargins, {title}\n");
        histogram(&result.margins, max, 40).iter().for_each(|line| text += &format!("{line}\n"));
    }
    text
}

/// Checks the flags.
fn plan(args: TrainArgs, given: &[String]) -> Result<TrainPlan> {
    let TrainArgs { run: flags, settings } = args;
    let (config, place) = match flags.resume {
        Some(run) => {
            if let Some(flag) = given.iter().find(|flag| !ALLOWED_ON_RESUME.contains(&flag.as_str())) {
                return Err(Error::usage(format!(
                    "{flag}: cannot be given together with --resume, which takes the settings from {}",
                    run.join(CONFIG).display()
                )));
            }
            (resumed(&run, settings.steps())?, RunPlace::Resumed(run))
        }
        None => {
            let mut config = base(flags.preset.as_deref(), flags.config.as_deref(), settings.dataset_norm_method())?;
            settings.apply(&mut config);
            config.validate()?;
            (config, flags.savepath.map_or(RunPlace::Numbered, RunPlace::New))
        }
    };
    let TrainRunFlags { data, tensorboard, device_flags, verbose, .. } = flags;
    Ok(TrainPlan { config, place, data, tensorboard, verbose, device_flags })
}

/// Settings that the flags override: those of the file, of the named preset, or of the preset for the data set, norm
/// and method.
fn base(
    name: Option<&str>,
    file: Option<&Path>,
    (dataset, norm, method): (Option<DatasetKind>, Option<Norm>, Option<Method>),
) -> Result<Config> {
    if let Some(file) = file {
        return Config::load(file);
    }
    let of_data = match dataset {
        Some(DatasetKind::Digits) | None => DEFAULT_PRESET.into(),
        Some(dataset) => dataset.preset(norm.unwrap_or(Norm::Linf)),
    };
    let of_method = method.and_then(|method| preset(&format!("{of_data}-{method}")));
    let name = name.map_or_else(|| of_method.map_or(of_data, |preset| preset.name.into()), str::to_owned);
    Ok(preset(&name).ok_or_else(|| Error::usage(format!("--preset: no preset is called {name}")))?.config)
}

/// Settings of the run in the folder `run`, for `steps` steps.
fn resumed(run: &Path, steps: Option<u32>) -> Result<Config> {
    let mut config = Config::load(&run.join(CONFIG))?;
    let planned = config.max_num_training_steps;
    match steps {
        Some(steps) if steps < planned => Err(Error::usage(format!(
            "--max-num-training-steps: with --resume expected at least the {planned} that {} was planned for; \
             found {steps}",
            run.display()
        ))),
        _ => {
            config.max_num_training_steps = steps.unwrap_or(planned);
            Ok(config)
        }
    }
}
