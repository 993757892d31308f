//! One step of MMA training (Algorithm 2), as the released code's trainer.py runs it.
//!
//! 1. clean pass: the clean loss, its gradient, and which examples are right
//! 2. AN-PGD on the right ones, each within its last margin: finds its boundary point and its new margin
//! 3. margin pass: right examples at their boundary points while their margin is below d_max, wrong ones as they are
//! 4. the optimizer, with the clean loss's share of the gradient; every margin is stored
//!
//! The step is a [`Schedule`] of fixed programs. How many examples are right, only the device knows.

use std::sync::Arc;

use super::Step;
use super::step::{Frame, Sums};
use crate::attack::{AnPgd, Pgd, PgdSettings, Search, SearchStart, StartNoise};
use crate::batch::{Batch, DeviceData};
use crate::config::{Config, SearchMode};
use crate::device::Schedule;
use crate::model::{Mode, Model, image_buffer};
use crate::rng::Purpose;
use crate::tape::{Buffer, Memory, Program, Tape};

/// MMA training: its buffers, and a step.
#[derive(Clone, Debug)]
pub struct Mma {
    /// The batch: whoever trains writes `index` and `rows` before each step.
    pub batch: Batch,
    /// The number of the step, u32 `[1]`, from 0; the step counts it up.
    pub step: Buffer,
    /// Every training example's margin `[n]`, 0 where it is unknown or was wrong.
    pub margins: Buffer,
    /// The optimizer's state: Adam's m and v, or SGD's momentum; each as long as the parameters.
    pub optimizer_state: Vec<Buffer>,
    /// Sums over the steps since they were last zeroed, by [`Metric`](crate::tape::Metric).
    pub metrics: Buffer,
    /// Of the last step: logits of the clean batch `[batch, classes]`.
    pub logits: Buffer,
    /// Of the last step: clean loss by example.
    pub clean_loss: Buffer,
    /// Of the last step: loss of the margin pass by example, and its weights.
    pub margin_loss: [Buffer; 2],
    /// Of the last step: which rows were right, at the front; how many.
    pub right: [Buffer; 2],
    /// Of the last step: margin by example, 0 where wrong.
    pub eps: Buffer,
    /// A whole step.
    pub schedule: Schedule,
}

impl Mma {
    /// Records a step on batches of `data`. `noise` starts the attack: `None` takes counted random numbers; a buffer
    /// of the batch's shape is for tests.
    pub fn new(
        memory: &mut Memory,
        model: &dyn Model,
        data: &DeviceData,
        config: &Config,
        noise: Option<&Buffer>,
    ) -> Mma {
        let frame = Frame::new(memory, model, data, config);
        let n = frame.batch.capacity();
        let found = Batch::new(memory, model, "right", n);
        let mut mma = Mma {
            batch: frame.batch.clone(),
            step: frame.step.clone(),
            margins: memory.f32("margins", &data.labels.dims),
            optimizer_state: frame.optimizer_state.clone(),
            metrics: frame.metrics.clone(),
            logits: frame.logits(memory, "logits"),
            clean_loss: frame.by_example(memory, "clean_loss"),
            margin_loss: ["margin_loss", "margin_weights"].map(|name| frame.by_example(memory, name)),
            right: [memory.u32("right.selected", &[n]), found.rows.clone()],
            eps: frame.by_example(memory, "eps"),
            schedule: Schedule::default(),
        };
        let chosen_noise = noise.map(|_| image_buffer(memory, model, "right.noise", n));
        let attack = PgdSettings {
            loss: config.loss_rule(config.attack_loss_fn),
            rule: config.pgd_rule(),
            iterations: config.nb_iter,
            noise: match &chosen_noise {
                Some(buffer) => StartNoise::Given(buffer.clone()),
                None => {
                    StartNoise::CounterBased { seed: config.seed, purpose: Purpose::TrainStart, step: mma.step.clone() }
                }
            },
        };
        let pgd = Pgd::new(memory, model, &found, &attack);
        let search = Search {
            loss: config.loss_rule(config.search_loss_fn),
            steps: config.num_search_steps,
            max_eps: config.max_eps(),
            start: SearchStart::Eps,
            norm: config.norm,
            direction: config.fidelity.direction,
            result: config.fidelity.search_result,
            mode: match config.fidelity.search_mode {
                SearchMode::Train => Mode::Train,
                SearchMode::Eval => Mode::Eval,
            },
        };
        let an_pgd = AnPgd::new(memory, model, &found, pgd, search);
        let clean_gradient = (config.clean_loss_coeff > 0.0).then(|| frame.by_parameter(memory, "clean_gradient"));
        let gradient = frame.by_parameter(memory, "gradient");

        let clean = mma.clean_pass(&frame, clean_gradient.as_ref());
        let choose = mma.choose_right(&found, &an_pgd, config, noise.zip(chosen_noise.as_ref()));
        let mixed = image_buffer(memory, model, "mixed", n);
        let margin = mma.margin_pass(&frame, &found, &an_pgd, &mixed, &gradient);
        let gradients: Vec<_> = [Some(&gradient), clean_gradient.as_ref()].into_iter().flatten().collect();
        let update = frame.update(&gradients, &mma.sums());
        let mut schedule = Schedule::default();
        schedule.then(&Arc::new(clean), 1);
        schedule.then(&Arc::new(choose), 1);
        schedule.extend(&an_pgd.schedule);
        schedule.then(&Arc::new(margin), 1);
        schedule.then(&Arc::new(update), 1);
        mma.schedule = schedule;
        mma
    }

