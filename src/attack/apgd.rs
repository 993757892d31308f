//! APGD (Croce and Hein, ICML 2020) in linf and l2, as AutoAttack's `APGDAttack` and `APGDAttack_targeted` run it: PGD
//! with momentum that keeps the best point, and at checkpoints halves the step of those examples whose loss no longer
//! rises, which then go on from their best point.

use std::sync::Arc;

use super::rows::{Workspace, length, number};
use super::{Attack, Start, check_classes};
use crate::Result;
use crate::batch::Batch;
use crate::config::L2Order;
use crate::device::Schedule;
use crate::model::{Mode, Model};
use crate::tape::{Buffer, Formula, Loss, LossRule, Memory, Norm, PgdRule, Program, Tape, TargetedLoss, Value};

/// What APGD ascends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApgdLoss {
    /// Cross-entropy: `apgd-ce`.
    Xent,
    /// Difference of logits ratio: `apgd-dlr`.
    Dlr,
    /// Its targeted form, `apgd-t`: run number r leads to the class with the (r + 2)-th largest logit of the image.
    TargetedDlr,
}

impl ApgdLoss {
    fn name(self) -> &'static str {
        match self {
            ApgdLoss::Xent => "apgd-ce",
            ApgdLoss::Dlr => "apgd-dlr",
            ApgdLoss::TargetedDlr => "apgd-t",
        }
    }

    /// The loss, where it leads to no target.
    fn rule(self) -> LossRule {
        LossRule { loss: if self == ApgdLoss::Xent { Loss::Xent } else { Loss::Dlr }, confidence: 0.0 }
    }

    fn least_classes(self) -> usize {
        match self {
            ApgdLoss::TargetedDlr => TargetedLoss::Dlr.least_classes(),
            untargeted => untargeted.rule().loss.least_classes(),
        }
    }
}

/// How APGD runs.
#[derive(Clone, Debug)]
pub struct ApgdSettings {
    /// What is ascended.
    pub loss: ApgdLoss,
    /// Of the ball.
    pub norm: Norm,
    /// Iterations: 100.
    pub iterations: u32,
    /// The share of iterations between checkpoints whose loss must have risen for the step to stay: 0.75.
    pub rho: f32,
    /// Random starts; or targets, of which there are no more than classes besides the label.
    pub runs: u32,
    /// Where it begins.
    pub start: Start,
}

impl ApgdSettings {
    /// AutoAttack's settings: one run, or nine targets.
    pub fn published(loss: ApgdLoss, norm: Norm, seed: u64) -> ApgdSettings {
        let runs = if loss == ApgdLoss::TargetedDlr { 9 } else { 1 };
        ApgdSettings { loss, norm, iterations: 100, rho: 0.75, runs, start: Start::Random { seed } }
    }
}

/// The share of a step that goes where the gradient says; the rest goes on as the step before did.
const ALONG_GRADIENT: f32 = 0.75;
/// The first step, in radii.
const FIRST_STEP: f32 = 2.0;
/// What lengths that are divided by are raised by.
const TINY: f32 = 1e-12;

/// How many iterations there are before each checkpoint since the one before, for as many as `iterations` have.
fn checkpoints(iterations: u32) -> Vec<u32> {
    let share = |share: f64| ((share * f64::from(iterations)) as u32).max(1);
    let (less, least) = (share(0.03), share(0.06));
    let windows = std::iter::successors(Some(share(0.22)), |window| Some(window.saturating_sub(less).max(least)));
    let within = windows.scan(0, |done, window| {
        *done += window;
        (*done <= iterations).then_some(window)
    });
    within.collect()
}

struct Apgd<'a> {
    model: &'a dyn Model,
    target: &'a Batch,
    settings: &'a ApgdSettings,
    run: Buffer,
    eps: Buffer,
    /// The result; 1 where it is adversarial `[n]`.
    adv: Buffer,
    found: Buffer,
    /// The point, and the one before.
    point: Buffer,
    before: Buffer,
    /// The point with the largest loss, its gradient and its loss.
    best: Buffer,
    best_gradient: Buffer,
    best_loss: Buffer,
    /// The loss of the iteration before, how often it rose since the last checkpoint.
    last_loss: Buffer,
    rises: Buffer,
    /// The largest loss at the last checkpoint, 1 where the step was halved there, the step.
    checked_loss: Buffer,
    halved: Buffer,
    step: Buffer,
    /// The class to lead to, u32 `[n]`.
    classes: Option<Buffer>,
    ones: Buffer,
}

