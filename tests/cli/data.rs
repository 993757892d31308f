//! `maxmargin data`: the list of data sets, broken files, imports.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use flate2::{Compression, write::GzEncoder};
use maxmargin::data::idx;

use crate::{PROGRAM, done_in, maxmargin_in, refused_in, said};

#[test]
fn data_lists_each_data_set_with_its_size_or_the_command_that_fetches_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = done_in(folder.path(), "data");
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines.len(), 3, "{}", said.out);
    assert_eq!(lines[0], "digits   6000 training, 1000 validation and 1000 test images, bundled in the program");
    for (line, name, file) in
        [(lines[1], "mnist ", "train-images-idx3-ubyte"), (lines[2], "cifar10 ", "data_batch_1.bin")]
    {
        assert!(line.starts_with(name) && line.contains(file), "{line}");
        assert!(line.contains(&format!("`scripts/fetch-data {}` brings them", name.trim())), "{line}");
    }
    assert!(lines[1].contains("found in data, data/mnist, "), "{}", lines[1]);
    let elsewhere = done_in(folder.path(), "data --data elsewhere");
    assert!(elsewhere.out.contains("elsewhere/mnist"), "{}", elsewhere.out);
}

/// Writes a MNIST of ten images a part into `data/mnist`; they are not the published ones.
pub fn write_mnist(folder: &Path) {
    let place = folder.join("data/mnist");
    std::fs::create_dir_all(&place).expect("a folder");
    for part in ["train", "t10k"] {
        let images = idx::encode_images([10, 28, 28], &[7; 7840]);
        std::fs::write(place.join(format!("{part}-images-idx3-ubyte")), images).expect("a file");
        let labels = idx::encode_labels(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        std::fs::write(place.join(format!("{part}-labels-idx1-ubyte")), labels).expect("a file");
    }
}

#[test]
fn files_that_are_not_the_published_ones_fail_unless_they_are_allowed() {
    let folder = tempfile::tempdir().expect("a folder");
    write_mnist(folder.path());
    let said = maxmargin_in(folder.path(), "data");
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(
        said.out.contains("10 training images and 10 test images in data/mnist, NOT the published files"),
        "{}",
        said.out
    );
    assert!(
        said.err.contains("check failed: mnist: files are not the published ones; --allow accepts them"),
        "{}",
        said.err
    );
    assert!(done_in(folder.path(), "data --allow").out.contains("NOT the published files"));
}

#[test]
fn a_broken_file_is_named_with_the_byte_and_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    write_mnist(folder.path());
    std::fs::write(folder.path().join("data/mnist/train-images-idx3-ubyte"), "<html>no such page</html>")
        .expect("a file");
    for command in ["data", "data --allow"] {
        let said = maxmargin_in(folder.path(), command);
        assert_eq!(said.code, Some(1), "{command}: {}", said.err);
        assert!(said.out.contains("train-images-idx3-ubyte: byte 0: "), "{}", said.out);
        assert!(said.out.contains("it is a web page: the download went wrong"), "{}", said.out);
        assert!(said.err.contains("check failed: mnist: a file is damaged"), "{}", said.err);
    }
    refused_in(folder.path(), "train --dataset mnist", &["train-images-idx3-ubyte: byte 0: ", "a web page"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_small_gzip_file_that_unpacks_to_a_gigabyte_takes_no_more_memory_than_its_header_announces() {
    let folder = tempfile::tempdir().expect("a folder");
    write_mnist(folder.path());
    let images = folder.path().join("data/mnist/train-images-idx3-ubyte");
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory")
    };
    let zeros = gzip(&vec![0; 1 << 20]).repeat(1024);
    let valid = std::fs::read(&images).expect("a file");
    for (begin, refusal) in [
        (&[][..], "byte 0: magic number 0x00000803 of images expected, 0x00000000 found"),
        (&valid, "goes on past its end, byte 7856: the header says 10x28x28 images"),
    ] {
        std::fs::write(&images, [gzip(begin), zeros.clone()].concat()).expect("a file");
        // Address space of 500 MB, in KiB.
        let line = format!("ulimit -v 500000 && exec {PROGRAM} data");
        let said = said(Command::new("sh").args(["-c", &line]).current_dir(folder.path()).output().expect("sh"));
        assert_eq!(said.code, Some(1), "{}{}", said.out, said.err);
        assert!(said.out.contains(refusal), "{}", said.out);
    }
}

#[test]
fn a_package_that_is_not_there_cannot_be_imported() {
    let folder = tempfile::tempdir().expect("a folder");
    refused_in(folder.path(), "data --import nowhere", &["nowhere"]);
    assert!(!folder.path().join("data").exists());
}
