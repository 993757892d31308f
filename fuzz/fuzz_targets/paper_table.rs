//! The paper's figures, of which a report is made.
#![no_main]

#[path = "../readers.rs"]
mod readers;

libfuzzer_sys::fuzz_target!(|content: &[u8]| readers::Reader::PaperTable.check(content));
