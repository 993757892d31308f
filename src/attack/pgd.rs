//! PGD (Madry et al., 2018) in linf and l2, each example with its own eps and step, as advertorch's
//! `LinfPGDAttack` and `L2PGDAttack` run it.

use std::ops::Range;
use std::sync::Arc;

use super::Attack;
use super::start::normal_noise;
use crate::batch::Batch;
use crate::device::Schedule;
use crate::model::{Mode, Model, image_buffer};
use crate::rng::Purpose;
use crate::tape::{Buffer, LossRule, Memory, Norm, PgdRule, Program, Tape, TargetedLoss, Value};

/// What the random start is made of.
#[derive(Clone, Debug)]
pub enum StartNoise {
    /// No random start: PGD begins at the image.
    None,
    /// Counter-based random numbers.
    CounterBased {
        /// The run's seed.
        seed: u64,
        /// What they are for.
        purpose: Purpose,
        /// u32 `[1]`: the step, or the restart.
        step: Buffer,
    },
    /// The numbers in this buffer, of the images' shape: in [-1, 1) for linf, in [0, 1) for l2.
    Given(Buffer),
    /// Counted numbers of the normal distribution, added to the image as they are: TRADES's start, for training. Ball and
    /// box are those of the first iteration's end.
    Normal {
        /// Their standard deviation.
        deviation: f32,
        /// The run's seed.
        seed: u64,
        /// u32 `[1]`: the step.
        step: Buffer,
    },
}

/// How PGD runs.
#[derive(Clone, Debug)]
pub struct PgdSettings {
    /// The loss that is ascended.
    pub loss: LossRule,
    /// Norm and projection.
    pub rule: PgdRule,
    /// Iterations.
    pub iterations: u32,
    /// The random start.
    pub noise: StartNoise,
}

/// How PGD ascends what is no [`LossRule`].
#[derive(Clone, Debug)]
pub struct Ascent {
    /// Norm and projection.
    pub rule: PgdRule,
    /// Iterations.
    pub iterations: u32,
    /// The random start.
    pub noise: StartNoise,
}

impl PgdSettings {
    fn ascent(&self) -> Ascent {
        Ascent { rule: self.rule, iterations: self.iterations, noise: self.noise.clone() }
    }
}

/// How long PGD's step is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StepLength {
    /// Each example's eps over this.
    EpsOver(f32),
    /// This, for all.
    Fixed(f32),
}

impl StepLength {
    /// The step in a ball of radius `eps`.
    pub fn at(self, eps: f32) -> f32 {
        match self {
            StepLength::EpsOver(parts) => eps / parts,
            StepLength::Fixed(step) => step,
        }
    }
}

/// PGD around a model. Whoever runs it fills the target, `eps` and `step` first.
#[derive(Clone, Debug)]
pub struct Pgd {
    /// Radius of each example's ball `[n]`.
    pub eps: Buffer,
    /// Step of each example `[n]`, in the norm's unit.
    pub step: Buffer,
    /// The point PGD is at, and in the end the adversarial example, `[n, h, w, c]`.
    pub adv: Buffer,
    /// The whole attack.
    pub schedule: Schedule,
}

impl Pgd {
    /// Records the attack on `target`.
    pub fn new(memory: &mut Memory, model: &dyn Model, target: &Batch, settings: &PgdSettings) -> Pgd {
        let loss = settings.loss;
        Pgd::ascending(memory, model, target, &settings.ascent(), &|tape, logits| {
            let labels = tape.leaf(&target.labels);
            tape.loss(loss, logits, labels)
        })
    }

    /// [`Pgd::new`] towards a class, u32 `[n]`: minus the loss with it as the label is ascended.
    fn towards(
        memory: &mut Memory,
        model: &dyn Model,
        target: &Batch,
        settings: &PgdSettings,
        classes: &Buffer,
    ) -> Pgd {
        let loss = TargetedLoss::Minus(settings.loss);
        Pgd::ascending(memory, model, target, &settings.ascent(), &|tape, logits| {
            let [labels, classes] = [&target.labels, classes].map(|buffer| tape.leaf(buffer));
            tape.targeted_loss(loss, logits, labels, classes)
        })
    }

    /// Records the attack on `target` that ascends what `loss` records of an example's logits: `[n]` from `[n, classes]`.
    pub fn ascending(
        memory: &mut Memory,
        model: &dyn Model,
        target: &Batch,
        ascent: &Ascent,
        loss: &dyn Fn(&mut Tape, Value) -> Value,
    ) -> Pgd {
        let n = target.capacity();
        let name = |part: &str| format!("{}.{part}", target.name);
        let (eps, step) = (memory.f32(&name("eps"), &[n]), memory.f32(&name("step"), &[n]));
        let adv = image_buffer(memory, model, &name("adv"), n);
        let ones = memory.f32(&name("ones"), &[n]);
        let mut schedule = Schedule::default();
        schedule.then(&Arc::new(start(target, &eps, &adv, &ones, ascent)), 1);
        let iteration = iteration(model, target, [&eps, &step, &adv, &ones], ascent.rule, loss);
        schedule.then(&Arc::new(iteration), ascent.iterations);
        Pgd { eps, step, adv, schedule }
    }
}

