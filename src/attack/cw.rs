//! CW-L2 (Carlini and Wagner, 2017), as advertorch's `CarliniWagnerL2Attack` runs it.
//!
//! The point is `tanh(w) / 2 + 1/2`, so it is in the box whatever w is. Adam descends the squared distance plus `c` times
//! how far the example is from being adversarial; a binary search finds the least `c` for which it becomes so.
//!
//! Where a search is stuck it is abandoned, as there, but each example's by its own loss: so its result is the same
//! whatever else is in the batch.

use std::sync::Arc;

use super::Attack;
use super::adam::Adam;
use super::rows::{Workspace, number};
use crate::batch::Batch;
use crate::device::Schedule;
use crate::model::{Mode, Model};
use crate::tape::{Buffer, Formula, Loss, LossRule, Memory, Program, Reduction, Tape};

/// How CW runs. The defaults are advertorch's, which are the authors' (`l2_attack.py` of `nn_robust_attacks`).
#[derive(Clone, Debug, PartialEq)]
pub struct CwSettings {
    /// Steps of the binary search for c: 9. From ten on, the last takes the least c that succeeded, as there.
    pub search_steps: u32,
    /// Iterations of Adam in each: 10,000.
    pub iterations: u32,
    /// The learning rate: 0.01.
    pub learning_rate: f32,
    /// The first c: 0.001.
    pub initial_const: f32,
    /// By how much another logit is to be larger than the label's: 0.
    pub confidence: f32,
    /// Whether an example's search is abandoned where ten checks, evenly spaced, find its loss no smaller than before.
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

/// Pixels are brought to within this share of the box, whose ends tanh does not reach.
const INSIDE: f32 = 0.999_999;
/// What a loss must fall below, as a share of that at the check before.
const FALLEN: f32 = 0.999_999;
/// Checks in each step of the search.
const CHECKS: u32 = 10;
/// The largest c, and above what it was never found.
const LARGEST: f32 = 1e10;
const UNKNOWN: f32 = 1e9;
/// From so many steps on, the last repeats the search with the best c.
const REPEAT_FROM: u32 = 10;

struct Cw<'a> {
    model: &'a dyn Model,
    target: &'a Batch,
    settings: &'a CwSettings,
    run: Buffer,
    /// Where Adam is.
    w: Buffer,
    adam: Adam,
    /// The nearest adversarial point and its squared distance `[n]`.
    adv: Buffer,
    nearest: Buffer,
    /// c and the bracket around it, each `[n]`.
    c: Buffer,
    low: Buffer,
    high: Buffer,
    /// Of this step of the search, each `[n]`: whether it succeeded, whether it goes on, its loss now and at the last
    /// check.
    succeeded: Buffer,
    active: Buffer,
    loss: Buffer,
    loss_before: Buffer,
}

/// Records CW-L2 on `target`.
pub fn cw(memory: &mut Memory, model: &dyn Model, target: &Batch, settings: &CwSettings) -> Attack {
    let mut room = Workspace { memory, model, target, attack: "cw" };
    let cw = Cw {
        model,
        target,
        settings,
        run: room.count("run"),
        w: room.images("w"),
        adam: Adam::new(&mut room, settings.learning_rate),
        adv: room.images("adv"),
        nearest: room.by_row("nearest"),
        c: room.by_row("c"),
        low: room.by_row("low"),
        high: room.by_row("high"),
        succeeded: room.by_row("succeeded"),
        active: room.by_row("active"),
        loss: room.by_row("loss"),
        loss_before: room.by_row("loss_before"),
    };
    Attack {
        name: "cw".into(),
        eps: None,
        state: cw.carried().into_iter().cloned().collect(),
        schedule: cw.schedule(),
        run: cw.run,
        runs: 1,
        adv: cw.adv,
    }
}

/// Where a pixel is, as the attack sees it.
fn inside(x: Formula) -> Formula {
    (x - 0.5) * INSIDE + 0.5
}

/// The point that w stands for.
fn point(w: Formula) -> Formula {
    (w.tanh() * 0.5 + 0.5).clamp(0.0, 1.0)
}

