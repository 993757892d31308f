//! One step of MMA training (Algorithm 2), as the released code's trainer.py runs it.
//!
//! 1. clean pass: the clean loss, its gradient, and which examples are right
//! 2. AN-PGD on the right ones, each within its last margin: finds its boundary point and its new margin
//! 3. margin pass: right examples at their boundary points while their margin is below d_max, wrong ones as they are
//! 4. the optimizer, with the clean loss's share of the gradient; every margin is stored
//!
//! The step is a [`Schedule`] of fixed programs. How many examples are right, only the device knows.

use std::sync::Arc;

use crate::attack::{AnPgd, DeviceData, Noise, Pgd, PgdSettings, Search, SearchStart, Target};
use crate::config::{Config, OptimizerKind, SearchMode};
use crate::device::Schedule;
use crate::model::{Mode, Model, image_buffer};
use crate::rng::Purpose;
use crate::tape::{Buffer, Loss, LossRule, Memory, Metric, OptimizerRule, PgdRule, Program, Tape};

/// MMA training: its buffers, and a step.
#[derive(Clone, Debug)]
pub struct Mma {
    /// The batch: whoever trains writes `index` and `rows` before each step.
    pub batch: Target,
    /// The number of the step, u32 `[1]`, from 0; the step counts it up.
    pub step: Buffer,
    /// Every training example's margin `[n]`, 0 where it is unknown or was wrong.
    pub margins: Buffer,
    /// The optimizer's state: Adam's m and v, or SGD's momentum; each as long as the parameters.
    pub optimizer_state: Vec<Buffer>,
    /// Sums over the steps since they were last zeroed, by [`Metric`].
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

/// The rules of a config's losses, attack and optimizer.
impl Config {
    /// A loss with this run's cw confidence.
    pub fn loss_rule(&self, loss: Loss) -> LossRule {
        LossRule { loss, confidence: self.fidelity.cw_confidence }
    }

