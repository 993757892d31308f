//! Training: Algorithm 2 as schedules of programs, and runs of it.
//!
//! - [`mma`]: one step
//! - [`run`]: epochs, validation, metrics, checkpoints, resume

pub mod mma;
pub mod run;

pub use mma::Mma;
