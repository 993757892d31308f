//! CIFAR10 in the binary form, and its files in other forms.

use std::io::Write;
use std::path::Path;

use maxmargin::catalog::DatasetKind;
use maxmargin::data::{Dataset, Split, cifar, idx, load, load_split};

use crate::{folder, gzip, labels, noise, refused, write_mnist};

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
