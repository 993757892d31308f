//! Provenance of images and labels: the published ones, or others under the same file names.
//!
//! Owns: the SHA-256 of each published part of a data set, in the form of [`Dataset::sha256`](super::Dataset::sha256).
//! It is compared when a part has been decoded and nothing has been cut off it.

use crate::choice::choices;

choices! {
    /// Provenance of a part of a data set.
    pub enum Provenance {
        /// Images that are bundled with the program.
        Bundled = "bundled",
        /// Images and labels of the published files.
        Published = "published",
        /// Images or labels that differ from the published files.
        Other = "other",
    }
}

/// Published part of a data set, with files of its own. Validation images are cut off the training images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishedPart {
    /// Training and validation images.
    Train,
    /// Test images.
    Test,
}

/// SHA-256 of MNIST's training images and labels.
pub(super) const MNIST_TRAIN: &str = "9acc50f12e15d484e389586cca39a72ca9ea80dd9a63fdf5334c116e3d117c3c";

/// SHA-256 of MNIST's test images and labels.
pub(super) const MNIST_TEST: &str = "a7fea40b2260f78fe6b74118cf7c1cd1c15a26504cb60172269ed9edbcf448e9";

/// SHA-256 of CIFAR10's training images and labels, those that become the validation images included.
pub(super) const CIFAR10_TRAIN: &str = "4fb116bef157a413bc26edf527ab0edd6e526e79a31931603f0368bc5d1abf0e";

/// SHA-256 of CIFAR10's test images and labels.
pub(super) const CIFAR10_TEST: &str = "0384b22ce47618bdc108aeff47b8bebf8c0172f1c32c8d456ca235aa06c2b5da";

impl Provenance {
    /// Provenance in text: "the published files".
    pub fn describe(self) -> &'static str {
        match self {
            Provenance::Bundled => "bundled with the program",
            Provenance::Published => "the published files",
            Provenance::Other => "NOT the published files",
        }
    }

    /// Provenance of a whole part whose SHA-256 is `found`, where the published part has `published`.
    pub(super) fn compared(found: &str, published: &str) -> Provenance {
        if found == published { Provenance::Published } else { Provenance::Other }
    }
}
