//! SHA-256 in hexadecimal digits.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

/// SHA-256 of bytes.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of a file.
///
/// # Errors
/// The file cannot be read.
pub(super) fn file_sha256(path: &Path) -> Result<String> {
    Ok(sha256(&std::fs::read(path).map_err(|source| Error::io(path, "read", source))?))
}
