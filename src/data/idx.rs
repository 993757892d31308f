//! IDX, the format of MNIST: a magic number, the sizes, then bytes; plain or gzip.
//!
//! Owns: reading, checking and encoding image files (magic number 0x803, `[count, height, width]`) and label files
//! (0x801, `[count]`), and finding MNIST's four files. All numbers in a header are big-endian. The first two bytes of a
//! file tell if it is gzip, whatever its name. Gzip is unpacked as far as the header announces, and no further.
//!
//! Refuses: other element types than bytes, other ranks, files longer or shorter than their header says, headers that
//! announce more than [`MOST`] bytes.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::dataset::Dataset;
use super::files::{check_labels, fetch_command, find as find_files, read};
use super::provenance::{MNIST_TEST, MNIST_TRAIN, Provenance, PublishedPart};
use crate::catalog::DatasetKind;
use crate::formats::{ExpectedContent, mistaken_format, text_mode_damage};
use crate::{Error, Result};

/// Largest number of bytes of a file's images or labels: a million images of MNIST's size.
pub const MOST: usize = 1_000_000 * 784;

/// First bytes of a gzip file.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Names under which a file may lie: `train-images-idx3-ubyte`, with a dot before `idx`, each also with `.gz`.
fn names(part: PublishedPart, content: &str) -> [String; 4] {
    let part = match part {
        PublishedPart::Train => "train",
        PublishedPart::Test => "t10k",
    };
    let name = |dot: char, gz: &str| format!("{part}-{}{dot}{}-ubyte{gz}", &content[..6], &content[7..]);
    [name('-', ""), name('-', ".gz"), name('.', ""), name('.', ".gz")]
}

/// Finds the folder that holds a part of MNIST, in or below the data folder `folder`.
///
/// # Errors
/// No folder holds the part's images. The message lists folders and names.
pub fn find(folder: &Path, part: PublishedPart) -> Result<PathBuf> {
    find_files(DatasetKind::Mnist, folder, &names(part, "images-idx3"))
}

/// Reads a part of MNIST from its two files in `place`, under any of their names. Reads no other files.
///
/// # Errors
/// A missing file, a content that [`decode_images`] or [`decode_labels`] refuses, images that are not 28x28, or
/// different numbers of images and labels.
pub fn read_mnist(place: &Path, part: PublishedPart) -> Result<Dataset> {
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
    let (sizes, pixels) = decode_images(&images, &read(&images, MOST)?)?;
    let ([count, height, width], [expected_height, expected_width, _]) = (sizes, DatasetKind::Mnist.entry().image);
    if (height, width) != (expected_height, expected_width) {
        let reversed = if (count, height) == (expected_width, expected_height) {
            "; the axes are in reverse order: [count, height, width] is needed"
        } else {
            ""
        };
        let message =
            format!("byte 8: images of {height}x{width}, {expected_height}x{expected_width} expected{reversed}");
        return Err(Error::format(&images, message));
    }
    let (name, published) = match part {
        PublishedPart::Train => ("mnist training", MNIST_TRAIN),
        PublishedPart::Test => ("mnist test", MNIST_TEST),
    };
    let classes = decode_labels(&labels, &read(&labels, MOST)?)?;
    Ok(joined((&images, sizes, pixels), (&labels, classes), name)?.compared(published))
}

/// Reads a data set from an image file and its label file, each plain or gzip.
///
/// # Errors
/// As [`decode_pair`], or a file cannot be read.
pub fn read_pair(images: &Path, labels: &Path, name: &str) -> Result<Dataset> {
    decode_pair((images, &read(images, MOST)?), (labels, &read(labels, MOST)?), name)
}

/// Decodes a data set from the contents of an image file and its label file, each plain or gzip. The paths are for
/// messages.
///
/// # Errors
/// As [`decode_images`] and [`decode_labels`], or the files differ in their number of examples.
pub fn decode_pair(images: (&Path, &[u8]), labels: (&Path, &[u8]), name: &str) -> Result<Dataset> {
    let (sizes, pixels) = decode_images(images.0, images.1)?;
    joined((images.0, sizes, pixels), (labels.0, decode_labels(labels.0, labels.1)?), name)
}

/// Data set of decoded images and labels, which must be equally many.
fn joined(images: (&Path, [usize; 3], Vec<u8>), labels: (&Path, Vec<u8>), name: &str) -> Result<Dataset> {
    let (path, [count, height, width], pixels) = images;
    if labels.1.len() != count {
        let message = format!("byte 4: {} labels, but {} has {count} images", labels.1.len(), path.display());
        return Err(Error::format(labels.0, message));
    }
    let (name, provenance) = (name.into(), Provenance::Other);
    Ok(Dataset { name, images: pixels, labels: labels.1, height, width, channels: 1, provenance })
}

/// Decodes an image file: `[count, height, width]` and that many bytes.
///
/// # Errors
/// Damaged gzip, another magic number than 0x803, a size of 0 or more than [`MOST`] bytes, too few or too many bytes.
pub fn decode_images(path: &Path, content: &[u8]) -> Result<([usize; 3], Vec<u8>)> {
    decode(path, content, "images", ExpectedContent::IdxImages)
}

