//! Placeholder: the names of the data sets.

use serde::{Deserialize, Serialize};

/// Which images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DatasetKind {
    /// The subset of MNIST bundled in the program.
    Digits,
    /// The whole of MNIST.
    Mnist,
    /// CIFAR10.
    Cifar10,
}
