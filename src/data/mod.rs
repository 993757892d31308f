//! Images and labels as bytes, in splits, and the order in which training visits them.
//!
//! Owns: reading MNIST ([`idx`]), CIFAR10 ([`cifar`]) and the bundled digits ([`digits`]); the split
//! into training and validation; batches as lists of indices ([`batches`]); what is found where, and
//! the conversion of fetched packages into the published files ([`published`]).
//!
//! Refuses: to guess. A file of another size, magic number or label than its format allows is an
//! error that names the file and the byte. It scales no pixels, fetches nothing, knows no model.

pub mod batches;
pub mod cifar;
pub mod digits;
pub mod idx;
pub mod published;

use std::path::{Path, PathBuf};

pub use batches::Batches;
pub use published::{describe, import};

use crate::choice::choices;
use crate::{Error, Result};

/// Every dataset here has ten classes: labels are 0 to 9.
pub const CLASSES: u8 = 10;

choices! {
    /// Which images.
    pub enum DatasetKind {
        /// 8,000 images of MNIST that the program carries with it.
        Digits = "digits",
        /// The whole of MNIST: 60,000 training and 10,000 test images, 28x28 grey.
        Mnist = "mnist",
        /// CIFAR10: 50,000 training and 10,000 test images, 32x32 in colour.
        Cifar10 = "cifar10",
    }
}

/// Images and their labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// The dataset and its part, for a person: "mnist test".
    pub name: String,
    /// `[len, height, width, channels]`, a byte a value.
    pub images: Vec<u8>,
    /// `[len]`, each 0 to 9.
    pub labels: Vec<u8>,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Values of a pixel: 1 grey, 3 red, green, blue.
    pub channels: usize,
}

impl Dataset {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Bytes of one image.
    pub fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Image `i`, `[height, width, channels]`. Panics where `i >= len`.
    pub fn image(&self, i: usize) -> &[u8] {
        &self.images[i * self.image_len()..][..self.image_len()]
    }

    /// The first `n` images, or all where there are fewer.
    pub fn take(mut self, n: usize) -> Dataset {
        let n = n.min(self.len());
        self.images.truncate(n * self.image_len());
        self.labels.truncate(n);
        self
    }

    /// Cuts off the first `n` images: (them, the rest). Panics where `n > len`.
    fn split(mut self, n: usize) -> (Dataset, Dataset) {
        let rest = Dataset {
            images: self.images.split_off(n * self.image_len()),
            labels: self.labels.split_off(n),
            ..self.empty()
        };
        (self, rest)
    }

    /// The same name and shape without images.
    fn empty(&self) -> Dataset {
        let Dataset { height, width, channels, .. } = *self;
        Dataset { name: self.name.clone(), images: Vec::new(), labels: Vec::new(), height, width, channels }
    }
}

/// A dataset in its three parts; no image is in two of them.
#[derive(Clone, Debug)]
pub struct Splits {
    /// What is trained on.
    pub train: Dataset,
    /// What selects the best checkpoint.
    pub validation: Dataset,
    /// What results are measured on.
    pub test: Dataset,
    /// Where it came from: "bundled digits", or the folder of the files.
    pub source: String,
}

impl Splits {
    /// Only the first `train` training and the first `test` test images; `None`: all.
    pub fn cut(self, train: Option<usize>, test: Option<usize>) -> Splits {
        let first = |dataset: Dataset, n: Option<usize>| dataset.take(n.unwrap_or(usize::MAX));
        Splits { train: first(self.train, train), test: first(self.test, test), ..self }
    }
}

/// Loads a dataset. `folder` is where datasets lie, `data` by default (see [`idx::FOLDERS`] and
/// [`cifar::FOLDERS`]); the bundled digits do not look at it.
///
/// The first `val_size` training images become the validation images, as in the paper, and the rest
/// is trained on. The bundled digits have their own 1,000 validation images: `val_size` takes the
/// first of them and leaves the training images alone.
///
/// # Errors
/// Files that are missing, unreadable or not what their format says; a `val_size` that leaves no
/// training image, or exceeds the bundled validation images.
pub fn load(kind: DatasetKind, folder: &Path, val_size: usize) -> Result<Splits> {
    let (name, place, (train, test)) = match kind {
        DatasetKind::Digits => return digits::load(val_size),
        DatasetKind::Mnist => {
            let place = idx::find(folder)?;
            let parts = idx::read_mnist(&place)?;
            ("mnist", place, parts)
        }
        DatasetKind::Cifar10 => {
            let place = cifar::find(folder)?;
            let parts = cifar::read_cifar10(&place)?;
            ("cifar10", place, parts)
        }
    };
    if val_size >= train.len() {
        let n = train.len();
        return Err(Error::usage(format!("val_size {val_size}: {name} has {n} training images, and some must remain")));
    }
    let (mut validation, train) = train.split(val_size);
    validation.name = format!("{name} validation");
    Ok(Splits { train, validation, test, source: place.display().to_string() })
}

/// The first of `folder` and its `subfolders` in which one of `names` exists.
fn find(folder: &Path, subfolders: &[&str], names: &[String], fetch: &str) -> Result<PathBuf> {
    // Joining "" would add a slash at the end, which shows in messages.
    let place = |sub: &&str| if sub.is_empty() { folder.to_owned() } else { folder.join(sub) };
    let found = subfolders.iter().map(place).find(|place| names.iter().any(|name| place.join(name).is_file()));
    found.ok_or_else(|| {
        let places: Vec<_> = subfolders.iter().map(|sub| place(sub).display().to_string()).collect();
        let (places, names) = (places.join(", "), names.join(", "));
        Error::format(folder, format!("none of {names} found in {places}; `{fetch}` brings them"))
    })
}

/// A whole file.
fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io(path, "read", e))
}

/// Refuses a label past 9. The first one lies at byte `start`, the next ones `stride` bytes apart.
fn check_labels(path: &Path, labels: impl Iterator<Item = u8>, start: usize, stride: usize) -> Result<()> {
    let wrong = |(i, label)| {
        let at = start + i * stride;
        Err(Error::format(path, format!("byte {at}: label {label} of image {i}, 0 to 9 expected")))
    };
    labels.enumerate().find(|&(_, label)| label >= CLASSES).map_or(Ok(()), wrong)
}
