//! The command line: parses and checks flags, runs a command, and turns its result into an exit code.
//!
//! Each command has a file. Shared by them: `device_flags` (device, threads, output), `measure` (flags of evaluations),
//! `settings` (flags of the settings), `values` and `choices` (forms of values), `spelling`, `output`. Only this module
//! names clap. Every long flag also has the released code's spelling, with underscores.

mod attack;
mod bench;
mod choices;
mod data;
mod device_flags;
mod devices;
mod evaluate;
mod explain;
mod explain_cost;
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
mod weights_flags;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub use output::Outcome;
use output::print_error;
use spelling::released_spellings;

use crate::Error;

const EXAMPLES: &str = "\
Examples:
  maxmargin train                        train on the bundled digits, in minutes
  maxmargin evaluate runs/quick-0        attack the trained network, measure its margins
  maxmargin attack runs/quick-0          write adversarial images to a file
  maxmargin transfer runs/a runs/b       try the adversarial images of each network on the other
  maxmargin report runs/quick-0          write an HTML report with plots and images
  maxmargin export runs/quick-0 --out w.safetensors
                                         write the weights, for PyTorch or RobustBench
  maxmargin presets                      list the published settings
  maxmargin train --help                 list every setting
  maxmargin explain                      print the ops of a training step
  maxmargin devices                      list the CPU and the GPUs
  maxmargin bench                        measure the speed of a training step and of its ops

Exit codes: 0 done, 1 a check that was required failed, 2 an error, 130, 143 or 129 stopped by
SIGINT (Ctrl-C), SIGTERM or SIGHUP: the state is written first, and a second signal stops at once.";

/// Max-Margin Adversarial (MMA) training of image classifiers, and attacks on them
///
/// MMA training (Ding et al., ICLR 2020) measures the distance of each example from the decision boundary, its margin,
/// and trains on the example's boundary point until the margin reaches d_max.
#[derive(Parser, Debug)]
#[command(name = "maxmargin", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Subcommand, Debug)]
enum CliCommand {
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

/// Runs the program on its arguments, the first of which is the program's name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut command = command();
    let parsed = command.try_get_matches_from_mut(arguments).and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((cli, matches))
    });
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version are printed here, too. There is no other place for a message if that fails.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let result = match cli.command {
        CliCommand::Train(args) => train::run(*args, &given_flags(&command, &matches)),
        CliCommand::Evaluate(args) => evaluate::run(*args),
        CliCommand::Attack(args) => attack::run(*args),
        CliCommand::Transfer(args) => transfer::run(*args),
        CliCommand::Export(args) => export::run(&args),
        CliCommand::Data(args) => data::run(args),
        CliCommand::Report(args) => report::run(&args),
        CliCommand::Presets(args) => presets::run(args),
        CliCommand::Explain(args) => explain::run(&args),
        CliCommand::Devices(args) => devices::run(&args),
        CliCommand::Bench(args) => bench::run(args),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::CheckFailed) => ExitCode::from(1),
        Ok(Outcome::Stopped(signal)) | Err(Error::Interrupted(signal)) => ExitCode::from(signal.exit_code()),
        Err(error) => {
            print_error(&error);
            ExitCode::from(2)
        }
    }
}

/// clap's description of the command line.
fn command() -> Command {
    Cli::command().mut_subcommands(released_spellings)
}

/// Flags given to the subcommand, as `--name`.
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
    fn clap_finds_no_conflict_between_flags() {
        command().debug_assert();
    }
}
