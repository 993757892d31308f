//! `maxmargin data`: which images are there, and bringing in more.

use std::path::PathBuf;

use clap::Args;

use super::Outcome;
use crate::{Error, Result};

/// Show which images are found, or bring in a downloaded package
///
/// The digits are bundled in the program. MNIST is read from DATA/mnist (the four IDX files, plain or .gz), CIFAR10
/// from DATA/cifar-10-batches-bin (the official binary archive, unpacked).
#[derive(Args, Debug)]
pub(super) struct DataArgs {
    /// The folder that holds the images
    #[arg(long, value_name = "DATA", default_value = "data", help_heading = "Data")]
    data: PathBuf,
    /// Write the images of this unpacked package into DATA, checksums verified
    #[arg(long, value_name = "PACKAGE_FOLDER", help_heading = "Data")]
    import: Option<PathBuf>,
}

pub(super) fn run(args: DataArgs) -> Result<Outcome> {
    let DataArgs { data, import } = args;
    // CALL SITE: import `import` into `data` if given; then print what is found where.
    Err(Error::usage(format!("data is not wired yet: {} {import:?}", data.display())))
}
