//! A data set's examples on the device, batch by batch.

use std::sync::Arc;

use crate::Result;
use crate::batch::{Batch, DeviceData};
use crate::data::Dataset;
use crate::device::Device;
use crate::model::{Mode, Model};
use crate::tape::{Buffer, Loss, LossRule, Memory, Program, Tape};

/// The rule of the logit margin: negative where the label has the largest logit.
pub(super) const HARD: LossRule = LossRule { loss: Loss::Lm, confidence: 0.0 };

/// Examples of a data set, and the batch of them that is looked at.
#[derive(Clone, Debug)]
pub struct Examples {
    /// The batch.
    pub target: Batch,
    data: DeviceData,
    gather: Arc<Program>,
    clean: Arc<Program>,
    /// Of the batch, without an attack: logits `[batch, classes]`, and the logit margin of each.
    logits: Buffer,
    margin: Buffer,
}

/// What the network says of an example without an attack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CleanPrediction {
    /// The class with the largest logit; the first of equal ones.
    pub prediction: u32,
    /// Whether the label's logit is the largest, and no other as large.
    pub right: bool,
}

impl Examples {
    /// Room for `n` examples, looked at `batch` at a time.
    pub fn new(memory: &mut Memory, model: &dyn Model, name: &str, n: usize, batch: usize) -> Examples {
        let data = DeviceData::new(memory, model, name, n);
        let target = Batch::new(memory, model, name, batch.min(n).max(1));
        let margin = memory.f32(&format!("{name}.margin"), &target.labels.dims);
        let logits = memory.f32(&format!("{name}.logits"), &[target.capacity(), model.classes()]);
        let mut tape = Tape::new("gather");
        tape.set_rows(&target.rows);
        data.gather(&mut tape, &target);
        let gather = Arc::new(tape.finish());
        let mut tape = Tape::new("clean");
        tape.set_rows(&target.rows);
        let (x, labels) = (tape.leaf(&target.x), tape.leaf(&target.labels));
        let values = model.logits(&mut tape, x, Mode::Eval);
        tape.keep(values, &logits);
        let value = tape.loss(HARD, values, labels);
        tape.keep(value, &margin);
        Examples { target, data, gather, clean: Arc::new(tape.finish()), logits, margin }
    }

    /// Copies the examples to the device.
    ///
    /// # Errors
    /// The device failed.
    pub fn upload(&self, device: &mut dyn Device, dataset: &Dataset) -> Result<()> {
        self.data.upload(device, dataset)
    }

    /// The programs that evaluation runs.
    pub fn programs(&self) -> [&Program; 2] {
        [&self.gather, &self.clean]
    }

    /// Brings the examples `index` (at most a batch) to the target.
    ///
    /// # Errors
    /// The device failed.
    pub fn load(&self, device: &mut dyn Device, index: &[u32]) -> Result<()> {
        device.write_u32(&self.target.index, index)?;
        device.write_u32(&self.target.rows, &[index.len() as u32])?;
        device.execute(&self.gather)
    }

    /// What the network says of each example of `index` (at most a batch).
    ///
    /// # Errors
    /// The device failed.
    pub fn look(&self, device: &mut dyn Device, index: &[u32]) -> Result<Vec<CleanPrediction>> {
        self.load(device, index)?;
        self.look_at_target(device, index.len())
    }

    /// What the network says of other images (at most a batch), `[h, w, c]` each, in [0, 1].
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn look_at(
        &self,
        device: &mut dyn Device,
        images: &[f32],
        labels: &[u32],
    ) -> Result<Vec<CleanPrediction>> {
        device.write_f32(&self.target.x, images)?;
        device.write_u32(&self.target.labels, labels)?;
        device.write_u32(&self.target.rows, &[labels.len() as u32])?;
        self.look_at_target(device, labels.len())
    }

    fn look_at_target(&self, device: &mut dyn Device, n: usize) -> Result<Vec<CleanPrediction>> {
        device.execute(&self.clean)?;
        let (logits, margins) = (device.read_f32(&self.logits)?, device.read_f32(&self.margin)?);
        let rows = logits.chunks_exact(self.logits.dims[1]).zip(&margins).take(n);
        let first_largest = |row: &[f32]| (1..row.len()).fold(0, |best, j| if row[j] > row[best] { j } else { best });
        Ok(rows
            .map(|(row, margin)| CleanPrediction { prediction: first_largest(row) as u32, right: *margin < 0.0 })
            .collect())
    }

    /// The logits of the batch that was looked at last: rows of as many as there are classes.
    ///
    /// # Errors
    /// The device failed.
    pub fn logits(&self, device: &dyn Device) -> Result<Vec<f32>> {
        device.read_f32(&self.logits)
    }

    /// What the network says of all examples.
    ///
    /// # Errors
    /// The device failed.
    pub fn clean(&self, device: &mut dyn Device) -> Result<Vec<CleanPrediction>> {
        let mut clean = Vec::with_capacity(self.len());
        for index in self.batches(&self.all()) {
            clean.extend(self.look(device, index)?);
        }
        Ok(clean)
    }

    /// Which of all examples are right.
    ///
    /// # Errors
    /// The device failed.
    pub fn right(&self, device: &mut dyn Device) -> Result<Vec<bool>> {
        Ok(self.clean(device)?.into_iter().map(|clean| clean.right).collect())
    }

    /// How many examples there are.
    pub fn len(&self) -> usize {
        self.data.labels.dims[0]
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every example's index.
    pub(super) fn all(&self) -> Vec<u32> {
        (0..self.len() as u32).collect()
    }

    /// `index` in batches.
    pub(super) fn batches<'a>(&self, index: &'a [u32]) -> impl Iterator<Item = &'a [u32]> + use<'a> {
        index.chunks(self.target.capacity())
    }
}
