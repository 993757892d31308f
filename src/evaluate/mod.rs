//! Evaluation: accuracy, accuracy under attack, minimum-norm distances, margins.
//!
//! - [`question`]: all of it for a file of weights; what survives is attacked again, what is broken is not
//! - [`attacks`]: the attacks by name, with their published settings
//! - [`protocol`]: published ways of measuring
//! - [`judged`]: an attack with its judge: what it found is recomputed, not believed
//! - [`passes`]: what an attack took of the network
//! - [`examples`]: a data set's examples, batch by batch, and what the network says of them without an attack
//! - [`margins`]: AN-PGD in its test form, as it selects checkpoints
//! - [`transfer`]: images made on one network, tried on others
//! - [`result`]: the record of an evaluation, as JSON, rows and a table
//! - [`folder`]: where that is kept, beside those of other questions
//!
//! Beside these: how an unfinished evaluation is kept, what makes its figures doubtful, and the adversarial images as
//! a checked file.

mod adversarial;
pub mod attacks;
mod checkpoint;
mod checks;
pub mod examples;
pub mod folder;
pub mod margins;
pub mod passes;
pub mod protocol;
pub mod report;
pub mod request;
pub mod transfer;
pub mod verified;

pub use attacks::{AttackName, AttackSettings};
pub use examples::Examples;
pub use margins::MarginMeasurement;
pub use protocol::Protocol;
pub use verified::{VerifiedAttack, robust_examples};

/// The share of examples that are right, in percent; 0 of none.
pub fn accuracy(values: &[bool]) -> f64 {
    if values.is_empty() { 0.0 } else { 100.0 * values.iter().filter(|v| **v).count() as f64 / values.len() as f64 }
}

/// The mean, summed in double precision; 0 of none.
pub fn mean(values: &[f32]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64 }
}
