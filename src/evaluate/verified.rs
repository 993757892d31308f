//! An attack with its judge: runs it on a batch, and tells from a pass of its own what was found.
//!
//! Whether an image is adversarial is not the attack's word: the judge computes its logits anew, and its distance. An
//! attack that was given a ball and left it has found nothing. Between the pieces of a long run, examples that are
//! broken already may leave the batch: nothing can change their result, and the others no longer wait for them.

use std::sync::Arc;

use super::Examples;
use super::examples::HARD;
use super::passes::Passes;
use crate::Result;
use crate::attack::Attack;
use crate::batch::Batch;
use crate::device::{Device, Schedule};
use crate::model::{Mode, Model};
use crate::tape::{Buffer, Memory, Norm, Program, Reduction, Tape};

/// Repetitions of a run's programs that make a piece: so often progress is told, and broken examples leave.
const PIECE: u32 = 50;

/// What share of a batch must stay for nobody to be moved.
const WORTH_KEEPING: f64 = 0.75;

/// A length in single precision may be off by so much of itself.
const ROUNDING: f32 = 1e-6;

/// An attack, and what judges it.
#[derive(Clone, Debug)]
pub struct VerifiedAttack {
    /// The attack.
    pub attack: Attack,
    pieces: Vec<(Schedule, Passes)>,
    judge: Verifier,
    /// Moves rows to the front: where each comes from, u32 `[n]`. Only where rows may leave.
    movement: Option<(Buffer, Arc<Program>)>,
}

/// What was found for an example.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedExample {
    /// Whether the image is misclassified (its label's logit is not the largest), and in the ball if there is one.
    pub broken: bool,
    /// Its distance from the example.
    pub length: f32,
    /// The image `[h, w, c]`, where it was asked for.
    pub image: Vec<f32>,
}

impl VerifiedAttack {
    /// Records the judge of an attack on the examples' target; lengths are measured in `norm`.
    pub fn new(
        memory: &mut Memory,
        model: &dyn Model,
        examples: &Examples,
        norm: Norm,
        attack: Attack,
    ) -> VerifiedAttack {
        let judge = Verifier::new(memory, model, &examples.target, norm, &attack);
        let (target, n) = (&examples.target, examples.target.capacity());
        let pieces = pieces(&attack.schedule);
        let pieces =
            pieces.into_iter().map(|piece| (Passes::of_schedule(&piece, model, n), piece)).map(|(p, s)| (s, p));
        let movement = (attack.eps.is_some() && !attack.state.is_empty()).then(|| {
            let from = memory.u32(&format!("{}.from", attack.name), &[n]);
            let mut tape = Tape::new("move_rows");
            tape.set_rows(&target.rows);
            let at = tape.leaf(&from);
            for buffer in &attack.state {
                let old = tape.leaf(buffer);
                let moved = tape.gather_rows(old, at);
                tape.map_into(buffer, [moved], |_, [moved]| moved);
            }
            (from, Arc::new(tape.finish()))
        });
        VerifiedAttack { pieces: pieces.collect(), judge, movement, attack }
    }

    /// The programs that it runs.
    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        let movement = self.movement.as_ref().map(|(_, program)| &**program);
        self.attack.schedule.programs().chain([self.judge.program()]).chain(movement)
    }

    /// Runs the attack's run number `run` on the examples `index` (at most a batch), whose balls have the radius `eps`;
    /// what it took is added to `passes`. With `images`, images are brought back. `progress` is told which share of the
    /// run is done.
    ///
    /// # Errors
    /// The device failed.
    #[allow(clippy::too_many_arguments)] // what is attacked, how, and whom to tell
    pub fn run(
        &self,
        device: &mut dyn Device,
        examples: &Examples,
        index: &[u32],
        eps: f32,
        run: u32,
        images: bool,
        passes: &mut Passes,
        mut progress: impl FnMut(f64),
    ) -> Result<Vec<VerifiedExample>> {
        examples.load(device, index)?;
        begin(&self.attack, device, index.len(), eps, run)?;
        let mut found: Vec<Option<VerifiedExample>> = vec![None; index.len()];
        // Which example each row of the batch is.
        let mut rows: Vec<usize> = (0..index.len()).collect();
        for (at, (piece, of_piece)) in self.pieces.iter().enumerate() {
            device.replay(piece)?;
            *passes += *of_piece * rows.len() as u64;
            progress((at + 1) as f64 / self.pieces.len() as f64);
            let last = at + 1 == self.pieces.len();
            let Some((from, movement)) = self.movement.as_ref().filter(|_| !last) else { continue };
            let judged = self.judge(device, rows.len(), eps, images, passes)?;
            let left: Vec<u32> = (0..rows.len() as u32).filter(|&row| !judged[row as usize].broken).collect();
            if left.len() as f64 > WORTH_KEEPING * rows.len() as f64 {
                continue;
            }
            rows.iter().zip(judged).filter(|(_, f)| f.broken).for_each(|(&example, f)| found[example] = Some(f));
            device.write_u32(from, &left)?;
            rows = left.iter().map(|&row| rows[row as usize]).collect();
            let index: Vec<u32> = rows.iter().map(|&example| index[example]).collect();
            if index.is_empty() {
                break;
            }
            examples.load(device, &index)?;
            device.execute(movement)?;
        }
        if !rows.is_empty() {
            let judged = self.judge(device, rows.len(), eps, images, passes)?;
            rows.iter().zip(judged).for_each(|(&example, f)| found[example] = Some(f));
        }
        Ok(found.into_iter().map(|f| f.expect("every example was judged")).collect())
    }

    /// Judges the first `n` rows of the batch.
    fn judge(
        &self,
        device: &mut dyn Device,
        n: usize,
        eps: f32,
        images: bool,
        passes: &mut Passes,
    ) -> Result<Vec<VerifiedExample>> {
        let mut found = self.judge.verdicts(device, n, eps)?;
        passes.forward += n as u64;
        if images {
            let (adv, row) = (device.read_f32(&self.attack.adv)?, self.attack.adv.len() / self.attack.adv.dims[0]);
            found.iter_mut().zip(adv.chunks_exact(row)).for_each(|(found, image)| found.image = image.to_vec());
        }
        Ok(found)
    }
}

