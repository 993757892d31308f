//! Questions to the operating system that the standard library does not answer. Systems other than Unix have no answer
//! to some of them.

use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
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

/// Options that neither follow a symbolic link nor wait for the other end of a pipe.
pub(super) fn without_links(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.custom_flags((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32)
    }
    #[cfg(not(unix))]
    {
        options
    }
}

/// Name of this host.
pub(super) fn host() -> String {
    #[cfg(unix)]
    {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    }
    #[cfg(not(unix))]
    {
        std::env::var("COMPUTERNAME").unwrap_or_default()
    }
}

/// True if this host has a process of this number, or nobody can tell.
pub(super) fn is_alive(process: u32) -> bool {
    #[cfg(unix)]
    {
        let process = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw);
        process.is_some_and(|process| rustix::process::test_kill_process(process) != Err(rustix::io::Errno::SRCH))
    }
    #[cfg(not(unix))]
    {
        let _ = process;
        true
    }
}

/// Start of a process of this host, in units of the system; `None` where it is unknown.
pub(super) fn started(process: u32) -> Option<u64> {
    let line = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in parentheses, may hold spaces. `starttime` is field 22 of proc(5), the 20th after the name.
    line.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// True if a folder cannot be synced on this disk or by this user, which is no failure of the disk.
pub(super) fn cannot_sync_folders(error: &io::Error) -> bool {
    // Descriptors of folders are bad (EBADF) for some network disks.
    #[cfg(unix)]
    let bad = error.raw_os_error() == Some(rustix::io::Errno::BADF.raw_os_error());
    #[cfg(not(unix))]
    let bad = false;
    bad || matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::PermissionDenied)
}
