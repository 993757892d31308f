//! FMN, the fast minimum-norm attack (Pintor et al., NeurIPS 2021), in linf and l2: facts from the authors' release and
//! from `adv_lib`.
//!
//! The point moves along the gradient of the logit margin and is projected onto a ball around the image. The ball's
//! radius shrinks where the point is adversarial and grows where it is not; until the first adversarial point it is at
//! least as far as the boundary would be if the network were linear.

use std::sync::Arc;

use super::Attack;
use super::rows::{Workspace, broken, cosine_rate, direction, keep_nearest, length, number, worst_length};
use crate::batch::Batch;
use crate::device::Schedule;
use crate::model::{Mode, Model};
use crate::tape::{Buffer, Loss, LossRule, Memory, Norm, Program, Reduction, Tape};

/// How FMN runs. The defaults are the published ones.
#[derive(Clone, Debug, PartialEq)]
pub struct FmnSettings {
    /// The norm that is to be small.
    pub norm: Norm,
    /// Iterations: 100 (foolbox's default; the paper's experiments take 100 and 1,000).
    pub iterations: u32,
    /// The steps' length, from the first iteration to the last: 1 to 0.01, in l2 whatever the norm.
    pub alpha: [f32; 2],
    /// The share by which the ball shrinks or grows, from the first iteration to the last: 0.05 to 0.001.
    pub gamma: [f32; 2],
    /// Counts the random directions.
    pub seed: u64,
}

impl FmnSettings {
    /// The published settings.
    pub fn published(norm: Norm) -> FmnSettings {
        FmnSettings { norm, iterations: 100, alpha: [1.0, 0.01], gamma: [0.05, 0.001], seed: 0 }
    }
}

struct Fmn<'a> {
    model: &'a dyn Model,
    target: &'a Batch,
    settings: &'a FmnSettings,
    run: Buffer,
    /// The point, and the nearest adversarial one with its distance `[n]`.
    point: Buffer,
    adv: Buffer,
    nearest: Buffer,
    /// The ball's radius, the length of the longest change, and whether an adversarial point was found, each `[n]`.
    radius: Buffer,
    worst: Buffer,
    found: Buffer,
    ones: Buffer,
    /// Iterations done in this run `[1]`; what random directions are counted by, u32 `[1]`.
    done: Buffer,
    step: Buffer,
}

/// Records FMN on `target`.
pub fn fmn(memory: &mut Memory, model: &dyn Model, target: &Batch, settings: &FmnSettings) -> Attack {
    let mut room = Workspace { memory, model, target, attack: "fmn" };
    let fmn = Fmn {
        model,
        target,
        settings,
        run: room.count("run"),
        point: room.images("point"),
        adv: room.images("adv"),
        nearest: room.by_row("nearest"),
        radius: room.by_row("radius"),
        worst: room.by_row("worst"),
        found: room.by_row("found"),
        ones: room.by_row("ones"),
        done: room.f32("done", &[1]),
        step: room.count("step"),
    };
    let mut schedule = Schedule::default();
    schedule.then(&Arc::new(fmn.start()), 1);
    schedule.then(&Arc::new(fmn.iteration()), settings.iterations);
    let state = [&fmn.point, &fmn.adv, &fmn.nearest, &fmn.radius, &fmn.worst, &fmn.found];
    Attack {
        name: "fmn".into(),
        eps: None,
        state: state.map(Buffer::clone).to_vec(),
        run: fmn.run,
        runs: 1,
        adv: fmn.adv,
        schedule,
    }
}

impl Fmn<'_> {
    fn start(&self) -> Program {
        let mut tape = Tape::new("fmn_start");
        tape.map_into(&self.done, [], |_, []| number(0.0));
        let run = tape.leaf(&self.run);
        tape.map_into(&self.step, [run], |_, [run]| run * self.settings.iterations as f32);
        tape.set_rows(&self.target.rows);
        let x = tape.leaf(&self.target.x);
        for buffer in [&self.point, &self.adv] {
            let copy = tape.copy(x);
            tape.keep(copy, buffer);
        }
        for buffer in [&self.nearest, &self.worst] {
            let worst = worst_length(&mut tape, self.settings.norm, x);
            tape.keep(worst, buffer);
        }
        for (value, buffer) in [(0.0, &self.radius), (0.0, &self.found), (1.0, &self.ones)] {
            let filled = tape.fill(value, &buffer.dims);
            tape.keep(filled, buffer);
        }
        tape.finish()
    }

    fn iteration(&self) -> Program {
        let Fmn { settings, target, .. } = self;
        let norm = settings.norm;
        let mut tape = Tape::new("fmn_iteration");
        let done = tape.leaf(&self.done);
        let [alpha, gamma] =
            [settings.alpha, settings.gamma].map(|ends| cosine_rate(&mut tape, done, settings.iterations, ends));
        tape.map_into(&self.done, [], |done, []| done + 1.0);
        tape.increment(&self.step);

        tape.set_rows(&target.rows);
        let [x, labels, point, ones] = [&target.x, &target.labels, &self.point, &self.ones].map(|b| tape.leaf(b));
        let logits = self.model.logits(&mut tape, point, Mode::Eval);
        let margin = tape.loss(LossRule { loss: Loss::Lm, confidence: 0.0 }, logits, labels);
        let dx = tape.grad(margin, ones, &[point])[0];
        let distance = length(&mut tape, norm, [point, x], |[point, x]| point - x);
        let broken = broken(&mut tape, margin);
        keep_nearest(&mut tape, broken, point, distance, &self.adv, &self.nearest);

        // How far the boundary would be: the margin over the gradient's length in the dual norm.
        let dual = match norm {
            Norm::Linf => tape.reduce(Reduction::Sum, [dx], |[dx]| dx.abs()),
            Norm::L2 => length(&mut tape, Norm::L2, [dx], |[dx]| dx),
        };
        let linear = tape.map([margin, dual, distance], |[margin, dual, distance]| {
            distance + margin.abs() / dual.max(f32::MIN_POSITIVE)
        });
        tape.map_into(&self.found, [broken], |found, [broken]| found.max(broken));
        let [nearest, found, worst] = [&self.nearest, &self.found, &self.worst].map(|b| tape.leaf(b));
        tape.map_into(
            &self.radius,
            [broken, nearest, found, linear, gamma, worst],
            |radius, [broken, nearest, found, linear, gamma, worst]| {
                let smaller = (&radius * (1.0 - &gamma)).min(nearest);
                // In the release it is `linear` alone until something is found. Where the network is linear and the
                // box stops some pixels, that never leads to the boundary.
                let larger = found.select(0.0, linear).max(radius * (gamma + 1.0));
                broken.select(smaller, larger).min(worst)
            },
        );

        let along = direction(&mut tape, target, dx, &self.step, settings.seed);
        let moved = tape.map([point, x, along, alpha], |[point, x, along, alpha]| point - x + along * alpha);
        let radius = tape.leaf(&self.radius);
        match norm {
            Norm::Linf => tape.map_into(&self.point, [x, moved, radius], |_, [x, moved, radius]| {
                (x + moved.clamp(-&radius, radius)).clamp(0.0, 1.0)
            }),
            Norm::L2 => {
                let long = length(&mut tape, Norm::L2, [moved], |[moved]| moved);
                tape.map_into(&self.point, [x, moved, radius, long], |_, [x, moved, radius, long]| {
                    (x + moved * (radius / long.max(f32::MIN_POSITIVE)).min(1.0)).clamp(0.0, 1.0)
                });
            }
        }
        tape.finish()
    }
}
