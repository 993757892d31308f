//! Checkpoints of a run, which is resumed.
#![no_main]

#[path = "../readers.rs"]
mod readers;

libfuzzer_sys::fuzz_target!(|content: &[u8]| readers::Reader::Checkpoint.check(content));
