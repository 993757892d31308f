//! The run folder: the names of its files, its lock, its creation and its opening for a resume.
//!
//! One process at a time holds a run, by the file `lock`. Reading a run needs no lock, because its files are replaced
//! whole. This module does not know the meaning of settings and tensors.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::atomic::{PARTIAL, cannot, create_folder, write_atomic};
use super::events::EVENTS;
use super::lock::{LOCK, OWNER, RunLock};
use crate::{Error, Result};

/// Name of the file of settings.
pub const CONFIG: &str = "config.toml";
/// Name of the file of metrics, with a line of JSON for each logging interval, epoch and result: see
/// [`super::metrics`].
pub const METRICS: &str = "metrics.jsonl";
/// Name of the file of the weights with the largest validation margin, under PyTorch's names.
pub const BEST: &str = "best.safetensors";
/// Name of the file of the state to resume from: weights, optimizer, margin table, number of steps.
pub const LAST: &str = "last.safetensors";

/// True for the names of the files of a run, also where names do not differ by case.
pub(super) fn is_file_of_run(name: &str) -> bool {
    [CONFIG, METRICS, BEST, LAST, EVENTS, LOCK, OWNER].iter().any(|file| file.eq_ignore_ascii_case(name))
}

/// A run folder that this process holds until the value is dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    lock: RunLock,
}

impl RunFolder {
    /// Creates the folder of a new run at `path`, with its parents. The folder may exist, but must not hold a run.
    ///
    /// # Errors
    /// [`Error::Usage`] if it holds a run, or another process trains there; [`Error::Io`] if it cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        create_folder(path)?;
        let folder = Self::hold(path)?;
        if let Some(found) = [CONFIG, METRICS, BEST, LAST].iter().find(|name| path.join(name).exists()) {
            let shown = path.display();
            return Err(Error::usage(format!(
                "{shown}: holds a run already ({found}); resume it with --resume {shown}, or choose another folder with \
                 --out"
            )));
        }
        Ok(folder)
    }

    /// Creates a new folder for a run below `runs`: `<preset>-<seed>`, then `<preset>-<seed>-2` and so on.
    ///
    /// # Errors
    /// As [`RunFolder::create`].
    pub fn create_below(runs: &Path, preset: &str, seed: u64) -> Result<Self> {
        fs::create_dir_all(runs).map_err(|e| cannot(runs, "create", e))?;
        let mut path = runs.join(format!("{preset}-{seed}"));
        for number in 2u64.. {
            // `create_dir` fails if the folder exists, so two processes that start together get different folders.
            match fs::create_dir(&path) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(cannot(&path, "create", e)),
                Ok(()) => break,
            }
            path = runs.join(format!("{preset}-{seed}-{number}"));
        }
        Self::create(&path)
    }

    /// Opens the folder of a run to resume it. Removes temporary files of a killed process. A run that was stopped
    /// before its first checkpoint has measured nothing and no [`LAST`]; it is opened like a new one.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no run to resume (the message names the missing file), or another process trains
    /// there.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        if !path.is_dir() {
            return Err(Error::usage(format!("{shown}: there is no such folder to resume a run from")));
        }
        let has = |name: &str| path.join(name).is_file();
        let nothing_done =
            || !has(LAST) && !has(BEST) && fs::metadata(path.join(METRICS)).map_or(true, |m| m.len() == 0);
        let needed = if nothing_done() { &[CONFIG][..] } else { &[CONFIG, LAST] };
        let missing: Vec<&str> = needed.iter().copied().filter(|name| !has(name)).collect();
        if !missing.is_empty() {
            let missing = missing.join(" and ");
            return Err(Error::usage(format!(
                "{shown}: cannot resume without {missing}: either it is no run folder, or a file of the run was lost"
            )));
        }
        let folder = Self::hold(path)?;
        for entry in fs::read_dir(path).map_err(|e| Error::io(path, "read", e))?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') && name.ends_with(PARTIAL) {
                fs::remove_file(entry.path()).map_err(|e| cannot(&entry.path(), "remove", e))?;
            }
        }
        if nothing_done() && has(METRICS) {
            let metrics = path.join(METRICS);
            fs::remove_file(&metrics).map_err(|e| cannot(&metrics, "remove", e))?;
        }
        Ok(folder)
    }

    /// Locks the folder.
    fn hold(path: &Path) -> Result<Self> {
        Ok(RunFolder { path: path.to_owned(), lock: RunLock::acquire(path)? })
    }

    /// Sentence about the lock, if the disk has none and a file stands for it.
    pub fn notice(&self) -> Option<String> {
        self.lock.notice()
    }

    /// Path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of a file in the folder: [`CONFIG`], [`METRICS`], [`BEST`], [`LAST`] or another name.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Creates an empty event file if there is none, so that the run writes one for TensorBoard: see [`super::Events`].
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be created.
    pub fn record_events(&self) -> Result<()> {
        let path = self.file(EVENTS);
        OpenOptions::new().append(true).create(true).open(&path).map(drop).map_err(|e| cannot(&path, "create", e))
    }

    /// Writes the settings, as TOML.
    ///
    /// # Errors
    /// [`Error::Io`] as [`write_atomic`] does.
    pub fn write_config(&self, toml: &str) -> Result<()> {
        write_atomic(&self.file(CONFIG), |out| out.write_all(toml.as_bytes()))
    }
}
