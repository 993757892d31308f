//! SHA-256 in hexadecimal digits.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

/// SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> String {
    sha256_of_parts(&[bytes])
}

/// SHA-256 of bytes that lie in several places, one part after the other.
pub fn sha256_of_parts(parts: &[&[u8]]) -> String {
    let digest = parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of a file.
///
/// # Errors
/// The file cannot be read.
pub fn file_sha256(path: &Path) -> Result<String> {
    Ok(sha256(&std::fs::read(path).map_err(|source| Error::io(path, "read", source))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_gives_the_published_value_in_one_part_or_several() {
        let published = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; // FIPS 180-2, B.1
        assert_eq!(sha256(b"abc"), published);
        assert_eq!(sha256_of_parts(&[b"a", b"", b"bc"]), published);
    }
}
