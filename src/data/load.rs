//! Data sets by name, split into training, validation and test.

use std::path::{Path, PathBuf};

use super::dataset::{Dataset, Split, Splits};
use super::provenance::PublishedPart;
use super::{cifar, digits, idx};
use crate::catalog::DatasetKind;
use crate::choice::Choice as _;
use crate::{Error, Result};

/// Loads a data set. `folder` is the data folder, `data` by default; the files lie there or in one of the folders below
/// it that [`crate::catalog::DatasetEntry::folders`] lists. The bundled digits need no folder.
///
/// The first `val_size` training images become the validation images, as in the paper. The bundled digits have 1,000
/// validation images of their own: `val_size` takes the first of them and leaves the training images alone.
///
/// # Errors
/// Files that are missing, unreadable or damaged; a `val_size` that leaves no training image, or is more than the
/// bundled validation images.
pub fn load(kind: DatasetKind, folder: &Path, val_size: usize) -> Result<Splits> {
    if kind == DatasetKind::Digits {
        return digits::load(val_size);
    }
    let (train, source) = load_part(kind, folder, PublishedPart::Train)?;
    let (validation, train) = split_validation(kind, train, val_size)?;
    let (test, _) = load_part(kind, folder, PublishedPart::Test)?;
    Ok(Splits { train, validation, test, source })
}

/// Loads one part of a data set, and the origin of its images for messages. The files of other parts are not read and
/// need not be there.
///
/// # Errors
/// As [`load`], for the files of this part.
pub fn load_split(kind: DatasetKind, folder: &Path, val_size: usize, split: Split) -> Result<(Dataset, String)> {
    if kind == DatasetKind::Digits {
        return Ok((digits::load_split(split, val_size)?, digits::SOURCE.into()));
    }
    let part = match split {
        Split::Test => PublishedPart::Test,
        Split::Validation | Split::Train => PublishedPart::Train,
    };
    let (data, source) = load_part(kind, folder, part)?;
    let data = match split {
        Split::Test => data,
        Split::Validation => split_validation(kind, data, val_size)?.0,
        Split::Train => split_validation(kind, data, val_size)?.1,
    };
    Ok((data, source))
}

/// Loads a published part, and the folder in which it was found.
fn load_part(kind: DatasetKind, folder: &Path, part: PublishedPart) -> Result<(Dataset, String)> {
    let place = find_part(kind, folder, part)?;
    Ok((read_part(kind, &place, part)?, place.display().to_string()))
}

/// Finds the folder that holds a published part of a data set that has files.
pub(super) fn find_part(kind: DatasetKind, folder: &Path, part: PublishedPart) -> Result<PathBuf> {
    match kind {
        DatasetKind::Cifar10 => cifar::find(folder, part),
        DatasetKind::Mnist | DatasetKind::Digits => idx::find(folder, part),
    }
}

/// Reads a published part of a data set from its files in `place`.
pub(super) fn read_part(kind: DatasetKind, place: &Path, part: PublishedPart) -> Result<Dataset> {
    match kind {
        DatasetKind::Cifar10 => cifar::read_cifar10(place, part),
        DatasetKind::Mnist | DatasetKind::Digits => idx::read_mnist(place, part),
    }
}

/// Splits the first `val_size` training images off as validation images.
fn split_validation(kind: DatasetKind, train: Dataset, val_size: usize) -> Result<(Dataset, Dataset)> {
    let (name, n) = (kind.name(), train.len());
    if val_size >= n {
        return Err(Error::usage(format!("val_size {val_size}: {name} has {n} training images, and some must remain")));
    }
    let (mut validation, train) = train.split(val_size);
    validation.name = format!("{name} validation");
    Ok((validation, train))
}
