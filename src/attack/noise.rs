//! Counter-based random numbers of the images' shape, for random starts.

use std::f32::consts::TAU;

use super::common::{TINY, row_norm};
use crate::batch::Batch;
use crate::rng::Purpose;
use crate::tape::{Buffer, Norm, Tape, Value};

/// Random numbers of norm 1 in each row: uniform ones in linf, normal ones in l2. They depend on the seed, the number
/// of the run (u32 `[1]`), each example's index and the element.
pub(super) fn unit_noise(tape: &mut Tape, norm: Norm, batch: &Batch, run: &Buffer, seed: u64) -> Value {
    let [x, run, index] = [&batch.x, run, &batch.index].map(|b| tape.leaf(b));
    let noise = match norm {
        Norm::Linf => tape.uniform(x, run, index, seed, Purpose::EvaluateStart, true),
        Norm::L2 => normal_noise(tape, x, run, index, seed, [Purpose::EvaluateStart, Purpose::EvaluateAngle]),
    };
    let length = row_norm(tape, norm, [noise], |[noise]| noise);
    tape.map([noise, length], |[noise, length]| noise / (length + TINY))
}

/// Random numbers of the standard normal distribution, as many as `like` has (Box and Muller, 1958). The first purpose
/// is the radius's, whose logarithm is taken of a number in (0, 1]; the second is the angle's.
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
