//! MNIST in its folders, under every spelling of its names.

use maxmargin::catalog::DatasetKind;
use maxmargin::choice::Choice as _;
use maxmargin::data::{Split, idx, load, load_split};

use crate::{folder, gzip, labels, noise, refused, write_mnist};

#[test]
fn mnist_is_found_in_each_of_its_folders() {
    for sub in DatasetKind::Mnist.entry().folders {
        let folder = folder();
        let place = if sub.is_empty() { folder.path().to_owned() } else { folder.path().join(sub) };
        write_mnist(&place);
        let splits = load(DatasetKind::Mnist, folder.path(), 5).unwrap();
        assert_eq!(splits.source, place.display().to_string());
        assert_eq!([splits.train.len(), splits.validation.len(), splits.test.len()], [25, 5, 20]);
    }
}

#[test]
fn mnist_is_read_under_every_spelling_of_its_names() {
    let folder = folder();
    write_mnist(folder.path());
    let plain = load(DatasetKind::Mnist, folder.path(), 5).unwrap();
    for (old, new, pack) in [("-idx", ".idx", false), ("-ubyte", "-ubyte.gz", true), (".idx", "-idx", false)] {
        for entry in std::fs::read_dir(folder.path()).unwrap().collect::<Vec<_>>() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().replace(old, new);
            let bytes = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            std::fs::write(folder.path().join(name), if pack { gzip(&bytes) } else { bytes }).unwrap();
        }
        let other = load(DatasetKind::Mnist, folder.path(), 5).unwrap();
        assert!(other.train == plain.train && other.validation == plain.validation && other.test == plain.test);
    }
}

#[test]
fn the_first_training_images_are_the_validation_images() {
    let folder = folder();
    write_mnist(folder.path());
    let splits = load(DatasetKind::Mnist, folder.path(), 12).unwrap();
    let images = noise(30 * 784);
    assert!(splits.validation.images == images[..12 * 784] && splits.validation.labels == labels(30)[..12]);
    assert!(splits.train.images == images[12 * 784..] && splits.train.labels == labels(30)[12..]);
    let names = [splits.train, splits.validation, splits.test].map(|part| part.name);
    assert_eq!(names, ["mnist training", "mnist validation", "mnist test"]);
    refused(load(DatasetKind::Mnist, folder.path(), 30), &["val_size 30: mnist has 30 training images"]);
    assert!(load(DatasetKind::Mnist, folder.path(), 0).unwrap().validation.is_empty());
}

#[test]
fn missing_mnist_is_refused_with_folders_and_names() {
    let folder = folder();
    let path = folder.path().display().to_string();
    let places = format!("found in {path}, {path}/mnist, {path}/MNIST/raw; `scripts/fetch-data mnist` brings them");
    let names = "none of train-images-idx3-ubyte, train-images-idx3-ubyte.gz, train-images.idx3-ubyte, ";
    refused(load(DatasetKind::Mnist, folder.path(), 5), &[&path, names, &places]);
    write_mnist(folder.path());
    std::fs::remove_file(folder.path().join("t10k-labels-idx1-ubyte")).unwrap();
    refused(load(DatasetKind::Mnist, folder.path(), 5), &[&path, "none of t10k-labels-idx1-ubyte, "]);
}

#[test]
fn a_split_needs_only_its_own_files() {
    let folder = folder();
    write_mnist(folder.path());
    let whole = load(DatasetKind::Mnist, folder.path(), 5).unwrap();
    let remove = |name: &str| std::fs::remove_file(folder.path().join(name)).unwrap();
    let part = |split| load_split(DatasetKind::Mnist, folder.path(), 5, split);
    for split in Split::ALL {
        assert_eq!(part(*split).unwrap().1, whole.source);
    }
    // Damaged files of the training images matter as little as missing ones.
    std::fs::write(folder.path().join("train-labels-idx1-ubyte"), "damaged").unwrap();
    assert_eq!(part(Split::Test).unwrap().0, whole.test);
    remove("train-images-idx3-ubyte");
    remove("train-labels-idx1-ubyte");
    assert_eq!(part(Split::Test).unwrap().0, whole.test);
    refused(part(Split::Train), &["none of train-images-idx3-ubyte, "]);
    write_mnist(folder.path());
    remove("t10k-images-idx3-ubyte");
    assert_eq!(part(Split::Validation).unwrap().0, whole.validation);
    assert_eq!(part(Split::Train).unwrap().0, whole.train);
    refused(part(Split::Test), &["none of t10k-images-idx3-ubyte, "]);
}

#[test]
fn mnist_in_reverse_axes_is_refused_with_the_right_order() {
    let folder = folder();
    write_mnist(folder.path());
    let images = idx::encode_images([28, 28, 20], &noise(20 * 784));
    std::fs::write(folder.path().join("t10k-images-idx3-ubyte"), images).unwrap();
    let parts = ["t10k-images-idx3-ubyte: byte 8: images of 28x20", "reverse order: [count, height, width] is needed"];
    refused(load(DatasetKind::Mnist, folder.path(), 5), &parts);
}

#[test]
fn mnist_of_another_size_is_refused() {
    let folder = folder();
    write_mnist(folder.path());
    let images = idx::encode_images([20, 32, 32], &noise(20 * 1024));
    std::fs::write(folder.path().join("t10k-images-idx3-ubyte"), images).unwrap();
    let parts = ["t10k-images-idx3-ubyte: byte 8: images of 32x32, 28x28 expected"];
    refused(load(DatasetKind::Mnist, folder.path(), 5), &parts);
}
