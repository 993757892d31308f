//! What a report is made of, read from files: runs' settings and metrics, and evaluations.
//!
//! Knows the files' form; says where one is not as it must be, and what was expected. What older versions did not write
//! yet, and evaluations that are not there, are absent values. Nothing is computed here.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::catalog::DatasetKind;
use crate::config::Config;
use crate::evaluate::folder::{ADVERSARIAL, EVALUATION, EVALUATIONS, IMAGES};
use crate::record::run::{CONFIG, METRICS};
use crate::record::{RunMetrics, TensorFile};
use crate::tape::Norm;
use crate::{Error, Result};

/// The first line of [`IMAGES`].
const IMAGES_HEADER: &str = "index,label,clean_prediction,margin,broken_eps,broken_by";

/// A folder that a report tells of: a run, an evaluation of other weights, or both.
#[derive(Debug)]
pub struct ReportSource {
    /// The folder's name.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
    /// The run; none where the folder is an evaluation's.
    pub run: Option<RecordedRun>,
    /// By their folders' names.
    pub evaluations: Vec<RecordedEvaluation>,
    /// Folders of evaluations that have no result, or none yet.
    pub unfinished: Vec<String>,
}

/// What a run recorded.
#[derive(Debug)]
pub struct RecordedRun {
    /// Its settings.
    pub config: Config,
    /// Its metrics.
    pub metrics: RunMetrics,
}

/// What `evaluate` found. Accuracies are in percent.
#[derive(Debug, Deserialize)]
pub struct RecordedEvaluation {
    /// The folder's name.
    #[serde(skip)]
    pub name: String,
    /// The folder.
    #[serde(skip)]
    pub path: PathBuf,
    /// The version that evaluated.
    pub maxmargin: Option<String>,
    /// Its commit.
    pub commit: Option<String>,
    /// The file of weights.
    pub weights: String,
    /// Its SHA-256.
    pub weights_sha256: Option<String>,
    /// The network, in a line.
    pub model: Option<String>,
    /// Which images.
    pub dataset: DatasetKind,
    /// Which part of them.
    pub split: Option<String>,
    /// Where they came from.
    pub images: Option<String>,
    /// How many.
    pub count: u64,
    /// The norm of every length.
    pub norm: Norm,
    /// A named set of attacks.
    pub protocol: Option<String>,
    /// The seed of every random number.
    pub seed: Option<u64>,
    /// What computed.
    pub device: Option<String>,
    /// How the weights were trained.
    pub method: Option<String>,
    /// The d_max they were trained with.
    pub d_max: Option<f64>,
    /// Without an attack.
    pub clean_accuracy: f64,
    /// Mean over the grid of eps.
    pub average_robust_accuracy: Option<f64>,
    /// Mean over the grid and the clean images.
    pub average_accuracy: Option<f64>,
    /// By ascending eps.
    #[serde(default)]
    pub robust: Vec<RecordedRobustAccuracy>,
    /// Attacks that look for the nearest adversarial example.
    #[serde(default)]
    pub minimum_norm: Vec<RecordedMinimumNorm>,
    /// Mean margin by AN-PGD.
    pub mean_margin: Option<f64>,
    /// One an image, 0 where it is wrong.
    pub margins: Option<Vec<f32>>,
    /// The largest margin that is searched.
    pub max_eps: Option<f32>,
    /// Images that went forwards through the network.
    pub forward_passes: Option<u64>,
    /// Images that went backwards through it.
    pub backward_passes: Option<u64>,
    /// How long it took.
    pub seconds: Option<f64>,
    /// What speaks against believing the figures.
    #[serde(default)]
    pub suspicious: Vec<String>,
}

/// Accuracy at one eps.
#[derive(Debug, Deserialize)]
pub struct RecordedRobustAccuracy {
    /// Radius of the ball.
    pub eps: f64,
    /// Images that no attack broke.
    pub accuracy: f64,
    /// The attacks, in a line.
    pub attack: Option<String>,
    /// Each of them.
    #[serde(default)]
    pub attacks: Vec<AttackRun>,
}

/// What one attack did at one eps.
#[derive(Debug, Deserialize)]
pub struct AttackRun {
    /// Its name.
    pub name: String,
    /// Its starts or targets.
    pub runs: Option<u64>,
    /// Images that were left to it.
    pub attacked: Option<u64>,
    /// Those it broke.
    pub broken: Option<u64>,
    /// Images that went forwards through the network.
    pub forward: Option<u64>,
    /// Images that went backwards through it.
    pub backward: Option<u64>,
    /// How long it took.
    pub seconds: Option<f64>,
}

