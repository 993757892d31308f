//! MMA training on kernels of our own.
pub mod error;
pub mod record;
pub mod report;
pub mod rng;
pub use error::{Error, Result};
