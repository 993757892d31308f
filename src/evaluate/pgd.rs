//! Accuracy under repeated PGD, as the released evaluator (evaluate_on_pgd_attacks.py) runs it: n random starts, half
//! of them (one more if n is odd) ascending the cross-entropy, half the cw loss. An example counts as right if no
//! start breaks it. What is broken is not attacked again: it cannot change the result.

use std::sync::Arc;

use super::Examples;
use super::examples::{HARD, right};
use crate::Result;
use crate::attack::{Noise, Pgd, PgdSettings};
use crate::device::{Device, Schedule};
use crate::model::{Mode, Model};
use crate::rng::Purpose;
use crate::tape::{Buffer, Loss, LossRule, Memory, PgdRule, Tape};

/// Repeated PGD at one eps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attack {
    /// Radius of the ball.
    pub eps: f32,
    /// PGD's step.
    pub eps_iter: f32,
    /// Random starts.
    pub restarts: u32,
}

/// The attack's programs; eps, step and the number of restarts are given to [`RepeatedPgd::run`].
#[derive(Clone, Debug)]
pub struct RepeatedPgd {
    /// Ascending xent, ascending cw; each with a last pass that tells whether it succeeded.
    attacks: [(Pgd, Schedule); 2],
    /// The restart, u32 `[1]`.
    restart: Buffer,
    margin: Buffer,
}

impl RepeatedPgd {
    /// Records `iterations` of PGD on the examples; `confidence` is the cw loss's.
    pub fn new(
        memory: &mut Memory,
        model: &dyn Model,
        examples: &Examples,
        rule: PgdRule,
        confidence: f32,
        iterations: u32,
        seed: u64,
    ) -> RepeatedPgd {
        let target = &examples.target;
        let restart = memory.u32("pgd.restart", &[1]);
        let margin = memory.f32("pgd.margin", &target.labels.dims);
        let attacks = [Loss::Xent, Loss::Cw].map(|loss| {
            let noise = Noise::Counted { seed, purpose: Purpose::EvaluateStart, step: restart.clone() };
            let settings = PgdSettings { loss: LossRule { loss, confidence }, rule, iterations, noise };
            let pgd = Pgd::new(memory, model, target, &settings);
            let mut tape = Tape::new("pgd_result");
            tape.set_rows(&target.rows);
            let (adv, labels) = (tape.leaf(&pgd.adv), tape.leaf(&target.labels));
            let logits = model.logits(&mut tape, adv, Mode::Eval);
            let value = tape.loss(HARD, logits, labels);
            tape.keep(value, &margin);
            let mut schedule = pgd.schedule.clone();
            schedule.then(&Arc::new(tape.finish()), 1);
            (pgd, schedule)
        });
        RepeatedPgd { attacks, restart, margin }
    }

    /// Both attacks as schedules.
    pub fn schedules(&self) -> impl Iterator<Item = &Schedule> {
        self.attacks.iter().map(|(_, schedule)| schedule)
    }

    /// Which examples stay right under every start. `progress` is told how many examples were attacked of how many, over
    /// all restarts planned.
    ///
    /// # Errors
    /// The device failed.
    pub fn run(
        &self,
        device: &mut dyn Device,
        examples: &Examples,
        attack: &Attack,
        mut progress: impl FnMut(u32, usize),
    ) -> Result<Vec<bool>> {
        let n = examples.target.capacity();
        for (pgd, _) in &self.attacks {
            device.write_f32(&pgd.eps, &vec![attack.eps; n])?;
            device.write_f32(&pgd.step, &vec![attack.eps_iter; n])?;
        }
        let mut stays = examples.right(device)?;
        let cross_entropy = attack.restarts - attack.restarts / 2;
        for restart in 0..attack.restarts {
            device.write_u32(&self.restart, &[restart])?;
            let (_, schedule) = &self.attacks[usize::from(restart >= cross_entropy)];
            let survivors: Vec<u32> = (0..stays.len() as u32).filter(|&i| stays[i as usize]).collect();
            for index in examples.batches(&survivors) {
                examples.load(device, index)?;
                device.replay(schedule)?;
                let still = right(device, &self.margin, index.len())?;
                index.iter().zip(still).for_each(|(&i, still)| stays[i as usize] = still);
            }
            progress(restart + 1, stays.iter().filter(|s| **s).count());
        }
        Ok(stays)
    }
}
