//! Training: Algorithm 2 as schedules of programs.

pub mod mma;
pub use mma::{DeviceData, Mma};
