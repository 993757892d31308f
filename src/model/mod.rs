//! Models: layers recorded on a tape, parameters by PyTorch's names.
//!
//! A model knows its layers and its parameters' places; it knows nothing of attacks, training or devices.

mod lenet5;
mod params;
pub mod state_dict;
mod wide_resnet;

pub use lenet5::LeNet5;
pub use params::{Initial, Parameter, Params};
pub use wide_resnet::WideResNet;

use crate::Result;
use crate::device::Device;
use crate::tape::{Buffer, Memory, Tape, Value};

/// What batch norm normalizes with. A model without it knows no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The batch's own statistics; the running ones are updated.
    Train,
    /// The running statistics.
    Eval,
}

/// Names of the parameters of the linear layer that computes the logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputLayer {
    /// Weight `[classes, features]`.
    pub weight: &'static str,
    /// Bias `[classes]`.
    pub bias: &'static str,
}

/// A classifier of images `[n, h, w, c]` with pixels in [0, 1].
pub trait Model {
    /// What it is, in a line.
    fn describe(&self) -> String;

    /// `[h, w, c]` of an image.
    fn image(&self) -> [usize; 3];

    /// What is trained.
    fn params(&self) -> &Params;

    /// What is computed beside training, and saved: batch norm's running statistics.
    fn statistics(&self) -> Option<&Params> {
        None
    }

    /// Linear layer that computes the logits.
    fn output_layer(&self) -> OutputLayer;

    /// Number of classes.
    fn classes(&self) -> usize {
        self.params().range(self.output_layer().bias).len()
    }

    /// Records the logits `[n, classes]` of images x.
    fn logits(&self, tape: &mut Tape, x: Value, mode: Mode) -> Value;

    /// Gives all that it keeps a place in `memory`. Called once.
    fn declare(&mut self, memory: &mut Memory);
}

/// Values of all that a model keeps, in our layouts: of its parameters, then of its statistics if it has any.
pub type State = Vec<Vec<f32>>;

impl dyn Model + '_ {
    /// All that it keeps.
    pub fn kept(&self) -> impl Iterator<Item = &Params> {
        [self.params()].into_iter().chain(self.statistics())
    }

    /// First values: a function of the seed alone.
    pub fn initial(&self, seed: u64) -> State {
        self.kept().map(|params| params.initial(seed)).collect()
    }

    /// Writes values to the device.
    ///
    /// # Errors
    /// The device failed.
    pub fn load(&self, device: &mut dyn Device, state: &State) -> Result<()> {
        self.kept().zip(state).try_for_each(|(params, values)| params.load(device, values))
    }

    /// Reads values from the device.
    ///
    /// # Errors
    /// The device failed.
    pub fn read(&self, device: &dyn Device) -> Result<State> {
        self.kept().map(|params| device.read_f32(params.buffer())).collect()
    }
}

/// The dimensions of a batch of `n` of a model's images.
pub fn batch_dims(model: &dyn Model, n: usize) -> Vec<usize> {
    [&[n][..], &model.image()].concat()
}

/// A buffer for a batch of `n` of a model's images.
pub fn image_buffer(memory: &mut Memory, model: &dyn Model, name: &str, n: usize) -> Buffer {
    memory.f32(name, &batch_dims(model, n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_have_a_column_for_each_class() {
        let models: [Box<dyn Model>; 2] =
            [Box::new(LeNet5::with_sizes([8, 8, 1], [2, 3], 3, 4, 7)), Box::new(WideResNet::new(10, 1))];
        for (mut model, classes) in models.into_iter().zip([7, 10]) {
            let mut memory = Memory::default();
            model.declare(&mut memory);
            let mut tape = Tape::new("logits");
            let x = tape.leaf(&image_buffer(&mut memory, &*model, "x", 2));
            let logits = model.logits(&mut tape, x, Mode::Eval);
            assert_eq!(tape.dims(logits), [2, classes]);
            assert_eq!(model.classes(), classes, "{}", model.describe());
        }
    }
}
