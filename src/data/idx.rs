//! IDX, the format of MNIST: a magic number, the sizes, then bytes; plain or gzip.
//!
//! Owns: reading, checking and encoding image files (magic number 0x803, `[count, height, width]`) and label files
//! (0x801, `[count]`), and finding MNIST's four files. All numbers in a header are big-endian. The first two bytes of a
//! file tell if it is gzip, whatever its name.
//!
//! Refuses: other element types than bytes, other ranks, files longer or shorter than their header says.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::dataset::Dataset;
use super::files::{check_labels, fetch_command, find as find_files, read};
use super::provenance::{MNIST_TEST, MNIST_TRAIN, Provenance};
use crate::catalog::DatasetKind;
use crate::{Error, Result};

/// Names under which a file may lie: `train-images-idx3-ubyte`, with a dot before `idx`, each also with `.gz`.
fn names(part: &str, content: &str) -> [String; 4] {
    let name = |dot: char, gz: &str| format!("{part}-{}{dot}{}-ubyte{gz}", &content[..6], &content[7..]);
    [name('-', ""), name('-', ".gz"), name('.', ""), name('.', ".gz")]
}

/// Finds the folder that holds MNIST, in or below the data folder `folder`.
///
/// # Errors
/// No folder holds any of the files. The message lists folders and names.
pub fn find(folder: &Path) -> Result<PathBuf> {
    find_files(DatasetKind::Mnist, folder, &names("train", "images-idx3"))
}

/// Reads MNIST's (training, test) images from the four files in `place`, under any of their names.
///
/// # Errors
/// A missing file, a content that [`decode_images`] or [`decode_labels`] refuses, images that are not 28x28, or
/// different numbers of images and labels.
pub fn read_mnist(place: &Path) -> Result<(Dataset, Dataset)> {
    let part = |part: &str, name: &str, published: &str| {
        let file = |content: &str| {
            let names = names(part, content);
            let found = names.iter().map(|name| place.join(name)).find(|path| path.is_file());
            found.ok_or_else(|| {
                let names = names.join(", ");
                let fetch = fetch_command(DatasetKind::Mnist);
                Error::format(place, format!("none of {names} found; `{fetch}` brings all files"))
            })
        };
        let (images, labels) = (file("images-idx3")?, file("labels-idx1")?);
        let data = read_pair(&images, &labels, name)?;
        let [height, width, _] = DatasetKind::Mnist.entry().image;
        if (data.height, data.width) != (height, width) {
            let message = format!("byte 8: images of {}x{}, {height}x{width} expected", data.height, data.width);
            return Err(Error::format(&images, message));
        }
        Ok(data.compared(published))
    };
    Ok((part("train", "mnist training", MNIST_TRAIN)?, part("t10k", "mnist test", MNIST_TEST)?))
}

/// Reads a data set from an image file and its label file, each plain or gzip.
///
/// # Errors
/// As [`decode_pair`], or a file cannot be read.
pub fn read_pair(images: &Path, labels: &Path, name: &str) -> Result<Dataset> {
    decode_pair((images, read(images)?), (labels, read(labels)?), name)
}

/// Decodes a data set from the contents of an image file and its label file, each plain or gzip. The paths are for
/// messages.
///
/// # Errors
/// As [`decode_images`] and [`decode_labels`], or the files differ in their number of examples.
pub fn decode_pair(images: (&Path, Vec<u8>), labels: (&Path, Vec<u8>), name: &str) -> Result<Dataset> {
    let ([count, height, width], pixels) = decode_images(images.0, images.1)?;
    let bytes = decode_labels(labels.0, labels.1)?;
    if bytes.len() != count {
        let message = format!("byte 4: {} labels, but {} has {count} images", bytes.len(), images.0.display());
        return Err(Error::format(labels.0, message));
    }
    let (name, provenance) = (name.into(), Provenance::Other);
    Ok(Dataset { name, images: pixels, labels: bytes, height, width, channels: 1, provenance })
}

