//! FAB (Croce and Hein, ICML 2020) in linf and l2, as AutoAttack's `FABAttack` runs it: an attack that looks for the
//! nearest adversarial example.
//!
//! Each iteration linearizes the network at a point. Both the point and the image are projected onto the boundary that
//! the linearized network has; the next point lies between the two projections, nearer to the first, and a little
//! beyond. An adversarial point goes back towards the image. With a ball, only points inside it count.

use std::sync::Arc;

use super::common::{
    TINY, check_classes, choose_target_class, copy_into, dual_norm, fill, is_adversarial, logit_margin,
    project_into_ball, row_norm,
};
use super::interface::Attack;
use super::noise::unit_noise;
use super::state::Nearest;
use super::workspace::Retention::{Carried, Scratch};
use super::workspace::Workspace;
use crate::Result;
use crate::batch::Batch;
use crate::device::Schedule;
use crate::model::{Mode, Model};
use crate::tape::{Buffer, Memory, Norm, Program, Tape, TargetedLoss, Value};

/// Settings of FAB.
#[derive(Clone, Debug)]
pub struct FabSettings {
    /// Norm of distances.
    pub norm: Norm,
    /// `true`: run number r looks for the boundary to the class with the (r + 2)-th largest logit of the image
    /// (`fab-t`). `false`: every run looks for the nearest boundary to any class (`fab`), which takes a gradient for
    /// each of them.
    pub targeted: bool,
    /// `true`: each example has a ball, outside which nothing counts.
    pub ball: bool,
    /// Iterations: 100.
    pub iterations: u32,
    /// Largest weight of the image's projection: 0.1.
    pub alpha_max: f32,
    /// Extrapolation beyond the boundary: projections are multiplied by 1.05.
    pub eta: f32,
    /// Fraction of the way from the image that is left when the attack goes back: 0.9.
    pub beta: f32,
    /// Target classes, of which there are no more than classes besides the label; else random starts, the first of
    /// which is the image.
    pub runs: u32,
    /// Twice the norm of a random start's change, where there is no ball.
    pub start_eps: f32,
    /// Halvings of the way from the image to the nearest point found, at the end: 10 without a ball (three in the
    /// paper, none in the released program).
    pub search_steps: u32,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl FabSettings {
    /// AutoAttack's settings: nine target classes, or one run.
    pub fn published(norm: Norm, targeted: bool, ball: bool, seed: u64) -> FabSettings {
        let (runs, start_eps) = (if targeted { 9 } else { 1 }, if norm == Norm::Linf { 0.3 } else { 1.0 });
        let (alpha_max, eta, beta) = (0.1, 1.05, 0.9);
        let search_steps = if ball { 0 } else { 10 };
        FabSettings { norm, targeted, ball, iterations: 100, alpha_max, eta, beta, runs, start_eps, search_steps, seed }
    }
}

/// Distance of an adversarial point before any was found.
const FAR: f32 = 1e10;
/// Least norm of a projection in the weights of the two projections.
const LEAST: f32 = 1e-8;

struct Fab<'a> {
    model: &'a dyn Model,
    batch: &'a Batch,
    settings: &'a FabSettings,
    classes: usize,
    run: Buffer,
    eps: Option<Buffer>,
    nearest: Nearest,
    /// Current point; in the search, the nearest adversarial point from before it.
    point: Buffer,
    /// Bracket of the boundary on the way from the image to that point, as fractions of it `[n]`.
    low: Buffer,
    high: Buffer,
    /// Class to whose boundary the attack goes.
    target: Option<Buffer>,
    ones: Buffer,
}

