//! DDN, the decoupled direction and norm attack (Rony et al., CVPR 2019), in l2, as advertorch's `DDNL2Attack` runs it.
//!
//! The point moves along the gradient and is then put on a sphere around the image, which shrinks where the point is
//! adversarial and grows where it is not. So the length of the change is sought apart from its direction.

use std::sync::Arc;

use super::Attack;
use super::rows::{Workspace, broken, cosine_rate, direction, keep_nearest, length, number, worst_length};
use crate::batch::Batch;
use crate::device::Schedule;
use crate::model::{Mode, Model};
use crate::tape::{Buffer, Loss, LossRule, Memory, Norm, Program, Tape};

/// How DDN runs. The defaults are those of advertorch's published benchmark
/// (`attack_benchmarks/benchmark_decoupled_direction_norm.py`).
#[derive(Clone, Debug, PartialEq)]
pub struct DdnSettings {
    /// Iterations: 1,000.
    pub iterations: u32,
    /// The share by which the sphere shrinks or grows: 0.05.
    pub gamma: f32,
    /// The sphere's first radius: 1.
    pub init_norm: f32,
    /// How many values a pixel may take; every point is rounded to them. 256, as in images of bytes. `None`: any.
    pub levels: Option<u32>,
    /// Counts the random directions.
    pub seed: u64,
}

impl Default for DdnSettings {
    fn default() -> DdnSettings {
        DdnSettings { iterations: 1000, gamma: 0.05, init_norm: 1.0, levels: Some(256), seed: 0 }
    }
}

/// The rate of the steps: from 1 to 0.01.
const RATE: [f32; 2] = [1.0, 0.01];

struct Ddn<'a> {
    model: &'a dyn Model,
    target: &'a Batch,
    settings: &'a DdnSettings,
    run: Buffer,
    /// The point, and the nearest adversarial one with its distance `[n]`.
    point: Buffer,
    adv: Buffer,
    nearest: Buffer,
    /// The sphere's radius `[n]`.
    radius: Buffer,
    ones: Buffer,
    /// Iterations done in this run `[1]`; what random directions are counted by, u32 `[1]`.
    done: Buffer,
    step: Buffer,
}

/// Records DDN on `target`.
pub fn ddn(memory: &mut Memory, model: &dyn Model, target: &Batch, settings: &DdnSettings) -> Attack {
    let mut room = Workspace { memory, model, target, attack: "ddn" };
    let ddn = Ddn {
        model,
        target,
        settings,
        run: room.count("run"),
        point: room.images("point"),
        adv: room.images("adv"),
        nearest: room.by_row("nearest"),
        radius: room.by_row("radius"),
        ones: room.by_row("ones"),
        done: room.f32("done", &[1]),
        step: room.count("step"),
    };
    let mut schedule = Schedule::default();
    schedule.then(&Arc::new(ddn.start()), 1);
    schedule.then(&Arc::new(ddn.iteration()), settings.iterations);
    Attack {
        name: "ddn".into(),
        eps: None,
        state: [&ddn.point, &ddn.adv, &ddn.nearest, &ddn.radius].map(Buffer::clone).to_vec(),
        run: ddn.run,
        runs: 1,
        adv: ddn.adv,
        schedule,
    }
}

impl Ddn<'_> {
    fn start(&self) -> Program {
        let Ddn { settings, .. } = self;
        let mut tape = Tape::new("ddn_start");
        tape.map_into(&self.done, [], |_, []| number(0.0));
        let run = tape.leaf(&self.run);
        tape.map_into(&self.step, [run], |_, [run]| run * settings.iterations as f32);
        tape.set_rows(&self.target.rows);
        let x = tape.leaf(&self.target.x);
        for buffer in [&self.point, &self.adv] {
            let copy = tape.copy(x);
            tape.keep(copy, buffer);
        }
        let worst = worst_length(&mut tape, Norm::L2, x);
        tape.keep(worst, &self.nearest);
        for (value, buffer) in [(settings.init_norm, &self.radius), (1.0, &self.ones)] {
            let filled = tape.fill(value, &buffer.dims);
            tape.keep(filled, buffer);
        }
        tape.finish()
    }

    fn iteration(&self) -> Program {
        let Ddn { settings, target, .. } = self;
        let mut tape = Tape::new("ddn_iteration");
        // The rate is read after the step is counted: the last iteration's is the least one.
        tape.map_into(&self.done, [], |done, []| done + 1.0);
        tape.increment(&self.step);
        let done = tape.leaf(&self.done);
        let rate = cosine_rate(&mut tape, done, settings.iterations, RATE);

        tape.set_rows(&target.rows);
        let [x, labels, point, ones] = [&target.x, &target.labels, &self.point, &self.ones].map(|b| tape.leaf(b));
        let logits = self.model.logits(&mut tape, point, Mode::Eval);
        let margin = tape.loss(LossRule { loss: Loss::Lm, confidence: 0.0 }, logits, labels);
        let broken = broken(&mut tape, margin);
        // Cross-entropy's gradient points where the soft logit margin's does, but vanishes where the label is certain.
        let ascended = tape.loss(LossRule { loss: Loss::Slm, confidence: 0.0 }, logits, labels);
        let dx = tape.grad(ascended, ones, &[point])[0];
        let distance = length(&mut tape, Norm::L2, [point, x], |[point, x]| point - x);
        keep_nearest(&mut tape, broken, point, distance, &self.adv, &self.nearest);

        let gamma = settings.gamma;
        tape.map_into(&self.radius, [broken], |radius, [broken]| radius * broken.select(1.0 - gamma, 1.0 + gamma));
        let along = direction(&mut tape, target, dx, &self.step, settings.seed);
        let moved = tape.map([point, x, along, rate], |[point, x, along, rate]| point - x + along * rate);
        let long = length(&mut tape, Norm::L2, [moved], |[moved]| moved);
        let radius = tape.leaf(&self.radius);
        tape.map_into(&self.point, [x, moved, radius, long], |_, [x, moved, radius, long]| {
            let at = x + moved * (radius / long.max(f32::MIN_POSITIVE));
            let at = match settings.levels {
                Some(levels) => (at * (levels - 1) as f32).round() / (levels - 1) as f32,
                None => at,
            };
            at.clamp(0.0, 1.0)
        });
        tape.finish()
    }
}
