//! PGD (Madry et al., 2018) in linf and l2, each example with its own eps and step size, as advertorch's
//! `LinfPGDAttack` and `L2PGDAttack` run it.

use std::fmt::{self, Display, Formatter};
use std::ops::Range;
use std::sync::Arc;

use super::common::{choose_target_class, fill};
use super::interface::Attack;
use super::noise::normal_noise;
use super::workspace::Retention::{Carried, Scratch};
use super::workspace::Workspace;
use crate::batch::Batch;
use crate::device::Schedule;
use crate::model::{Mode, Model};
use crate::rng::Purpose;
use crate::tape::{Buffer, LossRule, Memory, Norm, PgdRule, Program, Tape, TargetedLoss, Value};

/// Random start of PGD.
#[derive(Clone, Debug)]
pub enum StartNoise {
    /// No random start: PGD begins at the image.
    None,
    /// Counter-based random numbers.
    CounterBased {
        /// Seed of the run.
        seed: u64,
        /// Purpose of the numbers.
        purpose: Purpose,
        /// u32 `[1]`: the training step, or the number of the restart.
        step: Buffer,
    },
    /// Numbers in this buffer, of the images' shape: in [-1, 1) for linf, in [0, 1) for l2.
    Given(Buffer),
    /// Counter-based random numbers of the normal distribution, added to the image as they are: TRADES's start, for
    /// training. The first iteration brings the point into ball and box.
    Normal {
        /// Standard deviation.
        deviation: f32,
        /// Seed of the run.
        seed: u64,
        /// u32 `[1]`: the training step.
        step: Buffer,
    },
}

/// Settings of PGD that ascends a [`LossRule`].
#[derive(Clone, Debug)]
pub struct PgdSettings {
    /// Loss that is ascended.
    pub loss: LossRule,
    /// Norm and projection.
    pub rule: PgdRule,
    /// Iterations.
    pub iterations: u32,
    /// Random start.
    pub noise: StartNoise,
}

/// Settings of PGD that ascends another function of the logits.
#[derive(Clone, Debug)]
pub struct Ascent {
    /// Norm and projection.
    pub rule: PgdRule,
    /// Iterations.
    pub iterations: u32,
    /// Random start.
    pub noise: StartNoise,
}

impl PgdSettings {
    fn ascent(&self) -> Ascent {
        Ascent { rule: self.rule, iterations: self.iterations, noise: self.noise.clone() }
    }
}

/// Step size of PGD.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StepLength {
    /// Each example's eps divided by this number.
    EpsOver(f32),
    /// One number for all examples.
    Fixed(f32),
}

impl StepLength {
    /// Step size in a ball of radius `eps`.
    pub fn at(self, eps: f32) -> f32 {
        match self {
            StepLength::EpsOver(parts) => eps / parts,
            StepLength::Fixed(step) => step,
        }
    }
}

impl Display for StepLength {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            StepLength::EpsOver(parts) => write!(f, "eps / {parts}"),
            StepLength::Fixed(step) => write!(f, "{step}"),
        }
    }
}

/// PGD recorded for a batch. Before a run, the batch, `eps` and `step` are written.
#[derive(Clone, Debug)]
pub struct Pgd {
    /// Radius of each example's ball `[n]`.
    pub eps: Buffer,
    /// Step size of each example `[n]`, in the norm's unit.
    pub step: Buffer,
    /// Current point, and in the end the adversarial example, `[n, h, w, c]`.
    pub adv: Buffer,
    /// Programs of the attack.
    pub schedule: Schedule,
}

/// Recording of an ascended function of the logits: from `[n, classes]` to `[n]`.
type Objective<'a> = &'a dyn Fn(&mut Tape, Value) -> Value;

impl Pgd {
    /// Records the attack on `batch`, after the network's preparation.
    pub fn new(memory: &mut Memory, model: &dyn Model, batch: &Batch, settings: &PgdSettings) -> Pgd {
        let pgd = Pgd::untargeted(&mut Workspace::new(memory, model, batch, "pgd"), settings);
        let mut schedule = model.preparation();
        schedule.extend(&pgd.schedule);
        Pgd { schedule, ..pgd }
    }

    /// Records the attack on `batch` that ascends what `objective` records of the logits: `[n]` from `[n, classes]`. The
    /// network was prepared before.
    pub fn ascending(
        memory: &mut Memory,
        model: &dyn Model,
        batch: &Batch,
        ascent: &Ascent,
        objective: &dyn Fn(&mut Tape, Value) -> Value,
    ) -> Pgd {
        Pgd::record(&mut Workspace::new(memory, model, batch, "pgd"), ascent, objective)
    }

    /// [`Pgd::new`] in a workspace.
    pub(super) fn untargeted(workspace: &mut Workspace, settings: &PgdSettings) -> Pgd {
        let (batch, loss) = (workspace.batch, settings.loss);
        Pgd::record(workspace, &settings.ascent(), &|tape, logits| {
            let labels = tape.leaf(&batch.labels);
            tape.loss(loss, logits, labels)
        })
    }

    /// PGD towards target classes, u32 `[n]`: ascends minus the loss with the target class as the label.
    fn targeted(workspace: &mut Workspace, settings: &PgdSettings, classes: &Buffer) -> Pgd {
        let (batch, loss) = (workspace.batch, TargetedLoss::Minus(settings.loss));
        Pgd::record(workspace, &settings.ascent(), &|tape, logits| {
            let [labels, classes] = [&batch.labels, classes].map(|buffer| tape.leaf(buffer));
            tape.targeted_loss(loss, logits, labels, classes)
        })
    }

