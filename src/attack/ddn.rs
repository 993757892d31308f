//! DDN, the decoupled direction and norm attack (Rony et al., CVPR 2019), in l2, as advertorch's `DDNL2Attack` runs it.
//!
//! The point moves along the gradient and is then projected onto a sphere around the image. The sphere shrinks where
//! the point is adversarial and grows where it is not: so the norm of the change is searched for apart from its
//! direction.

use std::sync::Arc;

use super::common::unit_direction;
use super::common::{copy_into, cosine_rate, fill, is_adversarial, largest_distance, logit_margin, row_norm};
use super::interface::Attack;
use super::state::{IterationCounter, Nearest};
use super::workspace::Retention::{Carried, Scratch};
use super::workspace::Workspace;
use crate::batch::Batch;
use crate::device::Schedule;
use crate::model::{Mode, Model};
use crate::tape::{Loss, LossRule, Memory, Norm, Tape};

/// Settings of DDN. The defaults are those of advertorch's published benchmark
/// (`attack_benchmarks/benchmark_decoupled_direction_norm.py`).
#[derive(Clone, Debug, PartialEq)]
pub struct DdnSettings {
    /// Iterations: 1,000.
    pub iterations: u32,
    /// Fraction by which the sphere shrinks or grows: 0.05.
    pub gamma: f32,
    /// First radius of the sphere: 1.
    pub init_norm: f32,
    /// Number of values that a pixel may take; every point is rounded to them. 256, as in images of bytes. `None`: any.
    pub levels: Option<u32>,
    /// Seed of the random directions.
    pub seed: u64,
}

impl Default for DdnSettings {
    fn default() -> DdnSettings {
        DdnSettings { iterations: 1000, gamma: 0.05, init_norm: 1.0, levels: Some(256), seed: 0 }
    }
}

/// Step size, from the first iteration to the last.
const STEP: [f32; 2] = [1.0, 0.01];

/// Records DDN on `batch`.
pub fn ddn(memory: &mut Memory, model: &dyn Model, batch: &Batch, settings: &DdnSettings) -> Attack {
    let DdnSettings { iterations, gamma, init_norm, levels, seed } = *settings;
    let mut workspace = Workspace::new(memory, model, batch, "ddn");
    let run = workspace.counter("run");
    let counter = IterationCounter::new(&mut workspace, iterations);
    let point = workspace.images(Carried, "point");
    let radius = workspace.scalars(Carried, "radius");
    let nearest = Nearest::new(&mut workspace);
    let ones = workspace.scalars(Scratch, "ones");

    let mut start = Tape::new("ddn_start");
    let tape = &mut start;
    counter.reset(tape, &run);
    tape.set_rows(&batch.rows);
    let x = tape.leaf(&batch.x);
    copy_into(tape, &point, x);
    copy_into(tape, &nearest.adv, x);
    let largest = largest_distance(tape, Norm::L2, x);
    tape.keep(largest, &nearest.distance);
    fill(tape, &radius, init_norm);
    fill(tape, &ones, 1.0);

    let mut iteration = Tape::new("ddn_iteration");
    let tape = &mut iteration;
    // The rate is read after the iteration is counted, so the last iteration has the least one.
    counter.advance(tape);
    let done = tape.leaf(&counter.done);
    let rate = cosine_rate(tape, done, iterations, STEP);
    tape.set_rows(&batch.rows);

    let [x, labels, at, ones] = [&batch.x, &batch.labels, &point, &ones].map(|b| tape.leaf(b));
    let logits = model.logits(tape, at, Mode::Eval);
    let margin = logit_margin(tape, batch, logits);
    let adversarial = is_adversarial(tape, margin);
    let distance = row_norm(tape, Norm::L2, [at, x], |[at, x]| at - x);
    // Cross-entropy's gradient points where the soft logit margin's does, but vanishes where the label is certain.
    let loss = tape.loss(LossRule { loss: Loss::Slm, confidence: 0.0 }, logits, labels);
    let dx = tape.grad(loss, ones, &[at])[0];
    nearest.update(tape, adversarial, at, distance);

    let along = unit_direction(tape, batch, dx, &counter.step, seed);
    let change = tape.map([at, x, along, rate], |[at, x, along, rate]| at - x + along * rate);
    let norm = row_norm(tape, Norm::L2, [change], |[change]| change);
    tape.map_into(&radius, [adversarial], |radius, [adversarial]| {
        radius * adversarial.select(1.0 - gamma, 1.0 + gamma)
    });
    let radius = tape.leaf(&radius);
    tape.map_into(&point, [x, change, radius, norm], |_, [x, change, radius, norm]| {
        let on_sphere = x + change * (radius / norm.max(f32::MIN_POSITIVE));
        let rounded = match levels {
            Some(levels) => (on_sphere * (levels - 1) as f32).round() / (levels - 1) as f32,
            None => on_sphere,
        };
        rounded.clamp(0.0, 1.0)
    });

    let stages = vec![(Arc::new(start.finish()), 1), (Arc::new(iteration.finish()), iterations)];
    workspace.attack(run, None, nearest.adv, Schedule { stages })
}
