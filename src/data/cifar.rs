//! CIFAR10's binary files: records of a label byte and 32x32 red, then green, then blue bytes.
//!
//! Owns: reading, checking and encoding them, and finding the six files of the official archive. Decoded images are
//! `[32, 32, 3]`, like all images in the program.
//!
//! Refuses: files with another number of records than expected. The format has no header, so this check alone finds a
//! file that was cut between two records.

use std::path::{Path, PathBuf};

use super::dataset::Dataset;
use super::files::{check_labels, find as find_files, read};
use super::provenance::{CIFAR10_TEST, CIFAR10_TRAIN, Provenance, PublishedPart};
use crate::catalog::DatasetKind;
use crate::formats::{ExpectedContent, mistaken_format, text_mode_damage};
use crate::{Error, Result};

/// Names of the training files, in order.
pub const TRAIN: [&str; 5] =
    ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];

/// Name of the test file.
pub const TEST: &str = "test_batch.bin";

/// Number of records in each of the six files.
pub const RECORDS: usize = 10_000;

/// Height and width of an image.
pub const SIDE: usize = 32;

/// Number of bytes of one colour of an image.
const PLANE: usize = SIDE * SIDE;

/// Number of bytes of an image.
pub(super) const IMAGE: usize = 3 * PLANE;

/// Number of bytes of a record: the label, then the image.
const RECORD: usize = 1 + IMAGE;

/// Files of a part.
fn names(part: PublishedPart) -> &'static [&'static str] {
    match part {
        PublishedPart::Train => &TRAIN,
        PublishedPart::Test => &[TEST],
    }
}

/// Finds the folder that holds a part of CIFAR10, in or below the data folder `folder`.
///
/// # Errors
/// No folder holds any of the part's files. The message lists folders and names.
pub fn find(folder: &Path, part: PublishedPart) -> Result<PathBuf> {
    let names: Vec<_> = names(part).iter().map(ToString::to_string).collect();
    find_files(DatasetKind::Cifar10, folder, &names)
}

/// Reads a part of CIFAR10 from its files in `place`. Reads no other files.
///
/// # Errors
/// A file cannot be read, or [`decode`] refuses it.
pub fn read_cifar10(place: &Path, part: PublishedPart) -> Result<Dataset> {
    let (name, published) = match part {
        PublishedPart::Train => ("cifar10 training", CIFAR10_TRAIN),
        PublishedPart::Test => ("cifar10 test", CIFAR10_TEST),
    };
    let mut data = dataset(name);
    for file in names(part) {
        let path = place.join(file);
        let (images, labels) = decode(&path, &read(&path, RECORDS * RECORD)?, RECORDS)?;
        data.images.extend(images);
        data.labels.extend(labels);
    }
    Ok(data.compared(published))
}

/// Data set of CIFAR10's shape, without images.
pub(super) fn dataset(name: &str) -> Dataset {
    Dataset {
        name: name.into(),
        images: Vec::new(),
        labels: Vec::new(),
        height: SIDE,
        width: SIDE,
        channels: 3,
        provenance: Provenance::Other,
    }
}

/// Decodes a file into images `[records, 32, 32, 3]` and labels. The path is for messages.
///
/// # Errors
/// The content is not exactly `records` records of 3,073 bytes, or a label is past 9.
pub fn decode(path: &Path, content: &[u8], records: usize) -> Result<(Vec<u8>, Vec<u8>)> {
    let (found, expected) = (content.len(), records * RECORD);
    if found != expected {
        let end = match found < expected {
            true => format!("ends early, at byte {found}"),
            false => format!("goes on past its end, byte {expected}"),
        };
        let format = mistaken_format(content, ExpectedContent::Cifar10).map(|format| format!("; it is {format}"));
        let damage = || text_mode_damage(content).map(|damage| format!("; {damage}"));
        let hint = format.or_else(damage).unwrap_or_default();
        let message = format!("{end}: {records} records of {RECORD} bytes expected, {expected} bytes in all{hint}");
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

/// Encodes images `[labels.len(), 32, 32, 3]` and their labels as the content of a file.
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
