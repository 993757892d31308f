//! CW-L2 (Carlini and Wagner, 2017), as advertorch's `CarliniWagnerL2Attack` runs it.
//!
//! The point is `tanh(w) / 2 + 1/2`, so it is in the box whatever w is. Adam descends the squared distance plus `c`
//! times the hinge of the logit margin; a binary search finds the least `c` for which the example becomes adversarial.
//!
//! A step of the search whose loss no longer falls is abandoned, as in advertorch, but by each example's own loss: so
//! an example's result does not depend on the others of its batch.

use std::sync::Arc;

use super::adam::Adam;
use super::common::{constant, copy_into, fill, logit_margin};
use super::interface::Attack;
use super::state::Nearest;
use super::workspace::Retention::Carried;
use super::workspace::Workspace;
use crate::batch::Batch;
use crate::device::Schedule;
use crate::model::{Mode, Model};
use crate::tape::{Buffer, Formula, Memory, Program, Reduction, Tape};

/// Settings of CW. The defaults are advertorch's, which are the authors' (`l2_attack.py` of `nn_robust_attacks`).
#[derive(Clone, Debug, PartialEq)]
pub struct CwSettings {
    /// Steps of the binary search for c: 9. From ten on, the last takes the least c that succeeded, as in the release.
    pub search_steps: u32,
    /// Iterations of Adam in each: 10,000.
    pub iterations: u32,
    /// Learning rate: 0.01.
    pub learning_rate: f32,
    /// First c: 0.001.
    pub initial_const: f32,
    /// Least logit margin of an adversarial example: 0.
    pub confidence: f32,
    /// `true`: ten checks in each step of the search, evenly spaced, abandon it for the examples whose loss has not
    /// fallen since the check before.
    pub abort_early: bool,
}

impl Default for CwSettings {
    fn default() -> CwSettings {
        CwSettings {
            search_steps: 9,
            iterations: 10_000,
            learning_rate: 0.01,
            initial_const: 1e-3,
            confidence: 0.0,
            abort_early: true,
        }
    }
}

/// Factor that brings pixels inside the box, whose ends tanh does not reach.
const INSIDE: f32 = 0.999_999;
/// Least fall of a loss between two checks, as a fraction of the loss that is left.
const FALLEN: f32 = 0.999_999;
/// Checks in each step of the search.
const CHECKS: u32 = 10;
/// Upper end of the first bracket of c.
const LARGEST: f32 = 1e10;
/// Upper ends above this one were never found: c is multiplied by ten, not halved.
const UNKNOWN: f32 = 1e9;
/// Least number of search steps of which the last repeats the search with the best c.
const REPEAT_FROM: u32 = 10;

struct Cw<'a> {
    model: &'a dyn Model,
    batch: &'a Batch,
    settings: &'a CwSettings,
    /// Adam's variable, of the images' shape.
    w: Buffer,
    adam: Adam,
    /// Nearest adversarial point; its distance is the squared one.
    nearest: Nearest,
    /// c, and the bracket around it, each `[n]`.
    c: Buffer,
    low: Buffer,
    high: Buffer,
    /// Flags of this step of the search `[n]`: 1 where an adversarial point was found; 1 where it was not abandoned.
    succeeded: Buffer,
    active: Buffer,
    /// Loss now, and at the check before, each `[n]`.
    loss: Buffer,
    loss_before: Buffer,
}

/// Records CW-L2 on `batch`.
pub fn cw(memory: &mut Memory, model: &dyn Model, batch: &Batch, settings: &CwSettings) -> Attack {
    let mut workspace = Workspace::new(memory, model, batch, "cw");
    let cw = Cw {
        model,
        batch,
        settings,
        w: workspace.images(Carried, "w"),
        adam: Adam::new(&mut workspace, settings.learning_rate),
        nearest: Nearest::new(&mut workspace),
        c: workspace.scalars(Carried, "c"),
        low: workspace.scalars(Carried, "low"),
        high: workspace.scalars(Carried, "high"),
        succeeded: workspace.scalars(Carried, "succeeded"),
        active: workspace.scalars(Carried, "active"),
        loss: workspace.scalars(Carried, "loss"),
        loss_before: workspace.scalars(Carried, "loss_before"),
    };
    let (run, schedule) = (workspace.counter("run"), cw.schedule());
    workspace.attack(run, None, cw.nearest.adv, schedule)
}

/// Pixel brought inside the box.
fn inside(x: Formula) -> Formula {
    (x - 0.5) * INSIDE + 0.5
}

/// Point of Adam's variable.
fn point(w: Formula) -> Formula {
    (w.tanh() * 0.5 + 0.5).clamp(0.0, 1.0)
}

