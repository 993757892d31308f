//! Data sets by name, split into training, validation and test.

use std::path::Path;

use super::dataset::Splits;
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
    let name = kind.name();
    let (place, (train, test)) = match kind {
        DatasetKind::Digits => return digits::load(val_size),
        DatasetKind::Mnist => {
            let place = idx::find(folder)?;
            let parts = idx::read_mnist(&place)?;
            (place, parts)
        }
        DatasetKind::Cifar10 => {
            let place = cifar::find(folder)?;
            let parts = cifar::read_cifar10(&place)?;
            (place, parts)
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
