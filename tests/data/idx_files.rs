//! IDX files: their header, gzip, and every kind of damage.

use std::path::Path;

use maxmargin::data::{cifar, idx};

use crate::{folder, gzip, labels, noise, refused};

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