impl Cw<'_> {
    fn schedule(&self) -> Schedule {
        let CwSettings { search_steps, iterations, abort_early, .. } = *self.settings;
        let [start, search, iteration, check, end] =
            [self.start(), self.search(), self.iteration(), self.check(), self.end()].map(Arc::new);
        let last = Arc::new(self.take_best());
        let mut schedule = Schedule::default();
        schedule.then(&start, 1);
        for step in 1..=search_steps {
            if step == search_steps && step >= REPEAT_FROM {
                schedule.then(&last, 1);
            }
            schedule.then(&search, 1);
            let between = if abort_early { (iterations / CHECKS).max(1) } else { iterations };
            for from in (0..iterations).step_by(between as usize) {
                let times = between.min(iterations - from);
                if abort_early {
                    schedule.then(&iteration, 1);
                    schedule.then(&check, 1);
                }
                let left = times - u32::from(abort_early);
                if left > 0 {
                    schedule.then(&iteration, left);
                }
            }
            schedule.then(&end, 1);
        }
        schedule
    }

    fn start(&self) -> Program {
        let mut tape = self.batch.tape("cw_start");
        let x = tape.leaf(&self.batch.x);
        copy_into(&mut tape, &self.nearest.adv, x);
        let first = [
            (f32::INFINITY, &self.nearest.distance),
            (self.settings.initial_const, &self.c),
            (0.0, &self.low),
            (LARGEST, &self.high),
        ];
        for (value, buffer) in first {
            fill(&mut tape, buffer, value);
        }
        tape.finish()
    }

    /// Begins a step of the search, at the image.
    fn search(&self) -> Program {
        let mut tape = Tape::new("cw_search");
        self.adam.reset(&mut tape);
        tape.set_rows(&self.batch.rows);
        let x = tape.leaf(&self.batch.x);
        // The inverse of tanh at t is ln((1 + t) / (1 - t)) / 2, and t is 2 x - 1.
        tape.map_into(&self.w, [x], |_, [x]| {
            let x = inside(x);
            (&x / (1.0 - &x)).ln() * 0.5
        });
        for (value, buffer) in [(0.0, &self.succeeded), (1.0, &self.active), (f32::INFINITY, &self.loss_before)] {
            fill(&mut tape, buffer, value);
        }
        tape.finish()
    }

    fn iteration(&self) -> Program {
        let confidence = self.settings.confidence;
        let mut tape = Tape::new("cw_iteration");
        self.adam.advance(&mut tape);
        tape.set_rows(&self.batch.rows);
        let [x, w, c, active] = [&self.batch.x, &self.w, &self.c, &self.active].map(|b| tape.leaf(b));
        let at = tape.map([w], |[w]| point(w));
        let logits = self.model.logits(&mut tape, at, Mode::Eval);
        // Without the label's logit, whatever the signs of the others.
        let margin = logit_margin(&mut tape, self.batch, logits);
        let weights = tape.map([margin, c], |[margin, c]| margin.less(confidence) * c);
        let dx = tape.grad(margin, weights, &[at])[0];
        let distance = tape.reduce(Reduction::Sum, [at, x], |[at, x]| {
            let change = at - inside(x);
            &change * &change
        });
        let loss = tape.map([margin, c, distance], |[margin, c, distance]| {
            c * (constant(confidence) - margin).max(0.0) + distance
        });
        tape.keep(loss, &self.loss);

        let success = tape.map([margin, active], |[margin, active]| active * (1.0 - margin.less(confidence)));
        tape.map_into(&self.succeeded, [success], |old, [success]| old.max(success));
        self.nearest.update(&mut tape, success, at, distance);

        // Adam ascends, so this is the negative gradient of the loss: the margin's gradient, less the squared
        // distance's; through tanh, whose derivative is 2 a (1 - a) at the point a.
        let gradient = tape.map([dx, at, x], |[dx, at, x]| (dx - (&at - inside(x)) * 2.0) * (&at * (1.0 - &at) * 2.0));
        let change = self.adam.step(&mut tape, gradient);
        tape.map_into(&self.w, [change, active], |old, [change, active]| active.select(&old + change, old));
        tape.finish()
    }

    /// Abandons the search where the loss has not fallen.
    fn check(&self) -> Program {
        let mut tape = self.batch.tape("cw_check");
        let [loss, before] = [&self.loss, &self.loss_before].map(|b| tape.leaf(b));
        tape.map_into(&self.active, [loss, before], |active, [loss, before]| {
            active * (1.0 - (before * FALLEN).less(loss))
        });
        copy_into(&mut tape, &self.loss_before, loss);
        tape.finish()
    }

    /// Ends a step of the search: halves the bracket, and chooses the next c.
    fn end(&self) -> Program {
        let mut tape = self.batch.tape("cw_end");
        let [c, succeeded] = [&self.c, &self.succeeded].map(|b| tape.leaf(b));
        tape.map_into(&self.high, [c, succeeded], |high, [c, succeeded]| succeeded.select(high.min(c), &high));
        tape.map_into(&self.low, [c, succeeded], |low, [c, succeeded]| succeeded.select(&low, low.max(c)));
        let [low, high] = [&self.low, &self.high].map(|b| tape.leaf(b));
        tape.map_into(&self.c, [low, high], |c, [low, high]| high.less(UNKNOWN).select((low + high) * 0.5, c * 10.0));
        tape.finish()
    }

    /// Takes the least c that succeeded.
    fn take_best(&self) -> Program {
        let mut tape = self.batch.tape("cw_take_best");
        let high = tape.leaf(&self.high);
        copy_into(&mut tape, &self.c, high);
        tape.finish()
    }
}
