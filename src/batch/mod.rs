//! Examples on the device: a data set as bytes, and the batch of it that is worked on.
//!
//! Programs of attacks, training and evaluation read a [`Batch`]; a [`DeviceData`] fills it. Both are buffers without
//! a program of their own: this module records ops on a caller's tape, and runs nothing.

mod buffers;
mod device_data;

pub use buffers::Batch;
pub use device_data::DeviceData;
