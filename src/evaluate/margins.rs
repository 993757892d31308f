//! Margins of a data set by AN-PGD in its test form (the released code's `ANPGDForTest`): PGD at one eps for all
//! examples, then bisection along the direction that it found. The mean margin selects checkpoints.

use super::examples::Examples;
use super::passes::Passes;
use crate::Result;
use crate::attack::{AnPgd, Pgd, PgdSettings, Search, SearchStart, StartNoise};
use crate::config::{Config, TestAttacked, TestSearchStart, TestStarts};
use crate::device::{Device, Schedule};
use crate::interrupt;
use crate::model::{Mode, ModelInPrecision};
use crate::record::Margins;
use crate::rng::Purpose;
use crate::tape::{Buffer, Memory};

/// AN-PGD recorded for the examples of a data set.
#[derive(Clone, Debug)]
pub struct MarginMeasurement {
    an_pgd: AnPgd,
    /// Training step that keys the random starts, u32 `[1]`.
    start: Buffer,
    starts: TestStarts,
    attacked: TestAttacked,
    eps: f32,
    eps_iter: f32,
    /// Passes of the attack for each example.
    passes: Passes,
}

/// Margins of a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasuredMargins {
    /// Margins of the examples.
    pub margins: Margins,
    /// Passes that the measurement took, summed over the examples.
    pub passes: Passes,
}

impl MarginMeasurement {
    /// Records AN-PGD with the config's norm, `test_eps`, `test_eps_iter`, `nb_iter`, bound and fidelity. The
    /// bisection is in single precision.
    pub fn new(
        memory: &mut Memory,
        attacked: &ModelInPrecision,
        examples: &Examples,
        config: &Config,
    ) -> MarginMeasurement {
        let model = attacked.itself();
        let start = memory.u32("margins.start", &[1]);
        let settings = PgdSettings {
            loss: config.test_attack_loss(),
            rule: config.pgd_rule(),
            iterations: config.nb_iter,
            noise: StartNoise::CounterBased { seed: config.seed, purpose: Purpose::MarginStart, step: start.clone() },
        };
        let pgd = Pgd::new(memory, attacked, &examples.batch, &settings);
        let fidelity = &config.fidelity;
        let search_start = match fidelity.test_search_start {
            TestSearchStart::HalfMaxeps => SearchStart::HalfMaxEps,
            TestSearchStart::TestEps => SearchStart::Eps,
        };
        let an_pgd = AnPgd::new(memory, model, &examples.batch, pgd, test_search(config, search_start));
        MarginMeasurement {
            passes: Passes::of_schedule(&an_pgd.schedule, model, examples.batch.capacity()),
            an_pgd,
            start,
            starts: fidelity.test_starts,
            attacked: fidelity.test_attacked,
            eps: config.test_eps,
            eps_iter: config.test_eps_iter,
        }
    }

    /// Passes of the attack for each example.
    pub fn passes(&self) -> Passes {
        self.passes
    }

    /// Schedule of the attack on a batch.
    pub fn schedule(&self) -> &Schedule {
        &self.an_pgd.schedule
    }

    /// Measures the margin of every example by a network that was trained for `step` steps. A misclassified example has
    /// margin 0 if it is not attacked. `progress` is given the number of examples done.
    ///
    /// # Errors
    /// The device failed, or a signal asked to stop.
    pub fn measure(
        &self,
        device: &mut dyn Device,
        examples: &Examples,
        step: u32,
        mut progress: impl FnMut(usize),
    ) -> Result<MeasuredMargins> {
        let n = examples.batch.capacity();
        device.write_f32(&self.an_pgd.pgd.eps, &vec![self.eps; n])?;
        device.write_f32(&self.an_pgd.pgd.step, &vec![self.eps_iter; n])?;
        let start = match self.starts {
            TestStarts::Fresh => step,
            TestStarts::Same => 0,
        };
        device.write_u32(&self.start, &[start])?;
        let correct = examples.correct(device)?;
        let mut values = vec![0.0; correct.len()];
        let mut passes = Passes { forward: correct.len() as u64, backward: 0 };
        let is_attacked = |i: &u32| self.attacked == TestAttacked::All || correct[*i as usize];
        let attacked: Vec<u32> = examples.indices().into_iter().filter(is_attacked).collect();
        let mut done = correct.len() - attacked.len();
        for index in examples.batches(&attacked) {
            examples.load(device, index)?;
            device.replay_observed(&self.an_pgd.schedule, &mut |_| interrupt::check())?;
            let found = device.read_f32(&self.an_pgd.margin)?;
            index.iter().zip(found).for_each(|(&i, margin)| values[i as usize] = margin);
            passes += self.passes * index.len() as u64;
            done += index.len();
            progress(done);
        }
        Ok(MeasuredMargins { margins: Margins { values, correct }, passes })
    }
}

/// Bisection of AN-PGD in its test form, from `start`.
pub(super) fn test_search(config: &Config, start: SearchStart) -> Search {
    Search {
        loss: config.loss_rule(config.fidelity.test_search_loss_fn),
        steps: config.num_search_steps,
        max_eps: config.max_eps(),
        start,
        norm: config.norm,
        direction: config.fidelity.direction,
        result: config.fidelity.search_result,
        mode: Mode::Eval,
    }
}
