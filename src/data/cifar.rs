//! CIFAR10's binary files: records of a label byte and 32x32 red, then green, then blue bytes.
//!
//! Owns: reading, checking and encoding them, and finding the six files of the official archive.
//! Images leave here as `[32, 32, 3]`, like all images in the program.
//!
//! Refuses: files of another number of records than asked for. The format has no header, so this is
//! what finds a file that was cut between two records.

use std::path::{Path, PathBuf};

use super::{Dataset, check_labels, read};
use crate::{Error, Result};

/// Where CIFAR10 is looked for, below the data folder.
pub const FOLDERS: [&str; 3] = ["", "cifar-10-batches-bin", "cifar10"];

/// The training files, in order.
pub const TRAIN: [&str; 5] =
    ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];

/// The test file.
pub const TEST: &str = "test_batch.bin";

/// Records of each of the six files.
pub const RECORDS: usize = 10_000;

/// Rows and columns of an image.
pub const SIDE: usize = 32;

/// Bytes of one colour of an image.
const PLANE: usize = SIDE * SIDE;

/// Bytes of an image.
pub(super) const IMAGE: usize = 3 * PLANE;

/// Bytes of a record: the label, then the image.
const RECORD: usize = 1 + IMAGE;

/// The folder that holds CIFAR10, among [`FOLDERS`] below `folder`.
///
/// # Errors
/// None of them holds any of the files; the message lists places and names.
pub fn find(folder: &Path) -> Result<PathBuf> {
    let names: Vec<_> = TRAIN.into_iter().chain([TEST]).map(String::from).collect();
    super::find(folder, &FOLDERS, &names, "scripts/fetch-data cifar10")
}

/// CIFAR10's (training, test) images out of the six files in `place`.
///
/// # Errors
/// A file cannot be read, or [`decode`] refuses it.
pub fn read_cifar10(place: &Path) -> Result<(Dataset, Dataset)> {
    let file = |data: &mut Dataset, name: &str| {
        let path = place.join(name);
        let (images, labels) = decode(&path, &read(&path)?, RECORDS)?;
        data.images.extend(images);
        data.labels.extend(labels);
        Ok(())
    };
    let (mut train, mut test) = (dataset("cifar10 training"), dataset("cifar10 test"));
    TRAIN.into_iter().try_for_each(|name| file(&mut train, name))?;
    file(&mut test, TEST)?;
    Ok((train, test))
}

/// A dataset of CIFAR10's shape, without images.
pub(super) fn dataset(name: &str) -> Dataset {
    Dataset { name: name.into(), images: Vec::new(), labels: Vec::new(), height: SIDE, width: SIDE, channels: 3 }
}

/// Images `[records, 32, 32, 3]` and labels out of the content of a file; the path stands in messages
/// only.
///
/// # Errors
/// Not exactly `records` records of 3,073 bytes, or a label past 9.
pub fn decode(path: &Path, content: &[u8], records: usize) -> Result<(Vec<u8>, Vec<u8>)> {
    let (found, expected) = (content.len(), records * RECORD);
    if found != expected {
        let end = if found < expected { "ends early, at" } else { "goes on past its end, to" };
        let hint = other_format(content).map(|what| format!("; it is {what}")).unwrap_or_default();
        let message =
            format!("{end} byte {found}: {records} records of {RECORD} bytes expected, {expected} bytes in all{hint}");
        return Err(Error::format(path, message));
    }
    let labels: Vec<u8> = content.iter().copied().step_by(RECORD).collect();
    check_labels(path, labels.iter().copied(), 0, RECORD)?;
    let mut images = vec![0; records * IMAGE];
    for (image, record) in images.chunks_exact_mut(IMAGE).zip(content.chunks_exact(RECORD)) {
        for (colour, plane) in record[1..].chunks_exact(PLANE).enumerate() {
            for (value, &byte) in image[colour..].iter_mut().step_by(3).zip(plane) {
                *value = byte;
            }
        }
    }
    Ok((images, labels))
}

/// What a file is that begins as no file of ours of its length does.
fn other_format(content: &[u8]) -> Option<&'static str> {
    match content {
        [0, 0, 8, 1 | 3, ..] => Some("an IDX file, such as MNIST's"),
        [0x1f, 0x8b, ..] => Some("packed with gzip: unpack the archive first"),
        [0x80, 2..=5, ..] => Some("a pickle, of CIFAR10's version for Python: the version in binary files is needed"),
        _ => None,
    }
}

/// The content of a file with these `[labels.len(), 32, 32, 3]` images.
pub fn encode(images: &[u8], labels: &[u8]) -> Vec<u8> {
    assert_eq!(images.len(), labels.len() * IMAGE, "bytes of {} images", labels.len());
    let mut file = Vec::with_capacity(labels.len() * RECORD);
    for (image, &label) in images.chunks_exact(IMAGE).zip(labels) {
        file.push(label);
        for colour in 0..3 {
            file.extend(image[colour..].iter().step_by(3));
        }
    }
    file
}