/// Records FAB on `batch`.
///
/// # Errors
/// The network has one class.
pub fn fab(memory: &mut Memory, model: &dyn Model, batch: &Batch, settings: &FabSettings) -> Result<Attack> {
    let name = if settings.targeted { "fab-t" } else { "fab" };
    let classes = check_classes(model, name, TargetedLoss::Difference.least_classes())?;
    let mut workspace = Workspace::new(memory, model, batch, name);
    let fab = Fab {
        model,
        batch,
        settings,
        classes,
        run: workspace.counter("run"),
        eps: settings.ball.then(|| workspace.scalars(Carried, "eps")),
        nearest: Nearest::new(&mut workspace),
        point: workspace.images(Carried, "point"),
        low: workspace.scalars(Carried, "low"),
        high: workspace.scalars(Carried, "high"),
        target: settings.targeted.then(|| workspace.classes(Carried, "target")),
        ones: workspace.scalars(Scratch, "ones"),
    };
    let mut schedule = Schedule::default();
    schedule.then(&Arc::new(fab.start()), 1);
    schedule.then(&Arc::new(fab.iteration()), settings.iterations);
    if settings.search_steps > 0 {
        schedule.then(&Arc::new(fab.search_start()), 1);
        schedule.then(&Arc::new(fab.search()), settings.search_steps);
    }
    if let Some(eps) = &fab.eps {
        schedule.then(&Arc::new(fab.end(eps)), 1);
    }
    let runs = if settings.targeted { settings.runs.min(classes as u32 - 1) } else { settings.runs };
    Ok(Attack { runs, ..workspace.attack(fab.run, fab.eps, fab.nearest.adv, schedule) })
}

