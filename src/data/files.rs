//! Files of data sets: their folders, their bytes, their labels.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::catalog::{CLASSES, DatasetKind};
use crate::choice::Choice as _;
use crate::{Error, Result};

/// Files and folders that hold a data set in another form, with what to do about them.
const OTHER_FORMS: [(DatasetKind, &str, &str); 9] = [
    (DatasetKind::Cifar10, "cifar-10-batches-py", PYTHON),
    (DatasetKind::Cifar10, "batches.meta", PYTHON),
    (DatasetKind::Cifar10, "cifar-10-python.tar.gz", PYTHON),
    (DatasetKind::Cifar10, "cifar-10-binary.tar.gz", "the archive of the files; unpack it there"),
    (DatasetKind::Cifar10, "cifar-100-binary", "CIFAR100, which is another data set"),
    (DatasetKind::Mnist, "mnist.npz", "Keras's archive; the four IDX files are needed"),
    (DatasetKind::Mnist, "mnist.pkl.gz", "a pickle of Python's; the four IDX files are needed"),
    (DatasetKind::Mnist, "processed", "torchvision's tensors; the four IDX files are needed, which it keeps in raw"),
    (DatasetKind::Mnist, "mnist_train.csv", "a table of text; the four IDX files are needed"),
];

const PYTHON: &str = "the version for Python, as torchvision fetches it; the version in binary files is needed";

/// Finds the folder of a data set's files: the first of its folders below `folder` in which one of `names` exists.
///
/// # Errors
/// No folder holds any of them. The message lists folders and names, and the command that fetches the files; also the
/// data set in another form, if that is there.
pub(super) fn find(kind: DatasetKind, folder: &Path, names: &[String]) -> Result<PathBuf> {
    // Joining "" would add a slash at the end, which shows in messages.
    let place = |below: &&str| if below.is_empty() { folder.to_owned() } else { folder.join(below) };
    let places: Vec<PathBuf> = kind.entry().folders.iter().map(place).collect();
    places.iter().find(|place| names.iter().any(|name| place.join(name).is_file())).cloned().ok_or_else(|| {
        let others = OTHER_FORMS.iter().filter(|(of, ..)| *of == kind);
        let mut there = others.flat_map(|(_, name, form)| places.iter().map(move |place| (place.join(name), form)));
        let hint = there.find(|(path, _)| path.exists());
        let hint = hint.map(|(path, form)| format!("; {} is {form}", path.display())).unwrap_or_default();
        let shown: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        let (shown, names, fetch) = (shown.join(", "), names.join(", "), fetch_command(kind));
        Error::format(folder, format!("none of {names} found in {shown}{hint}; `{fetch}` brings them"))
    })
}

/// Command that fetches a data set's files.
pub(super) fn fetch_command(kind: DatasetKind) -> String {
    format!("scripts/fetch-data {}", kind.name())
}

/// Reads a whole file, but of one longer than `most` bytes no more than `most + 1`, which the decoder refuses.
pub(super) fn read(path: &Path, most: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| Error::io(path, "read", e))?;
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, "read", e))?;
    Ok(bytes)
}

/// Refuses a label past 9. The first label lies at byte `start`, the next ones `stride` bytes apart.
pub(super) fn check_labels(path: &Path, labels: impl Iterator<Item = u8>, start: usize, stride: usize) -> Result<()> {
    let refuse = |(i, label)| {
        let at = start + i * stride;
        Err(Error::format(path, format!("byte {at}: label {label} of image {i}, 0 to {} expected", CLASSES - 1)))
    };
    labels.enumerate().find(|&(_, label)| usize::from(label) >= CLASSES).map_or(Ok(()), refuse)
}
