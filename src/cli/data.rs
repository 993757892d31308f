//! `maxmargin data`: lists the data sets that are found, and imports downloaded packages.

use std::path::PathBuf;

use clap::Args;

use super::output::{Outcome, print, print_message};
use crate::Result;
use crate::choice::Choice as _;
use crate::data::{DatasetCondition, import, survey};

/// List the data sets that are found, or import a downloaded package
///
/// The digits are bundled with the program. MNIST is read from FOLDER/mnist (the four IDX files, plain or .gz),
/// CIFAR10 from FOLDER/cifar-10-batches-bin (the official binary archive, unpacked).
///
/// Exits with 1 if files are damaged or are not the published ones. A data set that is missing is no failure.
#[derive(Args, Debug)]
pub(super) struct DataArgs {
    /// Folder of the data sets
    #[arg(long, value_name = "FOLDER", default_value = "data", help_heading = "Data")]
    data: PathBuf,
    /// Write the images of this unpacked package into FOLDER after their checksums are verified
    #[arg(long, value_name = "PACKAGE_FOLDER", help_heading = "Data")]
    import: Option<PathBuf>,
    /// Accept files that can be read but are not the published ones: exit with 0
    #[arg(long, help_heading = "Data")]
    allow: bool,
}

pub(super) fn run(args: DataArgs) -> Result<Outcome> {
    if let Some(package) = args.import {
        for file in import(&package, &args.data)? {
            print(&format!("wrote {}\n", file.display()))?;
        }
    }
    let mut outcome = Outcome::Done;
    for dataset in survey(&args.data) {
        print(&dataset.to_string())?;
        let failure = match dataset.condition {
            DatasetCondition::Damaged => "a file is damaged",
            DatasetCondition::Unpublished if !args.allow => "files are not the published ones; --allow accepts them",
            _ => continue,
        };
        print_message(&format!("check failed: {}: {failure}", dataset.kind.name()));
        outcome = Outcome::CheckFailed;
    }
    Ok(outcome)
}
