//! Writer of `metrics.jsonl`.
//!
//! A line is written before the checkpoint of its step. So the lines beyond a checkpoint's step are those that a run
//! resumed from it will write again, and they are dropped.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;

use super::atomic::{cannot, write_atomic};
use super::events::Events;
use super::line::{Kind, invalid_line, parse};
use crate::{Error, Result};

/// An open `metrics.jsonl`.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
    began: Instant,
    /// Event file for TensorBoard, if the run has one.
    events: Option<Events>,
}

#[derive(Serialize)]
struct MetricsLine<'a, T> {
    kind: Kind,
    step: u64,
    #[serde(flatten)]
    figures: &'a T,
    clock: WriteTime,
}

#[derive(Serialize)]
struct WriteTime {
    /// Seconds since this process opened the file.
    seconds: f64,
    /// Seconds since the beginning of 1970.
    unix: f64,
}

impl Metrics {
    /// Creates an empty file. Its lines also go to the event file beside it if there is one ([`Events`]).
    ///
    /// # Errors
    /// [`Error::Io`] if it exists or cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).open(path);
        Self::new(path, file.map_err(|e| cannot(path, "create", e))?, &[])
    }

    fn new(path: &Path, file: File, lines: &[Value]) -> Result<Self> {
        let events = Events::beside(path, lines)?;
        Ok(Metrics { path: path.to_owned(), file, began: Instant::now(), events })
    }

    /// Opens the file of a run that is resumed from a checkpoint of `step`. Drops the lines after that step, those
    /// at that step that the run writes again (a result, and the epoch if its `validation_due`), and an incomplete last
    /// line; also from the event file beside it.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read or written; [`Error::Format`] with the line's number if a line other than the
    /// last is not an object with `kind` and `step`.
    pub fn resume(path: &Path, step: u64, validation_due: bool) -> Result<Self> {
        let bytes = fs::read(path).map_err(|e| Error::io(path, "read", e))?;
        let lines: Vec<&[u8]> = bytes.split_inclusive(|&b| b == b'\n').collect();
        let mut kept = Vec::with_capacity(bytes.len());
        let mut values = Vec::new();
        for (i, line) in lines.iter().enumerate() {
            match parse(line) {
                Ok((head, value)) => {
                    let rewritten = head.kind == Kind::Result || validation_due && head.kind == Kind::Epoch;
                    let again = rewritten && head.step == step;
                    if line.ends_with(b"\n") && head.step <= step && !again {
                        kept.extend_from_slice(line);
                        values.push(value);
                    }
                }
                Err(_) if i + 1 == lines.len() => {}
                Err(e) => return Err(invalid_line(path, i, line, &e)),
            }
        }
        if kept != bytes {
            write_atomic(path, |out| out.write_all(&kept))?;
        }
        let file = OpenOptions::new().append(true).open(path).map_err(|e| cannot(path, "open", e))?;
        Self::new(path, file, &values)
    }

    /// Appends a line. `figures` is a struct or map without fields named `kind`, `step` or `clock`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written (a full disk); [`Error::Format`] if `figures` is neither a struct
    /// nor a map.
    pub fn write(&mut self, kind: Kind, step: u64, figures: &impl Serialize) -> Result<()> {
        let milliseconds = |seconds: f64| (seconds * 1e3).round() / 1e3;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        let clock = WriteTime { seconds: milliseconds(self.began.elapsed().as_secs_f64()), unix: milliseconds(unix) };
        let mut line = serde_json::to_string(&MetricsLine { kind, step, figures, clock })
            .map_err(|e| Error::format(&self.path, format!("line of step {step}: {e}")))?;
        line.push('\n');
        // A single write for the whole line, so that a killed process rarely leaves a part of it.
        self.file.write_all(line.as_bytes()).map_err(|e| cannot(&self.path, "append to", e))?;
        match &mut self.events {
            Some(events) => events.append(&serde_json::from_str(&line).unwrap_or_default()),
            None => Ok(()),
        }
    }
}
