//! State that attacks have in common: the nearest adversarial point, the number of iterations done.

use super::common::fill;
use super::workspace::{Retention, Workspace};
use crate::tape::{Buffer, Tape, Value};

/// Nearest adversarial point of each example so far.
pub(super) struct Nearest {
    /// The point `[n, h, w, c]`.
    pub adv: Buffer,
    /// Distance of the point from the image `[n]`, in the attack's norm; squared in CW.
    pub distance: Buffer,
}

impl Nearest {
    /// Buffers for the point and its distance.
    pub fn new(workspace: &mut Workspace) -> Nearest {
        Nearest {
            adv: workspace.images(Retention::Carried, "adv"),
            distance: workspace.scalars(Retention::Carried, "nearest"),
        }
    }

    /// Takes `point` where `adversarial` `[n]` is 1 and `distance` `[n]` is less than before.
    pub fn update(&self, tape: &mut Tape, adversarial: Value, point: Value, distance: Value) {
        let before = tape.leaf(&self.distance);
        let better = tape.map([adversarial, distance, before], |[adversarial, distance, before]| {
            adversarial * distance.less(before)
        });
        tape.map_into(&self.adv, [better, point], |old, [better, point]| better.select(point, old));
        tape.map_into(&self.distance, [better, distance], |old, [better, distance]| better.select(distance, old));
    }
}

/// Counters of an attack's iterations, one for the whole batch. Ops on them are recorded before the row count is set.
pub(super) struct IterationCounter {
    /// Iterations done in this run `[1]`.
    pub done: Buffer,
    /// Iterations done in this run and those before it, u32 `[1]`: the counter of random numbers.
    pub step: Buffer,
    iterations: u32,
}

impl IterationCounter {
    /// Counters of runs of `iterations` each.
    pub fn new(workspace: &mut Workspace, iterations: u32) -> IterationCounter {
        IterationCounter { done: workspace.numbers("done", &[1]), step: workspace.counter("step"), iterations }
    }

    /// Begins the run of this number, u32 `[1]`.
    pub fn reset(&self, tape: &mut Tape, run: &Buffer) {
        fill(tape, &self.done, 0.0);
        let run = tape.leaf(run);
        tape.map_into(&self.step, [run], |_, [run]| run * self.iterations as f32);
    }

    /// Counts an iteration.
    pub fn advance(&self, tape: &mut Tape) {
        tape.map_into(&self.done, [], |done, []| done + 1.0);
        tape.increment(&self.step);
    }
}
