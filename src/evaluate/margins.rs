//! Margins of a data set by AN-PGD in its test form (the released code's `ANPGDForTest`): PGD at one eps for all,
//! then the bisection along the direction found. It selects checkpoints.

use super::Examples;
use crate::Result;
use crate::attack::{AnPgd, Pgd, PgdSettings, Search, SearchStart, StartNoise};
use crate::config::{Config, TestSearchStart};
use crate::device::{Device, Schedule};
use crate::model::{Mode, Model};
use crate::rng::Purpose;
use crate::tape::Memory;

/// The measurement of margins.
#[derive(Clone, Debug)]
pub struct MarginMeasurement {
    an_pgd: AnPgd,
    eps: f32,
    eps_iter: f32,
}

impl MarginMeasurement {
    /// Records it for the examples, with the config's norm, `test_eps`, `test_eps_iter`, `nb_iter`, bound and fidelity.
    pub fn new(memory: &mut Memory, model: &dyn Model, examples: &Examples, config: &Config) -> MarginMeasurement {
        // The same random starts at every measurement: a difference between two is the network's.
        let step = memory.u32("margins.start", &[1]);
        let settings = PgdSettings {
            loss: config.loss_rule(config.attack_loss_fn),
            rule: config.pgd_rule(),
            iterations: config.nb_iter,
            noise: StartNoise::CounterBased { seed: config.seed, purpose: Purpose::MarginStart, step },
        };
        let pgd = Pgd::new(memory, model, &examples.target, &settings);
        let search = Search {
            loss: config.loss_rule(config.fidelity.test_search_loss_fn),
            steps: config.num_search_steps,
            max_eps: config.max_eps(),
            start: match config.fidelity.test_search_start {
                TestSearchStart::HalfMaxeps => SearchStart::HalfMaxEps,
                TestSearchStart::TestEps => SearchStart::Eps,
            },
            norm: config.norm,
            direction: config.fidelity.direction,
            result: config.fidelity.search_result,
            mode: Mode::Eval,
        };
        let an_pgd = AnPgd::new(memory, model, &examples.target, pgd, search);
        MarginMeasurement { an_pgd, eps: config.test_eps, eps_iter: config.test_eps_iter }
    }

    /// The attack as a schedule.
    pub fn schedule(&self) -> &Schedule {
        &self.an_pgd.schedule
    }

    /// The margin of every example, in order: 0 where it is wrong without an attack, so those are not attacked.
    /// `progress` is told how many examples are done.
    ///
    /// # Errors
    /// The device failed.
    pub fn measure(
        &self,
        device: &mut dyn Device,
        examples: &Examples,
        mut progress: impl FnMut(usize),
    ) -> Result<Vec<f32>> {
        let n = examples.target.capacity();
        device.write_f32(&self.an_pgd.pgd.eps, &vec![self.eps; n])?;
        device.write_f32(&self.an_pgd.pgd.step, &vec![self.eps_iter; n])?;
        let right = examples.right(device)?;
        let mut margins = vec![0.0; right.len()];
        let attacked: Vec<u32> = (0..right.len() as u32).filter(|&i| right[i as usize]).collect();
        let mut done = right.len() - attacked.len();
        for index in examples.batches(&attacked) {
            examples.load(device, index)?;
            device.replay(&self.an_pgd.schedule)?;
            let found = device.read_f32(&self.an_pgd.margin)?;
            index.iter().zip(found).for_each(|(&i, margin)| margins[i as usize] = margin);
            done += index.len();
            progress(done);
        }
        Ok(margins)
    }
}
