//! Replacement of files, whole or not at all.
//!
//! The new content goes to a temporary file in the same folder, is synced to the disk, and takes the name by a rename;
//! then the folder is synced. A reader finds the former content or the new one, whenever the process or the machine
//! stops. This module does not append and does not lock.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use super::system;
use crate::{Error, Result};

/// End of the names of temporary files. They begin with a dot and the name of the file to replace.
pub(super) const PARTIAL: &str = ".partial";

/// Replaces the file at `path` as a whole by what `content` writes.
///
/// # Errors
/// Writing fails (a full disk, a read-only folder, `content` itself). The temporary file is removed, a former file at
/// `path` is unchanged, and the error says what was tried, why it failed and what may help. An error after the file has
/// got its name says that.
pub fn write_atomic(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    replace(path, folder, content).map_err(|source| cannot(path, "write", source))?;
    synced(sync_folder(folder)).map_err(|source| Error::io(path, "make permanent", source))
}

fn replace(path: &Path, folder: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the path names no file"))?;
    // The temporary file removes itself when it is dropped by an early return.
    let mut temporary = temporary(folder, name)?;
    {
        let mut writer = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
        content(&mut writer)?;
        writer.flush()?;
    }
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|e| e.error)?;
    Ok(())
}

/// Writes a folder to the disk: a rename in it lasts only then. Windows cannot open a folder as a file.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Result of the replacement, given that of syncing the folder after it. Disks that do not sync folders are accepted.
fn synced(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(source) if !system::cannot_sync_folders(&source) => {
            let message = format!("{source} (the new file is in its place, but may be lost if the machine stops)");
            Err(io::Error::new(source.kind(), message))
        }
        _ => Ok(()),
    }
}

/// Temporary file in `folder` for the file of this name.
fn temporary(folder: &Path, name: &OsStr) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    let prefix = format!(".{}.", name.to_string_lossy());
    builder.prefix(&prefix).suffix(PARTIAL);
    // Temporary files are private by default, but this one becomes an ordinary file: the umask decides.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// Makes a temporary file in `folder` and removes it: whether files can be replaced there.
pub(super) fn probe(folder: &Path) -> io::Result<()> {
    temporary(folder, OsStr::new("probe")).map(drop)
}

/// Creates a folder and its parents, unless it is there. Files can be made in it.
///
/// # Errors
/// [`Error::Io`] with advice.
pub fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|source| cannot(folder, "create", source))?;
    probe(folder).map_err(|source| cannot(folder, "write into", source))
}

/// Advice about an error of this kind.
pub(super) fn advice(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space or choose another disk",
        ErrorKind::FileTooLarge => "raise the limit on file sizes or choose another disk",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "make the folder writable or choose another",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => "a part of this path is a file: choose another folder",
        ErrorKind::NotFound => "the folder does not exist: create it or choose another",
        _ => "check the disk",
    }
}

/// Builds an I/O error whose message says what may help, and that a former file is unchanged if there is one.
pub(super) fn cannot(path: &Path, action: &'static str, source: io::Error) -> Error {
    let help = advice(source.kind());
    let former = if fs::metadata(path).is_ok_and(|m| m.is_file()) { "; the former file is unchanged" } else { "" };
    Error::io(path, action, io::Error::new(source.kind(), format!("{source} ({help}{former})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_that_cannot_be_synced_is_no_error_and_a_broken_disk_says_that_the_new_file_is_there() {
        let (einval, enotsup, ebadf, eacces, eio) = (22, 95, 9, 13, 5);
        for number in [einval, enotsup, ebadf, eacces] {
            synced(Err(io::Error::from_raw_os_error(number))).unwrap();
        }
        let said = synced(Err(io::Error::from_raw_os_error(eio))).unwrap_err().to_string();
        assert!(said.contains("the new file is in its place") && !said.contains("unchanged"), "{said}");
    }
}
