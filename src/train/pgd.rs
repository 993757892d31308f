//! A step of PGD training (Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018),
//! and of PGDLS, whose eps grows linearly from 0 (Ding et al., 2020).
//!
//! 1. PGD on every example, within one eps for all, in evaluation mode
//! 2. loss of the attacked images, in training mode; its gradient
//! 3. the optimizer
//!
//! The attack ascends the loss that training descends. No pass sees the clean images, so batch norm's running
//! statistics are those of attacked images.

use std::sync::Arc;

use super::statistics::{BatchStatistics, StepSums};
use super::step::{StepRecorder, TrainingStep};
use crate::attack::{Pgd, PgdSettings, StartNoise};
use crate::batch::DeviceData;
use crate::config::{Config, Method};
use crate::model::{Mode, Model, StepModels};
use crate::record::StepRecord;
use crate::rng::Purpose;
use crate::tape::{Memory, Tape};

/// Records a step on batches of `data`. The attack's buffers are named `batch.pgd.adv`, `batch.pgd.eps` and
/// `batch.pgd.step`.
pub fn record(memory: &mut Memory, model: &dyn Model, data: &DeviceData, config: &Config) -> TrainingStep {
    let StepModels { attacked, trained, preparation } = StepModels::new(memory, model, config.precision);
    let recorder = StepRecorder::new(memory, &trained, data, config);
    let [adversarial_loss, logit_margin] =
        ["adversarial_loss", "logit_margin"].map(|name| recorder.per_example(memory, name));
    let gradient = recorder.gradient_buffer(memory, "gradient");
    let settings = PgdSettings {
        loss: config.loss_rule(config.margin_loss_fn),
        rule: config.pgd_rule(),
        iterations: config.nb_iter,
        noise: StartNoise::CounterBased {
            seed: config.seed,
            purpose: Purpose::TrainStart,
            step: recorder.step.clone(),
        },
    };
    let pgd = Pgd::new(memory, &attacked, &recorder.batch, &settings);

    let mut tape = recorder.batch.tape("gather");
    recorder.gather(&mut tape);
    balls(&mut tape, &recorder, &pgd);
    let gather = tape.finish();

    let mut tape = recorder.batch.tape("adversarial_pass");
    let (adv, labels) = (tape.leaf(&pgd.adv), tape.leaf(&recorder.batch.labels));
    let logits = trained.logits(&mut tape, adv, Mode::Train);
    let loss = tape.loss(settings.loss, logits, labels);
    tape.keep(loss, &adversarial_loss);
    recorder.logit_margin(&mut tape, logits, &logit_margin);
    let weights = tape.mean_weights(recorder.batch.capacity());
    recorder.gradient(&mut tape, loss, weights, &gradient);

    let statistics = BatchStatistics {
        logit_margin: &logit_margin,
        loss: &adversarial_loss,
        weighted_loss: &adversarial_loss,
        weights: None,
        eps: Some(&pgd.eps),
    };
    let update = recorder.update(&[&gradient], &statistics);
    let mut schedule = preparation;
    schedule.then(&Arc::new(gather), 1);
    schedule.extend(&pgd.schedule);
    schedule.then(&Arc::new(tape.finish()), 1);
    schedule.then(&Arc::new(update), 1);
    recorder.finish(schedule, figures)
}

/// Figures of the steps since the line before.
pub(super) fn figures(sums: &StepSums) -> StepRecord {
    StepRecord {
        adversarial_loss: Some(sums.weighted_loss()),
        train_adversarial_accuracy: Some(sums.accuracy()),
        attack_eps: Some(sums.mean_eps()),
        ..StepRecord::default()
    }
}

/// Records every example's ball: its radius, which is the config's eps, or with PGDLS the fraction of it that the
/// number of steps gives; and PGD's step size within it.
pub(super) fn balls(tape: &mut Tape, recorder: &StepRecorder, pgd: &Pgd) {
    let config = recorder.config;
    let step = tape.leaf(&recorder.step);
    tape.map_into(&pgd.eps, [step], |_, [step]| match config.method {
        Method::Pgdls => config.attack_eps * (step / config.eps_ramp_steps as f32).min(1.0),
        _ => config.attack_eps.into(),
    });
    let eps = tape.leaf(&pgd.eps);
    let step = tape.scale(eps, config.eps_iter_scale / config.nb_iter as f32);
    tape.keep(step, &pgd.step);
}
