//! The command line: parse, check, run, exit code. One file a command; no work is done in here.
//!
//! Every long flag also has the released code's spelling, with underscores. Exit codes: 0 done, 1 a check that was
//! asked for failed, 2 an error.

mod attack;
mod bench;
mod choices;
mod data;
mod device_flags;
mod devices;
mod evaluate;
mod explain;
mod export;
mod measure;
mod output;
mod presets;
mod report;
mod settings;
mod spelling;
mod train;
mod transfer;
mod values;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub use output::Outcome;
use output::print_error;
use spelling::released_spellings;

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
            print_error(&error);
            ExitCode::from(2)
        }
    }
}

/// The whole command line.
fn command() -> Command {
    Cli::command().mut_subcommands(released_spellings)
}

/// The flags of the subcommand that were given, as `--name`.
fn given_flags(command: &Command, matches: &ArgMatches) -> Vec<String> {
    let Some((name, matches)) = matches.subcommand() else { return Vec::new() };
    let args = command.find_subcommand(name).into_iter().flat_map(Command::get_arguments);
    args.filter(|arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine))
        .filter_map(|arg| arg.get_long().map(|long| format!("--{long}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
