//! Training: a step of each method as a schedule of programs, and runs of steps.
//!
//! - [`mma`]: Algorithm 2; without the clean loss, OMMA
//! - [`standard`], [`pgd`], [`trades`]: what it is compared with
//! - [`step`](Step): what a run asks of a step, and what the methods share
//! - [`run`]: epochs, validation, metrics, checkpoints, resume
//! - `lines`: what the sums of steps say, by method

mod lines;
pub mod mma;
pub mod pgd;
pub mod run;
pub mod standard;
mod step;
pub mod trades;

pub use mma::Mma;
pub use step::Step;

use crate::batch::DeviceData;
use crate::config::{Config, Method};
use crate::model::Model;
use crate::tape::Memory;

/// Records a step of the config's method on batches of `data`.
pub fn record(memory: &mut Memory, model: &dyn Model, data: &DeviceData, config: &Config) -> Step {
    match config.method {
        Method::Mma | Method::Omma => Mma::new(memory, model, data, config, None).into(),
        Method::Std => standard::record(memory, model, data, config),
        Method::Pgd | Method::Pgdls => pgd::record(memory, model, data, config),
        Method::Trades => trades::record(memory, model, data, config),
    }
}
