//! Evaluation of trained networks: accuracy without and under attack, minimum-norm distances, margins.
//!
//! - [`request`]: the settings of an evaluation and the files it writes.
//! - [`run`]: the evaluation itself; examples that stay correct under one attack are given to the next.
//! - [`report`]: its result, as JSON and as a table; [`image_results`]: a line for each image.
//! - `identity`: everything that the result depends on; of two with the same, one continues or replaces the other.
//! - [`folder`]: the folder of an evaluation, which never overwrites the result of another request.
//! - [`transfer`]: adversarial images made on one network, classified by others.
//! - [`attacks`]: attacks by name, with their published settings; [`protocol`]: published sets of them.
//! - [`attack_flags`]: which attack reads which flag; [`strength`]: how hard an attack tried, beside the published.
//! - [`verified`]: an attack whose results are recomputed by a clean forward pass.
//! - [`passes`]: forward and backward passes of a program, counted from its ops; `planned`: those still to be done.
//! - [`examples`]: a data set on the device, batch by batch, and its predictions without an attack.
//! - [`margins`]: margins by AN-PGD in its test form, which selects checkpoints.
//! - [`checks`]: signs that a figure is doubtful, by name; `clean_outputs`: outputs that are no numbers, or all alike.
//! - [`adversarial`]: the file of adversarial images, which is read again after it is written.
//! - [`statistics`]: accuracy, mean, quantiles.
//!
//! Nothing here trains, draws or prints: figures are returned, progress goes to [`crate::record::Progress`].

pub mod adversarial;
pub mod attack_flags;
pub mod attacks;
mod checkpoint;
pub mod checks;
mod claims;
mod clean_outputs;
pub mod examples;
mod findings;
pub mod folder;
mod identity;
pub mod image_results;
pub mod margins;
mod network;
pub mod passes;
mod planned;
pub mod protocol;
pub mod report;
pub mod request;
pub mod run;
pub mod statistics;
pub mod strength;
pub mod transfer;
pub mod verified;

pub use attack_flags::AttackFlag;
pub use attacks::{AttackName, AttackSettings};
pub use examples::Examples;
pub use margins::MarginMeasurement;
pub use protocol::Protocol;
pub use request::{EvaluationRequest, OutputPaths, Split};
pub use statistics::{accuracy, mean};
pub use verified::{VerifiedAttack, robust_examples};
