//! Adam (Kingma and Ba, 2015) on images, each element by itself: what an attack's point moves by. (Training's optimizer
//! is an op of its own, [`Op::Adam`](crate::tape::Op::Adam).)

use super::rows::{Workspace, number};
use crate::tape::{Buffer, Tape, Value};

/// PyTorch's defaults.
const BETAS: [f32; 2] = [0.9, 0.999];
const EPS: f32 = 1e-8;

/// The running means of a gradient and of its square.
#[derive(Clone, Debug)]
pub(super) struct Adam {
    /// Both means, of the images' shape.
    pub means: [Buffer; 2],
    /// The share of gradients in each mean, `1 - beta^steps` `[1]`: the rest is the zero that it began with.
    shares: [Buffer; 2],
    rate: f32,
}

impl Adam {
    /// Workspace for the means; `rate` is the learning rate.
    pub fn new(room: &mut Workspace, rate: f32) -> Adam {
        let means = ["adam.first", "adam.second"].map(|part| room.images(part));
        let shares = ["adam.first_share", "adam.second_share"].map(|part| room.f32(part, &[1]));
        Adam { means, shares, rate }
    }

    /// Forgets all gradients, of all rows. Recorded before a row count is set.
    pub fn reset(&self, tape: &mut Tape) {
        for buffer in self.means.iter().chain(&self.shares) {
            tape.map_into(buffer, [], |_, []| number(0.0));
        }
    }

    /// Counts a step. Recorded before a row count is set.
    pub fn count(&self, tape: &mut Tape) {
        for (share, beta) in self.shares.iter().zip(BETAS) {
            tape.map_into(share, [], |old, []| old * beta + (1.0 - beta));
        }
    }

    /// Takes a gradient; returns what an ascent moves by.
    pub fn step(&self, tape: &mut Tape, gradient: Value) -> Value {
        let [first, second] = &self.means;
        tape.map_into(first, [gradient], |old, [g]| old * BETAS[0] + g * (1.0 - BETAS[0]));
        tape.map_into(second, [gradient], |old, [g]| old * BETAS[1] + &g * &g * (1.0 - BETAS[1]));
        let operands = [first, second, &self.shares[0], &self.shares[1]].map(|b| tape.leaf(b));
        tape.map(operands, |[first, second, first_share, second_share]| {
            first / first_share * self.rate / ((second / second_share).sqrt() + EPS)
        })
    }
}
