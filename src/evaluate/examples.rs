//! Examples of a data set on the device, gathered batch by batch, and their predictions without an attack.

use std::sync::Arc;

use crate::Result;
use crate::batch::{Batch, DeviceData};
use crate::data::Dataset;
use crate::device::Device;
use crate::interrupt;
use crate::model::{Mode, Model};
use crate::tape::{Buffer, Loss, LossRule, Memory, Program, Tape};

/// Logit margin: the largest other logit less the label's, negative where the label has the largest logit.
pub(super) const LOGIT_MARGIN: LossRule = LossRule { loss: Loss::Lm, confidence: 0.0 };

/// Examples of a data set, and the batch of them that attacks and passes read.
#[derive(Clone, Debug)]
pub struct Examples {
    /// Batch that is filled by [`Examples::load`].
    pub batch: Batch,
    data: DeviceData,
    gather: Arc<Program>,
    clean: Arc<Program>,
    /// Logits of the clean batch `[n, classes]`.
    logits: Buffer,
    /// Logit margins of the clean batch `[n]`.
    margin: Buffer,
}

/// Prediction for an image without an attack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CleanPrediction {
    /// Class with the largest logit; the first of equal ones.
    pub class: u32,
    /// True if the label's logit is the largest, and no other is as large.
    pub correct: bool,
    /// True if no logit is NaN or infinite.
    pub finite: bool,
}

impl Examples {
    /// Buffers for `n` examples and for a batch of at most `batch_size` of them; programs that fill and classify it.
    pub fn new(memory: &mut Memory, model: &dyn Model, name: &str, n: usize, batch_size: usize) -> Examples {
        let data = DeviceData::new(memory, model, name, n);
        let batch = Batch::new(memory, model, name, batch_size.min(n).max(1));
        let margin = memory.f32(&format!("{name}.margin"), &batch.labels.dims);
        let logits = memory.f32(&format!("{name}.logits"), &[batch.capacity(), model.classes()]);
        let mut tape = Tape::new("gather");
        tape.set_rows(&batch.rows);
        data.gather(&mut tape, &batch);
        let gather = Arc::new(tape.finish());
        let mut tape = Tape::new("clean");
        tape.set_rows(&batch.rows);
        let (x, labels) = (tape.leaf(&batch.x), tape.leaf(&batch.labels));
        let values = model.logits(&mut tape, x, Mode::Eval);
        tape.keep(values, &logits);
        let value = tape.loss(LOGIT_MARGIN, values, labels);
        tape.keep(value, &margin);
        Examples { batch, data, gather, clean: Arc::new(tape.finish()), logits, margin }
    }

    /// Copies the examples to the device.
    ///
    /// # Errors
    /// The device failed.
    pub fn upload(&self, device: &mut dyn Device, dataset: &Dataset) -> Result<()> {
        self.data.upload(device, dataset)
    }

    /// Programs that this type executes.
    pub fn programs(&self) -> [&Program; 2] {
        [&self.gather, &self.clean]
    }

    /// Gathers the examples `index` (at most a batch) into the batch.
    ///
    /// # Errors
    /// The device failed.
    pub fn load(&self, device: &mut dyn Device, index: &[u32]) -> Result<()> {
        device.write_u32(&self.batch.index, index)?;
        device.write_u32(&self.batch.rows, &[index.len() as u32])?;
        device.execute(&self.gather)
    }

    /// Predictions for the examples `index` (at most a batch).
    ///
    /// # Errors
    /// The device failed.
    pub fn predict(&self, device: &mut dyn Device, index: &[u32]) -> Result<Vec<CleanPrediction>> {
        self.load(device, index)?;
        self.predict_batch(device, index.len())
    }

    /// Predictions for other images (at most a batch), `[h, w, c]` each, in [0, 1].
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn predict_images(
        &self,
        device: &mut dyn Device,
        images: &[f32],
        labels: &[u32],
    ) -> Result<Vec<CleanPrediction>> {
        device.write_f32(&self.batch.x, images)?;
        device.write_u32(&self.batch.labels, labels)?;
        device.write_u32(&self.batch.rows, &[labels.len() as u32])?;
        self.predict_batch(device, labels.len())
    }

    fn predict_batch(&self, device: &mut dyn Device, n: usize) -> Result<Vec<CleanPrediction>> {
        device.execute(&self.clean)?;
        let (logits, margins) = (device.read_f32(&self.logits)?, device.read_f32(&self.margin)?);
        let first_largest = |row: &[f32]| (1..row.len()).fold(0, |best, j| if row[j] > row[best] { j } else { best });
        let predictions =
            logits.chunks_exact(self.logits.dims[1]).zip(&margins).take(n).map(|(logits, margin)| CleanPrediction {
                class: first_largest(logits) as u32,
                correct: *margin < 0.0,
                finite: logits.iter().all(|logit| logit.is_finite()),
            });
        Ok(predictions.collect())
    }

    /// Logits `[n, classes]` of the batch that was classified last.
    ///
    /// # Errors
    /// The device failed.
    pub fn logits(&self, device: &dyn Device) -> Result<Vec<f32>> {
        device.read_f32(&self.logits)
    }

    /// Predictions for all examples, in order.
    ///
    /// # Errors
    /// The device failed, or a signal asked to stop.
    pub fn clean_predictions(&self, device: &mut dyn Device) -> Result<Vec<CleanPrediction>> {
        let mut predictions = Vec::with_capacity(self.len());
        for index in self.batches(&self.indices()) {
            interrupt::check()?;
            predictions.extend(self.predict(device, index)?);
        }
        Ok(predictions)
    }

    /// True for each example that is classified correctly without an attack, in order.
    ///
    /// # Errors
    /// As [`Examples::clean_predictions`].
    pub fn correct(&self, device: &mut dyn Device) -> Result<Vec<bool>> {
        Ok(self.clean_predictions(device)?.into_iter().map(|prediction| prediction.correct).collect())
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.data.labels.dims[0]
    }

    /// True if there are no examples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Index of every example.
    pub(super) fn indices(&self) -> Vec<u32> {
        (0..self.len() as u32).collect()
    }

    /// `index` in pieces of at most a batch.
    pub(super) fn batches<'a>(&self, index: &'a [u32]) -> impl Iterator<Item = &'a [u32]> + use<'a> {
        index.chunks(self.batch.capacity())
    }
}
