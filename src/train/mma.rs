//! A step of MMA training (Algorithm 2), as the released code's trainer.py runs it.
//!
//! 1. clean pass: the clean loss, its gradient, and the selection of the correct examples
//! 2. AN-PGD on the correct examples, each within its last margin: finds its boundary point and its new margin
//! 3. margin pass: the loss of the correct examples whose margin is below d_max at their boundary points, and of the
//!    misclassified ones at the clean images
//! 4. the optimizer, with the gradients of both passes; every margin is stored
//!
//! The step is a [`Schedule`] of fixed programs. The number of correct examples stays on the device.

use std::sync::Arc;

use super::statistics::{BatchStatistics, StepSums};
use super::step::{StepRecorder, TrainingStep};
use crate::attack::{AnPgd, Pgd, PgdSettings, Search, SearchStart, StartNoise};
use crate::batch::{Batch, DeviceData};
use crate::config::{Config, SearchMode};
use crate::device::Schedule;
use crate::model::{Mode, Model, StepModels, image_buffer};
use crate::record::StepRecord;
use crate::rng::Purpose;
use crate::tape::{Buffer, Memory, Program};

/// A step of MMA training, and its buffers.
#[derive(Clone, Debug)]
pub struct Mma {
    /// Batch of the step; its `index` and `rows` are written before each step.
    pub batch: Batch,
    /// Number of steps done, u32 `[1]`; the step increments it.
    pub step: Buffer,
    /// Margin of every training example `[n]`; 0 if it is unknown or the example was misclassified.
    pub margins: Buffer,
    /// State of the optimizer: Adam's m and v, or SGD's momentum; each as long as the parameters.
    pub optimizer_state: Vec<Buffer>,
    /// Sums over the steps since they were last set to 0, by [`Metric`](crate::tape::Metric).
    pub metrics: Buffer,
    /// Logits of the last clean batch `[batch, classes]`.
    pub logits: Buffer,
    /// Clean loss of each example of the last batch `[batch]`.
    pub clean_loss: Buffer,
    /// Logit margin of each example of the last clean batch `[batch]`, negative if it is correctly classified.
    pub logit_margin: Buffer,
    /// Loss of each example of the last margin pass `[batch]`.
    pub margin_loss: Buffer,
    /// Weights of `margin_loss`: one over the number of active rows, or 0 if the margin has reached d_max.
    pub margin_weights: Buffer,
    /// Rows of the last batch's correct examples, at the front, u32 `[batch]`.
    pub selected: Buffer,
    /// Number of the last batch's correct examples, u32 `[1]`.
    pub correct: Buffer,
    /// Margin of each example of the last batch `[batch]`; 0 if it is misclassified.
    pub eps: Buffer,
    /// Programs of a whole step.
    pub schedule: Schedule,
}

impl Mma {
    /// Records a step on batches of `data`. `noise`, of the batch's shape, is the attack's start, for tests; `None`
    /// draws counter-based random numbers.
    pub fn new(
        memory: &mut Memory,
        model: &dyn Model,
        data: &DeviceData,
        config: &Config,
        noise: Option<&Buffer>,
    ) -> Mma {
        let StepModels { attacked: in_precision, trained, preparation } =
            StepModels::new(memory, model, config.precision);
        let recorder = StepRecorder::new(memory, &trained, data, config);
        let n = recorder.batch.capacity();
        let attacked = Batch::new(memory, model, "attacked", n);
        let mut mma = Mma {
            batch: recorder.batch.clone(),
            step: recorder.step.clone(),
            margins: memory.f32("margins", &data.labels.dims),
            optimizer_state: recorder.optimizer_state.clone(),
            metrics: recorder.metrics.clone(),
            logits: recorder.logits(memory, "logits"),
            clean_loss: recorder.per_example(memory, "clean_loss"),
            logit_margin: recorder.per_example(memory, "logit_margin"),
            margin_loss: recorder.per_example(memory, "margin_loss"),
            margin_weights: recorder.per_example(memory, "margin_weights"),
            selected: memory.u32("attacked.selected", &[n]),
            correct: attacked.rows.clone(),
            eps: recorder.per_example(memory, "eps"),
            schedule: Schedule::default(),
        };
        let attacked_noise = noise.map(|_| image_buffer(memory, model, "attacked.noise", n));
        let attack = PgdSettings {
            loss: config.loss_rule(config.attack_loss_fn),
            rule: config.pgd_rule(),
            iterations: config.nb_iter,
            noise: match &attacked_noise {
                Some(buffer) => StartNoise::Given(buffer.clone()),
                None => {
                    StartNoise::CounterBased { seed: config.seed, purpose: Purpose::TrainStart, step: mma.step.clone() }
                }
            },
        };
        let pgd = Pgd::new(memory, &in_precision, &attacked, &attack);
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
        let an_pgd = AnPgd::new(memory, &in_precision, &attacked, pgd, search);
        let clean_gradient =
            (config.clean_loss_coeff > 0.0).then(|| recorder.gradient_buffer(memory, "clean_gradient"));
        let gradient = recorder.gradient_buffer(memory, "gradient");

        let mixed = image_buffer(memory, model, "mixed", n);
        let clean = mma.clean_pass(&recorder, &mixed, clean_gradient.as_ref());
        let gather = mma.gather_correct(&attacked, &an_pgd, config, noise.zip(attacked_noise.as_ref()));
        let margin = mma.margin_pass(&recorder, &attacked, &an_pgd, &mixed, &gradient);
        let gradients: Vec<_> = [Some(&gradient), clean_gradient.as_ref()].into_iter().flatten().collect();
        let update = recorder.update(&gradients, &mma.statistics());
        let mut schedule = preparation;
        schedule.then(&Arc::new(clean), 1);
        schedule.then(&Arc::new(gather), 1);
        schedule.extend(&an_pgd.schedule);
        schedule.then(&Arc::new(margin), 1);
        schedule.then(&Arc::new(update), 1);
        mma.schedule = schedule;
        mma
    }

