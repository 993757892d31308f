//! `maxmargin report`: an HTML page about runs and their evaluations.

use std::path::{Path, PathBuf};

use clap::Args;

use super::output::{Outcome, output_file, print_beside};
use crate::Result;
use crate::report::page;
use crate::report::paper::PaperTables;
use crate::report::sources::ReportSource;

/// Name of the page if none is given.
const REPORT: &str = "report.html";

const EXAMPLES: &str = "\
Examples:
  maxmargin report runs/quick-0
      writes runs/quick-0/report.html
  maxmargin report runs/mma-12 runs/mma-32 --out compared.html
      both runs in every plot
  maxmargin report runs/quick-0 --paper-table mine.toml
      beside figures of your own transcription";

/// Write an HTML page about runs: curves, margins during training, accuracy under attack beside the paper's
///
/// The page is made from the files of the folders alone: a run's settings and metrics, and the evaluations that
/// `evaluate` wrote into it. It loads nothing from the internet.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ReportArgs {
    /// Run folders; or folders of evaluations, for weights from elsewhere
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// File to write; - is the standard output [default: report.html in the first folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Folder of MNIST and CIFAR10, for the clean images beside adversarial ones
    #[arg(long, value_name = "FOLDER", default_value = "data")]
    data: PathBuf,
    /// Show the paper's unverified figures too, in grey: transcriptions that have no second source
    #[arg(long)]
    unverified: bool,
    /// Table of the paper's figures instead of the program's; docs/reports.md explains the form
    #[arg(long, value_name = "FILE")]
    paper_table: Option<PathBuf>,
}

pub(super) fn run(args: &ReportArgs) -> Result<Outcome> {
    let ReportArgs { runs, out, data, unverified, paper_table } = args;
    if out.is_none() {
        // The page goes into the first folder, whose absence is no mistake of --out.
        ReportSource::check_folder(&runs[0])?;
    }
    let inputs: Vec<&Path> = paper_table.iter().map(PathBuf::as_path).collect();
    let out = output_file("--out", out.as_deref().unwrap_or(&runs[0].join(REPORT)), &inputs)?;
    let paper = PaperTables::load(paper_table.as_deref(), *unverified)?;
    let html = page::html(runs, data, &paper)?;
    out.write(|file| file.write_all(html.as_bytes()))?;
    print_beside([&out], &format!("wrote {}: {} kB\n", out.path().display(), html.len().div_ceil(1000)))?;
    Ok(Outcome::Done)
}
