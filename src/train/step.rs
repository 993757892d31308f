//! Parts that the steps of all methods share: the batch and its gathering, the gradient, the optimizer, the metrics.

use super::statistics::{BatchStatistics, StepSums};
use crate::batch::{Batch, DeviceData};
use crate::config::{Config, OptimizerKind};
use crate::device::Schedule;
use crate::model::Model;
use crate::record::StepRecord;
use crate::tape::{Buffer, Loss, Memory, Metric, MetricOperands, OptimizerRule, Program, Tape, Value};

/// A step of training by any method: its input, its state, and the programs that a run replays.
#[derive(Clone, Debug)]
pub struct TrainingStep {
    /// Batch of the step; its `index` and `rows` are written before each step.
    pub batch: Batch,
    /// Number of steps done, u32 `[1]`; the step increments it.
    pub step: Buffer,
    /// State of the optimizer: Adam's m and v, or SGD's momentum; each as long as the parameters.
    pub optimizer_state: Vec<Buffer>,
    /// Sums over the steps since they were last set to 0, by [`Metric`].
    pub metrics: Buffer,
    /// Figures that the method makes of the sums. They lack the learning rate.
    pub figures: fn(&StepSums) -> StepRecord,
    /// MMA: margin of every training example `[n]`.
    pub margins: Option<Buffer>,
    /// MMA: number of correct, hence attacked, examples of the last step, u32 `[1]`.
    pub correct: Option<Buffer>,
    /// Programs of a whole step.
    pub schedule: Schedule,
}

/// Recorder of a step: the buffers that every method has, and the recording of the shared parts. A method records its
/// own programs around them.
pub(super) struct StepRecorder<'a> {
    pub model: &'a dyn Model,
    pub data: &'a DeviceData,
    pub config: &'a Config,
    pub batch: Batch,
    pub step: Buffer,
    pub optimizer_state: Vec<Buffer>,
    pub metrics: Buffer,
    /// Number, from 1, of the last step whose gradient overflowed, u32 `[1]`, of training passes in half precision.
    overflow: Option<Buffer>,
}

impl<'a> StepRecorder<'a> {
    /// Declares the buffers for batches of `data`.
    pub fn new(memory: &mut Memory, model: &'a dyn Model, data: &'a DeviceData, config: &'a Config) -> Self {
        // A batch that is larger than the data is all of it.
        let n = config.training_batch_size.min(data.labels.dims[0]);
        let state = match config.optimizer {
            OptimizerKind::Adam => &["adam.m", "adam.v"][..],
            OptimizerKind::Sgd => &["sgd.momentum"],
        };
        let parameters = model.params().len();
        StepRecorder {
            model,
            data,
            config,
            batch: Batch::new(memory, model, "batch", n),
            step: memory.u32("step", &[1]),
            optimizer_state: state.iter().map(|name| memory.f32(name, &[parameters])).collect(),
            metrics: memory.f32("metrics", &[Metric::COUNT]),
            overflow: config.training_loss_scale().map(|_| memory.u32("overflow", &[1])),
        }
    }

    /// Buffer for the logits of a batch, `[n, classes]`.
    pub fn logits(&self, memory: &mut Memory, name: &str) -> Buffer {
        memory.f32(name, &[self.batch.capacity(), self.model.classes()])
    }

    /// Buffer for a number of each example, `[n]`.
    pub fn per_example(&self, memory: &mut Memory, name: &str) -> Buffer {
        memory.f32(name, &self.batch.labels.dims)
    }

    /// Buffer for a gradient with respect to all parameters.
    pub fn gradient_buffer(&self, memory: &mut Memory, name: &str) -> Buffer {
        memory.f32(name, &[self.model.params().len()])
    }

    /// Records the gathering of the batch, augmented if the config says so.
    pub fn gather(&self, tape: &mut Tape) {
        match self.config.augment {
            true => self.data.gather_augmented(tape, &self.batch, self.config.seed, &self.step),
            false => self.data.gather(tape, &self.batch),
        }
    }

    /// Records the logit margin of each example, written to `margin` `[n]`. It is recorded beside the loss, so that one
    /// launch computes both.
    pub fn logit_margin(&self, tape: &mut Tape, logits: Value, margin: &Buffer) {
        let labels = tape.leaf(&self.batch.labels);
        let value = tape.loss(self.config.loss_rule(Loss::Lm), logits, labels);
        tape.keep(value, margin);
    }

    /// Records the gradient of `sum(loss * weights)` with respect to all parameters, multiplied by the loss scale if
    /// there is one, written to `gradient`.
    pub fn gradient(&self, tape: &mut Tape, loss: Value, weights: Value, gradient: &Buffer) {
        let weights = self.config.training_loss_scale().map_or(weights, |scale| tape.scale(weights, scale));
        let wanted = self.model.params().leaves(tape);
        let found = tape.grad(loss, weights, &wanted);
        for (value, part) in found.into_iter().zip(self.model.params().parts(gradient)) {
            tape.keep(value, &part);
        }
    }

    /// Records the update: the optimizer's step along one gradient, or along that of the margin loss and that of the
    /// clean loss; and the addition of `statistics` to the metrics.
    pub fn update(&self, gradients: &[&Buffer], statistics: &BatchStatistics) -> Program {
        let StepRecorder { model, config, .. } = *self;
        let mut tape = Tape::new("update");
        let rule = OptimizerRule {
            schedule: config.learning_rate_schedule.clone(),
            clean_coeff: config.clean_loss_coeff,
            weight_decay: config.weight_decay,
            momentum: config.momentum,
            loss_scale: config.training_loss_scale(),
        };
        let gradients: Vec<_> = gradients.iter().map(|b| tape.leaf(b)).collect();
        let step = tape.leaf(&self.step);
        let mut operands = gradients.clone();
        operands.push(step);
        if let Some(overflow) = &self.overflow {
            tape.find_overflow(&gradients, step, overflow, &self.metrics);
            operands.push(tape.leaf(overflow));
        }
        match &self.optimizer_state[..] {
            [m, v] => tape.adam(rule, &operands, model.params().buffer(), &[m.clone(), v.clone()]),
            [momentum] => tape.sgd(rule, &operands, model.params().buffer(), momentum),
            _ => unreachable!("an optimizer has one or two states"),
        }
        tape.set_rows(&self.batch.rows);
        let n = self.batch.capacity();
        let [loss, logit_margin, weighted_loss] =
            [statistics.loss, statistics.logit_margin, statistics.weighted_loss].map(|b| tape.leaf(b));
        let weights = match statistics.weights {
            Some(weights) => tape.leaf(weights),
            None => tape.mean_weights(n),
        };
        let eps = match statistics.eps {
            Some(eps) => tape.leaf(eps),
            None => tape.fill(0.0, &[n]),
        };
        let operands = MetricOperands { loss, logit_margin, weights, weighted_loss, eps };
        tape.accumulate_metrics(operands, &self.metrics, &self.step);
        tape.finish()
    }

    /// Builds the step of a method that has no state of its own.
    pub fn finish(self, schedule: Schedule, figures: fn(&StepSums) -> StepRecord) -> TrainingStep {
        let StepRecorder { batch, step, optimizer_state, metrics, .. } = self;
        TrainingStep { batch, step, optimizer_state, metrics, figures, margins: None, correct: None, schedule }
    }
}
