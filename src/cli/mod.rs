//! The command line: parse, check, run, exit code. One file a command; no work is done in here.
//!
//! Every long flag also has the released code's spelling, with underscores. Exit codes: 0 done, 1 a check that was
//! asked for failed, 2 an error.

mod attack;
mod bench;
mod choices;
mod data;
mod devices;
mod evaluate;
mod explain;
mod export;
mod machine;
mod measure;
mod presets;
mod report;
mod settings;
mod train;
mod transfer;
mod values;

use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::{Error, Result};
use machine::Machine;

const EXAMPLES: &str = "\
Examples:
  maxmargin train                        train on the bundled digits, in minutes
  maxmargin evaluate runs/quick-0        attack what was trained, measure its margins
  maxmargin attack runs/quick-0          its adversarial images as a file
  maxmargin transfer runs/a runs/b       images made on one network, tried on another
  maxmargin report runs/quick-0          a page about it, with pictures
  maxmargin export runs/quick-0          its weights, as another program names them
  maxmargin presets                      the published settings
  maxmargin train --help                 every setting
  maxmargin explain                      what a training step computes, op by op
  maxmargin devices                      what can compute here
  maxmargin bench                        how fast it is, op by op

Exit codes: 0 done, 1 a check that was asked for failed, 2 an error.";

/// Max-Margin Adversarial (MMA) training of image classifiers, and attacks on them
///
/// MMA training (Ding et al., ICLR 2020) finds for each example how far the decision boundary is and trains on the
/// example moved there, until its margin reaches d_max.
#[derive(Parser, Debug)]
#[command(name = "maxmargin", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Train(Box<train::TrainArgs>),
    Evaluate(Box<evaluate::EvaluateArgs>),
    Attack(Box<attack::AttackArgs>),
    Transfer(Box<transfer::TransferArgs>),
    Export(export::ExportArgs),
    Data(data::DataArgs),
    Report(report::ReportArgs),
    Presets(presets::PresetsArgs),
    Explain(explain::ExplainArgs),
    Devices(devices::DevicesArgs),
    Bench(bench::BenchArgs),
}

/// How a command ended that met no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what was asked.
    Done,
    /// A check that was asked for failed.
    CheckFailed,
}

/// Runs the program on its arguments, of which the first is its name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut command = command();
    let parsed = command.try_get_matches_from_mut(arguments).and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((cli, matches))
    });
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version too; nobody is left to be told if this fails.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let result = match cli.verb {
        Verb::Train(args) => train::run(*args, &given_flags(&command, &matches)),
        Verb::Evaluate(args) => evaluate::run(*args),
        Verb::Attack(args) => attack::run(*args),
        Verb::Transfer(args) => transfer::run(*args),
        Verb::Export(args) => export::run(&args),
        Verb::Data(args) => data::run(args),
        Verb::Report(args) => report::run(&args),
        Verb::Presets(args) => presets::run(args),
        Verb::Explain(args) => explain::run(&args),
        Verb::Devices(args) => devices::run(&args),
        Verb::Bench(args) => bench::run(args),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::CheckFailed) => ExitCode::from(1),
        Err(error) => {
            complain(&error);
            ExitCode::from(2)
        }
    }
}

/// The whole command line.
fn command() -> Command {
    Cli::command().mut_subcommands(released_spellings)
}

/// Accepts every flag with underscores, names of values in any case, and negative numbers as values, so that the
/// message about them is ours.
fn released_spellings(command: Command) -> Command {
    command.mut_args(|arg| {
        let longs = arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default());
        let underscored: Vec<_> = longs.filter(|long| long.contains('-')).map(|long| long.replace('-', "_")).collect();
        let takes_value = arg.get_action().takes_values();
        arg.aliases(underscored).ignore_case(takes_value).allow_negative_numbers(takes_value)
    })
}

/// The flags of the subcommand that were given, as `--name`.
fn given_flags(command: &Command, matches: &ArgMatches) -> Vec<String> {
    let Some((name, matches)) = matches.subcommand() else { return Vec::new() };
    let args = command.find_subcommand(name).into_iter().flat_map(Command::get_arguments);
    args.filter(|arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine))
        .filter_map(|arg| arg.get_long().map(|long| format!("--{long}")))
        .collect()
}

/// Prints `error` and what caused it to the standard error.
fn complain(error: &Error) {
    let mut text = format!("error: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Some messages already end with their cause's.
        if !text.contains(&inner_text) {
            text.push_str(&format!("\n  caused by: {inner_text}"));
        }
        cause = inner.source();
    }
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Refuses `flag path` where no file can be, before anything is computed for it.
fn folder_exists(flag: &str, path: &Path) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match folder.is_dir() {
        true => Ok(()),
        false => Err(Error::usage(format!("{flag} {}: there is no folder {}", path.display(), folder.display()))),
    }
}

/// Writes `text` to the standard output. A reader that went away (`| head -1`) is no error.
///
/// # Errors
/// The output cannot be written for another reason, such as a full disk.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(source) if source.kind() != ErrorKind::BrokenPipe => {
            Err(Error::io(Path::new("standard output"), "write", source))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