    /// Records the clean loss, its gradient if the method uses it, and the selection of the correct rows. The mixed
    /// batch starts as the clean one, and with margins of 0.
    fn clean_pass(&self, recorder: &StepRecorder, mixed: &Buffer, gradient: Option<&Buffer>) -> Program {
        let config = recorder.config;
        let mut tape = self.batch.tape("clean_pass");
        recorder.gather(&mut tape);
        let (x, labels) = (tape.leaf(&self.batch.x), tape.leaf(&self.batch.labels));
        let all = tape.copy(x);
        tape.keep(all, mixed);
        let misclassified = tape.fill(0.0, &self.eps.dims);
        tape.keep(misclassified, &self.eps);
        let logits = recorder.model.logits(&mut tape, x, Mode::Train);
        tape.keep(logits, &self.logits);
        let loss = tape.loss(config.loss_rule(config.clean_loss_fn), logits, labels);
        tape.keep(loss, &self.clean_loss);
        recorder.logit_margin(&mut tape, logits, &self.logit_margin);
        let sign = tape.loss(config.loss_rule(config.fidelity.right_when), logits, labels);
        if let Some(gradient) = gradient {
            let weights = tape.mean_weights(self.batch.capacity());
            recorder.gradient(&mut tape, loss, weights, gradient);
        }
        tape.select_negative(sign, &self.selected, &self.correct);
        tape.finish()
    }

    /// Records the gathering of the correct examples into the batch to attack, and the ball of each.
    fn gather_correct(
        &self,
        attacked: &Batch,
        an_pgd: &AnPgd,
        config: &Config,
        noise: Option<(&Buffer, &Buffer)>,
    ) -> Program {
        let mut tape = attacked.tape("gather_correct");
        let selected = tape.leaf(&self.selected);
        let whole = [
            (&self.batch.x, &attacked.x),
            (&self.batch.labels, &attacked.labels),
            (&self.batch.index, &attacked.index),
        ];
        for (from, to) in whole.into_iter().chain(noise) {
            let from = tape.leaf(from);
            let rows = tape.gather_rows(from, selected);
            tape.keep(rows, to);
        }
        let (margins, index) = (tape.leaf(&self.margins), tape.leaf(&attacked.index));
        let last = tape.gather_rows(margins, index);
        let eps = tape.clamp_min(last, config.attack_mineps);
        tape.keep(eps, &an_pgd.pgd.eps);
        let step = tape.scale(eps, config.eps_iter_scale / config.nb_iter as f32);
        tape.keep(step, &an_pgd.pgd.step);
        tape.finish()
    }

    /// Records the loss of the mixed batch, in which boundary points take the places of the correct examples; its
    /// gradient; and the storing of the margins.
    fn margin_pass(
        &self,
        recorder: &StepRecorder,
        attacked: &Batch,
        an_pgd: &AnPgd,
        mixed: &Buffer,
        gradient: &Buffer,
    ) -> Program {
        let config = recorder.config;
        let mut tape = attacked.tape("margin_pass");
        let point = an_pgd.boundary_point(&mut tape, config.fidelity.clamp_boundary);
        let (selected, margin) = (tape.leaf(&self.selected), tape.leaf(&an_pgd.margin));
        tape.scatter_rows(mixed, point, selected);
        tape.scatter_rows(&self.eps, margin, selected);
        if !config.fidelity.forget_wrong {
            let index = tape.leaf(&attacked.index);
            tape.scatter_rows(&self.margins, margin, index);
        }

        tape.set_rows(&self.batch.rows);
        let [mixed, labels, index, eps] =
            [mixed, &self.batch.labels, &self.batch.index, &self.eps].map(|buffer| tape.leaf(buffer));
        let logits = recorder.model.logits(&mut tape, mixed, Mode::Train);
        if config.fidelity.forget_wrong {
            tape.scatter_rows(&self.margins, eps, index);
        }
        let loss = tape.loss(config.loss_rule(config.margin_loss_fn), logits, labels);
        tape.keep(loss, &self.margin_loss);
        let weights = tape.hinge_weights(eps, config.hinge_maxeps);
        tape.keep(weights, &self.margin_weights);
        recorder.gradient(&mut tape, loss, weights, gradient);
        tape.finish()
    }

    fn statistics(&self) -> BatchStatistics<'_> {
        BatchStatistics {
            logit_margin: &self.logit_margin,
            loss: &self.clean_loss,
            weighted_loss: &self.margin_loss,
            weights: Some(&self.margin_weights),
            eps: Some(&self.eps),
        }
    }
}

/// Figures of the steps since the line before.
pub(super) fn figures(sums: &StepSums) -> StepRecord {
    StepRecord {
        clean_loss: Some(sums.mean_loss()),
        margin_loss: Some(sums.weighted_loss()),
        train_accuracy: Some(sums.accuracy()),
        mean_margin: Some(sums.mean_eps()),
        train_reached_d_max: Some(sums.zero_weights()),
        ..StepRecord::default()
    }
}

impl From<Mma> for TrainingStep {
    fn from(mma: Mma) -> TrainingStep {
        let Mma { batch, step, margins, optimizer_state, metrics, correct, schedule, .. } = mma;
        let (margins, correct) = (Some(margins), Some(correct));
        TrainingStep { batch, step, optimizer_state, metrics, figures, margins, correct, schedule }
    }
}
