//! Lock of a run folder, which one process at a time holds.
//!
//! The system's lock on the file [`LOCK`] ends with the process, for whatever reason. A disk without such locks, as
//! some network disks are, gets the file [`OWNER`] instead: created exclusively, with host and process in it, and
//! removed at the end. One that a dead process of this host left is taken over; nobody can tell whether a process of
//! another host lives, so its file is refused. Neither file is followed if it is a link, and neither is truncated.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::atomic::{PARTIAL, cannot};
use super::system;
use crate::{Error, Result};

/// Name of the file that is locked. It is empty and stays.
pub(super) const LOCK: &str = "lock";
/// Name of the file that holds the owner of a folder on a disk without locks.
pub(super) const OWNER: &str = "lock.owner";

/// Lock that this process holds until the value is dropped.
#[derive(Debug)]
pub(super) struct RunLock {
    file: File,
    /// File of the owner, and why the system did not lock.
    owned: Option<(PathBuf, String)>,
}

/// Process that holds a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LockOwner {
    host: String,
    process: u32,
    /// Start of the process, which distinguishes it from a later one of the same number; absent where it is unknown.
    started: Option<u64>,
}

impl LockOwner {
    fn this_process() -> Self {
        let process = std::process::id();
        LockOwner { host: system::host(), process, started: system::started(process) }
    }

    /// True if the process has ended. One of another host is said to live.
    fn has_ended(&self) -> bool {
        let same = |now: u64| self.started.is_none_or(|started| started == now);
        self.host == system::host()
            && !(system::is_alive(self.process) && system::started(self.process).is_none_or(same))
    }
}

impl RunLock {
    /// Locks `folder`.
    ///
    /// # Errors
    /// [`Error::Usage`] if another process holds it; [`Error::Io`] or [`Error::Format`] if a file cannot be made, or is
    /// no regular one.
    pub(super) fn acquire(folder: &Path) -> Result<Self> {
        Self::acquire_by(folder, File::try_lock)
    }

    /// [`RunLock::acquire`] with the system's lock given, for tests.
    fn acquire_by(folder: &Path, try_lock: impl Fn(&File) -> std::result::Result<(), TryLockError>) -> Result<Self> {
        let (path, owner) = (folder.join(LOCK), folder.join(OWNER));
        let file = open(&path)?;
        let owned = match try_lock(&file) {
            Err(TryLockError::WouldBlock) => return Err(held(folder, "another process is training in this folder")),
            // A file of an owner counts even where the system locks: another host may see this disk without locks.
            Ok(()) => remove_ended(folder, &owner).map(|()| None)?,
            Err(TryLockError::Error(reason)) => {
                own(folder, &owner)?;
                Some((owner, reason.to_string()))
            }
        };
        Ok(RunLock { file, owned })
    }

    /// Sentence about the lock, if it is not the system's.
    pub(super) fn notice(&self) -> Option<String> {
        let (path, reason) = self.owned.as_ref()?;
        Some(format!(
            "{}: this disk cannot lock files ({reason}); the folder is held by this file instead",
            path.display()
        ))
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // A later process may have been told to take the folder: its file stays.
        if let Some((path, _)) = self.owned.as_ref().filter(|(path, _)| read(path).ok() == text().ok()) {
            let _ = fs::remove_file(path);
        }
        // Closing the file does not unlock it while a child process that is just being started still shares it.
        // If unlocking fails, the end of the process releases the lock.
        let _ = self.file.unlock();
    }
}

/// Opens the file to lock, and makes it if there is none.
fn open(path: &Path) -> Result<File> {
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(Error::format(path, "expected a regular file, found a link or something else: remove it"));
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    system::without_links(&mut options).open(path).map_err(|e| cannot(path, "open", e))
}

/// Creates the file of the owner for this process.
fn own(folder: &Path, path: &Path) -> Result<()> {
    remove_ended(folder, path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => held(folder, "another process is training in this folder"),
        _ => cannot(path, "create", e),
    })?;
    text().and_then(|text| file.write_all(text.as_bytes())).map_err(|e| cannot(path, "write", e))
}

/// Content of the owner's file for this process.
fn text() -> io::Result<String> {
    Ok(serde_json::to_string(&LockOwner::this_process())? + "\n")
}

fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
}

