//! `maxmargin data`: lists the data sets that are found, and imports downloaded packages.

use std::path::PathBuf;

use clap::Args;

use super::output::{Outcome, print};
use crate::Result;

/// List the data sets that are found, or import a downloaded package
///
/// The digits are bundled with the program. MNIST is read from FOLDER/mnist (the four IDX files, plain or .gz),
/// CIFAR10 from FOLDER/cifar-10-batches-bin (the official binary archive, unpacked).
#[derive(Args, Debug)]
pub(super) struct DataArgs {
    /// Folder of the data sets
    #[arg(long, value_name = "FOLDER", default_value = "data", help_heading = "Data")]
    data: PathBuf,
    /// Write the images of this unpacked package into FOLDER after their checksums are verified
    #[arg(long, value_name = "PACKAGE_FOLDER", help_heading = "Data")]
    import: Option<PathBuf>,
}

pub(super) fn run(args: DataArgs) -> Result<Outcome> {
    let DataArgs { data, import } = args;
    if let Some(package) = import {
        for file in crate::data::import(&package, &data)? {
            print(&format!("wrote {}\n", file.display()))?;
        }
    }
    print(&crate::data::describe(&data))?;
    Ok(Outcome::Done)
}
