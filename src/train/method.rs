//! Steps by the method of a run's settings.

use super::mma::Mma;
use super::step::TrainingStep;
use super::{pgd, standard, trades};
use crate::batch::DeviceData;
use crate::config::{Config, Method};
use crate::model::Model;
use crate::tape::Memory;

/// Records a step of the config's method on batches of `data`.
pub fn record_step(memory: &mut Memory, model: &dyn Model, data: &DeviceData, config: &Config) -> TrainingStep {
    match config.method {
        Method::Mma | Method::Omma => Mma::new(memory, model, data, config, None).into(),
        Method::Std => standard::record(memory, model, data, config),
        Method::Pgd | Method::Pgdls => pgd::record(memory, model, data, config),
        Method::Trades => trades::record(memory, model, data, config),
    }
}