    fn record(workspace: &mut Workspace, ascent: &Ascent, objective: Objective) -> Pgd {
        let mut pgd = Pgd {
            eps: workspace.scalars(Carried, "eps"),
            step: workspace.scalars(Carried, "step"),
            adv: workspace.images(Carried, "adv"),
            schedule: Schedule::default(),
        };
        let ones = workspace.scalars(Scratch, "ones");
        let (model, batch) = (workspace.model, workspace.batch);
        pgd.schedule.then(&Arc::new(pgd.start(batch, &ones, ascent)), 1);
        pgd.schedule.then(&Arc::new(pgd.iteration(model, batch, &ones, ascent.rule, objective)), ascent.iterations);
        pgd
    }

    fn start(&self, batch: &Batch, ones: &Buffer, ascent: &Ascent) -> Program {
        let mut tape = batch.tape("pgd_start");
        let (x, eps) = (tape.leaf(&batch.x), tape.leaf(&self.eps));
        let norm = ascent.rule.norm;
        let first = match &ascent.noise {
            StartNoise::None => tape.copy(x),
            StartNoise::Given(noise) => {
                let noise = tape.leaf(noise);
                tape.pgd_start(norm, x, eps, noise)
            }
            StartNoise::CounterBased { seed, purpose, step } => {
                let (step, index) = (tape.leaf(step), tape.leaf(&batch.index));
                let noise = tape.uniform(x, step, index, *seed, *purpose, norm == Norm::Linf);
                tape.pgd_start(norm, x, eps, noise)
            }
            StartNoise::Normal { deviation, seed, step } => {
                let (step, index) = (tape.leaf(step), tape.leaf(&batch.index));
                let purposes = [Purpose::TrainStart, Purpose::TrainAngle];
                let noise = normal_noise(&mut tape, x, step, index, *seed, purposes);
                tape.map([x, noise], |[x, noise]| x + *deviation * noise)
            }
        };
        tape.keep(first, &self.adv);
        fill(&mut tape, ones, 1.0);
        tape.finish()
    }

    fn iteration(
        &self,
        model: &dyn Model,
        batch: &Batch,
        ones: &Buffer,
        rule: PgdRule,
        objective: Objective,
    ) -> Program {
        let mut tape = batch.tape("pgd_iteration");
        let [x, eps, step, point, ones] = [&batch.x, &self.eps, &self.step, &self.adv, ones].map(|b| tape.leaf(b));
        let logits = model.logits(&mut tape, point, Mode::Eval);
        let ascended = objective(&mut tape, logits);
        let dx = tape.grad(ascended, ones, &[point])[0];
        tape.pgd_step(rule, &self.adv, x, dx, eps, step);
        tape.finish()
    }
}

/// PGD from random starts, as an attack of its own.
#[derive(Clone, Debug)]
pub struct RestartedPgd {
    /// Loss that is ascended.
    pub loss: LossRule,
    /// Norm and projection.
    pub rule: PgdRule,
    /// Iterations.
    pub iterations: u32,
    /// Step size.
    pub step: StepLength,
    /// Seed of the random starts.
    pub seed: u64,
    /// Numbers of the random starts, in the order of the seed. Start number r of a targeted attack leads to the class
    /// with the (r + 2)-th largest logit of the image.
    pub starts: Range<u32>,
    /// `true`: each start leads to a target class.
    pub targeted: bool,
}

impl RestartedPgd {
    /// Records the attack on `batch`.
    pub fn record(&self, memory: &mut Memory, model: &dyn Model, batch: &Batch) -> Attack {
        let name = format!("pgd-{}{}", self.loss.loss, if self.targeted { "-t" } else { "" });
        let mut workspace = Workspace::new(memory, model, batch, &name);
        let (run, start) = (workspace.counter("run"), workspace.counter("start"));
        let settings = PgdSettings {
            loss: self.loss,
            rule: self.rule,
            iterations: self.iterations,
            noise: StartNoise::CounterBased { seed: self.seed, purpose: Purpose::EvaluateStart, step: start.clone() },
        };
        let target = self.targeted.then(|| workspace.classes(Carried, "target"));
        let pgd = match &target {
            Some(target) => Pgd::targeted(&mut workspace, &settings, target),
            None => Pgd::untargeted(&mut workspace, &settings),
        };
        let mut tape = Tape::new("pgd_choose");
        let number = tape.leaf(&run);
        tape.map_into(&start, [number], |_, [number]| number + self.starts.start as f32);
        tape.set_rows(&batch.rows);
        if let Some(target) = &target {
            choose_target_class(&mut tape, model, batch, &start, target);
        }
        let eps = tape.leaf(&pgd.eps);
        tape.map_into(&pgd.step, [eps], |_, [eps]| match self.step {
            StepLength::EpsOver(parts) => eps / parts,
            StepLength::Fixed(step) => step.into(),
        });
        let mut schedule = Schedule::default();
        schedule.then(&Arc::new(tape.finish()), 1);
        schedule.extend(&pgd.schedule);
        let runs = self.starts.end - self.starts.start;
        Attack { runs, ..workspace.attack(run, Some(pgd.eps), pgd.adv, schedule) }
    }
}
