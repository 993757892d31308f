//! Margins of a data set by AN-PGD in its test form (the released code's `ANPGDForTest`): PGD at one eps for all
//! examples, then bisection along the direction that it found. The mean margin selects checkpoints.

use super::examples::Examples;
use super::passes::Passes;
use crate::Result;
use crate::attack::{AnPgd, Pgd, PgdSettings, Search, SearchStart, StartNoise};
use crate::config::{Config, TestSearchStart};
use crate::device::{Device, Schedule};
use crate::interrupt;
use crate::model::{Mode, Model};
use crate::rng::Purpose;
use crate::tape::Memory;

/// AN-PGD recorded for the examples of a data set.
#[derive(Clone, Debug)]
pub struct MarginMeasurement {
    an_pgd: AnPgd,
    eps: f32,
    eps_iter: f32,
    /// Passes of the attack for each example.
    passes: Passes,
}

/// Margins of a data set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MeasuredMargins {
    /// Margin of every example, in order.
    pub margins: Vec<f32>,
    /// Passes that the measurement took, summed over the examples.
    pub passes: Passes,
}

impl MarginMeasurement {
    /// Records AN-PGD with the config's norm, `test_eps`, `test_eps_iter`, `nb_iter`, bound and fidelity.
    pub fn new(memory: &mut Memory, model: &dyn Model, examples: &Examples, config: &Config) -> MarginMeasurement {
        // Every measurement has the same random starts, so that two differ by the network alone.
        let step = memory.u32("margins.start", &[1]);
        let settings = PgdSettings {
            loss: config.loss_rule(config.attack_loss_fn),
            rule: config.pgd_rule(),
            iterations: config.nb_iter,
            noise: StartNoise::CounterBased { seed: config.seed, purpose: Purpose::MarginStart, step },
        };
        let pgd = Pgd::new(memory, model, &examples.batch, &settings);
        let start = match config.fidelity.test_search_start {
            TestSearchStart::HalfMaxeps => SearchStart::HalfMaxEps,
            TestSearchStart::TestEps => SearchStart::Eps,
        };
        let an_pgd = AnPgd::new(memory, model, &examples.batch, pgd, test_search(config, start));
        let passes = Passes::of_schedule(&an_pgd.schedule, model, examples.batch.capacity());
        MarginMeasurement { an_pgd, eps: config.test_eps, eps_iter: config.test_eps_iter, passes }
    }

    /// Schedule of the attack on a batch.
    pub fn schedule(&self) -> &Schedule {
        &self.an_pgd.schedule
    }

    /// Measures the margin of every example. Misclassified examples have margin 0 and are not attacked. `progress` is
    /// given the number of examples done.
    ///
    /// # Errors
    /// The device failed, or a signal asked to stop.
    pub fn measure(
        &self,
        device: &mut dyn Device,
        examples: &Examples,
        mut progress: impl FnMut(usize),
    ) -> Result<MeasuredMargins> {
        let n = examples.batch.capacity();
        device.write_f32(&self.an_pgd.pgd.eps, &vec![self.eps; n])?;
        device.write_f32(&self.an_pgd.pgd.step, &vec![self.eps_iter; n])?;
        let correct = examples.correct(device)?;
        let mut margins = vec![0.0; correct.len()];
        let mut passes = Passes { forward: correct.len() as u64, backward: 0 };
        let attacked: Vec<u32> = (0..correct.len() as u32).filter(|&i| correct[i as usize]).collect();
        let mut done = correct.len() - attacked.len();
        for index in examples.batches(&attacked) {
            examples.load(device, index)?;
            device.replay_observed(&self.an_pgd.schedule, &mut |_| interrupt::check())?;
            let found = device.read_f32(&self.an_pgd.margin)?;
            index.iter().zip(found).for_each(|(&i, margin)| margins[i as usize] = margin);
            passes += self.passes * index.len() as u64;
            done += index.len();
            progress(done);
        }
        Ok(MeasuredMargins { margins, passes })
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
