//! Reference cases: inputs, and the outputs of a plain double-precision statement of the algorithm. Each case is
//! replayed through the public interface on a device. Each family of cases states its tolerances, which are ten times
//! the error of a plain single-precision replay.

pub mod attack;
mod case;
mod comparison;
mod decisions;
mod image;
mod loss;
pub mod measurement;
mod mma;
mod model;
mod numbers;

pub use case::ReferenceCase;
pub use comparison::Comparison;

use maxmargin::device::{Device, Schedule};
use maxmargin::tape::Memory;

/// Replays a case on a device and compares its outputs; `None` for weights, which other cases load.
///
/// # Panics
/// The family is not known, or the case lacks a tensor or metadata that its family needs.
pub fn replay(case: &ReferenceCase, device: &mut dyn Device) -> Option<Vec<Comparison>> {
    match case.text("family") {
        "weights" => None,
        "loss" => Some(loss::replay(case, device)),
        "model" => Some(model::replay(case, device)),
        "pgd" => Some(attack::pgd(case, device)),
        "an_pgd" => Some(attack::an_pgd(case, device)),
        "mma" => Some(mma::replay(case, device)),
        "augment" => Some(image::augment(case, device)),
        "standardize" => Some(image::standardize(case, device)),
        other => panic!("family {other:?} is not known"),
    }
}

/// Allocates the memory of `schedule` and its buffers on the device.
fn allocate(device: &mut dyn Device, memory: &Memory, schedule: &Schedule) {
    let programs: Vec<_> = schedule.programs().collect();
    device.allocate(memory, &programs).expect("memory");
}
