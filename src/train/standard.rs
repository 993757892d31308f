//! A step of standard training: the gradient of the clean loss, nothing else. What the other methods are measured
//! against.

use std::sync::Arc;

use super::Step;
use super::step::{Frame, Sums};
use crate::batch::DeviceData;
use crate::config::Config;
use crate::device::Schedule;
use crate::model::{Mode, Model};
use crate::tape::{Memory, Tape};

/// Records a step on batches of `data`: a clean pass, the optimizer.
pub fn record(memory: &mut Memory, model: &dyn Model, data: &DeviceData, config: &Config) -> Step {
    let frame = Frame::new(memory, model, data, config);
    let logits = frame.logits(memory, "logits");
    let clean_loss = frame.by_example(memory, "clean_loss");
    let gradient = frame.by_parameter(memory, "gradient");

    let mut tape = Tape::new("clean_pass");
    tape.set_rows(&frame.batch.rows);
    frame.gather(&mut tape);
    let (x, labels) = (tape.leaf(&frame.batch.x), tape.leaf(&frame.batch.labels));
    let found = model.logits(&mut tape, x, Mode::Train);
    tape.keep(found, &logits);
    let loss = tape.loss(config.loss_rule(config.clean_loss_fn), found, labels);
    tape.keep(loss, &clean_loss);
    let weights = tape.mean_weights(frame.batch.capacity());
    frame.gradient(&mut tape, loss, weights, &gradient);

    let sums = Sums { logits: &logits, clean_loss: &clean_loss, margin_loss: &clean_loss, weights: None, eps: None };
    let update = frame.update(&[&gradient], &sums);
    let mut schedule = Schedule::default();
    schedule.then(&Arc::new(tape.finish()), 1);
    schedule.then(&Arc::new(update), 1);
    frame.finish(schedule)
}
