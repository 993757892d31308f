//! Progress of an evaluation on the disk: one that was interrupted continues from there to the same result.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::report::AttackStatistics;
use crate::record::{Tensor, TensorFile, write_tensors};
use crate::{Error, Result};

/// File in the evaluation's folder, removed when the evaluation is complete.
const FILE: &str = "unfinished.safetensors";
/// Name of the file's metadata that holds the state as JSON.
const STATE: &str = "state";
/// Name of the tensor of images.
const IMAGES: &str = "images";

/// Run of an attack within balls. Runs are done in the order of this type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct AttackRun {
    /// Index of the eps; one past the last for minimum-norm attacks, which come after all balls.
    pub eps: usize,
    /// Index of the attack, among those in balls or among the minimum-norm ones.
    pub attack: usize,
    /// Number of the run of that attack.
    pub run: usize,
}

/// Position of an evaluation: the next batch to be attacked. Batches are done in the order of this type.
///
/// Former versions wrote it, as an [`AttackRun`], as a list of numbers in the order of the fields; serde reads both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// [`AttackRun::eps`].
    pub eps: usize,
    /// [`AttackRun::attack`].
    pub attack: usize,
    /// [`AttackRun::run`].
    pub run: usize,
    /// Number of the batch in that run.
    pub batch: usize,
}

impl AttackRun {
    /// Position of a batch of this run.
    pub(super) fn batch(self, batch: usize) -> Cursor {
        Cursor { eps: self.eps, attack: self.attack, run: self.run, batch }
    }

    /// Position after this run.
    pub(super) fn end(self) -> Cursor {
        Cursor { run: self.run + 1, ..self.batch(0) }
    }
}

/// Results of the batches before the cursor. Names of former versions are read, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct EvaluationState {
    /// SHA-256 of the request.
    #[serde(alias = "question")]
    pub request: String,
    /// Images per batch.
    pub batch_size: usize,
    /// Next batch.
    pub next: Cursor,
    /// Run that found an adversarial image in a ball, by example.
    #[serde(alias = "broken")]
    pub found_by: Vec<Option<AttackRun>>,
    /// Statistics of the attacks in balls, by eps and attack.
    #[serde(alias = "tallies")]
    pub bounded: Vec<Vec<AttackStatistics>>,
    /// Least adversarial distance, by minimum-norm attack and example.
    #[serde(alias = "nearest")]
    pub distances: Vec<Vec<Option<f32>>>,
    /// Statistics of the minimum-norm attacks.
    #[serde(alias = "nearest_tallies")]
    pub minimum_norm: Vec<AttackStatistics>,
    /// Images `[n, h, w, c]`, adversarial where one was found; empty if they are not to be saved.
    #[serde(skip)]
    pub images: Vec<f32>,
    /// Duration so far in seconds.
    pub seconds: f64,
}

impl EvaluationState {
    /// True if the evaluation whose empty state is `empty` can continue from this state.
    pub(super) fn continues(&self, empty: &EvaluationState) -> bool {
        let sizes = |state: &EvaluationState| (state.found_by.len(), state.images.len(), state.batch_size);
        self.request == empty.request && sizes(self) == sizes(empty)
    }
}

/// State of an interrupted evaluation in `folder`, if there is one.
///
/// # Errors
/// The file is there and cannot be read.
pub(super) fn read(folder: &Path) -> Result<Option<EvaluationState>> {
    let file = folder.join(FILE);
    if !file.exists() {
        return Ok(None);
    }
    let tensors = TensorFile::read(&file)?;
    let text: String = tensors.meta(STATE)?;
    let mut state: EvaluationState = serde_json::from_str(&text).map_err(|error| {
        Error::format(
            &file,
            format!("expected the state of an evaluation, found: {error}; remove the file to start again"),
        )
    })?;
    let images = tensors.tensors.iter().find(|tensor| tensor.name == IMAGES);
    state.images = images.map_or(Ok(&[][..]), |t| tensors.get::<f32>(IMAGES, &t.shape))?.to_vec();
    Ok(Some(state))
}

/// Removes the state from `folder`: the evaluation is complete.
///
/// # Errors
/// The file is there and cannot be removed.
pub(super) fn remove(folder: &Path) -> Result<()> {
    let file = folder.join(FILE);
    match file.exists() {
        true => std::fs::remove_file(&file).map_err(|source| Error::io(&file, "remove", source)),
        false => Ok(()),
    }
}

/// Writes the state into the evaluation's folder from time to time; nowhere if the evaluation has no folder.
pub(super) struct CheckpointWriter {
    file: Option<PathBuf>,
    /// Least time between two writes.
    interval: Duration,
    last: Instant,
}

impl CheckpointWriter {
    /// Writer for `folder`; the first write comes an `interval` from now.
    pub(super) fn new(folder: Option<&Path>, interval: Duration) -> CheckpointWriter {
        CheckpointWriter { file: folder.map(|folder| folder.join(FILE)), interval, last: Instant::now() }
    }

    /// Writes the state if the interval has passed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write_if_due(&mut self, state: &EvaluationState) -> Result<()> {
        if self.last.elapsed() >= self.interval { self.write(state) } else { Ok(()) }
    }

    /// Writes the state.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write(&mut self, state: &EvaluationState) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let text = serde_json::to_string(state).map_err(|error| Error::format(file, error.to_string()))?;
        let images = Tensor::new(IMAGES, &[state.images.len()], state.images.clone());
        write_tensors(file, &[images], &BTreeMap::from([(STATE.into(), text)]))?;
        self.last = Instant::now();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text of a state as version 0.1.0 wrote it before its names changed.
    const FORMER: &str = r#"{"question":"ab","batch_size":2,"next":[1,0,3,0],"broken":[null,[0,1,2]],
        "tallies":[[{"name":"pgd-xent","runs":4,"attacked":2,"broken":1,"moved":2,"forward":12,"backward":10,
        "seconds":0.5}]],"nearest":[[null,0.25]],"nearest_tallies":[],"seconds":1.5}"#;

    #[test]
    fn a_state_of_the_former_version_is_read() {
        let state: EvaluationState = serde_json::from_str(FORMER).unwrap();
        assert_eq!(state.next, Cursor { eps: 1, attack: 0, run: 3, batch: 0 });
        assert_eq!(state.found_by, [None, Some(AttackRun { eps: 0, attack: 1, run: 2 })]);
        assert_eq!((state.bounded[0][0].passes.forward, state.distances[0][1]), (12, Some(0.25)));
        let again = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        assert_eq!(state, again);
    }

    #[test]
    fn cursors_are_in_the_order_in_which_batches_are_done() {
        let run = AttackRun { eps: 1, attack: 2, run: 3 };
        assert!(run.batch(0) < run.batch(7) && run.batch(7) < run.end());
        assert!(run.end() < AttackRun { eps: 1, attack: 3, run: 0 }.batch(0));
        assert!(AttackRun { eps: 1, attack: 9, run: 9 }.end() < AttackRun { eps: 2, attack: 0, run: 0 }.batch(0));
    }
}
