//! Output files that flags name: checked before anything is computed for them, and written when it has been.
//!
//! A regular file is replaced as a whole, at the end of a symbolic link. Everything else is written through: the
//! standard output, a pipe, a terminal. Refused are targets that cannot be written, and files that would be lost: one
//! that is read, and one of a run.

use std::collections::BTreeMap;
use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::atomic::{advice, probe, write_atomic};
use super::run::{CONFIG, is_file_of_run};
use super::system;
use super::tensors::{Tensor, encode_tensors};
use crate::{Error, Result};

/// Path that stands for the standard output.
const STANDARD_OUTPUT: &str = "-";
/// Number of symbolic links that are followed, as in the kernel.
const MOST_LINKS: usize = 40;

/// Checked output file.
#[derive(Clone, Debug)]
pub struct OutputFile {
    flag: &'static str,
    path: PathBuf,
    target: OutputTarget,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum OutputTarget {
    /// Standard output.
    Standard,
    /// Pipe, terminal, other device, or open file of this process.
    Stream,
    /// Place of a regular file, which may not exist, without links.
    File(PathBuf),
}

impl OutputFile {
    /// Checks the file `path` of `flag`. `-` is the standard output. `inputs` are files that the command reads.
    ///
    /// # Errors
    /// [`Error::Usage`] if the file cannot be written, is one of `inputs`, or belongs to a run.
    pub fn check(flag: &'static str, path: &Path, inputs: &[&Path]) -> Result<Self> {
        let target = target(path, inputs).map_err(|m| Error::usage(format!("{flag} {}: {m}", path.display())))?;
        Ok(OutputFile { flag, path: path.to_owned(), target })
    }

    /// Path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True for the standard output, where nothing else should be printed.
    pub fn is_standard_output(&self) -> bool {
        self.target == OutputTarget::Standard
    }

    /// True for a regular file, which can be replaced again and read.
    pub fn is_replaced(&self) -> bool {
        matches!(self.target, OutputTarget::File(_))
    }

    /// Refuses two flags with the same file.
    ///
    /// # Errors
    /// [`Error::Usage`] that names both flags.
    pub fn refuse_same(&self, other: &OutputFile) -> Result<()> {
        if self.target != other.target || self.target == OutputTarget::Stream && self.path != other.path {
            return Ok(());
        }
        let (flag, path) = (self.flag, self.path.display());
        Err(Error::usage(format!("{flag} {path}: expected another file than that of {}", other.flag)))
    }

    /// Writes what `content` writes.
    ///
    /// # Errors
    /// [`Error::Io`] as [`write_atomic`]. A reader of the standard output that went away is not an error.
    pub fn write(&self, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let failed = |source| Error::io(&self.path, "write", source);
        match &self.target {
            OutputTarget::File(place) => write_atomic(place, content),
            OutputTarget::Stream => {
                let stream = OpenOptions::new().append(true).open(&self.path).map_err(failed)?;
                write_through(stream, content).map_err(failed)
            }
            OutputTarget::Standard => match write_through(io::stdout().lock(), content) {
                Err(source) if source.kind() != ErrorKind::BrokenPipe => {
                    Err(Error::io(Path::new("standard output"), "write", source))
                }
                _ => Ok(()),
            },
        }
    }

