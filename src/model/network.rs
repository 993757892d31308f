//! Classifiers as attacks, training and evaluation see them.

use super::input_layer::{InputLayer, Normalization};
use super::params::Params;
use crate::Result;
use crate::device::{Device, Schedule};
use crate::tape::{Buffer, Memory, Tape, Value};

/// Statistics that batch norm normalizes with. They make no difference to a model without batch norm.
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
    /// Description in a line: architecture, sizes, number of parameters, what it does with an image.
    fn describe(&self) -> String;

    /// Size of an image, `[h, w, c]`.
    fn image(&self) -> [usize; 3];

    /// Parameters, which are trained.
    fn params(&self) -> &Params;

    /// Running statistics of batch norm, which are saved but not trained; `None` for a model without batch norm.
    fn statistics(&self) -> Option<&Params> {
        None
    }

    /// Layer that normalizes images; `None` for a model that takes pixels as they are.
    fn input_layer(&self) -> Option<&InputLayer> {
        None
    }

    /// [`Model::input_layer`], to be changed.
    fn input_layer_mut(&mut self) -> Option<&mut InputLayer> {
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

    /// Programs that run after the weights have changed, before programs that read logits of this model.
    fn preparation(&self) -> Schedule {
        Schedule::default()
    }

    /// Declares the buffers of parameters and statistics in `memory`. Called once.
    fn declare(&mut self, memory: &mut Memory);
}

/// Values of a model in our layouts: of its parameters, then of its statistics if it has any.
pub type ModelState = Vec<Vec<f32>>;

impl dyn Model + '_ {
    /// Parameters, then statistics if there are any: all that a file of weights holds.
    pub fn stored(&self) -> impl Iterator<Item = &Params> {
        [self.params()].into_iter().chain(self.statistics())
    }

    /// Normalization of images before the first layer.
    pub fn normalization(&self) -> &Normalization {
        self.input_layer().map_or(&Normalization::None, InputLayer::normalization)
    }

    /// Sets another normalization of images, before the model is declared.
    ///
    /// # Errors
    /// A message: the normalization has values for another number of channels, or the model has no input layer.
    pub fn set_normalization(&mut self, normalization: Normalization) -> std::result::Result<(), String> {
        let [.., channels] = self.image();
        let layer = InputLayer::new(normalization, channels)?;
        let place = self.input_layer_mut().ok_or("expected a network with an input layer; found none")?;
        *place = layer;
        Ok(())
    }

    /// First values, a function of the seed alone.
    pub fn initial(&self, seed: u64) -> ModelState {
        self.stored().map(|params| params.initial(seed)).collect()
    }

    /// Writes values, and the operands of the normalization, to the device.
    ///
    /// # Errors
    /// The device failed.
    pub fn load(&self, device: &mut dyn Device, state: &ModelState) -> Result<()> {
        self.input_layer().map_or(Ok(()), |layer| layer.load(device))?;
        self.stored().zip(state).try_for_each(|(params, values)| params.load(device, values))
    }

    /// Reads values from the device.
    ///
    /// # Errors
    /// The device failed.
    pub fn read(&self, device: &dyn Device) -> Result<ModelState> {
        self.stored().map(|params| device.read_f32(params.buffer())).collect()
    }
}

/// Shape of a batch of `n` of a model's images, `[n, h, w, c]`.
pub fn batch_dims(model: &dyn Model, n: usize) -> Vec<usize> {
    [&[n][..], &model.image()].concat()
}

/// Buffer for a batch of `n` of a model's images, `[n, h, w, c]`.
pub fn image_buffer(memory: &mut Memory, model: &dyn Model, name: &str, n: usize) -> Buffer {
    memory.f32(name, &batch_dims(model, n))
}
