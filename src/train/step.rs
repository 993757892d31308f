//! What the steps of all methods share: the batch and its gathering, the gradient, the optimizer, the sums of metrics.

use crate::batch::{Batch, DeviceData};
use crate::config::{Config, OptimizerKind};
use crate::device::Schedule;
use crate::model::Model;
use crate::tape::{Buffer, Loss, Memory, Metric, OptimizerRule, Program, Tape, Value};

/// A step of training by any method: what a run feeds it, replays, and keeps.
#[derive(Clone, Debug)]
pub struct Step {
    /// The batch: whoever trains writes `index` and `rows` before each step.
    pub batch: Batch,
    /// The number of the step, u32 `[1]`, from 0; the step counts it up.
    pub step: Buffer,
    /// The optimizer's state: Adam's m and v, or SGD's momentum; each as long as the parameters.
    pub optimizer_state: Vec<Buffer>,
    /// Sums over the steps since they were last zeroed, by [`Metric`].
    pub metrics: Buffer,
    /// MMA: every training example's margin `[n]`.
    pub margins: Option<Buffer>,
    /// MMA: how many examples of the last step were right, so attacked, u32 `[1]`.
    pub right: Option<Buffer>,
    /// A whole step.
    pub schedule: Schedule,
}

/// What every step is built around. A method records its own programs, and takes the shared parts from here.
pub(super) struct Frame<'a> {
    pub model: &'a dyn Model,
    pub data: &'a DeviceData,
    pub config: &'a Config,
    pub batch: Batch,
    pub step: Buffer,
    pub optimizer_state: Vec<Buffer>,
    pub metrics: Buffer,
}

/// What the sums of metrics are made of, each by example.
pub(super) struct Sums<'a> {
    /// An example counts as right by these.
    pub logits: &'a Buffer,
    /// For [`Metric::CleanLoss`].
    pub clean_loss: &'a Buffer,
    /// For [`Metric::MarginLoss`].
    pub margin_loss: &'a Buffer,
    /// Of the margin loss; `None`: its mean.
    pub weights: Option<&'a Buffer>,
    /// For [`Metric::Eps`]; `None`: 0.
    pub eps: Option<&'a Buffer>,
}

impl<'a> Frame<'a> {
    /// Buffers for batches of `data`.
    pub fn new(memory: &mut Memory, model: &'a dyn Model, data: &'a DeviceData, config: &'a Config) -> Frame<'a> {
        // A larger batch than the data is all of it.
        let n = config.training_batch_size.min(data.labels.dims[0]);
        let state = match config.optimizer {
            OptimizerKind::Adam => &["adam.m", "adam.v"][..],
            OptimizerKind::Sgd => &["sgd.momentum"],
        };
        let parameters = model.params().len();
        Frame {
            model,
            data,
            config,
            batch: Batch::new(memory, model, "batch", n),
            step: memory.u32("step", &[1]),
            optimizer_state: state.iter().map(|name| memory.f32(name, &[parameters])).collect(),
            metrics: memory.f32("metrics", &[Metric::COUNT]),
        }
    }

    /// A buffer for the logits of a batch.
    pub fn logits(&self, memory: &mut Memory, name: &str) -> Buffer {
        memory.f32(name, &[self.batch.capacity(), self.model.classes()])
    }

    /// A buffer for a number of each example.
    pub fn by_example(&self, memory: &mut Memory, name: &str) -> Buffer {
        memory.f32(name, &self.batch.labels.dims)
    }

    /// A buffer for a gradient by all parameters.
    pub fn by_parameter(&self, memory: &mut Memory, name: &str) -> Buffer {
        memory.f32(name, &[self.model.params().len()])
    }

    /// Records the gathering of the batch, moved and mirrored if the config says so.
    pub fn gather(&self, tape: &mut Tape) {
        match self.config.augment {
            true => self.data.gather_augmented(tape, &self.batch, self.config.seed, &self.step),
            false => self.data.gather(tape, &self.batch),
        }
    }

    /// Records the gradient of `sum(loss * weights)` by all parameters, written to `gradient`.
    pub fn gradient(&self, tape: &mut Tape, loss: Value, weights: Value, gradient: &Buffer) {
        let wanted = self.model.params().leaves(tape);
        let found = tape.grad(loss, weights, &wanted);
        for (value, part) in found.into_iter().zip(self.model.params().parts(gradient)) {
            tape.keep(value, &part);
        }
    }

    /// New weights, from one gradient, or from that of the margin loss and the clean one's; and the step's share of the
    /// metrics.
    pub fn update(&self, gradients: &[&Buffer], sums: &Sums) -> Program {
        let Frame { model, config, .. } = *self;
        let mut tape = Tape::new("update");
        let rule = OptimizerRule {
            schedule: config.learning_rate_schedule.clone(),
            clean_coeff: config.clean_loss_coeff,
            weight_decay: config.weight_decay,
            momentum: config.momentum,
        };
        let gradients: Vec<_> = gradients.iter().map(|b| tape.leaf(b)).collect();
        let step = tape.leaf(&self.step);
        match &self.optimizer_state[..] {
            [m, v] => tape.adam(rule, &gradients, step, model.params().buffer(), &[m.clone(), v.clone()]),
            [momentum] => tape.sgd(rule, &gradients, step, model.params().buffer(), momentum),
            _ => unreachable!("an optimizer has one or two states"),
        }
        tape.set_rows(&self.batch.rows);
        let n = self.batch.capacity();
        let (logits, labels) = (tape.leaf(sums.logits), tape.leaf(&self.batch.labels));
        let hard = tape.loss(config.loss_rule(Loss::Lm), logits, labels);
        let [clean, margin] = [sums.clean_loss, sums.margin_loss].map(|b| tape.leaf(b));
        let weights = match sums.weights {
            Some(weights) => tape.leaf(weights),
            None => tape.mean_weights(n),
        };
        let eps = match sums.eps {
            Some(eps) => tape.leaf(eps),
            None => tape.fill(0.0, &[n]),
        };
        tape.accumulate_metrics([clean, hard, weights, margin, eps], &self.metrics);
        tape.increment(&self.step);
        tape.finish()
    }

    /// The step of a method that keeps nothing of its own from step to step.
    pub fn finish(self, schedule: Schedule) -> Step {
        let Frame { batch, step, optimizer_state, metrics, .. } = self;
        Step { batch, step, optimizer_state, metrics, margins: None, right: None, schedule }
    }
}
