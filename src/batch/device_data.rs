//! A data set on the device: bytes stay bytes until a batch is gathered.

use super::Batch;
use crate::Result;
use crate::data::Dataset;
use crate::device::Device;
use crate::model::{Model, batch_dims};
use crate::tape::{Buffer, DType, Memory, Tape, Value};

/// Pixels around a training image within which it is moved.
const REACH: u32 = 4;

/// The examples of a data set, on the device.
#[derive(Clone, Debug)]
pub struct DeviceData {
    /// Pixels as bytes `[n, h, w, c]`.
    pub images: Buffer,
    /// Labels, u32 `[n]`.
    pub labels: Buffer,
}

impl DeviceData {
    /// Workspace for `n` of a model's images.
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

    /// Records the gathering of a batch by index: images in [0, 1] and labels, written to `target`.
    pub fn gather(&self, tape: &mut Tape, target: &Batch) {
        let [images, index] = [&self.images, &target.index].map(|b| tape.leaf(b));
        let bytes = tape.gather_rows(images, index);
        self.write(tape, target, bytes);
    }

    /// [`DeviceData::gather`] with the images moved and mirrored, as the numbers counted by the seed, `step` (u32 `[1]`)
    /// and each example's index say.
    pub fn gather_augmented(&self, tape: &mut Tape, target: &Batch, seed: u64, step: &Buffer) {
        let [images, index, step] = [&self.images, &target.index, step].map(|b| tape.leaf(b));
        let choice = tape.draw_augmentation(seed, REACH, step, index);
        let bytes = tape.gather_augmented(REACH, images, index, choice);
        self.write(tape, target, bytes);
    }

    fn write(&self, tape: &mut Tape, target: &Batch, bytes: Value) {
        let [labels, index] = [&self.labels, &target.index].map(|b| tape.leaf(b));
        let x = tape.bytes_to_unit(bytes);
        tape.keep(x, &target.x);
        let labels = tape.gather_rows(labels, index);
        tape.keep(labels, &target.labels);
    }
}
