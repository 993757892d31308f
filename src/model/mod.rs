//! Models: layers recorded on a tape, parameters by PyTorch's names.
//!
//! - [`Model`]: a classifier as attacks, training and evaluation see it
//! - [`LeNet5`], [`WideResNet`]: the paper's networks; [`build`] makes one from its architecture
//! - [`ModelInPrecision`], [`StepModels`]: a model in the precision in which it is attacked, or trained
//! - [`Normalization`], [`InputLayer`]: what a network does with an image first
//! - [`Params`]: names, shapes and first values of parameters, and their places in one buffer
//! - [`state_dict`]: parameters as tensors of a file
//!
//! A model knows its layers and the places of its parameters. It knows nothing of attacks, training.

mod build;
mod in_precision;
mod input_layer;
mod lenet5;
mod network;
mod params;
pub mod state_dict;
mod wide_resnet;

pub use build::build;
pub use in_precision::{ModelInPrecision, StepModels};
pub use input_layer::{InputLayer, Normalization};
pub use lenet5::LeNet5;
pub use network::{Mode, Model, ModelState, OutputLayer, batch_dims, image_buffer};
pub use params::{InitialValues, Parameter, Params};
pub use wide_resnet::WideResNet;
