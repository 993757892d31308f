//! Results, errors and exit codes of commands.

use std::io::{ErrorKind, Write as _};
use std::path::Path;

use crate::record::OutputFile;
use crate::{Error, Result};

/// Result of a command that ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command has done its work: exit code 0.
    Done,
    /// A required check failed: exit code 1.
    CheckFailed,
}

/// Writes `text` to the standard output. A reader that went away (`| head -1`) is not an error.
///
/// # Errors
/// The output cannot be written for another reason, such as a full disk.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(source) if source.kind() != ErrorKind::BrokenPipe => {
            Err(Error::io(Path::new("standard output"), "write", source))
        }
        _ => Ok(()),
    }
}

/// Writes a line to the standard error. Nothing is done if that fails: there is no other place for a message.
pub fn print_message(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes `error` and its causes to the standard error.
pub fn print_error(error: &Error) {
    let mut text = format!("error: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Some messages already end with their cause's.
        if !text.contains(&inner_text) {
            text.push_str(&format!("\n  caused by: {inner_text}"));
        }
        cause = inner.source();
    }
    print_message(&text);
}

/// Writes `text` to the standard output; to the standard error if one of `files` takes the standard output for itself.
///
/// # Errors
/// Those of [`print`].
pub fn print_beside<'a>(files: impl IntoIterator<Item = &'a OutputFile>, text: &str) -> Result<()> {
    match files.into_iter().any(OutputFile::is_standard_output) {
        true => Ok(print_message(text.strip_suffix('\n').unwrap_or(text))),
        false => print(text),
    }
}
