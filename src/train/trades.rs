//! A step of TRADES (Zhang et al., "Theoretically principled trade-off between robustness and accuracy", ICML 2019): right
//! on the images as they are, and the same answer all around them.
//!
//! 1. the natural logits, in evaluation mode: once for all iterations
//! 2. PGD on the Kullback-Leibler divergence from them, begun at the image and a little normal noise; no label is asked
//! 3. the clean loss plus beta times the divergence at the points found, both passes in training mode; its gradient goes
//!    through both
//! 4. the optimizer
//!
//! In training mode two batches move batch norm's running statistics, the natural one first. (The authors' code computes
//! the natural logits twice there, and its second pass moves them once more.)

use std::sync::Arc;

use super::Step;
use super::pgd::balls;
use super::step::{Frame, Sums};
use crate::attack::{Ascent, Pgd, StartNoise};
use crate::batch::DeviceData;
use crate::config::Config;
use crate::device::Schedule;
use crate::model::{Mode, Model};
use crate::tape::{Memory, Tape};

/// Deviation of the noise that the attack starts with: at the image itself the divergence has no gradient.
pub const START: f32 = 0.001;

/// Records a step on batches of `data`. The attack's buffers are called `batch.adv`, `batch.eps` and `batch.step`.
pub fn record(memory: &mut Memory, model: &dyn Model, data: &DeviceData, config: &Config) -> Step {
    let frame = Frame::new(memory, model, data, config);
    let [natural, logits] = ["natural_logits", "logits"].map(|name| frame.logits(memory, name));
    let [clean_loss, kl] = ["clean_loss", "kl"].map(|name| frame.by_example(memory, name));
    let gradient = frame.by_parameter(memory, "gradient");
    let ascent = Ascent {
        rule: config.pgd_rule(),
        iterations: config.nb_iter,
        noise: StartNoise::Normal { deviation: START, seed: config.seed, step: frame.step.clone() },
    };
    let pgd = Pgd::ascending(memory, model, &frame.batch, &ascent, &|tape, logits| {
        let natural = tape.leaf(&natural);
        tape.kl(natural, logits)
    });

    let mut tape = Tape::new("natural_pass");
    tape.set_rows(&frame.batch.rows);
    frame.gather(&mut tape);
    balls(&mut tape, &frame, &pgd);
    let x = tape.leaf(&frame.batch.x);
    let found = model.logits(&mut tape, x, Mode::Eval);
    tape.keep(found, &natural);
    let natural_pass = tape.finish();

    let mut tape = Tape::new("trades_pass");
    tape.set_rows(&frame.batch.rows);
    let [x, adv, labels] = [&frame.batch.x, &pgd.adv, &frame.batch.labels].map(|b| tape.leaf(b));
    let [found, adversarial] = [x, adv].map(|images| model.logits(&mut tape, images, Mode::Train));
    tape.keep(found, &logits);
    let clean = tape.loss(config.loss_rule(config.clean_loss_fn), found, labels);
    tape.keep(clean, &clean_loss);
    let divergence = tape.kl(found, adversarial);
    tape.keep(divergence, &kl);
    let weighted = tape.scale(divergence, config.trades_beta);
    let loss = tape.add(clean, weighted);
    let weights = tape.mean_weights(frame.batch.capacity());
    frame.gradient(&mut tape, loss, weights, &gradient);

    let sums = Sums { logits: &logits, clean_loss: &clean_loss, margin_loss: &kl, weights: None, eps: None };
    let update = frame.update(&[&gradient], &sums);
    let mut schedule = Schedule::default();
    schedule.then(&Arc::new(natural_pass), 1);
    schedule.extend(&pgd.schedule);
    schedule.then(&Arc::new(tape.finish()), 1);
    schedule.then(&Arc::new(update), 1);
    frame.finish(schedule)
}
