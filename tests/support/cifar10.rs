//! A CIFAR10 that is easy to learn, so that a small network is right, and attacked, after a few steps.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use maxmargin::data::cifar::{RECORDS, SIDE, TEST, TRAIN, encode};

/// How many images of the first file, and of the test file, are not black.
const IMAGES: usize = 200;

/// Writes the six files below `folder`. Images show label 0 or 1: the brighter half is above or below. All others are
/// black, of label 0.
pub fn write(folder: &Path) {
    let place = folder.join("cifar-10-batches-bin");
    fs::create_dir(&place).expect("a folder");
    let labels: Vec<u8> = (0..IMAGES).map(|i| (i * i % 7 % 2) as u8).collect();
    let pixel = |(i, &label): (usize, &u8)| {
        (0..3 * SIDE * SIDE).map(move |at| {
            let below = at >= 3 * SIDE * SIDE / 2;
            let noise = ((i * 7919 + at * 104_729) % 1009 % 64) as u8;
            if below == (label == 1) { 160 + noise } else { 32 + noise }
        })
    };
    let images: Vec<u8> = labels.iter().enumerate().flat_map(pixel).collect();
    let records = encode(&images, &labels);
    for name in TRAIN.into_iter().chain([TEST]) {
        let mut file = File::create(place.join(name)).expect("a file");
        if name == TRAIN[0] || name == TEST {
            file.write_all(&records).expect("room");
        }
        file.set_len((records.len() / IMAGES * RECORDS) as u64).expect("room");
    }
}
