//! SPSA (Uesato et al., ICML 2018) in linf, as advertorch's `LinfSPSAAttack` runs it: an attack that sees logits alone.
//!
//! The gradient of the logit margin is estimated from differences of margins at samples on both sides of the point,
//! along random signs; Adam ascends it. The samples form a batch of their own, so one pass of the network takes
//! `at_once` samples of each example. (advertorch draws the same signs for every example of a batch; here each has its
//! own.)

use std::sync::Arc;

use super::adam::Adam;
use super::common::{LOGIT_MARGIN, constant, copy_into, fill, project_into_ball};
use super::interface::Attack;
use super::workspace::Retention::Carried;
use super::workspace::Workspace;
use crate::batch::Batch;
use crate::device::Schedule;
use crate::model::{Mode, Model, batch_dims};
use crate::rng::Purpose;
use crate::tape::{Buffer, Formula, Memory, Norm, Program, Tape};

/// Settings of SPSA. The defaults are those of advertorch's published benchmark
/// (`attack_benchmarks/benchmark_spsa_attack.py`).
#[derive(Clone, Debug, PartialEq)]
pub struct SpsaSettings {
    /// Iterations: 100.
    pub iterations: u32,
    /// Samples of each gradient, two passes of the network each: 8,192. Rounded up to whole passes.
    pub samples: u32,
    /// Samples of each example in one pass of the network: 64.
    pub at_once: u32,
    /// Distance of the samples from the point in each pixel: 0.01.
    pub delta: f32,
    /// Learning rate: 0.01.
    pub learning_rate: f32,
    /// Seed of the random signs.
    pub seed: u64,
}

impl Default for SpsaSettings {
    fn default() -> SpsaSettings {
        SpsaSettings { iterations: 100, samples: 8192, at_once: 64, delta: 0.01, learning_rate: 0.01, seed: 0 }
    }
}

impl SpsaSettings {
    /// Passes for each gradient.
    fn passes(&self) -> u32 {
        self.samples.div_ceil(self.at_once)
    }
}

struct Spsa<'a> {
    model: &'a dyn Model,
    batch: &'a Batch,
    settings: &'a SpsaSettings,
    run: Buffer,
    eps: Buffer,
    adv: Buffer,
    adam: Adam,
    /// Sum of the estimate so far, of the images' shape.
    gradient: Buffer,
    /// Number of the pass, u32 `[1]`: the counter of its random signs.
    pass: Buffer,
    /// Number of active samples, u32 `[1]`; row of the batch that each is a sample of, u32 `[n at_once]`.
    sample_rows: Buffer,
    sample_of: Buffer,
    /// Random numbers, whose signs are taken, and the signs times the difference of margins: each of `n at_once`
    /// images.
    noise: Buffer,
    differences: Buffer,
}

/// Records SPSA on `batch`.
pub fn spsa(memory: &mut Memory, model: &dyn Model, batch: &Batch, settings: &SpsaSettings) -> Attack {
    let samples = batch.capacity() * settings.at_once as usize;
    let sample_dims = batch_dims(model, samples);
    let mut workspace = Workspace::new(memory, model, batch, "spsa");
    let spsa = Spsa {
        model,
        batch,
        settings,
        run: workspace.counter("run"),
        eps: workspace.scalars(Carried, "eps"),
        adv: workspace.images(Carried, "adv"),
        adam: Adam::new(&mut workspace, settings.learning_rate),
        gradient: workspace.images(Carried, "gradient"),
        pass: workspace.counter("pass"),
        sample_rows: workspace.counter("sample_rows"),
        sample_of: workspace.integers("sample_of", &[samples]),
        noise: workspace.numbers("noise", &sample_dims),
        differences: workspace.numbers("differences", &sample_dims),
    };
    let [start, sample, step] = [spsa.start(), spsa.sample(), spsa.step()].map(Arc::new);
    let mut schedule = Schedule::default();
    schedule.then(&start, 1);
    for _ in 0..settings.iterations {
        schedule.then(&sample, settings.passes());
        schedule.then(&step, 1);
    }
    workspace.attack(spsa.run, Some(spsa.eps), spsa.adv, schedule)
}

