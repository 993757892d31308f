//! Event files for TensorBoard, which hold the figures of `metrics.jsonl`.
//!
//! A run writes one if the file [`EVENTS`] lies in its folder: an empty one is put there before the run starts. When a
//! run starts or is resumed, the file is written anew from the lines of `metrics.jsonl`. So it never holds a step
//! twice, and its bytes are a function of `metrics.jsonl`.
//!
//! Every number of a line becomes a scalar `kind/name`, and margin counts become a histogram. The format is
//! TensorFlow's: a record is a length, a checksum of it, the bytes of an `Event` message of protobuf, and a checksum of
//! those. Only the parts of both formats that are needed are implemented.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::atomic::{cannot, write_atomic};
use super::line::CLOCK;
use super::margins::MarginCounts;
use crate::Result;

/// Name of the event file. TensorBoard looks for `tfevents` in it.
pub const EVENTS: &str = "events.out.tfevents.maxmargin";

/// File version, the content of the first event of a file.
const VERSION: &[u8] = b"brain.Event:2";

/// An open event file.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: File,
    /// True once the file has its first event, which holds the version.
    begun: bool,
}

impl Events {
    /// Opens the event file beside `metrics`, if there is one, and replaces its content by the figures of `lines`.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if it cannot be written.
    pub fn beside(metrics: &Path, lines: &[Value]) -> Result<Option<Self>> {
        let path = metrics.with_file_name(EVENTS);
        if !path.is_file() {
            return Ok(None);
        }
        write_atomic(&path, |out| out.write_all(&records(lines, false)))?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| cannot(&path, "open", e))?;
        Ok(Some(Events { path, file, begun: !lines.is_empty() }))
    }

    /// Appends the figures of a line.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if the file cannot be written.
    pub fn append(&mut self, line: &Value) -> Result<()> {
        let records = records(std::slice::from_ref(line), self.begun);
        self.begun = true;
        self.file.write_all(&records).map_err(|e| cannot(&self.path, "append to", e))
    }
}

/// Records of `lines`, after that of the version if the file has not `begun`.
fn records(lines: &[Value], begun: bool) -> Vec<u8> {
    let version = |first: &Value| {
        let mut event = Vec::new();
        double(&mut event, 1, wall_time(first));
        bytes(&mut event, 3, VERSION);
        event
    };
    let first = lines.first().filter(|_| !begun).map(version);
    first.into_iter().chain(lines.iter().map(event)).flat_map(|message| record(&message)).collect()
}

/// Time at which a line was written, in seconds since 1970; 0 for lines of older versions, which lack it.
fn wall_time(line: &Value) -> f64 {
    line[CLOCK]["unix"].as_f64().unwrap_or(0.0)
}

/// `Event` message of a line: its time, its step, and a `Summary` with a value for each figure.
fn event(line: &Value) -> Vec<u8> {
    let mut summary = Vec::new();
    let kind = line["kind"].as_str().unwrap_or_default();
    let figures = line.as_object().into_iter().flatten().filter(|(name, _)| !["step", CLOCK].contains(&name.as_str()));
    for (name, figure) in figures {
        let mut value = Vec::new();
        bytes(&mut value, 1, format!("{kind}/{name}").as_bytes());
        if let Some(number) = figure.as_f64() {
            value.extend(key(2, 5));
            value.extend((number as f32).to_le_bytes());
        } else if let Ok(counts) = serde_json::from_value::<MarginCounts>(figure.clone()) {
            bytes(&mut value, 5, &histogram(&counts));
        } else {
            continue;
        }
        bytes(&mut summary, 1, &value);
    }
    let mut event = Vec::new();
    double(&mut event, 1, wall_time(line));
    event.extend(key(2, 0));
    event.extend(varint(line["step"].as_u64().unwrap_or(0)));
    bytes(&mut event, 5, &summary);
    event
}

/// `HistogramProto` message of margin counts. Misclassified images have a bin of their own below 0, as wide as the
/// others, because TensorBoard draws no bin without a width. The fields for sums of the margins are left out.
fn histogram(counts: &MarginCounts) -> Vec<u8> {
    let width = f64::from(counts.max) / counts.bins.len().max(1) as f64;
    let edges = (1..=counts.bins.len()).map(|i| f64::from(counts.edge(i)));
    let limits: Vec<f64> = [0.0].into_iter().chain(edges).collect();
    let numbers: Vec<f64> = [counts.misclassified].iter().chain(&counts.bins).map(|&count| count as f64).collect();
    let mut proto = Vec::new();
    double(&mut proto, 1, -width);
    double(&mut proto, 2, f64::from(counts.max));
    double(&mut proto, 3, numbers.iter().sum());
    bytes(&mut proto, 6, &limits.iter().flat_map(|limit| limit.to_le_bytes()).collect::<Vec<_>>());
    bytes(&mut proto, 7, &numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>());
    proto
}

/// Record of a message.
fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    [&length[..], &masked(crc32c(&length)).to_le_bytes(), message, &masked(crc32c(message)).to_le_bytes()].concat()
}

/// Key before a field: its number and its wire type (0: varint, 1: eight bytes, 2: a length and that many bytes, 5:
/// four bytes).
fn key(field: u64, wire: u64) -> Vec<u8> {
    varint(field << 3 | wire)
}

/// Number in groups of seven bits, the lowest first, a byte each.
fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    out.extend(key(field, 1));
    out.extend(value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    out.extend(key(field, 2));
    out.extend(varint(value.len() as u64));
    out.extend(value);
}

/// CRC-32C (Castagnoli; RFC 3720), bit by bit, which is fast enough for lines of a few hundred bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}

/// Checksum as stored in records. The mask keeps the checksum of data that holds checksums itself from degenerating.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_3720() {
        let ascending: Vec<u8> = (0..32).collect();
        for (bytes, crc) in [
            (&[0; 32][..], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
            (b"123456789", 0xe306_9283),
            (b"", 0),
        ] {
            assert_eq!(crc32c(bytes), crc, "{bytes:?}");
        }
    }

    #[test]
    fn numbers_are_varints() {
        for (value, bytes) in [(0, &[0][..]), (127, &[0x7f]), (128, &[0x80, 1]), (300, &[0xac, 2])] {
            assert_eq!(varint(value), bytes);
        }
        assert_eq!(varint(u64::MAX), [[0xff; 9].as_slice(), &[1]].concat());
    }
}
