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

/// File of the state in the folder of an evaluation.
pub(super) fn state_file(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

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

/// State that an evaluation finds in its folder.
pub(super) enum FormerState {
    /// There is none.
    None,
    /// State from which the evaluation continues.
    Continued(Box<EvaluationState>),
    /// State from which it cannot continue, for this reason.
    Unusable(&'static str),
}

impl FormerState {
    /// Message about the state, if there is one.
    pub(super) fn note(&self) -> Option<String> {
        match self {
            FormerState::None => None,
            FormerState::Continued(_) => Some("continuing an interrupted evaluation of the same request".into()),
            FormerState::Unusable(reason) => {
                Some(format!("starting anew: the interrupted evaluation in this folder {reason}"))
            }
        }
    }

    /// The state from which the evaluation continues.
    pub(super) fn state(self) -> Option<EvaluationState> {
        match self {
            FormerState::Continued(state) => Some(*state),
            FormerState::None | FormerState::Unusable(_) => None,
        }
    }
}

impl EvaluationState {
    /// State in `folder` for the evaluation whose empty state this is.
    ///
    /// # Errors
    /// The file is there and cannot be read, or a value in it is impossible (names file and field).
    pub(super) fn former(&self, folder: &Path) -> Result<FormerState> {
        let Some(state) = read(folder)? else { return Ok(FormerState::None) };
        if state.request != self.request {
            return Ok(FormerState::Unusable("is of another request"));
        }
        if state.batch_size != self.batch_size {
            return Ok(FormerState::Unusable("had another --batch-size"));
        }
        if state.images.is_empty() != self.images.is_empty() {
            return Ok(FormerState::Unusable("kept images and this one does not, or the other way round"));
        }
        let refuse = |Mismatch { field, expected, found }: Mismatch| {
            let path = state_file(folder);
            Error::format(&path, format!("{field}: expected {expected}, found {found}; remove the file to start again"))
        };
        state.check(self).map_err(refuse)?;
        Ok(FormerState::Continued(Box::new(state)))
    }

    /// Checks every index, length and number against the evaluation whose empty state is `empty`.
    fn check(&self, empty: &EvaluationState) -> std::result::Result<(), Mismatch> {
        let (n, eps) = (empty.found_by.len(), empty.bounded.len());
        length("found_by", self.found_by.len(), n)?;
        length("images", self.images.len(), empty.images.len())?;
        let attacks = |eps: usize| empty.bounded.get(eps).unwrap_or(&empty.minimum_norm);
        let runs = |at: AttackRun| attacks(at.eps).get(at.attack).map_or(0, AttackStatistics::planned_runs);
        let Cursor { eps: next_eps, attack, run, batch } = self.next;
        within("next.eps", next_eps, eps)?;
        within("next.attack", attack, attacks(next_eps).len().saturating_sub(1))?;
        within("next.run", run, runs(AttackRun { eps: next_eps, attack, run }))?;
        within("next.batch", batch, n)?;
        for (i, by) in self.found_by.iter().enumerate().filter_map(|(i, by)| Some((i, (*by)?))) {
            let field = |part: &str| format!("found_by[{i}].{part}");
            below(field("eps"), by.eps, eps)?;
            below(field("attack"), by.attack, attacks(by.eps).len())?;
            below(field("run"), by.run, runs(by))?;
            if by.batch(0) >= self.next {
                return Err(Mismatch::new(format!("found_by[{i}]"), "a run before `next`", format!("{by:?}")));
            }
        }
        length("bounded", self.bounded.len(), eps)?;
        for (e, (found, empty)) in self.bounded.iter().zip(&empty.bounded).enumerate() {
            check_statistics(&format!("bounded[{e}]"), found, empty, n)?;
        }
        check_statistics("minimum_norm", &self.minimum_norm, &empty.minimum_norm, n)?;
        length("distances", self.distances.len(), empty.distances.len())?;
        for (a, distances) in self.distances.iter().enumerate() {
            length(format!("distances[{a}]"), distances.len(), n)?;
            for (i, distance) in distances.iter().enumerate() {
                number(format!("distances[{a}][{i}]"), distance.unwrap_or_default().into())?;
            }
        }
        if let Some(i) = self.images.iter().position(|value| !(0.0..=1.0).contains(value)) {
            return Err(Mismatch::new(format!("images[{i}]"), "a number from 0 to 1", self.images[i]));
        }
        number("seconds", self.seconds)
    }
}

/// Value of a state that is impossible for its evaluation.
struct Mismatch {
    field: String,
    expected: String,
    found: String,
}

impl Mismatch {
    fn new(field: impl Into<String>, expected: impl ToString, found: impl ToString) -> Mismatch {
        Mismatch { field: field.into(), expected: expected.to_string(), found: found.to_string() }
    }
}

fn length(field: impl Into<String>, found: usize, expected: usize) -> std::result::Result<(), Mismatch> {
    match found == expected {
        true => Ok(()),
        false => Err(Mismatch::new(field, format!("{expected} elements"), found)),
    }
}

fn within(field: impl Into<String>, found: usize, most: usize) -> std::result::Result<(), Mismatch> {
    match found <= most {
        true => Ok(()),
        false => Err(Mismatch::new(field, format!("at most {most}"), found)),
    }
}

fn below(field: impl Into<String>, found: usize, end: usize) -> std::result::Result<(), Mismatch> {
    match found < end {
        true => Ok(()),
        false => Err(Mismatch::new(field, format!("a number below {end}"), found)),
    }
}

/// Checks a duration or distance.
fn number(field: impl Into<String>, found: f64) -> std::result::Result<(), Mismatch> {
    match found.is_finite() && found >= 0.0 {
        true => Ok(()),
        false => Err(Mismatch::new(field, "a finite number that is not negative", found)),
    }
}

/// Checks the statistics of attacks on `n` examples.
fn check_statistics(
    field: &str,
    found: &[AttackStatistics],
    empty: &[AttackStatistics],
    n: usize,
) -> std::result::Result<(), Mismatch> {
    length(field, found.len(), empty.len())?;
    for (a, (found, empty)) in found.iter().zip(empty).enumerate() {
        let at = |part: &str| format!("{field}[{a}].{part}");
        if found.name != empty.name {
            return Err(Mismatch::new(at("name"), &empty.name, &found.name));
        }
        within(at("runs"), found.runs as usize, empty.planned_runs())?;
        within(at("attacked"), found.attacked, n)?;
        within(at("found"), found.found, found.attacked)?;
        within(at("moved"), found.moved as usize, n.saturating_mul(empty.planned_runs()))?;
        within(at("forward"), found.passes.forward as usize, MOST_PASSES)?;
        within(at("backward"), found.passes.backward as usize, MOST_PASSES)?;
        number(at("seconds"), found.seconds)?;
    }
    Ok(())
}

/// Number of passes that no evaluation reaches: JSON's numbers are exact up to it.
const MOST_PASSES: usize = 1 << 53;

/// State of an interrupted evaluation in `folder`, if there is one.
///
/// # Errors
/// The file is there and cannot be read.
pub(super) fn read(folder: &Path) -> Result<Option<EvaluationState>> {
    let file = state_file(folder);
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
    let file = state_file(folder);
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
        CheckpointWriter { file: folder.map(state_file), interval, last: Instant::now() }
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
    use super::super::strength::{AttackStrength, StrengthValues};
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

    /// Empty state of an evaluation of three examples, at two eps by two attacks, then by one minimum-norm attack.
    fn empty() -> EvaluationState {
        let statistics = |name: &str, restarts: u32| {
            let used = StrengthValues { restarts, ..StrengthValues::default() };
            let strength = Some(AttackStrength { published: used.clone(), used });
            AttackStatistics { name: name.into(), strength, ..AttackStatistics::default() }
        };
        EvaluationState {
            request: "ab".into(),
            batch_size: 2,
            next: Cursor::default(),
            found_by: vec![None; 3],
            bounded: vec![vec![statistics("pgd-xent", 5), statistics("square", 1)]; 2],
            distances: vec![vec![None; 3]],
            minimum_norm: vec![statistics("fab", 1)],
            images: vec![0.5; 3 * 4],
            seconds: 0.0,
        }
    }

    /// State between two batches, as JSON.
    fn state() -> serde_json::Value {
        let mut state = empty();
        state.next = Cursor { eps: 1, attack: 1, run: 0, batch: 1 };
        state.found_by = vec![None, Some(AttackRun { eps: 0, attack: 0, run: 4 }), None];
        state.distances = vec![vec![None, Some(0.25), None]];
        (state.bounded[0][0].attacked, state.bounded[0][0].found, state.bounded[0][0].runs) = (3, 1, 5);
        serde_json::to_value(&state).unwrap()
    }

    /// Field that is refused in `state`.
    fn refused(state: &serde_json::Value, images: &[f32]) -> String {
        let state: EvaluationState = serde_json::from_value(state.clone()).unwrap();
        let state = EvaluationState { images: images.to_vec(), ..state };
        state.check(&empty()).err().map(|mismatch| mismatch.field).unwrap_or_default()
    }

    #[test]
    fn an_index_length_or_number_that_is_impossible_is_refused_with_its_field() {
        use serde_json::json;
        assert_eq!(refused(&state(), &[0.5; 12]), "");
        for (pointer, value, field) in [
            ("/found_by/1/eps", json!(99), "found_by[1].eps"),
            ("/next", json!([0, 0, 4, 0]), "found_by[1]"),
            ("/found_by/1/attack", json!(2), "found_by[1].attack"),
            ("/found_by/1/run", json!(5), "found_by[1].run"),
            ("/found_by", json!([null, null]), "found_by"),
            ("/next/eps", json!(3), "next.eps"),
            ("/next/attack", json!(2), "next.attack"),
            ("/next/run", json!(2), "next.run"),
            ("/next/batch", json!(4), "next.batch"),
            ("/next/batch", json!(u64::MAX), "next.batch"),
            ("/bounded", json!([]), "bounded"),
            ("/bounded/0", json!([]), "bounded[0]"),
            ("/bounded/0/0/name", json!("pgd-cw"), "bounded[0][0].name"),
            ("/bounded/0/0/attacked", json!(4), "bounded[0][0].attacked"),
            ("/bounded/0/0/broken", json!(4), "bounded[0][0].found"),
            ("/bounded/0/0/runs", json!(6), "bounded[0][0].runs"),
            ("/bounded/0/0/moved", json!(u64::MAX), "bounded[0][0].moved"),
            ("/bounded/0/0/forward", json!(u64::MAX), "bounded[0][0].forward"),
            ("/bounded/0/0/seconds", json!(-1.0), "bounded[0][0].seconds"),
            ("/distances", json!([[null, null, null], [null, null, null]]), "distances"),
            ("/distances/0", json!([null]), "distances[0]"),
            ("/distances/0/1", json!(-0.25), "distances[0][1]"),
            ("/distances/0/1", json!(1e39), "distances[0][1]"),
            ("/minimum_norm", json!([]), "minimum_norm"),
            ("/seconds", json!(-1.0), "seconds"),
        ] {
            let mut state = state();
            *state.pointer_mut(pointer).unwrap() = value.clone();
            assert_eq!(refused(&state, &[0.5; 12]), field, "{pointer} = {value}");
        }
        assert_eq!(refused(&state(), &[0.5; 11]), "images");
        assert_eq!(refused(&state(), &[[0.5; 11].as_slice(), &[f32::NAN]].concat()), "images[11]");
    }

    #[test]
    fn a_damaged_state_is_refused_with_its_file_and_others_start_anew() {
        let folder = tempfile::tempdir().unwrap();
        let write = |state: &EvaluationState| {
            CheckpointWriter::new(Some(folder.path()), Duration::ZERO).write(state).unwrap();
        };
        let note = |state: &EvaluationState| state.former(folder.path()).map(|former| former.note());
        assert!(note(&empty()).unwrap().is_none());
        write(&empty());
        assert!(note(&empty()).unwrap().unwrap().starts_with("continuing"));
        for other in [
            EvaluationState { request: "cd".into(), ..empty() },
            EvaluationState { batch_size: 3, ..empty() },
            EvaluationState { images: Vec::new(), ..empty() },
        ] {
            assert!(note(&other).unwrap().unwrap().starts_with("starting anew"));
        }
        write(&EvaluationState { seconds: -1.0, ..empty() });
        let message = note(&empty()).unwrap_err().to_string();
        assert!(message.contains(FILE) && message.contains("seconds: expected a finite number"), "{message}");
        let path = folder.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let message = note(&empty()).unwrap_err().to_string();
        assert!(message.contains(FILE) && message.contains("SHA-256"), "{message}");
    }

    #[test]
    fn cursors_are_in_the_order_in_which_batches_are_done() {
        let run = AttackRun { eps: 1, attack: 2, run: 3 };
        assert!(run.batch(0) < run.batch(7) && run.batch(7) < run.end());
        assert!(run.end() < AttackRun { eps: 1, attack: 3, run: 0 }.batch(0));
        assert!(AttackRun { eps: 1, attack: 9, run: 9 }.end() < AttackRun { eps: 2, attack: 0, run: 0 }.batch(0));
    }
}
