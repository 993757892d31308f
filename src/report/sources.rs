//! Sources of a report: runs and evaluations, read from their folders.
//!
//! The forms of the files belong to [`crate::record`] and [`crate::evaluate`], which write them. Files that a run does
//! not have yet are absent values. Nothing is computed here but the SHA-256 of a run's best checkpoint, by which
//! evaluations of other weights are known.

use std::path::{Path, PathBuf};

use crate::choice::Choice as _;
use crate::config::Config;
use crate::data::Provenance;
use crate::evaluate::folder::{EVALUATION, EVALUATIONS, read_report};
use crate::evaluate::report::EvaluationReport;
use crate::hash::file_sha256;
use crate::record::RunMetrics;
use crate::record::run::{BEST, CONFIG, METRICS};
use crate::{Error, Result};

/// Folder of a run, of an evaluation of other weights, or of both.
#[derive(Debug)]
pub struct ReportSource {
    /// Name of the folder.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
    /// The run, if the folder is one's.
    pub run: Option<RecordedRun>,
    /// Evaluations in the folder, by name.
    pub evaluations: Vec<RecordedEvaluation>,
    /// Names of the folders of evaluations without a report.
    pub unfinished: Vec<String>,
}

/// Run in a folder.
#[derive(Debug)]
pub struct RecordedRun {
    /// Settings of the run.
    pub config: Config,
    /// Metrics of the run.
    pub metrics: RunMetrics,
}

/// Evaluation in a folder.
#[derive(Debug)]
pub struct RecordedEvaluation {
    /// Name of the folder.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
    /// Report in the folder, without the results of its images.
    pub report: EvaluationReport,
    /// SHA-256 of the run's best checkpoint, if the evaluation is one of other weights.
    pub best_now: Option<String>,
}

impl ReportSource {
    /// Refuses a folder that does not exist.
    ///
    /// # Errors
    /// [`Error::Usage`] if `path` is no folder.
    pub fn check_folder(path: &Path) -> Result<()> {
        match path.is_dir() {
            true => Ok(()),
            false => {
                let shown = path.display();
                Err(Error::usage(format!("{shown}: expected the folder of a run or an evaluation; there is none")))
            }
        }
    }

    /// Reads the run, or the evaluation, in the folder `path`.
    ///
    /// # Errors
    /// [`Error::Usage`] if the folder is neither; [`Error::Io`] and [`Error::Format`] if a file of it cannot be read or
    /// has another form, or the run has measured nothing yet.
    pub fn read(path: &Path) -> Result<Self> {
        Self::check_folder(path)?;
        let shown = path.display();
        let (has_run, has_report) = (path.join(CONFIG).is_file(), path.join(EVALUATION).is_file());
        if !has_run && !has_report {
            return Err(Error::usage(format!(
                "{shown}: expected the folder of a run, which has {CONFIG}, or of an evaluation, which has {EVALUATION}; \
                 found neither"
            )));
        }
        let run = has_run.then(|| RecordedRun::read(path)).transpose()?;
        let own = has_report.then(|| RecordedEvaluation::read(path)).transpose()?;
        let mut evaluations: Vec<_> = own.into_iter().collect();
        let mut unfinished = Vec::new();
        for folder in evaluation_folders(path)? {
            if folder.join(EVALUATION).is_file() {
                evaluations.push(RecordedEvaluation::read(&folder)?);
            } else {
                unfinished.push(name(&folder));
            }
        }
        let best = path.join(BEST);
        if run.is_some() && !evaluations.is_empty() && best.is_file() {
            let best = file_sha256(&best)?;
            for evaluation in &mut evaluations {
                let evaluated = &evaluation.report.weights_sha256;
                evaluation.best_now = (!evaluated.is_empty() && *evaluated != best).then(|| best.clone());
            }
        }
        Ok(ReportSource { name: name(path), path: path.to_owned(), run, evaluations, unfinished })
    }
}

/// Folders of evaluations in a run's folder, by name.
fn evaluation_folders(run: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in run.read_dir().map_err(|e| Error::io(run, "read", e))? {
        let entry = entry.map_err(|e| Error::io(run, "read", e))?.path();
        if name(&entry).starts_with(EVALUATIONS) && entry.is_dir() {
            folders.push(entry);
        }
    }
    folders.sort();
    Ok(folders)
}

impl RecordedRun {
    fn read(folder: &Path) -> Result<Self> {
        let config = Config::load(&folder.join(CONFIG))?;
        let path = folder.join(METRICS);
        if !path.is_file() {
            return Err(Error::usage(format!(
                "{}: the run has no {METRICS}: it was stopped before it measured anything, or the file was lost",
                folder.display()
            )));
        }
        let metrics = RunMetrics::read(&path)?;
        if metrics.is_empty() {
            return Err(Error::format(
                &path,
                "expected at least one line of figures; the run has measured nothing yet",
            ));
        }
        Ok(RecordedRun { config, metrics })
    }

    /// True if the run recorded that its images are not the published ones.
    pub fn trained_on_other_images(&self) -> bool {
        self.metrics.results.iter().any(|result| result.data_provenance == Provenance::Other.name())
    }

    /// Number of training steps that are recorded.
    pub fn steps_done(&self) -> u64 {
        let steps = self.metrics.steps.iter().map(|line| line.step);
        steps.chain(self.metrics.epochs.iter().map(|line| line.step)).max().unwrap_or(0)
    }
}

impl RecordedEvaluation {
    fn read(folder: &Path) -> Result<Self> {
        Ok(RecordedEvaluation {
            name: name(folder),
            path: folder.to_owned(),
            report: read_report(folder)?,
            best_now: None,
        })
    }
}

/// Last part of a path, which is made absolute first, so that `.` has one.
fn name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
