//! The bundled digits: 8,000 images of MNIST inside the program, so that it trains on real data without fetching
//! anything.
//!
//! Owns: the six gzip IDX files in `digits/` beside this file. They can be rebuilt from MNIST's files, and a test does
//! so if MNIST is there:
//! - validation: the first 100 images of each class among the first 5,000 training images;
//! - training: the first 600 images of each class among the other 55,000 training images;
//! - test: the first 100 images of each class among the test images.
//!
//! The images of each part keep the order of their file. The files are packed with zopfli. MNIST is the work of Y.
//! LeCun, C. Cortes and C. J. C. Burges ("The MNIST database of handwritten digits").
//!
//! Refuses: to make the validation set larger by taking training images.

use std::path::Path;

use super::dataset::{Dataset, Split, Splits};
use super::idx;
use super::provenance::Provenance;
use crate::{Error, Result};

/// Names and contents of a part's image file and label file.
macro_rules! part {
    ($name:literal) => {
        (
            concat!($name, "-images-idx3-ubyte.gz"),
            &include_bytes!(concat!("digits/", $name, "-images-idx3-ubyte.gz"))[..],
            concat!($name, "-labels-idx1-ubyte.gz"),
            &include_bytes!(concat!("digits/", $name, "-labels-idx1-ubyte.gz"))[..],
        )
    };
}

/// Number of validation images.
pub const VALIDATION: usize = 1000;

/// Origin of the images, for messages.
pub(super) const SOURCE: &str = "bundled digits";

/// Loads 6,000 training, `val_size` validation and 1,000 test images. Each part has equally many images of every class;
/// `val_size` takes the first of the 1,000 validation images.
///
/// # Errors
/// `val_size` is more than [`VALIDATION`].
pub fn load(val_size: usize) -> Result<Splits> {
    let part = |split| load_split(split, val_size);
    let (train, validation, test) = (part(Split::Train)?, part(Split::Validation)?, part(Split::Test)?);
    Ok(Splits { train, validation, test, source: SOURCE.into() })
}

/// Loads one part of [`load`] alone.
///
/// # Errors
/// As [`load`].
pub(super) fn load_split(split: Split, val_size: usize) -> Result<Dataset> {
    if val_size > VALIDATION {
        return Err(Error::usage(format!(
            "val_size {val_size}: the bundled digits have {VALIDATION} validation images"
        )));
    }
    match split {
        Split::Train => unpack(part!("train"), "digits training"),
        Split::Validation => Ok(unpack(part!("validation"), "digits validation")?.take(val_size)),
        Split::Test => unpack(part!("test"), "digits test"),
    }
}

fn unpack((images, pixels, labels, classes): (&str, &[u8], &str, &[u8]), name: &str) -> Result<Dataset> {
    let part = idx::decode_pair((Path::new(images), pixels), (Path::new(labels), classes), name)?;
    Ok(Dataset { provenance: Provenance::Bundled, ..part })
}
