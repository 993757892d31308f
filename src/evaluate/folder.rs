//! Folder of an evaluation: its report, a line for each image, and the adversarial images if they are saved. The result
//! of one request never overwrites that of another.

use std::fs::read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::adversarial::AdversarialImages;
use super::checkpoint;
use super::image_results::{FORMER_HEADER, HEADER, ImageResult};
use super::report::{EvaluationReport, SCHEMA_VERSION};
use crate::formats::{ExpectedContent, mistaken_format};
use crate::record::{OutputFile, create_folder, write_atomic};
use crate::{Error, Result, formats};

/// Report, as JSON.
pub const EVALUATION: &str = "evaluation.json";
/// Results of the images.
pub const IMAGES: &str = "images.csv";
/// Adversarial images, if they are saved.
pub const ADVERSARIAL: &str = "adversarial.safetensors";
/// Prefix of the folders of evaluations in a run's folder.
pub const EVALUATIONS: &str = "evaluation-";

/// Choice of the folder of an evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvaluationFolder {
    /// First of `evaluation-NAME`, `evaluation-NAME-2`, ... in a run's folder that holds no other request's result.
    InRun {
        /// Folder of the run.
        run: PathBuf,
        /// Name of the evaluation.
        name: String,
    },
    /// Given folder, and no other.
    At(PathBuf),
}

/// Folder that was prepared for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedFolder {
    /// The folder, which exists.
    pub path: PathBuf,
    /// Folders of that name with the results of other requests, which stay as they are.
    pub passed_over: Vec<PathBuf>,
}

impl EvaluationFolder {
    /// Chooses and creates the folder for the result of the request with the hash `request`.
    ///
    /// # Errors
    /// [`EvaluationFolder::At`] holds the result of another request; or the folder cannot be created or written into.
    pub fn prepare(&self, request: &str) -> Result<PreparedFolder> {
        let mut passed_over = Vec::new();
        let path = match self {
            EvaluationFolder::At(folder) if is_taken(folder, request)? => {
                return Err(Error::usage(format!(
                    "--out {}: expected a new folder, or one of an evaluation of the same weights and images with the \
                     same flags; found another evaluation, which would be lost",
                    folder.display()
                )));
            }
            EvaluationFolder::At(folder) => folder.clone(),
            EvaluationFolder::InRun { run, name } => {
                let mut folder = run.join(format!("{EVALUATIONS}{name}"));
                for number in 2.. {
                    if !is_taken(&folder, request)? {
                        break;
                    }
                    passed_over.push(folder);
                    folder = run.join(format!("{EVALUATIONS}{name}-{number}"));
                }
                folder
            }
        };
        match (create_folder(&path), self) {
            (Ok(()), _) => Ok(PreparedFolder { path, passed_over }),
            (Err(error), EvaluationFolder::At(_)) => Err(Error::usage(format!("--out {error}"))),
            (Err(error), _) => Err(error),
        }
    }
}

/// True if a folder holds the result of another request than `request`, complete or interrupted.
fn is_taken(folder: &Path, request: &str) -> Result<bool> {
    #[derive(Deserialize)]
    struct Owner {
        #[serde(alias = "question")]
        request: Option<String>,
    }
    let report = folder.join(EVALUATION);
    if report.exists() {
        let bytes = read(&report).map_err(|source| Error::io(&report, "read", source))?;
        // A file of another form belongs to somebody else, too.
        let owner = serde_json::from_slice::<Owner>(&bytes).ok().and_then(|owner| owner.request);
        return Ok(owner.is_none_or(|owner| owner != request));
    }
    Ok(checkpoint::read(folder)?.is_some_and(|state| state.request != request))
}

/// True for a file in the folder of a complete evaluation that only the evaluation itself writes.
pub fn is_file_of_evaluation(path: &Path) -> bool {
    let own = path.file_name().is_some_and(|name| name == EVALUATION || name == IMAGES);
    own && path.with_file_name(IMAGES).is_file()
}

/// Writes the report and the images' results of a complete evaluation, and removes its state.
///
/// # Errors
/// A file cannot be written or removed.
pub fn write(folder: &Path, report: &EvaluationReport) -> Result<()> {
    write_atomic(&folder.join(IMAGES), |out| out.write_all(report.csv().as_bytes()))?;
    let file = folder.join(EVALUATION);
    write_atomic(&file, |out| writeln!(out, "{}", text(report)?))?;
    checkpoint::remove(folder)
}

/// Writes the report alone.
///
/// # Errors
/// The file cannot be written.
pub fn write_report(file: &OutputFile, report: &EvaluationReport) -> Result<()> {
    file.write(|out| writeln!(out, "{}", text(report)?))
}

/// Report as JSON.
fn text(report: &EvaluationReport) -> std::io::Result<String> {
    Ok(serde_json::to_string_pretty(report)?)
}

/// Reads the report in a folder, without the results of its images. Reports of former versions are read, too.
///
/// # Errors
/// The file cannot be read, is no report, or was written by a newer version.
pub fn read_report(folder: &Path) -> Result<EvaluationReport> {
    #[derive(Deserialize)]
    struct Version {
        #[serde(default)]
        schema_version: u32,
    }
    let path = folder.join(EVALUATION);
    let bytes = read(&path).map_err(|source| Error::io(&path, "read", source))?;
    match serde_json::from_slice(&bytes) {
        Ok(Version { schema_version }) if schema_version > SCHEMA_VERSION => Err(Error::format(
            &path,
            format!(
                "expected schema_version {SCHEMA_VERSION} or less, found {schema_version}: the file was written by a \
                 newer maxmargin"
            ),
        )),
        _ => serde_json::from_slice(&bytes).map_err(|error| {
            let expected = "expected an evaluation as `maxmargin evaluate` writes it";
            let found = mistaken_format(&bytes, ExpectedContent::Text).unwrap_or_else(|| error.to_string());
            Error::format(&path, format!("{expected}, of schema_version {SCHEMA_VERSION} or less; found: {found}"))
        }),
    }
}

/// Reads the results of the images in a folder; none if there is no such file.
///
/// # Errors
/// The file cannot be read, or a line has another form (names it).
pub fn read_image_results(folder: &Path) -> Result<Vec<ImageResult>> {
    let path = folder.join(IMAGES);
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let content = read(&path).map_err(|source| Error::io(&path, "read", source))?;
    let text =
        formats::text(content).map_err(|found| Error::format(&path, format!("expected {HEADER}, found {found}")))?;
    let mut lines = text.lines().enumerate();
    let refusal = |line: usize, found: &str| {
        Error::format(&path, format!("line {}: expected {HEADER}; found {found:?}", line + 1))
    };
    let first = lines.next().map_or("", |(_, line)| line);
    if first != HEADER && first != FORMER_HEADER {
        return Err(refusal(0, first));
    }
    let former = first == FORMER_HEADER;
    lines.map(|(i, line)| ImageResult::from_csv(line, former).ok_or_else(|| refusal(i, line))).collect()
}

/// Reads the adversarial images in a folder, if they were saved.
///
/// # Errors
/// The file cannot be read, or a tensor has another form (names it).
pub fn read_adversarial(folder: &Path) -> Result<Option<AdversarialImages>> {
    let path = folder.join(ADVERSARIAL);
    path.is_file().then(|| AdversarialImages::read(&path)).transpose()
}
