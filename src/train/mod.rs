//! Training: a step of each method as a schedule of programs, and runs of steps.
//!
//! - [`mma`]: Algorithm 2; without the clean loss's gradient, OMMA
//! - [`standard`], [`pgd`], [`trades`]: the methods that MMA is compared with
//! - [`TrainingStep`]: a step of any method, as [`record_step`] records it
//! - [`run()`]: epochs, validation, metrics, checkpoints, resume

mod checkpoint;
mod method;
pub mod mma;
pub mod pgd;
mod run;
pub mod standard;
mod statistics;
mod step;
pub mod trades;

pub use method::record_step;
pub use mma::Mma;
pub use run::{TestResult, TrainingResult, run};
pub use statistics::StepSums;
pub use step::TrainingStep;