/// Says to an attack how large the balls of `n` examples are, and which run comes.
pub(super) fn begin(attack: &Attack, device: &mut dyn Device, n: usize, eps: f32, run: u32) -> Result<()> {
    if let Some(radius) = &attack.eps {
        device.write_f32(radius, &vec![eps; n])?;
    }
    device.write_u32(&attack.run, &[run])
}

/// What tells whether an attack's results are adversarial for a network: the attacked one, or another.
#[derive(Clone, Debug)]
pub(super) struct Verifier {
    program: Arc<Program>,
    margin: Buffer,
    length: Buffer,
    bounded: bool,
}

impl Verifier {
    /// Records the logit margin of each result for `model`, and its distance in `norm` from the example.
    pub(super) fn new(memory: &mut Memory, model: &dyn Model, target: &Batch, norm: Norm, attack: &Attack) -> Verifier {
        let n = target.capacity();
        let [margin, length] = ["margin", "length"].map(|part| memory.f32(&format!("{}.{part}", attack.name), &[n]));
        let mut tape = Tape::new("judge");
        tape.set_rows(&target.rows);
        let [adv, x, labels] = [&attack.adv, &target.x, &target.labels].map(|buffer| tape.leaf(buffer));
        let logits = model.logits(&mut tape, adv, Mode::Eval);
        let value = tape.loss(HARD, logits, labels);
        tape.keep(value, &margin);
        let distance = match norm {
            Norm::Linf => tape.reduce(Reduction::Max, [adv, x], |[adv, x]| (adv - x).abs()),
            Norm::L2 => {
                let squares = tape.reduce(Reduction::Sum, [adv, x], |[adv, x]| (&adv - &x) * (adv - x));
                tape.map([squares], |[squares]| squares.sqrt())
            }
        };
        tape.keep(distance, &length);
        Verifier { program: Arc::new(tape.finish()), margin, length, bounded: attack.eps.is_some() }
    }

    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    /// What was found for each of the first `n` rows of the batch, without images.
    pub(super) fn verdicts(&self, device: &mut dyn Device, n: usize, eps: f32) -> Result<Vec<VerifiedExample>> {
        device.execute(&self.program)?;
        let (margins, lengths) = (device.read_f32(&self.margin)?, device.read_f32(&self.length)?);
        let verdict = |(&margin, &length): (&f32, &f32)| {
            // Not-a-number is not right.
            let wrong = margin >= 0.0 || margin.is_nan();
            let inside = !self.bounded || length <= eps * (1.0 + ROUNDING);
            VerifiedExample { broken: wrong && inside, length, image: Vec::new() }
        };
        Ok(margins.iter().zip(&lengths).take(n).map(verdict).collect())
    }
}

/// Which examples stay right under every run of every attack, in balls of radius `eps`.
///
/// # Errors
/// The device failed.
pub fn robust_examples(
    attacks: &[VerifiedAttack],
    device: &mut dyn Device,
    examples: &Examples,
    eps: f32,
) -> Result<Vec<bool>> {
    let mut right = examples.right(device)?;
    for judged in attacks {
        for run in 0..judged.attack.runs {
            let given: Vec<u32> = (0..right.len() as u32).filter(|&i| right[i as usize]).collect();
            for index in examples.batches(&given) {
                let found = judged.run(device, examples, index, eps, run, false, &mut Passes::default(), |_| ())?;
                index.iter().zip(found).for_each(|(&i, found)| right[i as usize] = !found.broken);
            }
        }
    }
    Ok(right)
}

/// A schedule in pieces of at most [`PIECE`] repetitions.
fn pieces(schedule: &Schedule) -> Vec<Schedule> {
    let mut pieces = vec![Schedule::default()];
    let mut room = PIECE;
    for (program, times) in &schedule.stages {
        let mut left = *times;
        while left > 0 {
            if room == 0 {
                pieces.push(Schedule::default());
                room = PIECE;
            }
            let now = left.min(room);
            pieces.last_mut().expect("there is one").then(program, now);
            (left, room) = (left - now, room - now);
        }
    }
    pieces
}