/// What an attack that looks for the nearest adversarial example found.
#[derive(Debug, Deserialize)]
pub struct RecordedMinimumNorm {
    /// Its name.
    pub name: String,
    /// Images that it broke.
    pub found: Option<u64>,
    /// Images that it was given.
    pub attacked: Option<u64>,
    /// Mean distance.
    pub mean: Option<f64>,
    /// Lower quartile, median, upper quartile of the distance.
    pub quartiles: Option<[Option<f64>; 3]>,
    /// Images that went forwards through the network.
    pub forward: Option<u64>,
    /// Images that went backwards through it.
    pub backward: Option<u64>,
    /// How long it took.
    pub seconds: Option<f64>,
}

/// A line of [`IMAGES`].
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedImageRow {
    /// The image's number in its part of the data set.
    pub index: u32,
    /// What the network says without an attack.
    pub clean_prediction: Option<u32>,
    /// The least eps at which it was broken.
    pub broken_eps: Option<f64>,
    /// The attack that did.
    pub broken_by: String,
}

/// The adversarial examples that were kept.
#[derive(Debug)]
pub struct Adversarial {
    /// Height, width, channels.
    pub shape: [usize; 3],
    /// `[n, height, width, channels]` in [0, 1].
    pub pixels: Vec<f32>,
    /// `[n]`, each image's number in its part of the data set.
    pub index: Vec<u32>,
    /// `[n]`.
    pub labels: Vec<u32>,
    /// `[n]`, the radius within which each was looked for.
    pub eps: Vec<f32>,
    /// `[n]`, what the network says of each, where that was written.
    pub predictions: Option<Vec<u32>>,
    /// `[n]`, whether the network is wrong about each, where that was written.
    pub misclassified: Option<Vec<u8>>,
    /// The attack.
    pub attack: Option<String>,
}

impl ReportSource {
    /// The run, or the evaluation, in the folder `path`.
    ///
    /// # Errors
    /// [`Error::Usage`] where it is neither; [`Error::Io`] and [`Error::Format`] where a file of it cannot be read or
    /// is not what it must be, or the run has measured nothing yet.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        if !path.is_dir() {
            return Err(Error::usage(format!("{shown}: expected the folder of a run or an evaluation; there is none")));
        }
        let (has_run, has_result) = (path.join(CONFIG).is_file(), path.join(EVALUATION).is_file());
        if !has_run && !has_result {
            return Err(Error::usage(format!(
                "{shown}: expected the folder of a run, which has {CONFIG}, or of an evaluation, which has {EVALUATION}; \
                 found neither"
            )));
        }
        let run = has_run.then(|| RecordedRun::read(path)).transpose()?;
        let mut evaluations: Vec<_> =
            has_result.then(|| RecordedEvaluation::read(path)).transpose()?.into_iter().collect();
        let mut unfinished = Vec::new();
        let mut folders = Vec::new();
        for entry in path.read_dir().map_err(|e| Error::io(path, "read", e))? {
            let entry = entry.map_err(|e| Error::io(path, "read", e))?.path();
            if name(&entry).starts_with(EVALUATIONS) && entry.is_dir() {
                folders.push(entry);
            }
        }
        folders.sort();
        for folder in folders {
            if folder.join(EVALUATION).is_file() {
                evaluations.push(RecordedEvaluation::read(&folder)?);
            } else {
                unfinished.push(name(&folder));
            }
        }
        Ok(ReportSource { name: name(path), path: path.to_owned(), run, evaluations, unfinished })
    }
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
            return Err(Error::format(&path, "expected a line of figures at least; the run has measured nothing yet"));
        }
        Ok(RecordedRun { config, metrics })
    }
}

