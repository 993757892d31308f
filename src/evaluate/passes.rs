//! Forward and backward passes through a network, counted from the ops of a program instead of told by an attack.

use std::ops::{Add, AddAssign, Mul};

use serde::{Deserialize, Serialize};

use crate::device::Schedule;
use crate::model::Model;
use crate::tape::{Op, Program};

/// Passes through a network: of a program, for each of its examples; of an evaluation, summed over its examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Passes {
    /// Passes from an image to its logits.
    pub forward: u64,
    /// Passes from the gradient with respect to the logits to that with respect to the image.
    pub backward: u64,
}

impl Passes {
    /// Passes of a program for batches of `n` examples: how often it computes the model's last layer, and how often the
    /// gradient with respect to that layer's input. A batch of `k` samples an example counts as `k` passes.
    pub fn of(program: &Program, model: &dyn Model, n: usize) -> Passes {
        let weight = model.params().part(model.output_layer().weight);
        let mut passes = Passes::default();
        for node in program.ops() {
            let place = if let Op::HeadBackward(head) = &node.op { head.features.operands() } else { 1 };
            let reads_it = node.inputs.get(place).is_some_and(|w| program.values[w.0].home.as_ref() == Some(&weight));
            let each = || (program.values[node.outputs[0].0].dims[0] / n) as u64;
            match node.op {
                Op::Linear | Op::LinearBias { .. } if reads_it => passes.forward += each(),
                Op::LinearBackwardInput if reads_it => passes.backward += each(),
                Op::HeadBackward(_) if reads_it => {
                    passes.forward += each();
                    passes.backward += each();
                }
                _ => {}
            }
        }
        passes
    }

    /// Passes of a schedule for batches of `n` examples.
    pub fn of_schedule(schedule: &Schedule, model: &dyn Model, n: usize) -> Passes {
        let stages = schedule.stages.iter();
        stages.fold(Passes::default(), |sum, (program, times)| sum + Passes::of(program, model, n) * u64::from(*times))
    }
}

impl Add for Passes {
    type Output = Passes;
    fn add(self, other: Passes) -> Passes {
        Passes { forward: self.forward + other.forward, backward: self.backward + other.backward }
    }
}

impl AddAssign for Passes {
    fn add_assign(&mut self, other: Passes) {
        *self = *self + other;
    }
}

impl Mul<u64> for Passes {
    type Output = Passes;
    fn mul(self, times: u64) -> Passes {
        Passes { forward: self.forward * times, backward: self.backward * times }
    }
}
