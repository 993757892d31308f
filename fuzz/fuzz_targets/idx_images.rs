//! MNIST's images, plain or gzip.
#![no_main]

#[path = "../readers.rs"]
mod readers;

libfuzzer_sys::fuzz_target!(|content: &[u8]| readers::Reader::IdxImages.check(content));
