//! APGD (Croce and Hein, ICML 2020) in linf and l2, as AutoAttack's `APGDAttack` and `APGDAttack_targeted` run it.
//!
//! PGD with momentum that keeps the point with the largest loss. At checkpoints, the examples whose loss no longer
//! rises halve their step size and go on from that point.

use std::sync::Arc;

use super::common::{
    TINY, check_classes, choose_target_class, constant, copy_into, fill, logit_margin, project_into_ball, row_norm,
};
use super::interface::Attack;
use super::noise::unit_noise;
use super::workspace::Retention::{Carried, Scratch};
use super::workspace::Workspace;
use crate::Result;
use crate::batch::Batch;
use crate::device::Schedule;
use crate::model::{Mode, Model};
use crate::tape::{Buffer, Formula, Loss, LossRule, Memory, Norm, Program, Tape, TargetedLoss, Value};

/// Loss that APGD ascends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApgdLoss {
    /// Cross-entropy: `apgd-ce`.
    Xent,
    /// Difference of logits ratio: `apgd-dlr`.
    Dlr,
    /// Targeted difference of logits ratio, `apgd-t`: run number r leads to the class with the (r + 2)-th largest logit
    /// of the image.
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

    /// Rule of an untargeted loss.
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

/// First point of APGD.
#[derive(Clone, Debug)]
pub enum ApgdStart {
    /// The image.
    Image,
    /// Counter-based random numbers: a change of norm eps, brought into the box.
    Random {
        /// Seed, beside the number of the run, the example's index and the element.
        seed: u64,
    },
    /// The points in this buffer, of the images' shape; brought into ball and box.
    Given(Buffer),
}

/// Settings of APGD.
#[derive(Clone, Debug)]
pub struct ApgdSettings {
    /// Loss that is ascended.
    pub loss: ApgdLoss,
    /// Norm of the ball.
    pub norm: Norm,
    /// Iterations: 100.
    pub iterations: u32,
    /// Fraction of the iterations between two checkpoints in which the loss must rise for the step size to stay: 0.75.
    pub rho: f32,
    /// Random starts; or target classes, of which there are no more than classes besides the label.
    pub runs: u32,
    /// First point.
    pub start: ApgdStart,
}

impl ApgdSettings {
    /// AutoAttack's settings: one run, or nine target classes.
    pub fn published(loss: ApgdLoss, norm: Norm, seed: u64) -> ApgdSettings {
        let runs = if loss == ApgdLoss::TargetedDlr { 9 } else { 1 };
        ApgdSettings { loss, norm, iterations: 100, rho: 0.75, runs, start: ApgdStart::Random { seed } }
    }
}

/// Weight of the step along the gradient; the rest is momentum.
const ALONG_GRADIENT: f32 = 0.75;
/// First step size, in radii.
const FIRST_STEP: f32 = 2.0;

/// Iterations from each checkpoint to the next, in runs of `iterations`.
fn checkpoints(iterations: u32) -> Vec<u32> {
    let fraction = |fraction: f64| ((fraction * f64::from(iterations)) as u32).max(1);
    let (less, least) = (fraction(0.03), fraction(0.06));
    let periods = std::iter::successors(Some(fraction(0.22)), |period| Some(period.saturating_sub(less).max(least)));
    let within = periods.scan(0, |done, period| {
        *done += period;
        (*done <= iterations).then_some(period)
    });
    within.collect()
}

struct Apgd<'a> {
    model: &'a dyn Model,
    batch: &'a Batch,
    settings: &'a ApgdSettings,
    run: Buffer,
    eps: Buffer,
    /// Result; flag `[n]`: 1 where it is adversarial.
    adv: Buffer,
    found: Buffer,
    /// Current point, and the one before.
    point: Buffer,
    before: Buffer,
    /// Point with the largest loss, its gradient and its loss.
    best: Buffer,
    best_gradient: Buffer,
    best_loss: Buffer,
    /// Loss of the iteration before; number of rises since the last checkpoint.
    last_loss: Buffer,
    rises: Buffer,
    /// Largest loss at the last checkpoint; flag: 1 where the step size was halved there; step size.
    checked_loss: Buffer,
    halved: Buffer,
    step: Buffer,
    /// Target class.
    target: Option<Buffer>,
    ones: Buffer,
}

