//! A step of TRADES (Zhang et al., "Theoretically principled trade-off between robustness and accuracy", ICML 2019):
//! correct predictions on clean images, and equal predictions on the attacked images.
//!
//! 1. logits of the clean images, in evaluation mode and in the attack's precision: once for all iterations
//! 2. PGD on the KL divergence from them, started at the image plus a little normal noise; it reads no labels
//! 3. clean loss plus beta times the KL divergence of the attacked images, both passes in training mode; its gradient
//!    flows through both passes
//! 4. the optimizer
//!
//! In training mode two batches update batch norm's running statistics, the clean one first. (The authors' code
//! computes the clean logits twice in training mode, and its second pass updates the statistics once more.)

use std::sync::Arc;

use super::pgd::balls;
use super::statistics::{BatchStatistics, StepSums};
use super::step::{StepRecorder, TrainingStep};
use crate::attack::{Ascent, Pgd, StartNoise};
use crate::batch::DeviceData;
use crate::config::Config;
use crate::model::{Mode, Model, StepModels};
use crate::record::StepRecord;
use crate::tape::Memory;

/// Standard deviation of the noise at the attack's start: at the image itself the gradient of the divergence is 0.
pub const START_DEVIATION: f32 = 0.001;

/// Records a step on batches of `data`. The attack's buffers are named `batch.pgd.adv`, `batch.pgd.eps` and
/// `batch.pgd.step`.
pub fn record(memory: &mut Memory, model: &dyn Model, data: &DeviceData, config: &Config) -> TrainingStep {
    let StepModels { attacked, trained, preparation } = StepModels::new(memory, model, config.precision);
    let recorder = StepRecorder::new(memory, &trained, data, config);
    let natural = recorder.logits(memory, "natural_logits");
    let [clean_loss, kl, logit_margin] =
        ["clean_loss", "kl", "logit_margin"].map(|name| recorder.per_example(memory, name));
    let gradient = recorder.gradient_buffer(memory, "gradient");
    let ascent = Ascent {
        rule: config.pgd_rule(),
        iterations: config.nb_iter,
        noise: StartNoise::Normal { deviation: START_DEVIATION, seed: config.seed, step: recorder.step.clone() },
    };
    let pgd = Pgd::ascending(memory, &attacked, &recorder.batch, &ascent, &|tape, logits| {
        let natural = tape.leaf(&natural);
        tape.kl(natural, logits)
    });

    let mut tape = recorder.batch.tape("natural_pass");
    recorder.gather(&mut tape);
    balls(&mut tape, &recorder, &pgd);
    let x = tape.leaf(&recorder.batch.x);
    let found = attacked.logits(&mut tape, x, Mode::Eval);
    tape.keep(found, &natural);
    let natural_pass = tape.finish();

    let mut tape = recorder.batch.tape("trades_pass");
    let [x, adv, labels] = [&recorder.batch.x, &pgd.adv, &recorder.batch.labels].map(|b| tape.leaf(b));
    let [found, adversarial] = [x, adv].map(|images| trained.logits(&mut tape, images, Mode::Train));
    let clean = tape.loss(config.loss_rule(config.clean_loss_fn), found, labels);
    tape.keep(clean, &clean_loss);
    recorder.logit_margin(&mut tape, found, &logit_margin);
    let divergence = tape.kl(found, adversarial);
    tape.keep(divergence, &kl);
    let weighted = tape.scale(divergence, config.trades_beta);
    let loss = tape.add(clean, weighted);
    let weights = tape.mean_weights(recorder.batch.capacity());
    recorder.gradient(&mut tape, loss, weights, &gradient);

    let statistics = BatchStatistics {
        logit_margin: &logit_margin,
        loss: &clean_loss,
        weighted_loss: &kl,
        weights: None,
        eps: None,
    };
    let update = recorder.update(&[&gradient], &statistics);
    let mut schedule = preparation;
    schedule.then(&Arc::new(natural_pass), 1);
    schedule.extend(&pgd.schedule);
    schedule.then(&Arc::new(tape.finish()), 1);
    schedule.then(&Arc::new(update), 1);
    recorder.finish(schedule, figures)
}

/// Figures of the steps since the line before.
pub(super) fn figures(sums: &StepSums) -> StepRecord {
    StepRecord {
        clean_loss: Some(sums.mean_loss()),
        kl: Some(sums.weighted_loss()),
        train_accuracy: Some(sums.accuracy()),
        ..StepRecord::default()
    }
}
