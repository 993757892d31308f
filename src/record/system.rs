//! Questions to the operating system that the standard library does not answer. Systems other than Unix have no answer
//! to some of them.

use std::fs::Metadata;
use std::path::Path;

/// Device and number of a file, which are equal for all its names.
pub(super) fn identity(found: &Metadata) -> Option<(u64, u64)> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        Some((found.dev(), found.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = found;
        None
    }
}

/// True for a pipe, a terminal or another device that takes bytes one after the other.
pub(super) fn is_stream(found: &Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        found.file_type().is_fifo() || found.file_type().is_char_device()
    }
    #[cfg(not(unix))]
    {
        !found.is_dir() && !found.is_file()
    }
}

/// True if this process may write to `path`. The file is not opened: a pipe without a reader would wait for one.
pub(super) fn may_write(path: &Path) -> bool {
    #[cfg(unix)]
    {
        rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
    }
    #[cfg(not(unix))]
    {
        !path.metadata().is_ok_and(|found| found.permissions().readonly())
    }
}
