//! SPSA (Uesato et al., ICML 2018) in linf, as advertorch's `LinfSPSAAttack` runs it: an attack that sees logits alone.
//!
//! The logit margin's gradient is estimated from its differences between points on both sides, along random signs; Adam
//! ascends it. An example's samples are rows of a batch of their own, so one pass of the network takes `at_once` of
//! each example. (advertorch draws the same signs for every example of a batch; here each has its own.)

use std::sync::Arc;

use super::Attack;
use super::adam::Adam;
use super::rows::{Workspace, number};
use crate::batch::Batch;
use crate::config::L2Order;
use crate::device::Schedule;
use crate::model::{Mode, Model, batch_dims};
use crate::rng::Purpose;
use crate::tape::{Buffer, Formula, Loss, LossRule, Memory, Norm, PgdRule, Program, Tape};

/// How SPSA runs. The defaults are those of advertorch's published benchmark (`attack_benchmarks/benchmark_spsa_attack.py`).
#[derive(Clone, Debug, PartialEq)]
pub struct SpsaSettings {
    /// Iterations: 100.
    pub iterations: u32,
    /// Samples of each gradient, two passes of the network each: 8,192. Whole passes are done.
    pub samples: u32,
    /// How many samples of each example go through the network together: 64.
    pub at_once: u32,
    /// How far the samples are from the point, each pixel: 0.01.
    pub delta: f32,
    /// The learning rate: 0.01.
    pub learning_rate: f32,
    /// Counts the random signs.
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
    target: &'a Batch,
    settings: &'a SpsaSettings,
    run: Buffer,
    eps: Buffer,
    /// Steps of length 0 `[n]`.
    still: Buffer,
    adv: Buffer,
    adam: Adam,
    /// The estimate so far, of the images' shape.
    gradient: Buffer,
    /// What random signs are counted by, u32 `[1]`.
    pass: Buffer,
    /// How many samples there are, u32 `[1]`, and which row each is a sample of, u32 `[n at_once]`.
    sample_rows: Buffer,
    sample_of: Buffer,
    /// Random numbers, whose signs are taken, and the signs times the margin's difference: each of `n at_once` images.
    noise: Buffer,
    differences: Buffer,
}

/// Records SPSA on `target`.
pub fn spsa(memory: &mut Memory, model: &dyn Model, target: &Batch, settings: &SpsaSettings) -> Attack {
    let samples = target.capacity() * settings.at_once as usize;
    let mut room = Workspace { memory, model, target, attack: "spsa" };
    let many = batch_dims(model, samples);
    let spsa = Spsa {
        model,
        target,
        settings,
        run: room.count("run"),
        eps: room.by_row("eps"),
        still: room.by_row("still"),
        adv: room.images("adv"),
        adam: Adam::new(&mut room, settings.learning_rate),
        gradient: room.images("gradient"),
        pass: room.count("pass"),
        sample_rows: room.count("sample_rows"),
        sample_of: room.u32("sample_of", &[samples]),
        noise: room.f32("noise", &many),
        differences: room.f32("differences", &many),
    };
    let [start, sample, step] = [spsa.start(), spsa.sample(), spsa.step()].map(Arc::new);
    let mut schedule = Schedule::default();
    schedule.then(&start, 1);
    for _ in 0..settings.iterations {
        schedule.then(&sample, settings.passes());
        schedule.then(&step, 1);
    }
    let [first, second] = &spsa.adam.means;
    Attack {
        name: "spsa".into(),
        state: [&spsa.adv, first, second, &spsa.gradient].map(Buffer::clone).to_vec(),
        eps: Some(spsa.eps),
        run: spsa.run,
        runs: 1,
        adv: spsa.adv,
        schedule,
    }
}

/// The sign of a number in [-1, 1); never 0.
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
        tape.map_into(&self.gradient, [], |_, []| number(0.0));
        tape.set_rows(&self.target.rows);
        let x = tape.leaf(&self.target.x);
        let first = tape.copy(x);
        tape.keep(first, &self.adv);
        tape.finish()
    }

    /// Adds a pass's share to the estimate.
    fn sample(&self) -> Program {
        let SpsaSettings { at_once, delta, seed, .. } = *self.settings;
        let n = self.target.capacity();
        let pixels = self.adv.len() / n;
        let mut tape = Tape::new("spsa_sample");
        tape.increment(&self.pass);
        let rows = tape.leaf(&self.target.rows);
        tape.map_into(&self.sample_rows, [rows], |_, [rows]| rows * at_once as f32);

        // Drawn by example: a row of numbers for all its samples.
        tape.set_rows(&self.target.rows);
        let by_example = self.noise.part(&self.noise.name, 0, &[n, at_once as usize * pixels]);
        let [like, pass, index] = [&by_example, &self.pass, &self.target.index].map(|b| tape.leaf(b));
        let noise = tape.uniform(like, pass, index, seed, Purpose::SpsaSigns, true);
        tape.keep(noise, &by_example);

        tape.set_rows(&self.sample_rows);
        let [noise, of, adv, labels] =
            [&self.noise, &self.sample_of, &self.adv, &self.target.labels].map(|b| tape.leaf(b));
        let [at, labels] = [adv, labels].map(|rows| tape.gather_rows(rows, of));
        let [above, below] = [delta, -delta].map(|delta| {
            let point = tape.map([at, noise], |[at, noise]| at + sign(&noise) * delta);
            let logits = self.model.logits(&mut tape, point, Mode::Eval);
            tape.loss(LossRule { loss: Loss::Lm, confidence: 0.0 }, logits, labels)
        });
        let weighted = tape.map([noise, above, below], |[noise, above, below]| sign(&noise) * (above - below));
        tape.keep(weighted, &self.differences);

        // The mean over an example's samples: its samples are an image's rows, its pixels the channels.
        tape.set_rows(&self.target.rows);
        let by_example = self.differences.part(&self.differences.name, 0, &[n, at_once as usize, 1, pixels]);
        let by_example = tape.leaf(&by_example);
        let mean = tape.global_mean(by_example);
        let share = 1.0 / (2.0 * delta * self.settings.passes() as f32);
        let gradient = self.gradient.part(&self.gradient.name, 0, &[n, pixels]);
        tape.map_into(&gradient, [mean], |old, [mean]| old + mean * share);
        tape.finish()
    }

    /// Moves along the estimate, back into ball and box, and begins another.
    fn step(&self) -> Program {
        let mut tape = Tape::new("spsa_step");
        self.adam.count(&mut tape);
        tape.set_rows(&self.target.rows);
        let gradient = tape.leaf(&self.gradient);
        let change = self.adam.step(&mut tape, gradient);
        tape.map_into(&self.adv, [change], |adv, [change]| adv + change);
        let [x, eps, still] = [&self.target.x, &self.eps, &self.still].map(|b| tape.leaf(b));
        let rule = PgdRule { norm: Norm::Linf, l2_order: L2Order::BoxBall, l2_grad_floor: 0.0 };
        tape.pgd_step(rule, &self.adv, x, change, eps, still);
        tape.map_into(&self.gradient, [], |_, []| number(0.0));
        tape.finish()
    }
}
