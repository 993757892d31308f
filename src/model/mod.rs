//! Models: layers recorded on a tape, parameters by PyTorch's names.
//!
//! A model knows its layers and its parameters' places; it knows nothing of attacks, training or devices.

mod lenet5;
mod params;
pub mod state_dict;

pub use lenet5::LeNet5;
pub use params::{Parameter, Params};

use crate::tape::{Buffer, Memory, Tape, Value};

/// A classifier of images `[n, h, w, c]` with pixels in [0, 1].
pub trait Model {
    /// What it is, in a line.
    fn describe(&self) -> String;

    /// `[h, w, c]` of an image.
    fn image(&self) -> [usize; 3];

    /// Its parameters.
    fn params(&self) -> &Params;

    /// Records the logits `[n, classes]` of images x.
    fn logits(&self, tape: &mut Tape, x: Value) -> Value;

    /// Gives every parameter its place in `memory`. Called once.
    fn declare(&mut self, memory: &mut Memory);
}

/// The dimensions of a batch of `n` of a model's images.
pub fn batch_dims(model: &dyn Model, n: usize) -> Vec<usize> {
    [&[n][..], &model.image()].concat()
}

/// A buffer for a batch of `n` of a model's images.
pub fn image_buffer(memory: &mut Memory, model: &dyn Model, name: &str, n: usize) -> Buffer {
    memory.f32(name, &batch_dims(model, n))
}
