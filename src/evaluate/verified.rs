//! Attacks whose results are verified: a clean forward pass recomputes the logits of each result, and its distance.
//!
//! An attack's own word is not used. A result outside the example's ball does not count. Between the pieces of a long
//! run, examples that are adversarial already may leave the batch: nothing can change their result, and the others no
//! longer wait for them.

use std::sync::Arc;

use super::examples::{Examples, LOGIT_MARGIN};
use super::passes::Passes;
use crate::Result;
use crate::attack::{Attack, RowCompaction};
use crate::batch::Batch;
use crate::device::{Device, Schedule};
use crate::interrupt;
use crate::model::{Mode, Model};
use crate::tape::{Buffer, Memory, Norm, Program, Reduction, Tape};

/// Fraction of a batch above which the examples that remain are not moved together.
const WORTH_KEEPING: f64 = 0.75;

/// Relative rounding error of a distance in single precision.
const ROUNDING: f32 = 1e-6;

/// An attack with the pass that verifies its results.
#[derive(Clone, Debug)]
pub struct VerifiedAttack {
    /// The attack.
    pub attack: Attack,
    pieces: Vec<AttackPiece>,
    verifier: Verifier,
    /// Absent where no example may leave the batch.
    compaction: Option<RowCompaction>,
}

/// Part of an attack's schedule, and its passes for each example.
#[derive(Clone, Debug)]
struct AttackPiece {
    schedule: Schedule,
    passes: Passes,
}

/// One run of an attack on one batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchRun<'a> {
    /// Indices of the examples, at most a batch.
    pub index: &'a [u32],
    /// Radius of every example's ball; not read by minimum-norm attacks.
    pub eps: f32,
    /// Number of the run: counter of its random numbers, or its target.
    pub run: u32,
    /// True if the resulting images are copied from the device.
    pub images: bool,
}

/// Verified results of a run on a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedBatch {
    /// Result for each example of [`BatchRun::index`].
    pub examples: Vec<VerifiedExample>,
    /// Passes of the attack and of the verification, summed over the examples.
    pub passes: Passes,
}

/// Verified result of an attack on an example.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedExample {
    /// True if the image is misclassified (its label's logit is not the largest), and inside the ball if there is one.
    pub adversarial: bool,
    /// Distance of the image from the example.
    pub distance: f32,
    /// Image `[h, w, c]`, if [`BatchRun::images`].
    pub image: Vec<f32>,
}

impl VerifiedAttack {
    /// Records the verification of an attack on the examples' batch; distances are measured in `norm`.
    pub fn new(
        memory: &mut Memory,
        model: &dyn Model,
        examples: &Examples,
        norm: Norm,
        attack: Attack,
    ) -> VerifiedAttack {
        let (batch, n) = (&examples.batch, examples.batch.capacity());
        let verifier = Verifier::new(memory, model, batch, norm, &attack);
        let pieces = attack.pieces().into_iter();
        let pieces =
            pieces.map(|schedule| AttackPiece { passes: Passes::of_schedule(&schedule, model, n), schedule }).collect();
        let compaction = attack.eps.is_some().then(|| RowCompaction::new(memory, batch, &attack));
        VerifiedAttack { pieces, verifier, compaction, attack }
    }

    /// Programs that a run executes.
    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        let compaction = self.compaction.as_ref().map(RowCompaction::program);
        self.attack.schedule.programs().chain([self.verifier.program()]).chain(compaction)
    }

    /// Passes of a run and its verification for an example that stays robust to the end.
    pub(super) fn passes(&self) -> Passes {
        let verification = Passes { forward: 1, backward: 0 };
        self.pieces.iter().fold(Passes::default(), |sum, piece| sum + piece.passes + verification)
    }

    /// Passes of all runs and their verification for an example that stays robust to the end.
    pub fn passes_of_runs(&self) -> u64 {
        self.passes().total() * u64::from(self.attack.runs)
    }

    /// Runs the attack on a batch and verifies its results. `progress` is given the fraction of the run that is done.
    ///
    /// # Errors
    /// The device failed, or a signal asked to stop: the batch is not finished.
    pub fn run(
        &self,
        device: &mut dyn Device,
        examples: &Examples,
        batch: &BatchRun,
        mut progress: impl FnMut(f64),
    ) -> Result<VerifiedBatch> {
        let BatchRun { index, eps, run, .. } = *batch;
        let mut passes = Passes::default();
        examples.load(device, index)?;
        begin(&self.attack, device, index.len(), eps, run)?;
        let mut results: Vec<Option<VerifiedExample>> = vec![None; index.len()];
        // Position in `index` of the example in each row of the batch.
        let mut places: Vec<usize> = (0..index.len()).collect();
        let all: u32 = self.pieces.iter().map(|piece| piece.schedule.executions()).sum();
        let mut done = 0;
        for (at, piece) in self.pieces.iter().enumerate() {
            device.replay_observed(&piece.schedule, &mut |of_piece| {
                progress(f64::from(done + of_piece) / f64::from(all));
                interrupt::check()
            })?;
            done += piece.schedule.executions();
            passes += piece.passes * places.len() as u64;
            let last = at + 1 == self.pieces.len();
            let Some(compaction) = self.compaction.as_ref().filter(|_| !last) else { continue };
            let verified = self.verify(device, places.len(), batch, &mut passes)?;
            let left: Vec<u32> = (0..places.len() as u32).filter(|&row| !verified[row as usize].adversarial).collect();
            if left.len() as f64 > WORTH_KEEPING * places.len() as f64 {
                continue;
            }
            let leaving = places.iter().zip(verified).filter(|(_, result)| result.adversarial);
            leaving.for_each(|(&place, result)| results[place] = Some(result));
            places = left.iter().map(|&row| places[row as usize]).collect();
            let index: Vec<u32> = places.iter().map(|&place| index[place]).collect();
            if index.is_empty() {
                break;
            }
            examples.load(device, &index)?;
            compaction.run(device, &left)?;
        }
        if !places.is_empty() {
            let verified = self.verify(device, places.len(), batch, &mut passes)?;
            places.iter().zip(verified).for_each(|(&place, result)| results[place] = Some(result));
        }
        let examples = results.into_iter().map(|result| result.expect("every example was verified")).collect();
        Ok(VerifiedBatch { examples, passes })
    }

    /// Verified results of the first `n` rows of the batch; adds the passes that this takes.
    fn verify(
        &self,
        device: &mut dyn Device,
        n: usize,
        batch: &BatchRun,
        passes: &mut Passes,
    ) -> Result<Vec<VerifiedExample>> {
        let mut verified = self.verifier.verify(device, n, batch.eps)?;
        passes.forward += n as u64;
        if batch.images {
            let (adv, len) = (device.read_f32(&self.attack.adv)?, self.attack.adv.len() / self.attack.adv.dims[0]);
            verified.iter_mut().zip(adv.chunks_exact(len)).for_each(|(result, image)| result.image = image.to_vec());
        }
        Ok(verified)
    }
}

