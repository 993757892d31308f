//! A step of standard training: the gradient of the clean loss alone. The other methods are compared with it.

use std::sync::Arc;

use super::statistics::{BatchStatistics, StepSums};
use super::step::{StepRecorder, TrainingStep};
use crate::batch::DeviceData;
use crate::config::Config;
use crate::model::{Mode, Model, StepModels};
use crate::record::StepRecord;
use crate::tape::Memory;

/// Records a step on batches of `data`: a clean pass, the optimizer.
pub fn record(memory: &mut Memory, model: &dyn Model, data: &DeviceData, config: &Config) -> TrainingStep {
    let StepModels { trained, preparation, .. } = StepModels::new(memory, model, config.precision);
    let recorder = StepRecorder::new(memory, &trained, data, config);
    let [clean_loss, logit_margin] = ["clean_loss", "logit_margin"].map(|name| recorder.per_example(memory, name));
    let gradient = recorder.gradient_buffer(memory, "gradient");

    let mut tape = recorder.batch.tape("clean_pass");
    recorder.gather(&mut tape);
    let (x, labels) = (tape.leaf(&recorder.batch.x), tape.leaf(&recorder.batch.labels));
    let logits = trained.logits(&mut tape, x, Mode::Train);
    let loss = tape.loss(config.loss_rule(config.clean_loss_fn), logits, labels);
    tape.keep(loss, &clean_loss);
    recorder.logit_margin(&mut tape, logits, &logit_margin);
    let weights = tape.mean_weights(recorder.batch.capacity());
    recorder.gradient(&mut tape, loss, weights, &gradient);

    let statistics = BatchStatistics {
        logit_margin: &logit_margin,
        loss: &clean_loss,
        weighted_loss: &clean_loss,
        weights: None,
        eps: None,
    };
    let update = recorder.update(&[&gradient], &statistics);
    let mut schedule = preparation;
    schedule.then(&Arc::new(tape.finish()), 1);
    schedule.then(&Arc::new(update), 1);
    recorder.finish(schedule, figures)
}

/// Figures of the steps since the line before.
pub(super) fn figures(sums: &StepSums) -> StepRecord {
    StepRecord { clean_loss: Some(sums.mean_loss()), train_accuracy: Some(sums.accuracy()), ..StepRecord::default() }
}
