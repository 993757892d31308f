//! Files in CIFAR10's format whose images a small network classifies correctly, and so attacks, after a few steps.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use maxmargin::data::cifar::{RECORDS, SIDE, TEST, TRAIN, encode};

/// Number of images that are not black, in the first training file and in the test file.
const IMAGES: usize = 200;

/// Writes the six files into a data folder. An image of label 0 is brighter in the first half of its bytes, one of
/// label 1 in the second. All other images are black and have label 0.
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
