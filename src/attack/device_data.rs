//! A data set on the device: bytes stay bytes until a batch is gathered.

use crate::Result;
use crate::attack::Target;
use crate::data::Dataset;
use crate::device::Device;
use crate::model::{Model, batch_dims};
use crate::tape::{Buffer, DType, Memory, Tape};

/// The examples of a data set, on the device.
#[derive(Clone, Debug)]
pub struct DeviceData {
    /// Pixels as bytes `[n, h, w, c]`.
    pub images: Buffer,
    /// Labels, u32 `[n]`.
    pub labels: Buffer,
}

impl DeviceData {
    /// Room for `n` of a model's images.
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
    pub fn gather(&self, tape: &mut Tape, target: &Target) {
        let [images, labels, index] = [&self.images, &self.labels, &target.index].map(|b| tape.leaf(b));
        let bytes = tape.gather_rows(images, index);
        let x = tape.bytes_to_unit(bytes);
        tape.keep(x, &target.x);
        let labels = tape.gather_rows(labels, index);
        tape.keep(labels, &target.labels);
    }
}