/// PGD from random starts, as an attack of its own.
#[derive(Clone, Debug)]
pub struct RestartedPgd {
    /// The loss that is ascended.
    pub loss: LossRule,
    /// Norm and projection.
    pub rule: PgdRule,
    /// Iterations.
    pub iterations: u32,
    /// The step.
    pub step: StepLength,
    /// The seed of the random starts.
    pub seed: u64,
    /// Which of the starts that the seed gives; of a targeted attack, which of the other classes: start number r leads
    /// to the one with the (r + 2)-th largest logit.
    pub starts: Range<u32>,
    /// Whether it leads to a class.
    pub targeted: bool,
}

impl RestartedPgd {
    /// Records the attack on `target`; `run`, u32 `[1]`, counts its runs.
    pub fn record(&self, memory: &mut Memory, model: &dyn Model, target: &Batch, run: &Buffer) -> Attack {
        let start = memory.u32("pgd.start", &[1]);
        let settings = PgdSettings {
            loss: self.loss,
            rule: self.rule,
            iterations: self.iterations,
            noise: StartNoise::CounterBased { seed: self.seed, purpose: Purpose::EvaluateStart, step: start.clone() },
        };
        let classes = self.targeted.then(|| memory.u32("pgd.classes", &[target.capacity()]));
        let pgd = match &classes {
            Some(classes) => Pgd::towards(memory, model, target, &settings, classes),
            None => Pgd::new(memory, model, target, &settings),
        };
        let mut tape = Tape::new("pgd_choose");
        let number = tape.leaf(run);
        tape.map_into(&start, [number], |_, [number]| number + self.starts.start as f32);
        tape.set_rows(&target.rows);
        if let Some(classes) = &classes {
            let [x, labels, start] = [&target.x, &target.labels, &start].map(|buffer| tape.leaf(buffer));
            let logits = model.logits(&mut tape, x, Mode::Eval);
            let class = tape.rank_class(0, logits, labels, Some(start));
            tape.keep(class, classes);
        }
        let eps = tape.leaf(&pgd.eps);
        tape.map_into(&pgd.step, [eps], |_, [eps]| match self.step {
            StepLength::EpsOver(parts) => eps / parts,
            StepLength::Fixed(step) => step.into(),
        });
        let mut schedule = Schedule::default();
        schedule.then(&Arc::new(tape.finish()), 1);
        schedule.extend(&pgd.schedule);
        Attack {
            name: format!("pgd-{}{}", self.loss.loss, if self.targeted { "-t" } else { "" }),
            eps: Some(pgd.eps.clone()),
            run: run.clone(),
            runs: self.starts.end - self.starts.start,
            adv: pgd.adv.clone(),
            state: [pgd.eps, pgd.step, pgd.adv].into_iter().chain(classes).collect(),
            schedule,
        }
    }
}

/// The first point, and what every iteration weighs the losses with.
fn start(target: &Batch, eps: &Buffer, adv: &Buffer, ones: &Buffer, ascent: &Ascent) -> Program {
    let mut tape = Tape::new("pgd_start");
    tape.set_rows(&target.rows);
    let (x, eps) = (tape.leaf(&target.x), tape.leaf(eps));
    let norm = ascent.rule.norm;
    let first = match &ascent.noise {
        StartNoise::None => tape.copy(x),
        StartNoise::Given(noise) => {
            let noise = tape.leaf(noise);
            tape.pgd_start(norm, x, eps, noise)
        }
        StartNoise::CounterBased { seed, purpose, step } => {
            let (step, index) = (tape.leaf(step), tape.leaf(&target.index));
            let noise = tape.uniform(x, step, index, *seed, *purpose, norm == Norm::Linf);
            tape.pgd_start(norm, x, eps, noise)
        }
        StartNoise::Normal { deviation, seed, step } => {
            let (step, index) = (tape.leaf(step), tape.leaf(&target.index));
            let purposes = [Purpose::TrainStart, Purpose::TrainAngle];
            let noise = normal_noise(&mut tape, x, step, index, *seed, purposes);
            tape.map([x, noise], |[x, noise]| x + *deviation * noise)
        }
    };
    tape.keep(first, adv);
    let weights = tape.fill(1.0, &ones.dims);
    tape.keep(weights, ones);
    tape.finish()
}

fn iteration(
    model: &dyn Model,
    target: &Batch,
    [eps, step, adv, ones]: [&Buffer; 4],
    rule: PgdRule,
    loss: &dyn Fn(&mut Tape, Value) -> Value,
) -> Program {
    let mut tape = Tape::new("pgd_iteration");
    tape.set_rows(&target.rows);
    let [x, eps, step, point, ones] = [&target.x, eps, step, adv, ones].map(|b| tape.leaf(b));
    let logits = model.logits(&mut tape, point, Mode::Eval);
    let loss = loss(&mut tape, logits);
    let dx = tape.grad(loss, ones, &[point])[0];
    tape.pgd_step(rule, adv, x, dx, eps, step);
    tape.finish()
}
