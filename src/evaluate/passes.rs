//! What an attack takes of the network: counted from its programs, not told by it.

use std::ops::{Add, AddAssign, Mul};

use serde::{Deserialize, Serialize};

use crate::device::Schedule;
use crate::model::Model;
use crate::tape::{Op, Program};

/// How often the network was run. Of a program: for each of its examples; of an evaluation: over all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passes {
    /// From images to logits.
    pub forward: u64,
    /// From the logits' gradients to the images'.
    pub backward: u64,
}

impl Passes {
    /// Of a program for batches of `n` examples: how often the model's last layer is computed, and how often its gradient
    /// by its input; of a batch of samples, `k` an example, as `k` passes.
    pub fn of(program: &Program, model: &dyn Model, n: usize) -> Passes {
        let weight = model.params().part(model.output_layer().weight);
        let mut passes = Passes::default();
        for node in &program.nodes {
            let reads_it = node.inputs.get(1).is_some_and(|w| program.values[w.0].home.as_ref() == Some(&weight));
            let each = || (program.values[node.outputs[0].0].dims[0] / n) as u64;
            match node.op {
                Op::Linear | Op::LinearBias { .. } if reads_it => passes.forward += each(),
                Op::LinearBackwardInput if reads_it => passes.backward += each(),
                _ => {}
            }
        }
        passes
    }

    /// Of a schedule for batches of `n` examples.
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
