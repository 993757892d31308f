//! Ceilings of a device, for `bench`.
#![no_main]

#[path = "../readers.rs"]
mod readers;

libfuzzer_sys::fuzz_target!(|content: &[u8]| readers::Reader::Ceilings.check(content));
