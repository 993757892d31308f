//! FAB (Croce and Hein, ICML 2020) in linf and l2, as AutoAttack's `FABAttack` runs it: an attack that looks for the
//! nearest adversarial example.
//!
//! At a point the network is taken for linear. Both the point and the image are projected onto the boundary that it then
//! has; the next point lies between the two, nearer to the first, and a little further. Where that is adversarial, the
//! attack goes back towards the image. With a ball, what counts is what was found inside it.

use std::sync::Arc;

use super::rows::{Workspace, broken, keep_nearest, length, number};
use super::start::unit_noise;
use super::{Attack, check_classes};
use crate::Result;
use crate::batch::Batch;
use crate::config::L2Order;
use crate::device::Schedule;
use crate::model::{Mode, Model};
use crate::tape::{Buffer, Loss, LossRule, Memory, Norm, PgdRule, Program, Reduction, Tape, TargetedLoss, Value};

/// How FAB runs.
#[derive(Clone, Debug)]
pub struct FabSettings {
    /// What lengths are measured in.
    pub norm: Norm,
    /// Whether it looks for the boundary to one class, run number r for that to the class with the (r + 2)-th largest
    /// logit of the image (`fab-t`); else for the nearest of all (`fab`), which takes a gradient for each of them.
    pub targeted: bool,
    /// Whether there is a ball in which an example must lie to count.
    pub ball: bool,
    /// Iterations: 100.
    pub iterations: u32,
    /// The largest share of the image's projection: 0.1.
    pub alpha_max: f32,
    /// How far beyond the boundary projections are taken: 1.05.
    pub eta: f32,
    /// How much of the way back to the image is left: 0.9.
    pub beta: f32,
    /// Targets, of which there are no more than classes besides the label; else random starts, the first of which is the
    /// image.
    pub runs: u32,
    /// Twice the length of a random start without a ball.
    pub start_eps: f32,
    /// Halvings of the way from the image to the nearest point found, at the end: 10 without a ball (three in the paper,
    /// none in the released program).
    pub search_steps: u32,
    /// Counts the random numbers.
    pub seed: u64,
}

impl FabSettings {
    /// AutoAttack's settings: nine targets, or one run.
    pub fn published(norm: Norm, targeted: bool, ball: bool, seed: u64) -> FabSettings {
        let (runs, start_eps) = (if targeted { 9 } else { 1 }, if norm == Norm::Linf { 0.3 } else { 1.0 });
        let (alpha_max, eta, beta) = (0.1, 1.05, 0.9);
        let search_steps = if ball { 0 } else { 10 };
        FabSettings { norm, targeted, ball, iterations: 100, alpha_max, eta, beta, runs, start_eps, search_steps, seed }
    }
}

/// The length of what was not found.
const FAR: f32 = 1e10;
/// The least length of a projection that a share is taken of.
const LEAST: f32 = 1e-8;
/// What lengths that are divided by are raised by.
const TINY: f32 = 1e-12;

struct Fab<'a> {
    model: &'a dyn Model,
    target: &'a Batch,
    settings: &'a FabSettings,
    classes: usize,
    run: Buffer,
    eps: Option<Buffer>,
    /// The nearest adversarial point, and its distance `[n]`.
    adv: Buffer,
    nearest: Buffer,
    /// The point; in the search, the nearest one from before it.
    point: Buffer,
    /// The shares of the way to it between which the boundary lies `[n]`.
    low: Buffer,
    high: Buffer,
    /// The class whose boundary is looked for, u32 `[n]`.
    class: Option<Buffer>,
    ones: Buffer,
}

