//! Adam (Kingma and Ba, 2015) on images, each element by itself: the optimizer of an attack's point. (Training's
//! optimizer is an op of its own, [`Op::Adam`](crate::tape::Op::Adam).)

use super::common::fill;
use super::workspace::{Retention, Workspace};
use crate::tape::{Buffer, Tape, Value};

/// PyTorch's defaults.
const BETAS: [f32; 2] = [0.9, 0.999];
const EPS: f32 = 1e-8;

/// Running means of a gradient and of its square.
pub(super) struct Adam {
    /// Both means, of the images' shape.
    means: [Buffer; 2],
    /// Sum of the gradients' weights in each mean, `1 - beta^steps` `[1]`. The rest is the zero that it began with.
    weights: [Buffer; 2],
    rate: f32,
}

impl Adam {
    /// Buffers for the means; `rate` is the learning rate.
    pub fn new(workspace: &mut Workspace, rate: f32) -> Adam {
        Adam {
            means: ["adam.first", "adam.second"].map(|part| workspace.images(Retention::Carried, part)),
            weights: ["adam.first_weight", "adam.second_weight"].map(|part| workspace.numbers(part, &[1])),
            rate,
        }
    }

    /// Forgets all gradients, of all rows. Recorded before the row count is set.
    pub fn reset(&self, tape: &mut Tape) {
        for buffer in self.means.iter().chain(&self.weights) {
            fill(tape, buffer, 0.0);
        }
    }

    /// Counts a step. Recorded before the row count is set.
    pub fn advance(&self, tape: &mut Tape) {
        for (weight, beta) in self.weights.iter().zip(BETAS) {
            tape.map_into(weight, [], |old, []| old * beta + (1.0 - beta));
        }
    }

    /// Takes a gradient; returns the change of a point that ascends it.
    pub fn step(&self, tape: &mut Tape, gradient: Value) -> Value {
        let [first, second] = &self.means;
        tape.map_into(first, [gradient], |old, [g]| old * BETAS[0] + g * (1.0 - BETAS[0]));
        tape.map_into(second, [gradient], |old, [g]| old * BETAS[1] + &g * &g * (1.0 - BETAS[1]));
        let operands = [first, second, &self.weights[0], &self.weights[1]].map(|b| tape.leaf(b));
        tape.map(operands, |[first, second, first_weight, second_weight]| {
            first / first_weight * self.rate / ((second / second_weight).sqrt() + EPS)
        })
    }
}
