//! Files of data sets: their folders, their bytes, their labels.

use std::path::{Path, PathBuf};

use crate::catalog::{CLASSES, DatasetKind};
use crate::choice::Choice as _;
use crate::{Error, Result};

/// Finds the folder of a data set's files: the first of its folders below `folder` in which one of `names` exists.
///
/// # Errors
/// No folder holds any of them. The message lists folders and names, and the command that fetches the files.
pub(super) fn find(kind: DatasetKind, folder: &Path, names: &[String]) -> Result<PathBuf> {
    // Joining "" would add a slash at the end, which shows in messages.
    let place = |below: &&str| if below.is_empty() { folder.to_owned() } else { folder.join(below) };
    let places = || kind.entry().folders.iter().map(place);
    places().find(|place| names.iter().any(|name| place.join(name).is_file())).ok_or_else(|| {
        let places: Vec<_> = places().map(|place| place.display().to_string()).collect();
        let (places, names, fetch) = (places.join(", "), names.join(", "), fetch_command(kind));
        Error::format(folder, format!("none of {names} found in {places}; `{fetch}` brings them"))
    })
}

/// Command that fetches a data set's files.
pub(super) fn fetch_command(kind: DatasetKind) -> String {
    format!("scripts/fetch-data {}", kind.name())
}

/// Reads a whole file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io(path, "read", e))
}

/// Refuses a label past 9. The first label lies at byte `start`, the next ones `stride` bytes apart.
pub(super) fn check_labels(path: &Path, labels: impl Iterator<Item = u8>, start: usize, stride: usize) -> Result<()> {
    let refuse = |(i, label)| {
        let at = start + i * stride;
        Err(Error::format(path, format!("byte {at}: label {label} of image {i}, 0 to {} expected", CLASSES - 1)))
    };
    labels.enumerate().find(|&(_, label)| usize::from(label) >= CLASSES).map_or(Ok(()), refuse)
}