    /// The clean loss, its gradient where it has a share, and which rows are right.
    fn clean_pass(&self, frame: &Frame, gradient: Option<&Buffer>) -> Program {
        let config = frame.config;
        let mut tape = Tape::new("clean_pass");
        tape.set_rows(&self.batch.rows);
        frame.gather(&mut tape);
        let (x, labels) = (tape.leaf(&self.batch.x), tape.leaf(&self.batch.labels));
        let logits = frame.model.logits(&mut tape, x, Mode::Train);
        tape.keep(logits, &self.logits);
        let loss = tape.loss(config.loss_rule(config.clean_loss_fn), logits, labels);
        tape.keep(loss, &self.clean_loss);
        let right = tape.loss(config.loss_rule(config.fidelity.right_when), logits, labels);
        tape.select_negative(right, &self.right[0], &self.right[1]);
        if let Some(gradient) = gradient {
            let weights = tape.mean_weights(self.batch.capacity());
            frame.gradient(&mut tape, loss, weights, gradient);
        }
        tape.finish()
    }

    /// Brings the right examples to the front, each with the ball it is attacked in.
    fn choose_right(
        &self,
        found: &Batch,
        an_pgd: &AnPgd,
        config: &Config,
        noise: Option<(&Buffer, &Buffer)>,
    ) -> Program {
        let mut tape = Tape::new("choose_right");
        tape.set_rows(&found.rows);
        let selected = tape.leaf(&self.right[0]);
        let whole = [(&self.batch.x, &found.x), (&self.batch.labels, &found.labels), (&self.batch.index, &found.index)];
        for (from, to) in whole.into_iter().chain(noise) {
            let from = tape.leaf(from);
            let rows = tape.gather_rows(from, selected);
            tape.keep(rows, to);
        }
        let (margins, index) = (tape.leaf(&self.margins), tape.leaf(&found.index));
        let last = tape.gather_rows(margins, index);
        let eps = tape.clamp_min(last, config.attack_mineps);
        tape.keep(eps, &an_pgd.pgd.eps);
        let step = tape.scale(eps, config.eps_iter_scale / config.nb_iter as f32);
        tape.keep(step, &an_pgd.pgd.step);
        tape.finish()
    }

    /// The loss of the mixed batch, its gradient, and the margins found.
    fn margin_pass(&self, frame: &Frame, found: &Batch, an_pgd: &AnPgd, mixed: &Buffer, gradient: &Buffer) -> Program {
        let (config, n) = (frame.config, self.batch.capacity());
        let mut tape = Tape::new("margin_pass");
        tape.set_rows(&self.batch.rows);
        let (x, labels, index) =
            (tape.leaf(&self.batch.x), tape.leaf(&self.batch.labels), tape.leaf(&self.batch.index));
        let all = tape.copy(x);
        tape.keep(all, mixed);
        let wrong = tape.fill(0.0, &[n]);
        tape.keep(wrong, &self.eps);

        tape.set_rows(&found.rows);
        let point = an_pgd.boundary_point(&mut tape, config.fidelity.clamp_boundary);
        let (selected, margin) = (tape.leaf(&self.right[0]), tape.leaf(&an_pgd.margin));
        tape.scatter_rows(mixed, point, selected);
        tape.scatter_rows(&self.eps, margin, selected);
        if !config.fidelity.forget_wrong {
            let index = tape.leaf(&found.index);
            tape.scatter_rows(&self.margins, margin, index);
        }

        tape.set_rows(&self.batch.rows);
        let (mixed, eps) = (tape.leaf(mixed), tape.leaf(&self.eps));
        if config.fidelity.forget_wrong {
            tape.scatter_rows(&self.margins, eps, index);
        }
        let logits = frame.model.logits(&mut tape, mixed, Mode::Train);
        let loss = tape.loss(config.loss_rule(config.margin_loss_fn), logits, labels);
        tape.keep(loss, &self.margin_loss[0]);
        let weights = tape.hinge_weights(eps, config.hinge_maxeps);
        tape.keep(weights, &self.margin_loss[1]);
        frame.gradient(&mut tape, loss, weights, gradient);
        tape.finish()
    }

    /// What the step's share of the metrics is made of.
    fn sums(&self) -> Sums<'_> {
        let [margin_loss, weights] = &self.margin_loss;
        Sums {
            logits: &self.logits,
            clean_loss: &self.clean_loss,
            margin_loss,
            weights: Some(weights),
            eps: Some(&self.eps),
        }
    }
}

impl From<Mma> for Step {
    fn from(mma: Mma) -> Step {
        let Mma { batch, step, margins, optimizer_state, metrics, right: [_, right], schedule, .. } = mma;
        Step { batch, step, optimizer_state, metrics, margins: Some(margins), right: Some(right), schedule }
    }
}