impl Fab<'_> {
    fn start(&self) -> Program {
        let mut tape = self.batch.tape("fab_start");
        let [x, run] = [&self.batch.x, &self.run].map(|b| tape.leaf(b));
        fill(&mut tape, &self.ones, 1.0);
        fill(&mut tape, &self.nearest.distance, FAR);
        copy_into(&mut tape, &self.nearest.adv, x);
        if let Some(target) = &self.target {
            choose_target_class(&mut tape, self.model, self.batch, &self.run, target);
        }
        if self.settings.targeted || self.settings.runs == 1 {
            copy_into(&mut tape, &self.point, x);
        } else {
            let noise = unit_noise(&mut tape, self.settings.norm, self.batch, &self.run, self.settings.seed);
            let radius = match &self.eps {
                Some(eps) => tape.leaf(eps),
                None => tape.fill(self.settings.start_eps, &self.ones.dims),
            };
            tape.map_into(&self.point, [x, noise, radius, run], |_, [x, noise, radius, run]| {
                let random = (&x + radius * 0.5 * noise).clamp(0.0, 1.0);
                run.select(random, x)
            });
        }
        tape.finish()
    }

    fn iteration(&self) -> Program {
        let FabSettings { norm, alpha_max, eta, beta, .. } = *self.settings;
        let mut tape = self.batch.tape("fab_iteration");
        let [x, point] = [&self.batch.x, &self.point].map(|b| tape.leaf(b));
        let logits = self.model.logits(&mut tape, point, Mode::Eval);
        let [difference, gradient] = self.boundary(&mut tape, logits);
        let projections = [point, x].map(|from| {
            let change = tape.project_hyperplane(norm, from, point, gradient, difference);
            (change, row_norm(&mut tape, norm, [change], |[change]| change))
        });
        let [(own, own_norm), (image, image_norm)] = projections;
        let alpha = tape.map([own_norm, image_norm], |[own, image]| {
            let own = own.max(LEAST);
            (&own / (&own + image.max(LEAST))).clamp(0.0, alpha_max)
        });
        let moved = tape.map([point, own, x, image, alpha], |[point, own, x, image, alpha]| {
            ((point + eta * own) * (1.0 - &alpha) + (x + image * eta) * alpha).clamp(0.0, 1.0)
        });
        copy_into(&mut tape, &self.point, moved);

        let adversarial = self.try_point(&mut tape, moved);
        tape.map_into(&self.point, [x, adversarial], |point, [x, adversarial]| {
            adversarial.select(&x + (&point - &x) * beta, point)
        });
        tape.finish()
    }

    /// Keeps a point where it is adversarial and the nearest so far. Returns 1 where it is adversarial, else 0.
    fn try_point(&self, tape: &mut Tape, point: Value) -> Value {
        let x = tape.leaf(&self.batch.x);
        let logits = self.model.logits(tape, point, Mode::Eval);
        let margin = logit_margin(tape, self.batch, logits);
        let adversarial = is_adversarial(tape, margin);
        let distance = row_norm(tape, self.settings.norm, [point, x], |[point, x]| point - x);
        self.nearest.update(tape, adversarial, point, distance);
        adversarial
    }

    /// Difference of logits `[n]` whose zero is the boundary to go to, and its gradient with respect to the point.
    fn boundary(&self, tape: &mut Tape, logits: Value) -> [Value; 2] {
        let [labels, point, ones] = [&self.batch.labels, &self.point, &self.ones].map(|b| tape.leaf(b));
        let difference = |tape: &mut Tape, class: Value| {
            let value = tape.targeted_loss(TargetedLoss::Difference, logits, labels, class);
            [value, tape.grad(value, ones, &[point])[0]]
        };
        if let Some(target) = &self.target {
            let target = tape.leaf(target);
            return difference(tape, target);
        }
        let others = (0..self.classes as u32 - 1).map(|rank| {
            let class = tape.rank_class(rank, logits, labels, None);
            let [value, gradient] = difference(tape, class);
            let distance = self.linear_distance(tape, value, gradient);
            [distance, value, gradient]
        });
        let others: Vec<_> = others.collect();
        let nearest = others.into_iter().reduce(|nearest, other| {
            let nearer = tape.map([other[0], nearest[0]], |[other, nearest]| other.less(nearest));
            [0, 1, 2].map(|part| {
                let inputs = [other[part], nearest[part], nearer];
                tape.map(inputs, |[other, nearest, nearer]| nearer.select(other, nearest))
            })
        });
        let [_, value, gradient] = nearest.expect("there are two classes");
        [value, gradient]
    }

    /// Distance of the linearized network's boundary from the point, without a box.
    fn linear_distance(&self, tape: &mut Tape, value: Value, gradient: Value) -> Value {
        let dual = dual_norm(tape, self.settings.norm, gradient);
        tape.map([value, dual], |[value, dual]| value.abs() / (dual + TINY))
    }

    fn search_start(&self) -> Program {
        let mut tape = self.batch.tape("fab_search_start");
        let adv = tape.leaf(&self.nearest.adv);
        copy_into(&mut tape, &self.point, adv);
        fill(&mut tape, &self.low, 0.0);
        fill(&mut tape, &self.high, 1.0);
        tape.finish()
    }

    /// Halves the bracket once.
    fn search(&self) -> Program {
        let mut tape = self.batch.tape("fab_search");
        let [x, point, low, high] = [&self.batch.x, &self.point, &self.low, &self.high].map(|b| tape.leaf(b));
        let middle = tape.map([low, high], |[low, high]| (low + high) * 0.5);
        let between = tape.map([x, point, middle], |[x, point, middle]| (&x + (point - &x) * middle).clamp(0.0, 1.0));
        let adversarial = self.try_point(&mut tape, between);
        let inputs = [adversarial, middle];
        tape.map_into(&self.low, inputs, |low, [adversarial, middle]| adversarial.select(low, middle));
        tape.map_into(&self.high, inputs, |high, [adversarial, middle]| adversarial.select(middle, high));
        tape.finish()
    }

    /// Brings the result into the ball. A point from outside it ends at the ball's
    /// surface, and as a rule is not adversarial any more.
    fn end(&self, eps: &Buffer) -> Program {
        let mut tape = self.batch.tape("fab_end");
        let [x, eps] = [&self.batch.x, eps].map(|b| tape.leaf(b));
        project_into_ball(&mut tape, self.settings.norm, &self.nearest.adv, x, eps);
        tape.finish()
    }
}
