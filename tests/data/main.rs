//! Specification of the data module: files are read exactly or refused with file and byte; splits are disjoint; a
//! conversion gives the published files or nothing.

mod bundled;
mod cifar10;
mod genuine;
mod identity;
mod idx_files;
mod mnist;
mod survey;

use std::io::Write;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use maxmargin::data::idx;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes without a period as short as an image.
fn noise(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * i / 7 + i) as u8).collect()
}

/// Labels 0, 1, ..., 9, 0, ...
fn labels(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i % 10) as u8).collect()
}

/// Asserts that `result` is an error whose message contains each of `parts`.
#[track_caller]
fn refused<T>(result: maxmargin::Result<T>, parts: &[&str]) {
    let message = result.err().expect("a refusal").to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

/// Writes a small MNIST to `place`: 30 training and 20 test images, under the names of the original site.
fn write_mnist(place: &Path) {
    std::fs::create_dir_all(place).unwrap();
    for (part, n) in [("train", 30), ("t10k", 20)] {
        let images = idx::encode_images([n, 28, 28], &noise(n * 784));
        std::fs::write(place.join(format!("{part}-images-idx3-ubyte")), images).unwrap();
        std::fs::write(place.join(format!("{part}-labels-idx1-ubyte")), idx::encode_labels(&labels(n))).unwrap();
    }
}
