//! The bundled digits: 8,000 images of MNIST inside the program, so that it trains on real data
//! without fetching anything.
//!
//! Owns: the six gzip IDX files in `digits/` beside this one. How they were chosen, so that anyone can
//! rebuild them from MNIST's files (a test does, where MNIST is there):
//! - validation: the first 100 images of each class among the first 5,000 training images;
//! - training: the first 600 images of each class among the other 55,000 training images;
//! - test: the first 100 images of each class among the test images.
//!
//! Each kept in the order of its file. Packed with zopfli. MNIST is the work of Y. LeCun, C. Cortes and
//! C. J. C. Burges ("The MNIST database of handwritten digits").
//!
//! Refuses: to make the validation set larger by taking training images.

use std::path::Path;

use super::{Dataset, Splits, idx};
use crate::{Error, Result};

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

/// How many validation images there are.
pub const VALIDATION: usize = 1000;

/// 6,000 training, 1,000 validation and 1,000 test images, every class alike. `val_size` takes the
/// first so many of the validation images.
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
    idx::decode_pair((Path::new(images), pixels.to_vec()), (Path::new(labels), classes.to_vec()), name)
}
