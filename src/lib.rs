//! MMA training on kernels of our own.
pub mod attack;
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod evaluate;
pub mod model;
pub mod record;
pub mod report;
pub mod rng;
pub mod tape;
pub mod train;
pub use error::{Error, Result};