    /// Writes tensors as [`super::write_tensors`] does.
    ///
    /// # Errors
    /// Those of [`super::write_tensors`].
    pub fn write_tensors(&self, tensors: &[Tensor], metadata: &BTreeMap<String, String>) -> Result<()> {
        self.write(encode_tensors(&self.path, tensors, metadata)?)
    }
}

fn write_through(stream: impl Write, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(1 << 16, stream);
    content(&mut writer)?;
    writer.flush()
}

/// Target at `path`, or the reason why it is refused.
fn target(path: &Path, inputs: &[&Path]) -> std::result::Result<OutputTarget, String> {
    if path == Path::new(STANDARD_OUTPUT) {
        return Ok(OutputTarget::Standard);
    }
    let place = followed(path).map_err(|e| format!("cannot follow the link: {e}"))?;
    if let Some(descriptor) = descriptor(&place) {
        return match fs::metadata(path) {
            Err(e) => Err(format!("cannot write: {e}")),
            Ok(_) if descriptor == 1 => Ok(OutputTarget::Standard),
            Ok(found) => stream(path, &found),
        };
    }
    match fs::metadata(&place) {
        Ok(found) if found.is_dir() => Err("expected a file, found a folder".into()),
        Ok(found) if !found.is_file() => stream(path, &found),
        Ok(_) => {
            refuse_lost(&place, inputs)?;
            let opened = OpenOptions::new().append(true).open(&place);
            opened.map_err(|e| format!("cannot write the file there: {e} ({})", advice(e.kind())))?;
            file(&place)
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            refuse_lost(&place, inputs)?;
            file(&place)
        }
        Err(e) => Err(format!("cannot write: {e} ({})", advice(e.kind()))),
    }
}

/// Target that is written through, if it is a kind of file that can be.
fn stream(path: &Path, found: &Metadata) -> std::result::Result<OutputTarget, String> {
    if !system::is_stream(found) && !found.is_file() {
        return Err("expected a file, a pipe or a terminal; found a disk, a folder or a socket".into());
    }
    match system::may_write(path) {
        true => Ok(OutputTarget::Stream),
        false => Err("cannot write: permission denied".into()),
    }
}

/// Target that is replaced, if files can be made in its folder.
fn file(place: &Path) -> std::result::Result<OutputTarget, String> {
    let ends_in_separator = place.as_os_str().to_string_lossy().ends_with(std::path::is_separator);
    let (Some(name), Some(folder)) = (place.file_name().filter(|_| !ends_in_separator), place.parent()) else {
        return Err("expected a file, found a folder".into());
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if !folder.is_dir() {
        return Err(format!("there is no folder {}", folder.display()));
    }
    let refuse =
        |e: io::Error| format!("cannot write into the folder {}: {e} ({})", folder.display(), advice(e.kind()));
    probe(folder).map_err(refuse)?;
    Ok(OutputTarget::File(folder.canonicalize().map_err(refuse)?.join(name)))
}

/// Refuses a file that the command reads, also under another name, and a file of a run.
fn refuse_lost(place: &Path, inputs: &[&Path]) -> std::result::Result<(), String> {
    if let Some(input) = inputs.iter().find(|input| is_same(place, input)) {
        return Err(format!("expected a file of its own; found {}, which is read", input.display()));
    }
    let folder = place.parent().unwrap_or(Path::new(""));
    match place.file_name().is_some_and(|name| is_file_of_run(&name.to_string_lossy())) && folder.join(CONFIG).exists()
    {
        true => Err("expected a file of its own; found a file of a run, which would be lost".into()),
        false => Ok(()),
    }
}

/// True if both paths lead to one file.
fn is_same(a: &Path, b: &Path) -> bool {
    let (Ok(a), Ok(b)) = (fs::metadata(a), fs::metadata(b)) else { return false };
    system::identity(&a).is_some_and(|identity| system::identity(&b) == Some(identity))
}

/// Path at the end of symbolic links, where there need not be a file. An open file of this process is not followed.
fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut place = path.to_owned();
    for _ in 0..MOST_LINKS {
        if descriptor(&place).is_some() || !fs::symlink_metadata(&place).is_ok_and(|found| found.is_symlink()) {
            return Ok(place);
        }
        let link = fs::read_link(&place)?;
        place = place.parent().unwrap_or(Path::new("")).join(link);
    }
    Err(io::Error::new(ErrorKind::InvalidInput, "too many symbolic links"))
}

/// Number of the open file of this process that `path` names: 1 for `/dev/stdout` and `/dev/fd/1`.
fn descriptor(path: &Path) -> Option<u32> {
    match path.to_str()? {
        "/dev/stdout" => Some(1),
        "/dev/stderr" => Some(2),
        text => text.strip_prefix("/dev/fd/").or(text.strip_prefix("/proc/self/fd/"))?.parse().ok(),
    }
}
