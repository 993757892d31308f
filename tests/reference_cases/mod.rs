//! Reference cases: inputs and the outputs that a plain double-precision statement of the algorithm gives for
//! them, each replayed through the public interface on a device. How near the outputs must be is stated beside each
//! family: ten times as far as a plain single-precision replay lies from them.

mod attack;
mod case;
mod comparison;
mod decisions;
mod image;
mod loss;
mod mma;
mod model;
mod numbers;

pub use case::ReferenceCase;
pub use comparison::Comparison;

use maxmargin::device::{Device, Schedule};
use maxmargin::tape::Memory;

/// Replays a case on a device. `None`: it asks for nothing, other cases load it.
///
/// # Panics
/// On a family that is not known, and on a case that lacks what its family needs.
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

/// Has the device take the memory that `schedule` and its buffers need.
fn allocate(device: &mut dyn Device, memory: &Memory, schedule: &Schedule) {
    let programs: Vec<_> = schedule.programs().collect();
    device.allocate(memory, &programs).expect("memory");
}
