//! MMA training on kernels of our own.
pub mod cli;
pub mod config;
pub mod data;
pub mod error;
pub mod rng;
pub mod tape;
pub use error::{Error, Result};