    /// PGD's rule.
    pub fn pgd_rule(&self) -> PgdRule {
        PgdRule { norm: self.norm, l2_order: self.fidelity.l2_order, l2_grad_floor: self.fidelity.l2_grad_floor }
    }
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
        // A larger batch than the data is all of it.
        let n = config.training_batch_size.min(data.labels.dims[0]);
        let batch = Target::new(memory, model, "batch", n);
        let found = Target::new(memory, model, "right", n);
        let parameters = model.params().len();
        let classes = model.params().list.last().expect("a model has parameters").shape[0];
        let selected = memory.u32("right.selected", &[n]);
        let state = match config.optimizer {
            OptimizerKind::Adam => &["adam.m", "adam.v"][..],
            OptimizerKind::Sgd => &["sgd.momentum"],
        };
        let mut mma = Mma {
            step: memory.u32("step", &[1]),
            margins: memory.f32("margins", &data.labels.dims),
            optimizer_state: state.iter().map(|name| memory.f32(name, &[parameters])).collect(),
            metrics: memory.f32("metrics", &[Metric::COUNT]),
            logits: memory.f32("logits", &[n, classes]),
            clean_loss: memory.f32("clean_loss", &[n]),
            margin_loss: [memory.f32("margin_loss", &[n]), memory.f32("margin_weights", &[n])],
            right: [selected, found.rows.clone()],
            eps: memory.f32("eps", &[n]),
            schedule: Schedule::default(),
            batch,
        };
        let chosen_noise = noise.map(|_| image_buffer(memory, model, "right.noise", n));
        let attack = PgdSettings {
            loss: config.loss_rule(config.attack_loss_fn),
            rule: config.pgd_rule(),
            iterations: config.nb_iter,
            noise: match &chosen_noise {
                Some(buffer) => Noise::Given(buffer.clone()),
                None => Noise::Counted { seed: config.seed, purpose: Purpose::TrainStart, step: mma.step.clone() },
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
        let clean_gradient = (config.clean_loss_coeff > 0.0).then(|| memory.f32("clean_gradient", &[parameters]));
        let gradient = memory.f32("gradient", &[parameters]);

        let clean = mma.clean_pass(model, data, config, clean_gradient.as_ref());
        let choose = mma.choose_right(&found, &an_pgd, config, noise.zip(chosen_noise.as_ref()));
        let mixed = image_buffer(memory, model, "mixed", n);
        let margin = mma.margin_pass(model, &found, &an_pgd, config, &mixed, &gradient);
        let update = mma.update(model, config, clean_gradient.as_ref(), &gradient);
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
    fn clean_pass(&self, model: &dyn Model, data: &DeviceData, config: &Config, gradient: Option<&Buffer>) -> Program {
        let mut tape = Tape::new("clean_pass");
        tape.set_rows(&self.batch.rows);
        match config.augment {
            true => data.gather_augmented(&mut tape, &self.batch, config.seed, &self.step),
            false => data.gather(&mut tape, &self.batch),
        }
        let (x, labels) = (tape.leaf(&self.batch.x), tape.leaf(&self.batch.labels));
        let logits = model.logits(&mut tape, x, Mode::Train);
        tape.keep(logits, &self.logits);
        let loss = tape.loss(config.loss_rule(config.clean_loss_fn), logits, labels);
        tape.keep(loss, &self.clean_loss);
        let right = tape.loss(config.loss_rule(config.fidelity.right_when), logits, labels);
        tape.select_negative(right, &self.right[0], &self.right[1]);
        if let Some(gradient) = gradient {
            let weights = tape.mean_weights(self.batch.capacity());
            let wanted = model.params().leaves(&mut tape);
            let found = tape.grad(loss, weights, &wanted);
            for (value, part) in found.into_iter().zip(model.params().parts(gradient)) {
                tape.keep(value, &part);
            }
        }
        tape.finish()
    }

    /// Brings the right examples to the front, each with the ball it is attacked in.
    fn choose_right(
        &self,
        found: &Target,
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
    fn margin_pass(
        &self,
        model: &dyn Model,
        found: &Target,
        an_pgd: &AnPgd,
        config: &Config,
        mixed: &Buffer,
        gradient: &Buffer,
    ) -> Program {
        let n = self.batch.capacity();
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
        let logits = model.logits(&mut tape, mixed, Mode::Train);
        let loss = tape.loss(config.loss_rule(config.margin_loss_fn), logits, labels);
        tape.keep(loss, &self.margin_loss[0]);
        let weights = tape.hinge_weights(eps, config.hinge_maxeps);
        tape.keep(weights, &self.margin_loss[1]);
        let wanted = model.params().leaves(&mut tape);
        let found = tape.grad(loss, weights, &wanted);
        for (value, part) in found.into_iter().zip(model.params().parts(gradient)) {
            tape.keep(value, &part);
        }
        tape.finish()
    }

    /// New weights, and the step's share of the metrics.
    fn update(&self, model: &dyn Model, config: &Config, clean: Option<&Buffer>, gradient: &Buffer) -> Program {
        let mut tape = Tape::new("update");
        let rule = OptimizerRule {
            schedule: config.learning_rate_schedule.clone(),
            clean_coeff: config.clean_loss_coeff,
            weight_decay: config.weight_decay,
            momentum: config.momentum,
        };
        let gradients: Vec<_> = [Some(gradient), clean].into_iter().flatten().map(|b| tape.leaf(b)).collect();
        let step = tape.leaf(&self.step);
        match &self.optimizer_state[..] {
            [m, v] => tape.adam(rule, &gradients, step, model.params().buffer(), &[m.clone(), v.clone()]),
            [momentum] => tape.sgd(rule, &gradients, step, model.params().buffer(), momentum),
            _ => unreachable!("an optimizer has one or two states"),
        }
        tape.set_rows(&self.batch.rows);
        let (logits, labels) = (tape.leaf(&self.logits), tape.leaf(&self.batch.labels));
        let hard = tape.loss(config.loss_rule(Loss::Lm), logits, labels);
        let [clean, margin, weights, eps] =
            [&self.clean_loss, &self.margin_loss[0], &self.margin_loss[1], &self.eps].map(|b| tape.leaf(b));
        tape.accumulate_metrics([clean, hard, weights, margin, eps], &self.metrics);
        tape.increment(&self.step);
        tape.finish()
    }
}
