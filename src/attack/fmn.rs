//! FMN, the fast minimum-norm attack (Pintor et al., NeurIPS 2021), in linf and l2, as the authors' release and
//! `adv_lib` run it.
//!
//! The point moves along the gradient of the logit margin and is projected onto a ball around the image. The ball's
//! radius shrinks where the point is adversarial and grows where it is not; until the first adversarial point it is at
//! least the distance of the boundary that the linearized network has.

use std::sync::Arc;

use super::common::{
    copy_into, cosine_rate, dual_norm, fill, is_adversarial, largest_distance, logit_margin, row_norm, unit_direction,
};
use super::interface::Attack;
use super::state::{IterationCounter, Nearest};
use super::workspace::Retention::{Carried, Scratch};
use super::workspace::Workspace;
use crate::batch::Batch;
use crate::device::Schedule;
use crate::model::{Mode, Model};
use crate::tape::{Memory, Norm, Tape};

/// Settings of FMN. The defaults are the published ones.
#[derive(Clone, Debug, PartialEq)]
pub struct FmnSettings {
    /// Norm that is minimized.
    pub norm: Norm,
    /// Iterations: 100 (foolbox's default; the paper's experiments take 100 and 1,000).
    pub iterations: u32,
    /// Step size from the first iteration to the last, in l2 whatever the norm: 1 to 0.01.
    pub alpha: [f32; 2],
    /// Fraction by which the ball shrinks or grows, from the first iteration to the last: 0.05 to 0.001.
    pub gamma: [f32; 2],
    /// Seed of the random directions.
    pub seed: u64,
}

impl FmnSettings {
    /// The published settings.
    pub fn published(norm: Norm) -> FmnSettings {
        FmnSettings { norm, iterations: 100, alpha: [1.0, 0.01], gamma: [0.05, 0.001], seed: 0 }
    }
}

/// Records FMN on `batch`.
pub fn fmn(memory: &mut Memory, model: &dyn Model, batch: &Batch, settings: &FmnSettings) -> Attack {
    let FmnSettings { norm, iterations, alpha, gamma, seed } = *settings;
    let mut workspace = Workspace::new(memory, model, batch, "fmn");
    let run = workspace.counter("run");
    let counter = IterationCounter::new(&mut workspace, iterations);
    let point = workspace.images(Carried, "point");
    let radius = workspace.scalars(Carried, "radius");
    let nearest = Nearest::new(&mut workspace);
    // 1 where an adversarial point was found, else 0.
    let found = workspace.scalars(Carried, "found");
    let largest = workspace.scalars(Carried, "largest_distance");
    let ones = workspace.scalars(Scratch, "ones");

    let mut start = Tape::new("fmn_start");
    let tape = &mut start;
    counter.reset(tape, &run);
    tape.set_rows(&batch.rows);
    let x = tape.leaf(&batch.x);
    copy_into(tape, &point, x);
    copy_into(tape, &nearest.adv, x);
    let distance = largest_distance(tape, norm, x);
    tape.keep(distance, &largest);
    copy_into(tape, &nearest.distance, distance);
    fill(tape, &radius, 0.0);
    fill(tape, &found, 0.0);
    fill(tape, &ones, 1.0);

    let mut iteration = Tape::new("fmn_iteration");
    let tape = &mut iteration;
    let done = tape.leaf(&counter.done);
    let [alpha, gamma] = [alpha, gamma].map(|ends| cosine_rate(tape, done, iterations, ends));
    counter.advance(tape);
    tape.set_rows(&batch.rows);

    let [x, at, ones] = [&batch.x, &point, &ones].map(|b| tape.leaf(b));
    let logits = model.logits(tape, at, Mode::Eval);
    let margin = logit_margin(tape, batch, logits);
    let adversarial = is_adversarial(tape, margin);
    let distance = row_norm(tape, norm, [at, x], |[at, x]| at - x);
    let dx = tape.grad(margin, ones, &[at])[0];
    nearest.update(tape, adversarial, at, distance);
    tape.map_into(&found, [adversarial], |found, [adversarial]| found.max(adversarial));

    // Distance of the linearized network's boundary from the image: by way of the point.
    let dual = dual_norm(tape, norm, dx);
    let linear = tape.map([margin, dual, distance], |[margin, dual, distance]| {
        distance + margin.abs() / dual.max(f32::MIN_POSITIVE)
    });
    let [nearest_distance, found, largest] = [&nearest.distance, &found, &largest].map(|b| tape.leaf(b));
    let inputs = [adversarial, nearest_distance, found, linear, gamma, largest];
    tape.map_into(&radius, inputs, |radius, [adversarial, nearest, found, linear, gamma, largest]| {
        let smaller = (&radius * (1.0 - &gamma)).min(nearest);
        // In the release it is `linear` alone until something is found. Where the network is linear and the box stops
        // some pixels, that never leads to the boundary.
        let larger = found.select(0.0, linear).max(radius * (gamma + 1.0));
        adversarial.select(smaller, larger).min(largest)
    });

    let along = unit_direction(tape, batch, dx, &counter.step, seed);
    let change = tape.map([at, x, along, alpha], |[at, x, along, alpha]| at - x + along * alpha);
    let radius = tape.leaf(&radius);
    match norm {
        Norm::Linf => tape.map_into(&point, [x, change, radius], |_, [x, change, radius]| {
            (x + change.clamp(-&radius, radius)).clamp(0.0, 1.0)
        }),
        Norm::L2 => {
            let norm = row_norm(tape, Norm::L2, [change], |[change]| change);
            tape.map_into(&point, [x, change, radius, norm], |_, [x, change, radius, norm]| {
                (x + change * (radius / norm.max(f32::MIN_POSITIVE)).min(1.0)).clamp(0.0, 1.0)
            });
        }
    }

    let stages = vec![(Arc::new(start.finish()), 1), (Arc::new(iteration.finish()), iterations)];
    workspace.attack(run, None, nearest.adv, Schedule { stages })
}