impl Cw<'_> {
    fn carried(&self) -> Vec<&Buffer> {
        let Cw { w, adam, adv, nearest, c, low, high, succeeded, active, loss, loss_before, .. } = self;
        let [first, second] = &adam.means;
        vec![w, first, second, adv, nearest, c, low, high, succeeded, active, loss, loss_before]
    }

    fn schedule(&self) -> Schedule {
        let CwSettings { search_steps, iterations, abort_early, .. } = *self.settings;
        let [begin, search, iteration, check, end] =
            [self.begin(), self.search(), self.iteration(), self.check(), self.end()].map(Arc::new);
        let last = Arc::new(self.take_best());
        let mut schedule = Schedule::default();
        schedule.then(&begin, 1);
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

    /// A tape that computes the target's rows.
    fn tape(&self, name: &str) -> Tape {
        let mut tape = Tape::new(name);
        tape.set_rows(&self.target.rows);
        tape
    }

    fn begin(&self) -> Program {
        let mut tape = self.tape("cw_begin");
        let x = tape.leaf(&self.target.x);
        let copy = tape.copy(x);
        tape.keep(copy, &self.adv);
        let numbers = [
            (f32::INFINITY, &self.nearest),
            (self.settings.initial_const, &self.c),
            (0.0, &self.low),
            (LARGEST, &self.high),
        ];
        for (value, buffer) in numbers {
            tape.map_into(buffer, [], |_, []| number(value));
        }
        tape.finish()
    }

    /// Begins a step of the search, at the image.
    fn search(&self) -> Program {
        let mut tape = Tape::new("cw_search");
        self.adam.reset(&mut tape);
        tape.set_rows(&self.target.rows);
        let x = tape.leaf(&self.target.x);
        // The inverse of tanh at t is ln((1 + t) / (1 - t)) / 2, and t is 2 x - 1.
        tape.map_into(&self.w, [x], |_, [x]| {
            let x = inside(x);
            (&x / (1.0 - &x)).ln() * 0.5
        });
        for (value, buffer) in [(0.0, &self.succeeded), (1.0, &self.active), (f32::INFINITY, &self.loss_before)] {
            tape.map_into(buffer, [], |_, []| number(value));
        }
        tape.finish()
    }

    fn iteration(&self) -> Program {
        let confidence = self.settings.confidence;
        let mut tape = Tape::new("cw_iteration");
        self.adam.count(&mut tape);
        tape.set_rows(&self.target.rows);
        let [x, labels, w, c, active, nearest] =
            [&self.target.x, &self.target.labels, &self.w, &self.c, &self.active, &self.nearest].map(|b| tape.leaf(b));
        let at = tape.map([w], |[w]| point(w));
        let logits = self.model.logits(&mut tape, at, Mode::Eval);
        // Without the label's logit, whatever the signs of the others.
        let margin = tape.loss(LossRule { loss: Loss::Lm, confidence: 0.0 }, logits, labels);
        let weights = tape.map([margin, c], |[margin, c]| margin.less(confidence) * c);
        let dx = tape.grad(margin, weights, &[at])[0];
        let distance = tape.reduce(Reduction::Sum, [at, x], |[at, x]| {
            let change = at - inside(x);
            &change * &change
        });
        let loss = tape
            .map([margin, c, distance], |[margin, c, distance]| c * (number(confidence) - margin).max(0.0) + distance);
        tape.keep(loss, &self.loss);

        let success = tape.map([margin, active], |[margin, active]| active * (1.0 - margin.less(confidence)));
        tape.map_into(&self.succeeded, [success], |old, [success]| old.max(success));
        let better =
            tape.map([success, distance, nearest], |[success, distance, nearest]| success * distance.less(nearest));
        tape.map_into(&self.adv, [better, at], |old, [better, at]| better.select(at, old));
        tape.map_into(&self.nearest, [better, distance], |old, [better, distance]| better.select(distance, old));

        // Ascending what is descended: the margin's gradient, less the squared distance's; through tanh, whose
        // derivative is 2 a (1 - a) at the point a.
        let gradient = tape.map([dx, at, x], |[dx, at, x]| (dx - (&at - inside(x)) * 2.0) * (&at * (1.0 - &at) * 2.0));
        let change = self.adam.step(&mut tape, gradient);
        tape.map_into(&self.w, [change, active], |old, [change, active]| active.select(&old + change, old));
        tape.finish()
    }

    /// Abandons the searches that are stuck.
    fn check(&self) -> Program {
        let mut tape = self.tape("cw_check");
        let [loss, before] = [&self.loss, &self.loss_before].map(|b| tape.leaf(b));
        tape.map_into(&self.active, [loss, before], |active, [loss, before]| {
            active * (1.0 - (before * FALLEN).less(loss))
        });
        tape.map_into(&self.loss_before, [loss], |_, [loss]| loss);
        tape.finish()
    }

    /// Ends a step of the search: the bracket, and the next c.
    fn end(&self) -> Program {
        let mut tape = self.tape("cw_end");
        let [c, succeeded] = [&self.c, &self.succeeded].map(|b| tape.leaf(b));
        tape.map_into(&self.high, [c, succeeded], |high, [c, succeeded]| succeeded.select(high.min(c), &high));
        tape.map_into(&self.low, [c, succeeded], |low, [c, succeeded]| succeeded.select(&low, low.max(c)));
        let [low, high] = [&self.low, &self.high].map(|b| tape.leaf(b));
        tape.map_into(&self.c, [low, high], |c, [low, high]| high.less(UNKNOWN).select((low + high) * 0.5, c * 10.0));
        tape.finish()
    }

    /// The least c that succeeded.
    fn take_best(&self) -> Program {
        let mut tape = self.tape("cw_take_best");
        let high = tape.leaf(&self.high);
        tape.map_into(&self.c, [high], |_, [high]| high);
        tape.finish()
    }
}
