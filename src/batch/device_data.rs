//! A data set on the device: pixels stay bytes until a batch is gathered.

use super::buffers::Batch;
use crate::Result;
use crate::data::Dataset;
use crate::device::Device;
use crate::model::{Model, batch_dims};
use crate::tape::{Buffer, DType, Memory, Tape, Value};

/// Largest shift of an augmented image, in pixels.
const REACH: u32 = 4;

/// Examples of a data set, on the device.
#[derive(Clone, Debug)]
pub struct DeviceData {
    /// Pixels as bytes `[n, h, w, c]`.
    pub images: Buffer,
    /// Labels, u32 `[n]`.
    pub labels: Buffer,
}

impl DeviceData {
    /// Buffers for `n` of a model's images.
    pub fn new(memory: &mut Memory, model: &dyn Model, name: &str, n: usize) -> DeviceData {
        let dims = batch_dims(model, n);
        DeviceData {
            images: memory.buffer(&format!("{name}.images"), &dims, DType::U8),
            labels: memory.u32(&format!("{name}.labels"), &[n]),
        }
    }

    /// Copies the examples to the device.
    ///
    /// # Errors
    /// The device failed.
    pub fn upload(&self, device: &mut dyn Device, dataset: &Dataset) -> Result<()> {
        device.write_u8(&self.images, &dataset.images)?;
        device.write_u32(&self.labels, &dataset.labels.iter().map(|&l| u32::from(l)).collect::<Vec<_>>())
    }

    /// Records the gathering of a batch by its index: writes images in [0, 1] and labels.
    pub fn gather(&self, tape: &mut Tape, batch: &Batch) {
        let [images, index] = [&self.images, &batch.index].map(|b| tape.leaf(b));
        let bytes = tape.gather_rows(images, index);
        self.write(tape, batch, bytes);
    }

    /// [`DeviceData::gather`] with the images shifted and mirrored: by counter-based random numbers of the seed, `step`
    /// (u32 `[1]`) and each example's index.
    pub fn gather_augmented(&self, tape: &mut Tape, batch: &Batch, seed: u64, step: &Buffer) {
        let [images, index, step] = [&self.images, &batch.index, step].map(|b| tape.leaf(b));
        let choice = tape.draw_augmentation(seed, REACH, step, index);
        let bytes = tape.gather_augmented(REACH, images, index, choice);
        self.write(tape, batch, bytes);
    }

    fn write(&self, tape: &mut Tape, batch: &Batch, bytes: Value) {
        let [labels, index] = [&self.labels, &batch.index].map(|b| tape.leaf(b));
        let x = tape.bytes_to_unit(bytes);
        tape.keep(x, &batch.x);
        let labels = tape.gather_rows(labels, index);
        tape.keep(labels, &batch.labels);
    }
}
