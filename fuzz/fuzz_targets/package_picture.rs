//! Pictures of a package of CIFAR10.
#![no_main]

#[path = "../readers.rs"]
mod readers;

libfuzzer_sys::fuzz_target!(|content: &[u8]| readers::Reader::PackagePicture.check(content));
