//! The one error type. Every message names the file or flag, what was expected and what was found.

use std::path::{Path, PathBuf};

/// What can go wrong. The binary prints it and ends with exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb: "read", "write", "create".
        action: &'static str,
        /// The system's own reason.
        source: std::io::Error,
    },
    /// A file was read, but its content is not what it must be.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Field or byte offset, what was expected, what was found.
        message: String,
    },
    /// A setting or flag is out of its range, or two contradict each other.
    #[error("{0}")]
    Usage(String),
    /// What was asked for is sound, but cannot go on: training diverged.
    #[error("{0}")]
    Failed(String),
    /// The device is not there, or not of use, or cannot go on: memory ran out, or a kernel failed.
    #[error("{0}")]
    Device(String),
}

impl Error {
    /// An I/O error at `path` while doing `action`.
    pub fn io(path: &Path, action: &'static str, source: std::io::Error) -> Self {
        Error::Io { path: path.to_owned(), action, source }
    }

    /// Wrong content in `path`: `message` says where, what was expected and what was found.
    pub fn format(path: &Path, message: impl Into<String>) -> Self {
        Error::Format { path: path.to_owned(), message: message.into() }
    }

    /// Work that cannot go on; `message` says why and what may help.
    pub fn failed(message: impl Into<String>) -> Self {
        Error::Failed(message.into())
    }

    /// A device that is of no use or cannot go on; `message` says why and what may help.
    pub fn device(message: impl Into<String>) -> Self {
        Error::Device(message.into())
    }

    /// A wrong setting; `message` names the flag.
    pub fn usage(message: impl Into<String>) -> Self {
        Error::Usage(message.into())
    }
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
