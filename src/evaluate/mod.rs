//! Evaluation: accuracy, accuracy under repeated PGD, margins.
//!
//! - [`checkpoint`]: all of it for a file of weights
//! - [`examples`]: a data set's examples, batch by batch, and which are right without an attack
//! - [`pgd`]: the released evaluator: n restarts of PGD, half on xent, half on cw; one success breaks an example
//! - [`margins`]: AN-PGD in its test form, as it selects checkpoints
//!
//! An evaluation runs programs and returns numbers. Files and prints are elsewhere.

pub mod checkpoint;
pub mod examples;
pub mod margins;
pub mod pgd;

pub use examples::Examples;
pub use margins::Margins;
pub use pgd::{Attack, RepeatedPgd};

/// The share of examples that are right, in percent; 0 of none.
pub fn accuracy(values: &[bool]) -> f64 {
    if values.is_empty() { 0.0 } else { 100.0 * values.iter().filter(|v| **v).count() as f64 / values.len() as f64 }
}

/// The mean, summed in double precision; 0 of none.
pub fn mean(values: &[f32]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64 }
}
