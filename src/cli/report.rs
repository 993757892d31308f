//! `maxmargin report`: an HTML page about runs and their evaluations.

use std::path::PathBuf;

use clap::Args;

use super::output::{Outcome, folder_exists, print};
use crate::Result;
use crate::record::write_atomic;
use crate::report::page;

/// Name of the page if none is given.
const REPORT: &str = "report.html";

const EXAMPLES: &str = "\
Examples:
  maxmargin report runs/quick-0
      writes runs/quick-0/report.html
  maxmargin report runs/mma-12 runs/mma-32 --out compared.html
      both runs in every plot";

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
    /// File to write [default: report.html in the first folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Folder of MNIST and CIFAR10, for the clean images beside adversarial ones
    #[arg(long, value_name = "FOLDER", default_value = "data")]
    data: PathBuf,
}

pub(super) fn run(args: &ReportArgs) -> Result<Outcome> {
    let ReportArgs { runs, out, data } = args;
    if let Some(out) = out {
        folder_exists("--out", out)?;
    }
    let html = page::html(runs, data)?;
    let path = out.clone().unwrap_or_else(|| runs[0].join(REPORT));
    write_atomic(&path, |file| file.write_all(html.as_bytes()))?;
    print(&format!("wrote {}: {} kB\n", path.display(), html.len().div_ceil(1000)))?;
    Ok(Outcome::Done)
}
