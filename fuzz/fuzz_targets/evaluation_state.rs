//! States of an interrupted evaluation, which continues.
#![no_main]

#[path = "../readers.rs"]
mod readers;

libfuzzer_sys::fuzz_target!(|content: &[u8]| readers::Reader::EvaluationState.check(content));