/// Removes the file of an owner that has ended. Does nothing if there is no such file.
///
/// # Errors
/// [`Error::Usage`] if the owner lives, or may live on another host.
fn remove_ended(folder: &Path, path: &Path) -> Result<()> {
    let found = match read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|e| Error::io(path, "read", e))?,
    };
    let removal = format!("remove {} if it has ended", path.display());
    match serde_json::from_str::<LockOwner>(&found) {
        Ok(owner) if owner.has_ended() => {}
        Ok(LockOwner { host, process, .. }) => {
            let who = format!("process {process} of host {host} is training in this folder; {removal}");
            return Err(held(folder, &who));
        }
        Err(_) => return Err(held(folder, &format!("an unknown process is training in this folder; {removal}"))),
    }
    // Two processes may find the file. One moves it away; the other may move away the new file of the first, and puts
    // that back.
    let aside = folder.join(format!(".{OWNER}.{}{PARTIAL}", std::process::id()));
    match fs::rename(path, &aside) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(cannot(path, "remove", e)),
        Ok(()) if read(&aside).is_ok_and(|moved| moved == found) => {
            fs::remove_file(&aside).map_err(|e| cannot(&aside, "remove", e))
        }
        Ok(()) => {
            fs::rename(&aside, path).map_err(|e| cannot(path, "write", e))?;
            Err(held(folder, "another process is training in this folder"))
        }
    }
}

/// Error about a folder that another process holds.
fn held(folder: &Path, who: &str) -> Error {
    Error::usage(format!("{}: {who}; wait for it, stop it, or choose another folder", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lock on a disk that has none.
    fn without_locks(folder: &Path) -> Result<RunLock> {
        RunLock::acquire_by(folder, |_| Err(TryLockError::Error(io::Error::from(ErrorKind::Unsupported))))
    }

    fn write_owner(folder: &Path, owner: &LockOwner) {
        fs::write(folder.join(OWNER), serde_json::to_string(owner).unwrap()).unwrap();
    }

    #[test]
    fn a_disk_without_locks_is_locked_by_a_file_that_names_its_owner_and_is_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let lock = without_locks(folder.path()).unwrap();
        assert!(lock.notice().unwrap().contains("this disk cannot lock files"));
        let said = without_locks(folder.path()).unwrap_err().to_string();
        let process = format!("process {} of host {} is training", std::process::id(), system::host());
        assert!(said.contains(&process) && said.contains("lock.owner if it has ended"), "{said}");
        assert!(RunLock::acquire(folder.path()).is_err(), "it counts where the system locks, too");
        drop(lock);
        assert!(!folder.path().join(OWNER).exists());
        let lock = RunLock::acquire(folder.path()).unwrap();
        assert_eq!(lock.notice(), None);
    }

    #[cfg(unix)]
    #[test]
    fn the_file_of_a_dead_process_is_taken_over_and_that_of_another_host_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = child.id();
        child.wait().unwrap();
        let dead = LockOwner { process, started: None, ..LockOwner::this_process() };
        let elsewhere = LockOwner { host: "elsewhere".into(), ..dead.clone() };
        write_owner(folder.path(), &elsewhere);
        let said = without_locks(folder.path()).unwrap_err().to_string();
        assert!(said.contains(&format!("process {process} of host elsewhere")), "{said}");
        write_owner(folder.path(), &dead);
        let lock = without_locks(folder.path()).unwrap();
        let now: LockOwner = serde_json::from_str(&read(&folder.path().join(OWNER)).unwrap()).unwrap();
        assert_eq!(now, LockOwner::this_process());
        write_owner(folder.path(), &elsewhere);
        drop(lock);
        assert!(folder.path().join(OWNER).exists(), "another's file is not removed");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_later_process_of_the_same_number_is_not_the_owner() {
        let folder = tempfile::tempdir().unwrap();
        write_owner(folder.path(), &LockOwner { started: Some(1), ..LockOwner::this_process() });
        without_locks(folder.path()).unwrap();
        fs::write(folder.path().join(OWNER), "torn").unwrap();
        let said = without_locks(folder.path()).unwrap_err().to_string();
        assert!(said.contains("an unknown process") && said.contains("remove"), "{said}");
    }

    #[cfg(unix)]
    #[test]
    fn the_lock_follows_no_link_and_truncates_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (lock, precious) = (folder.path().join(LOCK), folder.path().join("precious"));
        fs::write(&precious, "precious").unwrap();
        for target in ["precious", "none"] {
            std::os::unix::fs::symlink(target, &lock).unwrap();
            let said = RunLock::acquire(folder.path()).unwrap_err().to_string();
            assert!(said.contains("expected a regular file, found a link"), "{said}");
            fs::remove_file(&lock).unwrap();
        }
        assert!(!folder.path().join("none").exists());
        fs::hard_link(&precious, &lock).unwrap();
        drop(RunLock::acquire(folder.path()).unwrap());
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
        let mut options = OpenOptions::new();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("precious", &link).unwrap();
        assert!(system::without_links(options.write(true)).open(&link).is_err(), "nor one made a moment ago");
    }
}