/// Records APGD on `target`.
///
/// # Errors
/// The network has too few classes for the loss.
pub fn apgd(memory: &mut Memory, model: &dyn Model, target: &Batch, settings: &ApgdSettings) -> Result<Attack> {
    let name = settings.loss.name();
    let classes = check_classes(model, name, settings.loss.least_classes())?;
    let targeted = settings.loss == ApgdLoss::TargetedDlr;
    let n = target.capacity();
    let mut room = Workspace { memory, model, target, attack: name };
    let apgd = Apgd {
        model,
        target,
        settings,
        run: room.count("run"),
        eps: room.by_row("eps"),
        adv: room.images("adv"),
        found: room.by_row("found"),
        point: room.images("point"),
        before: room.images("before"),
        best: room.images("best"),
        best_gradient: room.images("best_gradient"),
        best_loss: room.by_row("best_loss"),
        last_loss: room.by_row("last_loss"),
        rises: room.by_row("rises"),
        checked_loss: room.by_row("checked_loss"),
        halved: room.by_row("halved"),
        step: room.by_row("step"),
        classes: targeted.then(|| room.u32("classes", &[n])),
        ones: room.by_row("ones"),
    };
    let runs = if targeted { settings.runs.min(classes as u32 - 1) } else { settings.runs };
    Ok(Attack {
        name: name.into(),
        schedule: apgd.schedule(),
        state: apgd.state(),
        eps: Some(apgd.eps),
        run: apgd.run,
        runs,
        adv: apgd.adv,
    })
}

