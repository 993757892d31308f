//! Where an attack of AutoAttack begins.

use std::f32::consts::TAU;

use super::rows::length;
use crate::batch::Batch;
use crate::rng::Purpose;
use crate::tape::{Buffer, Norm, Tape, Value};

/// The first point of APGD.
#[derive(Clone, Debug)]
pub enum Start {
    /// The image.
    Image,
    /// Counted random numbers: a point of the ball whose longest change is eps in linf, of its surface in l2; brought into
    /// the box.
    Random {
        /// What they are counted by, beside run, example and element.
        seed: u64,
    },
    /// The points in this buffer, of the images' shape; brought into ball and box.
    Given(Buffer),
}

impl Start {
    /// Records the point, which rounding may have left outside the ball.
    pub(super) fn point(&self, tape: &mut Tape, norm: Norm, target: &Batch, run: &Buffer, eps: &Buffer) -> Value {
        let x = tape.leaf(&target.x);
        match self {
            Start::Image => x,
            Start::Given(points) => tape.leaf(points),
            Start::Random { seed } => {
                let (noise, eps) = (unit_noise(tape, norm, target, run, *seed), tape.leaf(eps));
                tape.map([x, noise, eps], |[x, noise, eps]| (x + eps * noise).clamp(0.0, 1.0))
            }
        }
    }
}

/// Random numbers as many as the images have, of length 1: uniform ones in linf, normal ones in l2.
pub(super) fn unit_noise(tape: &mut Tape, norm: Norm, target: &Batch, run: &Buffer, seed: u64) -> Value {
    let [x, run, index] = [&target.x, run, &target.index].map(|b| tape.leaf(b));
    let noise = match norm {
        Norm::Linf => tape.uniform(x, run, index, seed, Purpose::EvaluateStart, true),
        Norm::L2 => normal_noise(tape, x, run, index, seed, [Purpose::EvaluateStart, Purpose::EvaluateAngle]),
    };
    let long = length(tape, norm, [noise], |[noise]| noise);
    tape.map([noise, long], |[noise, long]| noise / (long + 1e-12))
}

/// Counted numbers of the standard normal distribution, as many as `like` has (Box and Muller, 1958): of a radius, whose
/// logarithm is of a number in (0, 1], and an angle.
pub(super) fn normal_noise(
    tape: &mut Tape,
    like: Value,
    step: Value,
    index: Value,
    seed: u64,
    purposes: [Purpose; 2],
) -> Value {
    let [radius, angle] = purposes.map(|purpose| tape.uniform(like, step, index, seed, purpose, false));
    tape.map([radius, angle], |[radius, angle]| ((1.0 - radius).ln() * -2.0).sqrt() * (angle * TAU).cos())
}