/// Decodes an image file: `[count, height, width]` and that many bytes.
///
/// # Errors
/// Damaged gzip, another magic number than 0x803, a size of 0, too few or too many bytes.
pub fn decode_images(path: &Path, content: Vec<u8>) -> Result<([usize; 3], Vec<u8>)> {
    decode(path, content, "images")
}

/// Decodes a label file: labels from 0 to 9.
///
/// # Errors
/// Damaged gzip, another magic number than 0x801, no label, too few or too many bytes, a label past 9.
pub fn decode_labels(path: &Path, content: Vec<u8>) -> Result<Vec<u8>> {
    let ([_], labels) = decode(path, content, "labels")?;
    check_labels(path, labels.iter().copied(), 8, 1)?;
    Ok(labels)
}

/// Encodes images as the content of a plain image file. `images.len()` is the product of `sizes`, each below 2^32.
pub fn encode_images(sizes: [usize; 3], images: &[u8]) -> Vec<u8> {
    encode(sizes, images)
}

/// Encodes labels as the content of a plain label file.
pub fn encode_labels(labels: &[u8]) -> Vec<u8> {
    encode([labels.len()], labels)
}

/// Magic number of a file of bytes (0x08) with `RANK` sizes.
const fn magic<const RANK: usize>() -> u32 {
    0x0800 | RANK as u32
}

fn encode<const RANK: usize>(sizes: [usize; RANK], bytes: &[u8]) -> Vec<u8> {
    assert_eq!(sizes.iter().product::<usize>(), bytes.len(), "sizes {sizes:?}");
    let mut file = magic::<RANK>().to_be_bytes().to_vec();
    for size in sizes {
        file.extend(u32::try_from(size).expect("a size below 2^32").to_be_bytes());
    }
    file.extend(bytes);
    file
}

fn decode<const RANK: usize>(path: &Path, content: Vec<u8>, what: &str) -> Result<([usize; RANK], Vec<u8>)> {
    let mut bytes = if content.starts_with(&[0x1f, 0x8b]) { gunzip(path, &content)? } else { content };
    let fail = |message: String| Err(Error::format(path, message));
    let header = 4 + 4 * RANK;
    let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    if let Some(found) = word(0).filter(|&found| found != magic::<RANK>()) {
        let expected = magic::<RANK>();
        return fail(format!("byte 0: magic number {expected:#010x} of {what} expected, {found:#010x} found"));
    }
    let mut sizes = [0; RANK];
    for (k, size) in sizes.iter_mut().enumerate() {
        let at = 4 + 4 * k;
        *size = match word(at) {
            None => return fail(format!("ends at byte {}, within the header of {header} bytes", bytes.len())),
            Some(0) => return fail(format!("byte {at}: size 0, at least 1 expected")),
            Some(size) => size as usize,
        };
    }
    // Three sizes below 2^32 overflow 64 bits, never 128.
    let expected = header as u128 + sizes.iter().map(|&size| size as u128).product::<u128>();
    let found = bytes.len();
    if found as u128 != expected {
        let shape = sizes.map(|size| size.to_string()).join("x");
        let end = if expected > found as u128 { "ends early, at" } else { "goes on past its end, to" };
        return fail(format!("{end} byte {found}: the header says {shape} {what}, {expected} bytes in all"));
    }
    bytes.drain(..header);
    Ok((sizes, bytes))
}

fn gunzip(path: &Path, content: &[u8]) -> Result<Vec<u8>> {
    let mut decoder = MultiGzDecoder::new(content);
    let mut bytes = Vec::new();
    decoder.read_to_end(&mut bytes).map_err(|reason| {
        let (at, len) = (content.len() - decoder.get_ref().len(), content.len());
        let message = format!("damaged gzip, noticed at byte {at} of {len}, {} bytes unpacked: {reason}", bytes.len());
        Error::format(path, message)
    })?;
    Ok(bytes)
}