/// Sign of a number in [-1, 1); never 0.
fn sign(noise: &Formula) -> Formula {
    noise.less(0.0).select(-1.0, 1.0)
}

impl Spsa<'_> {
    fn start(&self) -> Program {
        let SpsaSettings { iterations, at_once, .. } = *self.settings;
        let mut tape = Tape::new("spsa_start");
        let run = tape.leaf(&self.run);
        tape.map_into(&self.pass, [run], |_, [run]| run * (iterations * self.settings.passes()) as f32);
        let as_a_row = self.sample_of.part(&self.sample_of.name, 0, &[1, self.sample_of.len()]);
        tape.map_into(&as_a_row, [], |_, []| (Formula::element() / at_once as f32).floor());
        self.adam.reset(&mut tape);
        fill(&mut tape, &self.gradient, 0.0);
        tape.set_rows(&self.batch.rows);
        let x = tape.leaf(&self.batch.x);
        copy_into(&mut tape, &self.adv, x);
        tape.finish()
    }

    /// Adds a pass's part to the estimate.
    fn sample(&self) -> Program {
        let SpsaSettings { at_once, delta, seed, .. } = *self.settings;
        let n = self.batch.capacity();
        let pixels = self.adv.len() / n;
        let mut tape = Tape::new("spsa_sample");
        tape.increment(&self.pass);
        let rows = tape.leaf(&self.batch.rows);
        tape.map_into(&self.sample_rows, [rows], |_, [rows]| rows * at_once as f32);

        // Drawn by example: a row of numbers for all its samples.
        tape.set_rows(&self.batch.rows);
        let by_example = self.noise.part(&self.noise.name, 0, &[n, at_once as usize * pixels]);
        let [like, pass, index] = [&by_example, &self.pass, &self.batch.index].map(|b| tape.leaf(b));
        let noise = tape.uniform(like, pass, index, seed, Purpose::SpsaSigns, true);
        tape.keep(noise, &by_example);

        tape.set_rows(&self.sample_rows);
        let [noise, of, adv, labels] =
            [&self.noise, &self.sample_of, &self.adv, &self.batch.labels].map(|b| tape.leaf(b));
        let [at, labels] = [adv, labels].map(|rows| tape.gather_rows(rows, of));
        let [above, below] = [delta, -delta].map(|delta| {
            let point = tape.map([at, noise], |[at, noise]| at + sign(&noise) * delta);
            let logits = self.model.logits(&mut tape, point, Mode::Eval);
            tape.loss(LOGIT_MARGIN, logits, labels)
        });
        let weighted = tape.map([noise, above, below], |[noise, above, below]| sign(&noise) * (above - below));
        tape.keep(weighted, &self.differences);

        // Mean over an example's samples: the samples are taken for pixels of an image, their elements for its
        // channels.
        tape.set_rows(&self.batch.rows);
        let by_example = self.differences.part(&self.differences.name, 0, &[n, at_once as usize, 1, pixels]);
        let by_example = tape.leaf(&by_example);
        let mean = tape.global_mean(by_example);
        let scale = 1.0 / (2.0 * delta * self.settings.passes() as f32);
        let gradient = self.gradient.part(&self.gradient.name, 0, &[n, pixels]);
        tape.map_into(&gradient, [mean], |old, [mean]| old + mean * scale);
        tape.finish()
    }

    /// Moves along the estimate and back into ball and box, and begins another estimate.
    fn step(&self) -> Program {
        let mut tape = Tape::new("spsa_step");
        self.adam.advance(&mut tape);
        tape.set_rows(&self.batch.rows);
        let [x, eps, gradient] = [&self.batch.x, &self.eps, &self.gradient].map(|b| tape.leaf(b));
        let change = self.adam.step(&mut tape, gradient);
        tape.map_into(&self.adv, [change], |adv, [change]| adv + change);
        project_into_ball(&mut tape, Norm::Linf, &self.adv, x, eps);
        tape.map_into(&self.gradient, [], |_, []| constant(0.0));
        tape.finish()
    }
}