/// Records APGD on `batch`.
///
/// # Errors
/// The network has too few classes for the loss.
pub fn apgd(memory: &mut Memory, model: &dyn Model, batch: &Batch, settings: &ApgdSettings) -> Result<Attack> {
    let name = settings.loss.name();
    let classes = check_classes(model, name, settings.loss.least_classes())?;
    let targeted = settings.loss == ApgdLoss::TargetedDlr;
    let mut workspace = Workspace::new(memory, model, batch, name);
    let apgd = Apgd {
        model,
        batch,
        settings,
        run: workspace.counter("run"),
        eps: workspace.scalars(Carried, "eps"),
        adv: workspace.images(Carried, "adv"),
        found: workspace.scalars(Carried, "found"),
        point: workspace.images(Carried, "point"),
        before: workspace.images(Carried, "before"),
        best: workspace.images(Carried, "best"),
        best_gradient: workspace.images(Carried, "best_gradient"),
        best_loss: workspace.scalars(Carried, "best_loss"),
        last_loss: workspace.scalars(Carried, "last_loss"),
        rises: workspace.scalars(Carried, "rises"),
        checked_loss: workspace.scalars(Carried, "checked_loss"),
        halved: workspace.scalars(Carried, "halved"),
        step: workspace.scalars(Carried, "step"),
        target: targeted.then(|| workspace.classes(Carried, "target")),
        ones: workspace.scalars(Scratch, "ones"),
    };
    let schedule = apgd.schedule();
    let runs = if targeted { settings.runs.min(classes as u32 - 1) } else { settings.runs };
    Ok(Attack { runs, ..workspace.attack(apgd.run, Some(apgd.eps), apgd.adv, schedule) })
}

