//! An evaluation's folder: the record, a row for each image, and the adversarial images where they are saved. The answer
//! to one question never overwrites that to another.

use std::fs::{create_dir_all, read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::checkpoint::CheckpointWriter;
use super::report::EvaluationReport;
use crate::record::write_atomic;
use crate::{Error, Result};

/// The record.
pub const EVALUATION: &str = "evaluation.json";
/// A row for each image.
pub const IMAGES: &str = "images.csv";
/// The adversarial images, where they are saved.
pub const ADVERSARIAL: &str = "adversarial.safetensors";
/// What the folders of a run's evaluations begin with.
pub const EVALUATIONS: &str = "evaluation-";

/// Where an evaluation is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folder {
    /// In the first of `evaluation-NAME`, `evaluation-NAME-2`, ... of a run's folder that has no other question's answer.
    Of {
        /// The run's folder.
        run: PathBuf,
        /// The evaluation's name.
        name: String,
    },
    /// There, or nowhere else.
    At(PathBuf),
}

impl Folder {
    /// The folder for the answer to a question, which is known by its hash; it exists now.
    ///
    /// # Errors
    /// The given folder has another question's answer, or it cannot be made.
    pub fn prepare(&self, question: &str) -> Result<PathBuf> {
        let folder = match self {
            Folder::At(folder) if is_taken(folder, question)? => {
                return Err(Error::usage(format!(
                    "--out {}: expected a new folder, or one of an evaluation of the same weights with the same flags; \
                     found another evaluation, which would be lost",
                    folder.display()
                )));
            }
            Folder::At(folder) => folder.clone(),
            Folder::Of { run, name } => {
                let mut folder = run.join(format!("{EVALUATIONS}{name}"));
                for number in 2.. {
                    if !is_taken(&folder, question)? {
                        break;
                    }
                    folder = run.join(format!("{EVALUATIONS}{name}-{number}"));
                }
                folder
            }
        };
        create_dir_all(&folder).map_err(|source| Error::io(&folder, "create", source))?;
        Ok(folder)
    }
}

/// Whether a folder has the answer to another question, whole or unfinished.
fn is_taken(folder: &Path, question: &str) -> Result<bool> {
    #[derive(Deserialize)]
    struct Asked {
        question: Option<String>,
    }
    let record = folder.join(EVALUATION);
    if record.exists() {
        let bytes = read(&record).map_err(|source| Error::io(&record, "read", source))?;
        // What cannot be read is somebody's, too.
        let asked = serde_json::from_slice::<Asked>(&bytes).ok().and_then(|asked| asked.question);
        return Ok(asked.is_none_or(|asked| asked != question));
    }
    Ok(CheckpointWriter::of(folder).load()?.is_some_and(|state| state.question != question))
}

/// Writes the record and the rows of a whole evaluation, and removes what was kept of it unfinished.
///
/// # Errors
/// A file cannot be written or removed.
pub fn write(folder: &Path, evaluation: &EvaluationReport) -> Result<()> {
    write_atomic(&folder.join(IMAGES), |out| out.write_all(evaluation.csv().as_bytes()))?;
    write_record(&folder.join(EVALUATION), evaluation)?;
    CheckpointWriter::of(folder).done()
}

/// Writes the record alone.
///
/// # Errors
/// It cannot be written.
pub fn write_record(file: &Path, evaluation: &EvaluationReport) -> Result<()> {
    let text = serde_json::to_string_pretty(evaluation).map_err(|error| Error::failed(error.to_string()))?;
    write_atomic(file, |out| writeln!(out, "{text}"))
}