impl RecordedEvaluation {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(EVALUATION);
        let text = std::fs::read(&path).map_err(|e| Error::io(&path, "read", e))?;
        let found: RecordedEvaluation = serde_json::from_slice(&text).map_err(|e| {
            Error::format(&path, format!("expected an evaluation as `maxmargin evaluate` writes it; found: {e}"))
        })?;
        Ok(RecordedEvaluation { name: name(folder), path: folder.to_owned(), ..found })
    }

    /// What became of each image; none where that was not written.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read; [`Error::Format`] with the line that is not as it must be.
    pub fn image_rows(&self) -> Result<Vec<RecordedImageRow>> {
        let path = self.path.join(IMAGES);
        if !path.is_file() {
            return Ok(Vec::new());
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, "read", e))?;
        let mut lines = text.lines().enumerate();
        let refuse = |line: usize, found: &str| {
            Error::format(&path, format!("line {}: expected {IMAGES_HEADER}; found {found:?}", line + 1))
        };
        match lines.next() {
            Some((_, IMAGES_HEADER)) => lines.map(|(i, line)| image_row(line).ok_or_else(|| refuse(i, line))).collect(),
            other => Err(refuse(0, other.map_or("", |(_, line)| line))),
        }
    }

    /// The adversarial examples, where they were kept.
    ///
    /// # Errors
    /// [`Error::Io`] where they cannot be read; [`Error::Format`] with the tensor that is not as it must be.
    pub fn adversarial(&self) -> Result<Option<Adversarial>> {
        let path = self.path.join(ADVERSARIAL);
        if !path.is_file() {
            return Ok(None);
        }
        let file = TensorFile::read(&path)?;
        let shape = &file.tensor("adversarial")?.shape;
        let [n, height, width, channels] = match shape[..] {
            [n, height, width, channels @ (1 | 3)] if height > 0 && width > 0 => [n, height, width, channels],
            _ => {
                let message = format!("tensor `adversarial`: expected [n, height, width, 1 or 3], found {shape:?}");
                return Err(Error::format(&path, message));
            }
        };
        let has = |name: &str| file.tensors.iter().any(|tensor| tensor.name == name);
        let predictions = has("predictions").then(|| file.get::<u32>("predictions", &[n])).transpose()?;
        let misclassified = has("misclassified").then(|| file.get::<u8>("misclassified", &[n])).transpose()?;
        Ok(Some(Adversarial {
            shape: [height, width, channels],
            pixels: file.get::<f32>("adversarial", shape)?.to_vec(),
            index: file.get::<u32>("index", &[n])?.to_vec(),
            labels: file.get::<u32>("labels", &[n])?.to_vec(),
            eps: file.get::<f32>("eps", &[n])?.to_vec(),
            predictions: predictions.map(<[u32]>::to_vec),
            misclassified: misclassified.map(<[u8]>::to_vec),
            attack: file.metadata.get("attack").cloned(),
        }))
    }
}

impl Adversarial {
    /// Example `i`, `[height, width, channels]`.
    pub fn image(&self, i: usize) -> &[f32] {
        let len = self.shape.iter().product::<usize>();
        &self.pixels[i * len..][..len]
    }
}

/// A line of [`IMAGES`]; none where it is not one.
fn image_row(line: &str) -> Option<RecordedImageRow> {
    /// What stands there, if anything does; none where it is something else.
    fn optional<T: std::str::FromStr>(text: &str) -> Option<Option<T>> {
        if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
    }
    // An attack's name may have commas.
    let mut fields = line.splitn(6, ',');
    let index = fields.next()?.parse().ok()?;
    let _label: u32 = fields.next()?.parse().ok()?;
    let clean_prediction = optional(fields.next()?)?;
    let _margin: Option<f64> = optional(fields.next()?)?;
    let broken_eps = optional(fields.next()?)?;
    Some(RecordedImageRow { index, clean_prediction, broken_eps, broken_by: fields.next()?.trim_matches('"').into() })
}

/// The last part of a path, made absolute so that `.` has one.
fn name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_an_image_may_lack_what_is_not_known() {
        let row = |index, clean_prediction, broken_eps, broken_by: &str| {
            Some(RecordedImageRow { index, clean_prediction, broken_eps, broken_by: broken_by.into() })
        };
        assert_eq!(image_row("4,7,7,0.25,0.3,pgd-cw"), row(4, Some(7), Some(0.3), "pgd-cw"));
        assert_eq!(image_row("5,1,,,,"), row(5, None, None, ""));
        assert_eq!(image_row("6,2,3,0,0,clean"), row(6, Some(3), Some(0.0), "clean"));
        assert_eq!(image_row("7,2,3,0,0.1,\"PGD-100, 10 starts\""), row(7, Some(3), Some(0.1), "PGD-100, 10 starts"));
        for bad in ["", "1,2,3", "x,1,,,,", "1,1,a,,,", "1,1,,b,,", "1,1,,,c,", "-1,1,,,,"] {
            assert_eq!(image_row(bad), None, "{bad:?}");
        }
    }
}