impl Apgd<'_> {
    fn state(&self) -> Vec<Buffer> {
        let images = [&self.adv, &self.point, &self.before, &self.best, &self.best_gradient];
        let rows = [&self.found, &self.best_loss, &self.last_loss, &self.rises];
        let steps = [&self.checked_loss, &self.halved, &self.step];
        images.into_iter().chain(rows).chain(steps).chain(&self.classes).cloned().collect()
    }

    /// A point is evaluated, then moved, in one program; so the last one is evaluated alone.
    fn schedule(&self) -> Schedule {
        let iterations = self.settings.iterations;
        let mut schedule = Schedule::default();
        schedule.then(&Arc::new(self.start()), 1);
        schedule.then(&Arc::new(self.first()), 1);
        let plain = Arc::new(self.iteration(None));
        let mut evaluated = 0;
        for window in checkpoints(iterations) {
            schedule.then(&plain, window - 1);
            evaluated += window;
            // After the last iteration there is no step to choose.
            if evaluated < iterations {
                schedule.then(&Arc::new(self.iteration(Some(window))), 1);
            }
        }
        if evaluated < iterations {
            schedule.then(&plain, iterations - 1 - evaluated);
        }
        schedule.then(&Arc::new(self.last()), 1);
        schedule.stages.retain(|(_, times)| *times > 0);
        schedule
    }

    fn tape(&self, name: &str) -> Tape {
        let mut tape = Tape::new(name);
        tape.set_rows(&self.target.rows);
        tape
    }

    /// The first point, and the class that it is led to.
    fn start(&self) -> Program {
        let mut tape = self.tape("apgd_start");
        let ones = tape.fill(1.0, &self.ones.dims);
        tape.keep(ones, &self.ones);
        if let Some(classes) = &self.classes {
            let [x, labels, run] = [&self.target.x, &self.target.labels, &self.run].map(|b| tape.leaf(b));
            let logits = self.model.logits(&mut tape, x, Mode::Eval);
            let class = tape.rank_class(0, logits, labels, Some(run));
            tape.keep(class, classes);
        }
        let point = self.settings.start.point(&mut tape, self.settings.norm, self.target, &self.run, &self.eps);
        tape.map_into(&self.point, [point], |_, [point]| point);
        self.project(&mut tape);
        for (value, buffer) in [(0.0, &self.found), (f32::NEG_INFINITY, &self.best_loss)] {
            let filled = tape.fill(value, &buffer.dims);
            tape.keep(filled, buffer);
        }
        tape.finish()
    }

    /// What is found at the first point, and the first step.
    fn first(&self) -> Program {
        let mut tape = self.tape("apgd_first");
        let (loss, gradient) = self.evaluate(&mut tape, true);
        // The released code compares the first iteration's loss with 0, and the first checkpoint's best with this one.
        tape.map_into(&self.checked_loss, [loss], |_, [loss]| loss);
        for (value, buffer) in [(0.0, &self.last_loss), (0.0, &self.rises), (1.0, &self.halved)] {
            let filled = tape.fill(value, &buffer.dims);
            tape.keep(filled, buffer);
        }
        let [eps, point] = [&self.eps, &self.point].map(|b| tape.leaf(b));
        tape.map_into(&self.step, [eps], |_, [eps]| eps * FIRST_STEP);
        tape.map_into(&self.before, [point], |_, [point]| point);
        self.step_from(&mut tape, point, gradient.expect("it was asked for"), 1.0);
        tape.finish()
    }

    /// What is found at a point, and the next step; at a checkpoint after `window` iterations it is chosen anew.
    fn iteration(&self, window: Option<u32>) -> Program {
        let name = window.map_or("apgd_iteration".into(), |window| format!("apgd_checkpoint_{window}"));
        let mut tape = self.tape(&name);
        let (loss, gradient) = self.evaluate(&mut tape, true);
        self.count_rises(&mut tape, loss);
        let (point, gradient) = (tape.leaf(&self.point), gradient.expect("it was asked for"));
        let [point, gradient] = match window {
            Some(window) => self.checkpoint(&mut tape, window, point, gradient),
            None => [point, gradient],
        };
        self.step_from(&mut tape, point, gradient, ALONG_GRADIENT);
        tape.finish()
    }

    fn last(&self) -> Program {
        let mut tape = self.tape("apgd_last");
        self.evaluate(&mut tape, false);
        tape.finish()
    }

    /// The point's loss, and its gradient. Keeps what is the best so far.
    fn evaluate(&self, tape: &mut Tape, with_gradient: bool) -> (Value, Option<Value>) {
        let [point, labels] = [&self.point, &self.target.labels].map(|b| tape.leaf(b));
        let logits = self.model.logits(tape, point, Mode::Eval);
        let loss = match &self.classes {
            Some(classes) => {
                let classes = tape.leaf(classes);
                tape.targeted_loss(TargetedLoss::Dlr, logits, labels, classes)
            }
            None => tape.loss(self.settings.loss.rule(), logits, labels),
        };
        let gradient = with_gradient.then(|| {
            let ones = tape.leaf(&self.ones);
            tape.grad(loss, ones, &[point])[0]
        });
        let margin = tape.loss(LossRule { loss: Loss::Lm, confidence: 0.0 }, logits, labels);
        let [found, best_loss] = [&self.found, &self.best_loss].map(|b| tape.leaf(b));
        tape.map_into(&self.adv, [point, margin, loss, found, best_loss], |old, [point, margin, loss, found, best]| {
            // An adversarial point counts more than any loss.
            let better = found.select(&old, best.less(loss).select(&point, &old));
            margin.less(0.0).select(better, point)
        });
        tape.map_into(&self.found, [margin], |found, [margin]| margin.less(0.0).select(found, 1.0));
        let keep = |old: Formula, [new, loss, best]: [Formula; 3]| best.less(loss).select(new, old);
        tape.map_into(&self.best, [point, loss, best_loss], keep);
        if let Some(gradient) = gradient {
            tape.map_into(&self.best_gradient, [gradient, loss, best_loss], keep);
        }
        tape.map_into(&self.best_loss, [loss], |best, [loss]| best.max(loss));
        (loss, gradient)
    }

    fn count_rises(&self, tape: &mut Tape, loss: Value) {
        let last = tape.leaf(&self.last_loss);
        tape.map_into(&self.rises, [loss, last], |rises, [loss, last]| rises + last.less(loss));
        tape.map_into(&self.last_loss, [loss], |_, [loss]| loss);
    }

    /// Halves the step of the examples whose loss rose too seldom, or whose best loss and step have both stayed since
    /// the last checkpoint. Gives from where each goes on, and the gradient there.
    fn checkpoint(&self, tape: &mut Tape, window: u32, point: Value, gradient: Value) -> [Value; 2] {
        let [rises, halved, checked, best_loss] =
            [&self.rises, &self.halved, &self.checked_loss, &self.best_loss].map(|b| tape.leaf(b));
        let enough = self.settings.rho * window as f32;
        let halve = tape.map([rises, halved, checked, best_loss], |[rises, halved, checked, best]| {
            let seldom = 1.0 - number(enough).less(rises);
            let stuck = (1.0 - halved) * (1.0 - checked.less(best));
            seldom.max(stuck)
        });
        tape.map_into(&self.step, [halve], |step, [halve]| halve.select(&step * 0.5, &step));
        tape.map_into(&self.halved, [halve], |_, [halve]| halve);
        tape.map_into(&self.checked_loss, [best_loss], |_, [best]| best);
        let none = tape.fill(0.0, &self.rises.dims);
        tape.map_into(&self.rises, [none], |_, [none]| none);
        let [best, best_gradient] = [&self.best, &self.best_gradient].map(|b| tape.leaf(b));
        [(best, point), (best_gradient, gradient)]
            .map(|(best, own)| tape.map([best, own, halve], |[best, own, halve]| halve.select(best, own)))
    }

    /// Moves on from `from`: `share` along its gradient, the rest as the move before went.
    fn step_from(&self, tape: &mut Tape, from: Value, gradient: Value, share: f32) {
        let [x, eps, step, before] = [&self.target.x, &self.eps, &self.step, &self.before].map(|b| tape.leaf(b));
        let moved = match self.settings.norm {
            Norm::Linf => {
                let inside = |v: Formula, x: &Formula, eps: &Formula| v.clamp(x - eps, x + eps).clamp(0.0, 1.0);
                let along = tape.map([from, gradient, x, eps, step], |[from, gradient, x, eps, step]| {
                    inside(from + step * gradient.sign(), &x, &eps)
                });
                tape.map([along, from, before, x, eps], |[along, from, before, x, eps]| {
                    inside(&from + (along - &from) * share + (&from - before) * (1.0 - share), &x, &eps)
                })
            }
            Norm::L2 => {
                // A point at `v`, `long` away from x, brought into ball and box.
                let inside = |v: Formula, x: &Formula, long: Formula, eps: Formula| {
                    (x + (v - x) / (&long + TINY) * eps.min(long)).clamp(0.0, 1.0)
                };
                let steep = length(tape, Norm::L2, [gradient], |[gradient]| gradient);
                let along = tape.map([from, gradient, step, steep], |[from, gradient, step, steep]| {
                    from + step * (gradient / (steep + TINY))
                });
                let long = length(tape, Norm::L2, [along, x], |[along, x]| along - x);
                let inputs = [along, from, before, x, long, eps];
                let moved = tape.map(inputs, |[along, from, before, x, long, eps]| {
                    let along = inside(along, &x, long, eps);
                    &from + (along - &from) * share + (&from - before) * (1.0 - share)
                });
                let long = length(tape, Norm::L2, [moved, x], |[moved, x]| moved - x);
                tape.map([moved, x, long, eps], |[moved, x, long, eps]| inside(moved, &x, long, eps))
            }
        };
        tape.map_into(&self.before, [from], |_, [from]| from);
        tape.map_into(&self.point, [moved], |_, [moved]| moved);
        self.project(tape);
    }

    /// Brings the point into ball and box exactly: a step of length 0.
    fn project(&self, tape: &mut Tape) {
        let [x, eps] = [&self.target.x, &self.eps].map(|b| tape.leaf(b));
        let none = tape.fill(0.0, &self.ones.dims);
        let rule = PgdRule { norm: self.settings.norm, l2_order: L2Order::BallBox, l2_grad_floor: TINY };
        tape.pgd_step(rule, &self.point, x, x, eps, none);
    }
}

#[cfg(test)]
mod tests {
    use super::checkpoints;

    /// `n_iter_2`, `n_iter_min` and `size_decr` in AutoAttack's autopgd_base.py.
    #[test]
    fn checkpoints_come_more_and_more_often_as_in_autoattack() {
        assert_eq!(checkpoints(100), [22, 19, 16, 13, 10, 7, 6, 6]);
        assert_eq!(checkpoints(20), [4, 3, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(checkpoints(1), [1]);
    }
}