/// Records FAB on `target`.
///
/// # Errors
/// The network has one class.
pub fn fab(memory: &mut Memory, model: &dyn Model, target: &Batch, settings: &FabSettings) -> Result<Attack> {
    let name = if settings.targeted { "fab-t" } else { "fab" };
    let classes = check_classes(model, name, TargetedLoss::Difference.least_classes())?;
    let n = target.capacity();
    let mut room = Workspace { memory, model, target, attack: name };
    let fab = Fab {
        model,
        target,
        settings,
        classes,
        run: room.count("run"),
        eps: settings.ball.then(|| room.by_row("eps")),
        adv: room.images("adv"),
        nearest: room.by_row("nearest"),
        point: room.images("point"),
        low: room.by_row("low"),
        high: room.by_row("high"),
        class: settings.targeted.then(|| room.u32("class", &[n])),
        ones: room.by_row("ones"),
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
    Ok(Attack {
        name: name.into(),
        schedule,
        state: [&fab.adv, &fab.point, &fab.nearest, &fab.low, &fab.high]
            .into_iter()
            .chain(&fab.class)
            .cloned()
            .collect(),
        run: fab.run,
        runs: if settings.targeted { settings.runs.min(classes as u32 - 1) } else { settings.runs },
        eps: fab.eps,
        adv: fab.adv,
    })
}

impl Fab<'_> {
    fn tape(&self, name: &str) -> Tape {
        let mut tape = Tape::new(name);
        tape.set_rows(&self.target.rows);
        tape
    }

    fn start(&self) -> Program {
        let mut tape = self.tape("fab_start");
        let [x, labels, run] = [&self.target.x, &self.target.labels, &self.run].map(|b| tape.leaf(b));
        for (value, buffer) in [(1.0, &self.ones), (FAR, &self.nearest)] {
            let filled = tape.fill(value, &buffer.dims);
            tape.keep(filled, buffer);
        }
        tape.map_into(&self.adv, [x], |_, [x]| x);
        if let Some(class) = &self.class {
            let logits = self.model.logits(&mut tape, x, Mode::Eval);
            let ranked = tape.rank_class(0, logits, labels, Some(run));
            tape.keep(ranked, class);
        }
        if self.settings.targeted || self.settings.runs == 1 {
            tape.map_into(&self.point, [x], |_, [x]| x);
        } else {
            let noise = unit_noise(&mut tape, self.settings.norm, self.target, &self.run, self.settings.seed);
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
        let mut tape = self.tape("fab_iteration");
        let [x, point] = [&self.target.x, &self.point].map(|b| tape.leaf(b));
        let logits = self.model.logits(&mut tape, point, Mode::Eval);
        let [value, gradient] = self.boundary(&mut tape, logits);
        let moves = [point, x].map(|from| {
            let d = tape.project_hyperplane(norm, from, point, gradient, value);
            (d, length(&mut tape, norm, [d], |[d]| d))
        });
        let [(own, own_length), (image, image_length)] = moves;
        let alpha = tape.map([own_length, image_length], |[own, image]| {
            let own = own.max(LEAST);
            (&own / (&own + image.max(LEAST))).clamp(0.0, alpha_max)
        });
        let moved = tape.map([point, own, x, image, alpha], |[point, own, x, image, alpha]| {
            ((point + eta * own) * (1.0 - &alpha) + (x + image * eta) * alpha).clamp(0.0, 1.0)
        });
        tape.map_into(&self.point, [moved], |_, [moved]| moved);

        let broken = self.try_point(&mut tape, moved);
        tape.map_into(&self.point, [x, broken], |point, [x, broken]| broken.select(&x + (&point - &x) * beta, point));
        tape.finish()
    }

    /// Keeps a point where it is adversarial and the nearest so far; 1 where it is adversarial, else 0.
    fn try_point(&self, tape: &mut Tape, point: Value) -> Value {
        let [x, labels] = [&self.target.x, &self.target.labels].map(|b| tape.leaf(b));
        let logits = self.model.logits(tape, point, Mode::Eval);
        let margin = tape.loss(LossRule { loss: Loss::Lm, confidence: 0.0 }, logits, labels);
        let broken = broken(tape, margin);
        let distance = length(tape, self.settings.norm, [point, x], |[point, x]| point - x);
        keep_nearest(tape, broken, point, distance, &self.adv, &self.nearest);
        broken
    }

    fn search_start(&self) -> Program {
        let mut tape = self.tape("fab_search_start");
        let adv = tape.leaf(&self.adv);
        tape.map_into(&self.point, [adv], |_, [adv]| adv);
        for (value, buffer) in [(0.0, &self.low), (1.0, &self.high)] {
            let filled = tape.fill(value, &buffer.dims);
            tape.keep(filled, buffer);
        }
        tape.finish()
    }

    /// One halving.
    fn search(&self) -> Program {
        let mut tape = self.tape("fab_search");
        let [x, point, low, high] = [&self.target.x, &self.point, &self.low, &self.high].map(|b| tape.leaf(b));
        let middle = tape.map([low, high], |[low, high]| (low + high) * 0.5);
        let between = tape.map([x, point, middle], |[x, point, middle]| (&x + (point - &x) * middle).clamp(0.0, 1.0));
        let broken = self.try_point(&mut tape, between);
        tape.map_into(&self.low, [broken, middle], |low, [broken, middle]| broken.select(low, middle));
        tape.map_into(&self.high, [broken, middle], |high, [broken, middle]| broken.select(middle, high));
        tape.finish()
    }

    /// The difference of logits whose 0 is the boundary to go to, and its gradient.
    fn boundary(&self, tape: &mut Tape, logits: Value) -> [Value; 2] {
        let [labels, point, ones] = [&self.target.labels, &self.point, &self.ones].map(|b| tape.leaf(b));
        let difference = |tape: &mut Tape, class: Value| {
            let value = tape.targeted_loss(TargetedLoss::Difference, logits, labels, class);
            [value, tape.grad(value, ones, &[point])[0]]
        };
        if let Some(class) = &self.class {
            let class = tape.leaf(class);
            return difference(tape, class);
        }
        let others = (0..self.classes as u32 - 1).map(|rank| {
            let class = tape.rank_class(rank, logits, labels, None);
            let [value, gradient] = difference(tape, class);
            let distance = self.distance(tape, value, gradient);
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

    /// How far the boundary would be if the network were linear and there were no box.
    fn distance(&self, tape: &mut Tape, value: Value, gradient: Value) -> Value {
        let steep = match self.settings.norm {
            Norm::Linf => tape.reduce(Reduction::Sum, [gradient], |[gradient]| gradient.abs()),
            Norm::L2 => length(tape, Norm::L2, [gradient], |[gradient]| gradient),
        };
        tape.map([value, steep], |[value, steep]| value.abs() / (steep + TINY))
    }

    /// Brings what was found into the ball, exactly: a step of length 0. Of what lay outside the image on the ball is left,
    /// which as a rule is not adversarial.
    fn end(&self, eps: &Buffer) -> Program {
        let mut tape = self.tape("fab_end");
        let [x, eps] = [&self.target.x, eps].map(|b| tape.leaf(b));
        let none = tape.map([eps], |_| number(0.0));
        let rule = PgdRule { norm: self.settings.norm, l2_order: L2Order::BallBox, l2_grad_floor: TINY };
        tape.pgd_step(rule, &self.adv, x, x, eps, none);
        tape.finish()
    }
}
