//! A data set's examples on the device, batch by batch.

use std::sync::Arc;

use crate::Result;
use crate::attack::{DeviceData, Target};
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
    pub target: Target,
    data: DeviceData,
    clean: Arc<Program>,
    /// Logit margin of each example of the batch, without an attack.
    margin: Buffer,
}

impl Examples {
    /// Room for `n` examples, looked at `batch` at a time.
    pub fn new(memory: &mut Memory, model: &dyn Model, name: &str, n: usize, batch: usize) -> Examples {
        let data = DeviceData::new(memory, model, name, n);
        let target = Target::new(memory, model, name, batch.min(n).max(1));
        let margin = memory.f32(&format!("{name}.margin"), &target.labels.dims);
        let mut tape = Tape::new("clean");
        tape.set_rows(&target.rows);
        data.gather(&mut tape, &target);
        let (x, labels) = (tape.leaf(&target.x), tape.leaf(&target.labels));
        let logits = model.logits(&mut tape, x, Mode::Eval);
        let value = tape.loss(HARD, logits, labels);
        tape.keep(value, &margin);
        Examples { target, data, clean: Arc::new(tape.finish()), margin }
    }

    /// Copies the examples to the device.
    ///
    /// # Errors
    /// The device failed.
    pub fn upload(&self, device: &mut dyn Device, dataset: &Dataset) -> Result<()> {
        self.data.upload(device, dataset)
    }

    /// The programs that evaluation runs.
    pub fn programs(&self) -> [&Program; 1] {
        [&self.clean]
    }

    /// Brings the examples `index` (at most a batch) to the target; returns which are right.
    ///
    /// # Errors
    /// The device failed.
    pub fn load(&self, device: &mut dyn Device, index: &[u32]) -> Result<Vec<bool>> {
        device.write_u32(&self.target.index, index)?;
        device.write_u32(&self.target.rows, &[index.len() as u32])?;
        device.execute(&self.clean)?;
        right(device, &self.margin, index.len())
    }

    /// Which of all examples are right.
    ///
    /// # Errors
    /// The device failed.
    pub fn right(&self, device: &mut dyn Device) -> Result<Vec<bool>> {
        let mut right = Vec::with_capacity(self.len());
        for index in self.batches(&self.all()) {
            right.extend(self.load(device, index)?);
        }
        Ok(right)
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

/// Which of the first `n` margins are negative. Not-a-number is not right.
pub(super) fn right(device: &dyn Device, margin: &Buffer, n: usize) -> Result<Vec<bool>> {
    Ok(device.read_f32(margin)?[..n].iter().map(|m| *m < 0.0).collect())
}
