//! Results of attacks in half precision that lie at the boundary, moved to the boundary of the network itself.
//!
//! Half precision puts the boundary elsewhere by a thousandth of a distance, so a part of the nearest points would be on
//! the wrong side. A bisection in single precision, along the line from the image through the attack's point, finds the
//! nearest point that the network itself misclassifies. It begins at the attack's point: if that is adversarial, the
//! result is no farther.

use std::sync::Arc;

use super::common::{copy_into, fill, logit_margin};
use super::interface::Attack;
use crate::batch::Batch;
use crate::device::Schedule;
use crate::model::{Mode, Model};
use crate::tape::{AlongRule, Direction, Memory, Norm, Tape, Value};

/// Length of the searched part of the line on either side of the attack's point, as a fraction of its distance.
const REACH: f32 = 1.0 / 32.0;

/// Probes. They leave a bracket of 2^-14 of the distance.
const PROBES: u32 = 10;

/// The attack with a bisection by `model` after its own stages.
pub fn at_boundary(memory: &mut Memory, model: &dyn Model, batch: &Batch, attack: Attack) -> Attack {
    let mut rows = |part: &str| memory.f32(&format!("{}.{}.{part}", batch.name, attack.name), &batch.labels.dims);
    let [t, low, high, ones] = ["boundary_t", "boundary_low", "boundary_high", "boundary_ones"].map(&mut rows);
    let point = |tape: &mut Tape, length: Value| {
        let [x, found, ones] = [&batch.x, &attack.adv, &ones].map(|buffer| tape.leaf(buffer));
        let rule = AlongRule { norm: Norm::L2, direction: Direction::Eps, clamp: true };
        tape.along_direction(rule, x, found, ones, length)
    };

    let mut start = batch.tape("boundary_start");
    for (buffer, value) in [(&t, 1.0), (&low, 1.0 - REACH), (&high, 1.0 + REACH), (&ones, 1.0)] {
        fill(&mut start, buffer, value);
    }

    let mut probe = batch.tape("boundary_probe");
    let length = probe.leaf(&t);
    let at = point(&mut probe, length);
    let logits = model.logits(&mut probe, at, Mode::Eval);
    let margin = logit_margin(&mut probe, batch, logits);
    probe.bisect(1.0 + REACH, margin, &t, &low, &high);

    let mut end = batch.tape("boundary_end");
    let length = end.leaf(&high);
    let nearest = point(&mut end, length);
    copy_into(&mut end, &attack.adv, nearest);

    let mut schedule = Schedule { stages: attack.schedule.stages.clone() };
    schedule.then(&Arc::new(start.finish()), 1);
    schedule.then(&Arc::new(probe.finish()), PROBES);
    schedule.then(&Arc::new(end.finish()), 1);
    Attack { schedule, ..attack }
}