/// Decodes a label file: labels from 0 to 9.
///
/// # Errors
/// Damaged gzip, another magic number than 0x801, no label or more than [`MOST`], too few or too many bytes, a label
/// past 9.
pub fn decode_labels(path: &Path, content: &[u8]) -> Result<Vec<u8>> {
    let ([_], labels) = decode(path, content, "labels", ExpectedContent::IdxLabels)?;
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

fn decode<const RANK: usize>(
    path: &Path,
    content: &[u8],
    what: &str,
    expected_content: ExpectedContent,
) -> Result<([usize; RANK], Vec<u8>)> {
    let fail = |message: String| Err(Error::format(path, message));
    let mut unpacked = Unpacked::new(path, content);
    let header = unpacked.next(4 + 4 * RANK)?;
    let word = |at: usize| header.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    if let Some(found) = word(0).filter(|&found| found != magic::<RANK>()) {
        let expected = magic::<RANK>();
        let begin = [header, unpacked.next(4096).unwrap_or_default()].concat();
        let twice = if unpacked.is_gzip() && begin.starts_with(&GZIP) { " twice" } else { "" };
        let hint = mistaken_format(&begin, expected_content).map(|format| format!("; it is {format}{twice}"));
        let hint = hint.unwrap_or_default();
        return fail(format!("byte 0: magic number {expected:#010x} of {what} expected, {found:#010x} found{hint}"));
    }
    let mut sizes = [0; RANK];
    for (k, size) in sizes.iter_mut().enumerate() {
        let at = 4 + 4 * k;
        *size = match word(at) {
            None => {
                let hint = mistaken_format(&header, expected_content).map(|format| format!("; it is {format}"));
                let (end, whole) = (header.len(), 4 + 4 * RANK);
                return fail(format!(
                    "ends at byte {end}, within the header of {whole} bytes{}",
                    hint.unwrap_or_default()
                ));
            }
            Some(0) => return fail(format!("byte {at}: size 0, at least 1 expected")),
            Some(size) => size as usize,
        };
    }
    // Three sizes below 2^32 overflow 64 bits, never 128.
    let announced = sizes.iter().map(|&size| size as u128).product::<u128>();
    let shape = sizes.map(|size| size.to_string()).join("x");
    if announced > MOST as u128 {
        return fail(format!("byte 4: the header says {shape} {what}, {announced} bytes; at most {MOST} expected"));
    }
    let whole = header.len() + announced as usize;
    let body = unpacked.next(announced as usize)?;
    if body.len() < announced as usize {
        let end = header.len() + body.len();
        return fail(format!("ends early, at byte {end}: the header says {shape} {what}, {whole} bytes in all"));
    }
    // Damaged gzip often unpacks to too many bytes before the damage is noticed.
    if !unpacked.next(1 << 16)?.is_empty() {
        let hint = text_mode_damage(content).map(|damage| format!("; {damage}")).unwrap_or_default();
        return fail(format!("goes on past its end, byte {whole}: the header says {shape} {what}{hint}"));
    }
    Ok((sizes, body))
}

/// Content of a file, unpacked as far as it was asked for.
struct Unpacked<'a> {
    path: &'a Path,
    content: &'a [u8],
    source: Source<'a>,
    /// Number of bytes handed out.
    taken: usize,
}

enum Source<'a> {
    Plain(&'a [u8]),
    Gzip(MultiGzDecoder<&'a [u8]>),
}

impl<'a> Unpacked<'a> {
    fn new(path: &'a Path, content: &'a [u8]) -> Self {
        let source = match content.starts_with(&GZIP) {
            true => Source::Gzip(MultiGzDecoder::new(content)),
            false => Source::Plain(content),
        };
        Unpacked { path, content, source, taken: 0 }
    }

    fn is_gzip(&self) -> bool {
        matches!(self.source, Source::Gzip(_))
    }

    /// The next `n` bytes, fewer only at the end. Bytes past the end are looked for, so damage there is noticed.
    ///
    /// # Errors
    /// Damaged gzip.
    fn next(&mut self, n: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(n.min(1 << 26));
        let read = match &mut self.source {
            Source::Plain(rest) => rest.take(n as u64).read_to_end(&mut bytes),
            Source::Gzip(decoder) => decoder.take(n as u64).read_to_end(&mut bytes),
        };
        self.taken += bytes.len();
        match (read, &self.source) {
            (Err(reason), Source::Gzip(decoder)) => {
                let (at, len) = (self.content.len() - decoder.get_ref().len(), self.content.len());
                let hint = text_mode_damage(self.content).map(|damage| format!("; {damage}")).unwrap_or_default();
                Err(Error::format(
                    self.path,
                    format!(
                        "damaged gzip, noticed at byte {at} of {len}, {} bytes unpacked: {reason}{hint}",
                        self.taken
                    ),
                ))
            }
            (Err(reason), Source::Plain(_)) => Err(Error::io(self.path, "read", reason)),
            (Ok(_), _) => Ok(bytes),
        }
    }
}
