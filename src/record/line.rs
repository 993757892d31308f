//! Lines of `metrics.jsonl`: the figures of a run, one JSON object a line.
//!
//! Every line has a `kind` ([`Kind`]), the `step` it belongs to, the figures, and under `clock` the time. Two equal runs
//! differ in the time, and in the `device` of a result if they ran on different ones. The figures are
//! [`figures`](super::figures)' part. JSON has no NaN: it is written as `null`.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::formats::{ExpectedContent, mistaken_format};
use crate::{Error, Result};

/// Name of the field that holds everything that depends on the time.
pub const CLOCK: &str = "clock";

/// Names of former versions for shares from 0 to 1 in lines of training steps, and the names of the percentages that
/// replace them.
const FORMER_FRACTIONS: [(&str, &str); 3] = [
    ("clean_accuracy", "train_accuracy"),
    ("adversarial_accuracy", "train_adversarial_accuracy"),
    ("reached_d_max", "train_reached_d_max"),
];

/// Kind of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Training steps since the line before.
    Step,
    /// End of an epoch.
    Epoch,
    /// Network before training (step 0) or after it.
    Result,
}

/// Fields that every line must have.
#[derive(Deserialize)]
pub(super) struct LineHead {
    pub kind: Kind,
    pub step: u64,
}

/// Reads every line of `metrics.jsonl`, in order. An incomplete last line, which a killed process may leave, is
/// ignored.
///
/// # Errors
/// [`Error::Io`] if it cannot be read; [`Error::Format`] with the number of the first line that is not a JSON object
/// with `kind` and `step`.
pub fn read_metrics(path: &Path) -> Result<Vec<Value>> {
    let bytes = fs::read(path).map_err(|e| Error::io(path, "read", e))?;
    let whole = &bytes[..bytes.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1)];
    let lines = whole.split_inclusive(|&b| b == b'\n').enumerate();
    lines.map(|(i, line)| Ok(parse(line).map_err(|e| invalid_line(path, i, line, &e))?.1)).collect()
}

/// Parses a line: its required fields, and the whole line. Fractions of former versions become percentages.
pub(super) fn parse(line: &[u8]) -> serde_json::Result<(LineHead, Value)> {
    let mut value: Value = serde_json::from_slice(line)?;
    let head = LineHead::deserialize(&value)?;
    if let (Kind::Step, Some(figures)) = (head.kind, value.as_object_mut()) {
        for (former, name) in FORMER_FRACTIONS {
            if let Some(fraction) = figures.remove(former) {
                figures.insert(name.into(), fraction.as_f64().map(|fraction| 100.0 * fraction).into());
            }
        }
    }
    Ok((head, value))
}

/// Error about the line of this index, counted from 0, with the content of the line.
pub(super) fn invalid_line(path: &Path, index: usize, line: &[u8], error: &serde_json::Error) -> Error {
    let format = mistaken_format(line, ExpectedContent::Text).map(|format| format!("; it is {format}"));
    let (line, format) = (index + 1, format.unwrap_or_default());
    Error::format(path, format!("line {line}: expected a JSON object with kind and step, found: {error}{format}"))
}