/// Writes the radius of the balls of `n` examples and the number of the run for an attack that is about to start.
///
/// # Errors
/// The device failed.
pub(super) fn begin(attack: &Attack, device: &mut dyn Device, n: usize, eps: f32, run: u32) -> Result<()> {
    if let Some(radius) = &attack.eps {
        device.write_f32(radius, &vec![eps; n])?;
    }
    device.write_u32(&attack.run, &[run])
}

/// Forward pass of a network, the attacked one or another, that tells if an attack's results are adversarial for it.
#[derive(Clone, Debug)]
pub(super) struct Verifier {
    program: Arc<Program>,
    margin: Buffer,
    distance: Buffer,
    bounded: bool,
}

impl Verifier {
    /// Records the logit margin of each result for `model`, and its distance in `norm` from the example.
    pub(super) fn new(memory: &mut Memory, model: &dyn Model, batch: &Batch, norm: Norm, attack: &Attack) -> Verifier {
        let n = batch.capacity();
        let [margin, distance] =
            ["margin", "distance"].map(|part| memory.f32(&format!("{}.{part}", attack.name), &[n]));
        let mut tape = Tape::new("verify");
        tape.set_rows(&batch.rows);
        let [adv, x, labels] = [&attack.adv, &batch.x, &batch.labels].map(|buffer| tape.leaf(buffer));
        let logits = model.logits(&mut tape, adv, Mode::Eval);
        let value = tape.loss(LOGIT_MARGIN, logits, labels);
        tape.keep(value, &margin);
        let length = match norm {
            Norm::Linf => tape.reduce(Reduction::Max, [adv, x], |[adv, x]| (adv - x).abs()),
            Norm::L2 => {
                let squares = tape.reduce(Reduction::Sum, [adv, x], |[adv, x]| (&adv - &x) * (adv - x));
                tape.map([squares], |[squares]| squares.sqrt())
            }
        };
        tape.keep(length, &distance);
        Verifier { program: Arc::new(tape.finish()), margin, distance, bounded: attack.eps.is_some() }
    }

    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    /// Verified results, without images, of the first `n` rows of the batch.
    pub(super) fn verify(&self, device: &mut dyn Device, n: usize, eps: f32) -> Result<Vec<VerifiedExample>> {
        device.execute(&self.program)?;
        let (margins, distances) = (device.read_f32(&self.margin)?, device.read_f32(&self.distance)?);
        let result = |(&margin, &distance): (&f32, &f32)| {
            // NaN logits are not correct.
            let misclassified = margin >= 0.0 || margin.is_nan();
            let inside = !self.bounded || distance <= eps * (1.0 + ROUNDING);
            VerifiedExample { adversarial: misclassified && inside, distance, image: Vec::new() }
        };
        Ok(margins.iter().zip(&distances).take(n).map(result).collect())
    }
}

/// True for each example that is correct without an attack and under every run of every attack in balls of radius
/// `eps`. `progress` is given the fraction of the runs that is done.
///
/// # Errors
/// The device failed, or a signal asked to stop.
pub fn robust_examples(
    attacks: &[VerifiedAttack],
    device: &mut dyn Device,
    examples: &Examples,
    eps: f32,
    mut progress: impl FnMut(f64),
) -> Result<Vec<bool>> {
    let mut robust = examples.correct(device)?;
    let runs: u32 = attacks.iter().map(|attack| attack.attack.runs).sum();
    let mut runs_done = 0.0;
    for attack in attacks {
        for run in 0..attack.attack.runs {
            let given: Vec<u32> = (0..robust.len() as u32).filter(|&i| robust[i as usize]).collect();
            let mut images_done = 0.0;
            for index in examples.batches(&given) {
                let batch = BatchRun { index, eps, run, images: false };
                let images = index.len() as f64;
                let part = |part: f64| {
                    progress((runs_done + (images_done + part * images) / given.len() as f64) / f64::from(runs));
                };
                let verified = attack.run(device, examples, &batch, part)?.examples;
                index.iter().zip(verified).for_each(|(&i, result)| robust[i as usize] = !result.adversarial);
                images_done += images;
            }
            runs_done += 1.0;
        }
    }
    Ok(robust)
}
