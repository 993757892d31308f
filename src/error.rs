//! Error type of the crate. Every message names the file or flag, what was expected and what was found.

use std::fmt;
use std::path::{Path, PathBuf};

/// An error. The binary prints it and ends with exit code 2, or with the signal's for [`Error::Interrupted`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// Operation, as a verb: "read", "write", "create".
        action: &'static str,
        /// Reason given by the system.
        source: std::io::Error,
    },
    /// A file was read, but its content is invalid.
    #[error("{}: {message}", path.display())]
    Format {
        /// File.
        path: PathBuf,
        /// Field or byte offset, what was expected and what was found.
        message: String,
    },
    /// A setting or flag is out of its range, or two of them contradict each other.
    #[error("{0}")]
    Usage(String),
    /// A valid request cannot be completed: training diverged.
    #[error("{0}")]
    Failed(String),
    /// The device is missing or unsuitable, or has failed: it ran out of memory, or a kernel failed.
    #[error("{0}")]
    Device(String),
    /// A signal asked the process to stop. What can be continued was written before.
    #[error("stopped by {0}")]
    Interrupted(Signal),
}

impl Error {
    /// I/O error at `path` during `action`.
    pub fn io(path: &Path, action: &'static str, source: std::io::Error) -> Self {
        Error::Io { path: path.to_owned(), action, source }
    }

    /// Invalid content of `path`. `message` says where, what was expected and what was found.
    pub fn format(path: &Path, message: impl Into<String>) -> Self {
        Error::Format { path: path.to_owned(), message: message.into() }
    }

    /// Work that cannot be completed. `message` says why and what may help.
    pub fn failed(message: impl Into<String>) -> Self {
        Error::Failed(message.into())
    }

    /// Device that is unsuitable or has failed. `message` says why and what may help.
    pub fn device(message: impl Into<String>) -> Self {
        Error::Device(message.into())
    }

    /// Invalid setting. `message` names the flag.
    pub fn usage(message: impl Into<String>) -> Self {
        Error::Usage(message.into())
    }
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Signal that asks the process to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT, which Ctrl-C sends.
    Interrupt,
    /// SIGTERM, which `kill`, batch systems and shutdowns send.
    Terminate,
    /// SIGHUP, which the end of a terminal or of a connection sends.
    HangUp,
}

impl Signal {
    /// Number of the signal.
    pub fn number(self) -> u8 {
        match self {
            Signal::Interrupt => 2,
            Signal::Terminate => 15,
            Signal::HangUp => 1,
        }
    }

    /// Exit code of a process that the signal has stopped: 128 and the signal's number, as shells count.
    pub fn exit_code(self) -> u8 {
        128 + self.number()
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
            Signal::HangUp => "SIGHUP",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_shells() {
        assert_eq!([Signal::Interrupt, Signal::Terminate, Signal::HangUp].map(Signal::exit_code), [130, 143, 129]);
    }
}
