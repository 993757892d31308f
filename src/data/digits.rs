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

use super::dataset::{Dataset, Splits};
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

/// Loads 6,000 training, `val_size` validation and 1,000 test images. Each part has equally many images of every class;
/// `val_size` takes the first of the 1,000 validation images.
///
/// # Errors
/// `val_size` is more than [`VALIDATION`].
pub fn load(val_size: usize) -> Result<Splits> {
    let train = unpack(part!("train"), "digits training")?;
    let validation = unpack(part!("validation"), "digits validation")?;
    let test = unpack(part!("test"), "digits test")?;
    if val_size > VALIDATION {
        return Err(Error::usage(format!(
            "val_size {val_size}: the bundled digits have {VALIDATION} validation images"
        )));
    }
    Ok(Splits { train, validation: validation.take(val_size), test, source: "bundled digits".into() })
}

fn unpack((images, pixels, labels, classes): (&str, &[u8], &str, &[u8]), name: &str) -> Result<Dataset> {
    let part = idx::decode_pair((Path::new(images), pixels.to_vec()), (Path::new(labels), classes.to_vec()), name)?;
    Ok(Dataset { provenance: Provenance::Bundled, ..part })
}