impl Apgd<'_> {
    /// Programs of a run. An iteration evaluates a point and then moves it, so the last point is evaluated alone.
    fn schedule(&self) -> Schedule {
        let iterations = self.settings.iterations;
        let mut schedule = Schedule::default();
        schedule.then(&Arc::new(self.start()), 1);
        schedule.then(&Arc::new(self.first()), 1);
        let plain = Arc::new(self.iteration(None));
        let mut evaluated = 0;
        for period in checkpoints(iterations) {
            schedule.then(&plain, period - 1);
            evaluated += period;
            // After the last iteration there is no step to choose.
            if evaluated < iterations {
                schedule.then(&Arc::new(self.iteration(Some(period))), 1);
            }
        }
        if evaluated < iterations {
            schedule.then(&plain, iterations - 1 - evaluated);
        }
        schedule.then(&Arc::new(self.last()), 1);
        schedule.stages.retain(|(_, times)| *times > 0);
        schedule
    }

    /// The first point, and the target class.
    fn start(&self) -> Program {
        let mut tape = self.batch.tape("apgd_start");
        if let Some(target) = &self.target {
            choose_target_class(&mut tape, self.model, self.batch, &self.run, target);
        }
        let [x, eps] = [&self.batch.x, &self.eps].map(|b| tape.leaf(b));
        let first = match &self.settings.start {
            ApgdStart::Image => x,
            ApgdStart::Given(points) => tape.leaf(points),
            ApgdStart::Random { seed } => {
                let noise = unit_noise(&mut tape, self.settings.norm, self.batch, &self.run, *seed);
                tape.map([x, noise, eps], |[x, noise, eps]| (x + eps * noise).clamp(0.0, 1.0))
            }
        };
        copy_into(&mut tape, &self.point, first);
        project_into_ball(&mut tape, self.settings.norm, &self.point, x, eps);
        fill(&mut tape, &self.ones, 1.0);
        fill(&mut tape, &self.found, 0.0);
        fill(&mut tape, &self.best_loss, f32::NEG_INFINITY);
        tape.finish()
    }

    /// Evaluation of the first point, and the first step.
    fn first(&self) -> Program {
        let mut tape = self.batch.tape("apgd_first");
        let (loss, gradient) = self.evaluate(&mut tape, true);
        // The released code compares the first iteration's loss with 0, and the first checkpoint's best with this one.
        copy_into(&mut tape, &self.checked_loss, loss);
        fill(&mut tape, &self.last_loss, 0.0);
        fill(&mut tape, &self.rises, 0.0);
        fill(&mut tape, &self.halved, 1.0);
        let [eps, point] = [&self.eps, &self.point].map(|b| tape.leaf(b));
        tape.map_into(&self.step, [eps], |_, [eps]| eps * FIRST_STEP);
        copy_into(&mut tape, &self.before, point);
        self.step_from(&mut tape, point, gradient.expect("it was asked for"), 1.0);
        tape.finish()
    }

    /// Evaluation of a point, and the next step. At a checkpoint, `period` iterations after the last one, the step size
    /// is chosen anew.
    fn iteration(&self, period: Option<u32>) -> Program {
        let name = period.map_or("apgd_iteration".into(), |period| format!("apgd_checkpoint_{period}"));
        let mut tape = self.batch.tape(&name);
        let (loss, gradient) = self.evaluate(&mut tape, true);
        self.count_rises(&mut tape, loss);
        let (point, gradient) = (tape.leaf(&self.point), gradient.expect("it was asked for"));
        let [point, gradient] = match period {
            Some(period) => self.checkpoint(&mut tape, period, point, gradient),
            None => [point, gradient],
        };
        self.step_from(&mut tape, point, gradient, ALONG_GRADIENT);
        tape.finish()
    }

    /// Evaluation of the last point.
    fn last(&self) -> Program {
        let mut tape = self.batch.tape("apgd_last");
        self.evaluate(&mut tape, false);
        tape.finish()
    }

    /// Loss of the current point, and its gradient where it is asked for. Updates the result and the best point.
    fn evaluate(&self, tape: &mut Tape, with_gradient: bool) -> (Value, Option<Value>) {
        let [point, labels] = [&self.point, &self.batch.labels].map(|b| tape.leaf(b));
        let logits = self.model.logits(tape, point, Mode::Eval);
        let loss = match &self.target {
            Some(target) => {
                let target = tape.leaf(target);
                tape.targeted_loss(TargetedLoss::Dlr, logits, labels, target)
            }
            None => tape.loss(self.settings.loss.rule(), logits, labels),
        };
        let gradient = with_gradient.then(|| {
            let ones = tape.leaf(&self.ones);
            tape.grad(loss, ones, &[point])[0]
        });
        let margin = logit_margin(tape, self.batch, logits);
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
        copy_into(tape, &self.last_loss, loss);
    }

    /// Halves the step size of the examples whose loss rose too seldom, or whose best loss and step size have both
    /// stayed since the last checkpoint. Returns the point from which each goes on, and the gradient there.
    fn checkpoint(&self, tape: &mut Tape, period: u32, point: Value, gradient: Value) -> [Value; 2] {
        let [rises, halved, checked, best_loss] =
            [&self.rises, &self.halved, &self.checked_loss, &self.best_loss].map(|b| tape.leaf(b));
        let enough = self.settings.rho * period as f32;
        let halve = tape.map([rises, halved, checked, best_loss], |[rises, halved, checked, best]| {
            let seldom = 1.0 - constant(enough).less(rises);
            let stuck = (1.0 - halved) * (1.0 - checked.less(best));
            seldom.max(stuck)
        });
        tape.map_into(&self.step, [halve], |step, [halve]| halve.select(&step * 0.5, &step));
        copy_into(tape, &self.halved, halve);
        copy_into(tape, &self.checked_loss, best_loss);
        let none = tape.fill(0.0, &self.rises.dims);
        copy_into(tape, &self.rises, none);
        let [best, best_gradient] = [&self.best, &self.best_gradient].map(|b| tape.leaf(b));
        [(best, point), (best_gradient, gradient)]
            .map(|(best, own)| tape.map([best, own, halve], |[best, own, halve]| halve.select(best, own)))
    }

    /// Moves on from `from`: `weight` of the step goes along the gradient, the rest repeats the step before.
    fn step_from(&self, tape: &mut Tape, from: Value, gradient: Value, weight: f32) {
        let [x, eps, step, before] = [&self.batch.x, &self.eps, &self.step, &self.before].map(|b| tape.leaf(b));
        let moved = match self.settings.norm {
            Norm::Linf => {
                let inside = |v: Formula, x: &Formula, eps: &Formula| v.clamp(x - eps, x + eps).clamp(0.0, 1.0);
                let along = tape.map([from, gradient, x, eps, step], |[from, gradient, x, eps, step]| {
                    inside(from + step * gradient.sign(), &x, &eps)
                });
                tape.map([along, from, before, x, eps], |[along, from, before, x, eps]| {
                    inside(&from + (along - &from) * weight + (&from - before) * (1.0 - weight), &x, &eps)
                })
            }
            Norm::L2 => {
                // A point `v` at distance `norm` from x, brought into ball and box.
                let inside = |v: Formula, x: &Formula, norm: Formula, eps: Formula| {
                    (x + (v - x) / (&norm + TINY) * eps.min(norm)).clamp(0.0, 1.0)
                };
                let steepness = row_norm(tape, Norm::L2, [gradient], |[gradient]| gradient);
                let along = tape.map([from, gradient, step, steepness], |[from, gradient, step, steepness]| {
                    from + step * (gradient / (steepness + TINY))
                });
                let norm = row_norm(tape, Norm::L2, [along, x], |[along, x]| along - x);
                let inputs = [along, from, before, x, norm, eps];
                let moved = tape.map(inputs, |[along, from, before, x, norm, eps]| {
                    let along = inside(along, &x, norm, eps);
                    &from + (along - &from) * weight + (&from - before) * (1.0 - weight)
                });
                let norm = row_norm(tape, Norm::L2, [moved, x], |[moved, x]| moved - x);
                tape.map([moved, x, norm, eps], |[moved, x, norm, eps]| inside(moved, &x, norm, eps))
            }
        };
        copy_into(tape, &self.before, from);
        copy_into(tape, &self.point, moved);
        project_into_ball(tape, self.settings.norm, &self.point, x, eps);
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
