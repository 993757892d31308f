//! Metrics of a run, with TensorBoard's events.
#![no_main]

#[path = "../readers.rs"]
mod readers;

libfuzzer_sys::fuzz_target!(|content: &[u8]| readers::Reader::Metrics.check(content));
