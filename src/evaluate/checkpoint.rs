//! How far an evaluation has come, as it is kept on the disk: one that was killed goes on to the same result.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::passes::Passes;
use crate::record::{Tensor, TensorFile, write_tensors};
use crate::{Error, Result};

/// The file in the evaluation's folder. It is removed when the evaluation is whole.
const FILE: &str = "unfinished.safetensors";
/// Where the file has the state, as JSON, and the images.
const STATE: &str = "state";
const IMAGES: &str = "images";

/// A batch of one run of one attack at one eps, in the order in which they are done: the index of eps (one past the
/// last: minimum-norm attacks), of the attack, of the run, of the batch.
pub(super) type Cursor = [usize; 4];

/// What is known so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct EvaluationState {
    /// What was asked, as a hash.
    pub question: String,
    /// Images at a time: what a batch is.
    pub batch_size: usize,
    /// The next batch.
    pub next: Cursor,
    /// By example: the eps, the attack and the run that broke it.
    pub broken: Vec<Option<[usize; 3]>>,
    /// By eps and attack.
    pub tallies: Vec<Vec<AttackStatistics>>,
    /// By minimum-norm attack and example: the nearest adversarial distance, if one was found.
    pub nearest: Vec<Vec<Option<f32>>>,
    /// By minimum-norm attack.
    pub nearest_tallies: Vec<AttackStatistics>,
    /// The images found, one after the other, where they are to be saved; else none.
    #[serde(skip)]
    pub images: Vec<f32>,
    /// Seconds that it took so far.
    pub seconds: f64,
}

impl EvaluationState {
    /// Whether this is a state of the same evaluation as the one that is only `begun`.
    pub(super) fn goes_on_from(&self, begun: &EvaluationState) -> bool {
        let sizes = |state: &EvaluationState| (state.broken.len(), state.images.len(), state.batch_size);
        self.question == begun.question && sizes(self) == sizes(begun)
    }
}

/// What an attack did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttackStatistics {
    /// Its name.
    pub name: String,
    /// Runs done.
    pub runs: u32,
    /// Examples that it was given.
    pub attacked: usize,
    /// Examples that it broke: for which it found an adversarial image.
    pub broken: usize,
    /// Results that differ from the example.
    pub moved: u64,
    /// Examples that went through the network.
    #[serde(flatten)]
    pub passes: Passes,
    /// How long it took.
    pub seconds: f64,
}

/// Where the state is kept; nowhere, if the evaluation has no folder.
pub(super) struct CheckpointWriter {
    file: Option<PathBuf>,
    /// The least time between two writes.
    every: Duration,
    last: Instant,
}

impl CheckpointWriter {
    pub(super) fn new(folder: Option<&Path>, every: Duration) -> CheckpointWriter {
        CheckpointWriter { file: folder.map(|folder| folder.join(FILE)), every, last: Instant::now() }
    }

    /// That of a folder, to see what is there.
    pub(super) fn of(folder: &Path) -> CheckpointWriter {
        CheckpointWriter::new(Some(folder), Duration::ZERO)
    }

    /// What an unfinished evaluation left, if there is one.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub(super) fn load(&self) -> Result<Option<EvaluationState>> {
        let Some(file) = self.file.as_ref().filter(|file| file.exists()) else { return Ok(None) };
        let tensors = TensorFile::read(file)?;
        let text: String = tensors.meta(STATE)?;
        let mut state: EvaluationState = serde_json::from_str(&text)
            .map_err(|error| Error::format(file, format!("{error}; remove the file to begin anew")))?;
        let images = tensors.tensors.iter().find(|tensor| tensor.name == IMAGES);
        state.images = images.map_or(Ok(&[][..]), |t| tensors.get::<f32>(IMAGES, &t.shape))?.to_vec();
        Ok(Some(state))
    }

    /// Writes the state, if the last write was long enough ago.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn keep(&mut self, state: &EvaluationState) -> Result<()> {
        let Some(file) = self.file.as_ref().filter(|_| self.last.elapsed() >= self.every) else { return Ok(()) };
        let text = serde_json::to_string(state).map_err(|error| Error::format(file, error.to_string()))?;
        let images = Tensor::new(IMAGES, &[state.images.len()], state.images.clone());
        write_tensors(file, &[images], &BTreeMap::from([(STATE.into(), text)]))?;
        self.last = Instant::now();
        Ok(())
    }

    /// Removes it: the evaluation is whole.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(super) fn done(&self) -> Result<()> {
        match self.file.as_ref().filter(|file| file.exists()) {
            Some(file) => std::fs::remove_file(file).map_err(|source| Error::io(file, "remove", source)),
            None => Ok(()),
        }
    }
}
