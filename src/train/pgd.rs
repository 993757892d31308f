//! A step of PGD training (Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018), and
//! of PGDLS, whose eps grows linearly from 0 (Ding et al., 2020).
//!
//! 1. PGD on every example, within one eps for all, in evaluation mode
//! 2. the loss at the points it found, in training mode; its gradient
//! 3. the optimizer
//!
//! One loss is ascended and descended. No pass sees the images as they are, so batch norm's running statistics are those
//! of attacked images.

use std::sync::Arc;

use super::Step;
use super::step::{Frame, Sums};
use crate::attack::{Pgd, PgdSettings, StartNoise};
use crate::batch::DeviceData;
use crate::config::{Config, Method};
use crate::device::Schedule;
use crate::model::{Mode, Model};
use crate::rng::Purpose;
use crate::tape::{Memory, Tape};

/// Records a step on batches of `data`. The attack's buffers are called `batch.adv`, `batch.eps` and `batch.step`.
pub fn record(memory: &mut Memory, model: &dyn Model, data: &DeviceData, config: &Config) -> Step {
    let frame = Frame::new(memory, model, data, config);
    let logits = frame.logits(memory, "logits");
    let adversarial_loss = frame.by_example(memory, "adversarial_loss");
    let gradient = frame.by_parameter(memory, "gradient");
    let settings = PgdSettings {
        loss: config.loss_rule(config.margin_loss_fn),
        rule: config.pgd_rule(),
        iterations: config.nb_iter,
        noise: StartNoise::CounterBased { seed: config.seed, purpose: Purpose::TrainStart, step: frame.step.clone() },
    };
    let pgd = Pgd::new(memory, model, &frame.batch, &settings);

    let mut tape = Tape::new("gather");
    tape.set_rows(&frame.batch.rows);
    frame.gather(&mut tape);
    balls(&mut tape, &frame, &pgd);
    let gather = tape.finish();

    let mut tape = Tape::new("adversarial_pass");
    tape.set_rows(&frame.batch.rows);
    let (adv, labels) = (tape.leaf(&pgd.adv), tape.leaf(&frame.batch.labels));
    let found = model.logits(&mut tape, adv, Mode::Train);
    tape.keep(found, &logits);
    let loss = tape.loss(settings.loss, found, labels);
    tape.keep(loss, &adversarial_loss);
    let weights = tape.mean_weights(frame.batch.capacity());
    frame.gradient(&mut tape, loss, weights, &gradient);

    let sums = Sums {
        logits: &logits,
        clean_loss: &adversarial_loss,
        margin_loss: &adversarial_loss,
        weights: None,
        eps: Some(&pgd.eps),
    };
    let update = frame.update(&[&gradient], &sums);
    let mut schedule = Schedule::default();
    schedule.then(&Arc::new(gather), 1);
    schedule.extend(&pgd.schedule);
    schedule.then(&Arc::new(tape.finish()), 1);
    schedule.then(&Arc::new(update), 1);
    frame.finish(schedule)
}

/// Records every example's ball: the config's eps, with PGDLS as much of it as the step's number says; and PGD's step in it.
pub(super) fn balls(tape: &mut Tape, frame: &Frame, pgd: &Pgd) {
    let config = frame.config;
    let step = tape.leaf(&frame.step);
    tape.map_into(&pgd.eps, [step], |_, [step]| match config.method {
        Method::Pgdls => config.attack_eps * (step / config.eps_ramp_steps as f32).min(1.0),
        _ => config.attack_eps.into(),
    });
    let eps = tape.leaf(&pgd.eps);
    let step = tape.scale(eps, config.eps_iter_scale / config.nb_iter as f32);
    tape.keep(step, &pgd.step);
}
