//! `maxmargin data`: the list of data sets, broken files, imports.

use crate::{done_in, refused_in};

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

#[test]
fn a_broken_file_is_named_with_the_byte() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("data/mnist")).expect("a folder");
    for name in
        ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
    {
        std::fs::write(folder.path().join("data/mnist").join(name), "<html>no such page</html>").expect("a file");
    }
    let said = done_in(folder.path(), "data");
    assert!(said.out.contains("train-images-idx3-ubyte: byte 0: "), "{}", said.out);
    refused_in(folder.path(), "train --dataset mnist", &["train-images-idx3-ubyte: byte 0: "]);
}

#[test]
fn a_package_that_is_not_there_cannot_be_imported() {
    let folder = tempfile::tempdir().expect("a folder");
    refused_in(folder.path(), "data --import nowhere", &["nowhere"]);
    assert!(!folder.path().join("data").exists());
}
