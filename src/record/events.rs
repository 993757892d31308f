//! The lines of `metrics.jsonl` once more, as an event file that TensorBoard reads.
//!
//! A run has one if the file [`EVENTS`] lies in its folder: whoever starts the run puts an empty one there, and a run
//! that goes on writes it on. When a run starts, the file is made anew from the lines there are; so it never holds
//! what a resumed run does again, and its bytes are a function of `metrics.jsonl`.
//!
//! Every number of a line becomes a scalar `kind/name`, and counted margins a histogram. The format is TensorFlow's: a
//! record is a length, a checksum of it, the bytes of an `Event` message of protobuf, and a checksum of those. Only
//! what is needed of both stands here.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::MarginCounts;
use super::atomic::{cannot, write_atomic};
use super::metrics::CLOCK;
use crate::Result;

/// The event file's name. TensorBoard looks for `tfevents` in it.
pub const EVENTS: &str = "events.out.tfevents.maxmargin";

/// What the first event of a file says.
const VERSION: &[u8] = b"brain.Event:2";

/// The open file.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: File,
    /// Whether it has its first event, which says the version.
    begun: bool,
}

impl Events {
    /// The event file beside `metrics`, if there is one, with what `lines` of it say and nothing else.
    ///
    /// # Errors
    /// [`crate::Error::Io`] where it cannot be written.
    pub fn beside(metrics: &Path, lines: &[Value]) -> Result<Option<Self>> {
        let path = metrics.with_file_name(EVENTS);
        if !path.is_file() {
            return Ok(None);
        }
        write_atomic(&path, |out| out.write_all(&records(lines, false)))?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| cannot(&path, "open", e))?;
        Ok(Some(Events { path, file, begun: !lines.is_empty() }))
    }

    /// Appends what a line says.
    ///
    /// # Errors
    /// [`crate::Error::Io`] where the file cannot be written.
    pub fn append(&mut self, line: &Value) -> Result<()> {
        let records = records(std::slice::from_ref(line), self.begun);
        self.begun = true;
        self.file.write_all(&records).map_err(|e| cannot(&self.path, "append to", e))
    }
}

/// The records of `lines`, and that of the version before them if the file has not `begun`.
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

/// When a line was written, in seconds since 1970; lines of older versions do not say.
fn wall_time(line: &Value) -> f64 {
    line[CLOCK]["unix"].as_f64().unwrap_or(0.0)
}

/// The `Event` of a line: its time, its step, and a `Summary` with a value a figure.
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

/// A `HistogramProto`. Wrong images have a bin of their own below 0, as wide as the others: TensorBoard draws none
/// without a width. Sums of the margins are not known here.
fn histogram(counts: &MarginCounts) -> Vec<u8> {
    let width = f64::from(counts.max) / counts.bins.len().max(1) as f64;
    let edges = (1..=counts.bins.len()).map(|i| f64::from(counts.edge(i)));
    let limits: Vec<f64> = [0.0].into_iter().chain(edges).collect();
    let numbers: Vec<f64> = [counts.wrong].iter().chain(&counts.bins).map(|&count| count as f64).collect();
    let mut proto = Vec::new();
    double(&mut proto, 1, -width);
    double(&mut proto, 2, f64::from(counts.max));
    double(&mut proto, 3, numbers.iter().sum());
    bytes(&mut proto, 6, &limits.iter().flat_map(|limit| limit.to_le_bytes()).collect::<Vec<_>>());
    bytes(&mut proto, 7, &numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>());
    proto
}

/// A message as a record.
fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    [&length[..], &masked(crc32c(&length)).to_le_bytes(), message, &masked(crc32c(message)).to_le_bytes()].concat()
}

/// What stands before a field: its number and how its value is written (0 varint, 1 eight bytes, 2 a length and so many
/// bytes, 5 four bytes).
fn key(field: u64, wire: u64) -> Vec<u8> {
    varint(field << 3 | wire)
}

/// A number by seven bits a byte, the lowest first.
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

/// CRC-32C (Castagnoli; RFC 3720), bit by bit: a line has few bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}

/// A checksum as records have it, so that records within records do not look like their own checksums.
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
