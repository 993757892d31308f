//! FAB's projection onto a hyperplane inside the box, each example with a hyperplane of its own.

use rayon::prelude::*;

use super::vectorized;
use crate::tape::Norm;

/// Passes over an example at most; five are usual.
const PASSES: u32 = 100;
/// Running sums, whose order is fixed.
const LANES: usize = 16;

/// How one number of a point moves towards the hyperplane: by lambda times its speed, until it is at the box.
struct Mover {
    /// 1 in linf, |w| in l2.
    speed: f64,
    /// Until 0 or 1.
    room: f64,
    /// |w|: what the function gains by each unit moved.
    gain: f64,
    /// Of the move.
    sign: f32,
}

impl Mover {
    /// `down`: the function is to become smaller.
    #[inline(always)]
    fn new(z: f32, w: f32, down: bool, norm: Norm) -> Mover {
        let gain = f64::from(w).abs();
        let back = (w > 0.0) == down;
        Mover {
            speed: if norm == Norm::L2 { gain } else { 1.0 },
            room: if back { f64::from(z) } else { 1.0 - f64::from(z) }.max(0.0),
            gain,
            sign: match back {
                _ if w == 0.0 => 0.0,
                true => -1.0,
                false => 1.0,
            },
        }
    }

    #[inline(always)]
    fn free(&self, lambda: f64) -> bool {
        lambda * self.speed < self.room
    }

    #[inline(always)]
    fn moved(&self, lambda: f64) -> f64 {
        if self.free(lambda) { lambda * self.speed } else { self.room }
    }
}

/// `sum(f(a, b))` in a fixed order of running sums.
#[inline(always)]
fn sums(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> [f64; 2]) -> [f64; 2] {
    let mut sums = [[0f64; LANES]; 2];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for (lane, (&a, &b)) in a.iter().zip(b).enumerate() {
            let [first, second] = f(a, b);
            sums[0][lane] += first;
            sums[1][lane] += second;
        }
    }
    sums.map(|sums| sums.iter().sum())
}

/// The smallest move d of each point z inside the box after which `value + w . (z + d - anchor)` is 0.
///
/// In both norms the answer is that every number moves at its speed for the same lambda. What that gains grows with
/// lambda in straight pieces, each less steep than the one before, as numbers arrive at the box. So Newton's method from 0
/// never passes the answer, and arrives at it exactly with the step from its own piece; nothing is sorted.
pub(super) fn project_hyperplane(d: &mut [f32], z: &[f32], anchor: &[f32], w: &[f32], value: &[f32], norm: Norm) {
    let row = z.len() / value.len();
    let rows = d.par_chunks_mut(row).zip(z.par_chunks(row)).zip(anchor.par_chunks(row)).zip(w.par_chunks(row));
    rows.zip(value).for_each(|((((d, z), anchor), w), &value)| {
        vectorized(
            #[inline(always)]
            || {
                // w . z - w . anchor would lose the digits that the two have in common.
                let mut here = f64::from(value);
                here += z
                    .iter()
                    .zip(anchor)
                    .zip(w)
                    .map(|((z, a), w)| f64::from(*w) * (f64::from(*z) - f64::from(*a)))
                    .sum::<f64>();
                let (down, wanted) = (here > 0.0, here.abs());
                let mut lambda = 0.0;
                for _ in 0..PASSES {
                    let [gained, slope] = sums(z, w, |z, w| {
                        let number = Mover::new(z, w, down, norm);
                        let steep = if number.free(lambda) { number.gain * number.speed } else { 0.0 };
                        [number.gain * number.moved(lambda), steep]
                    });
                    // Infinite where all numbers are at the box.
                    let next = lambda + (wanted - gained) / slope;
                    if !(gained < wanted && next > lambda) {
                        break;
                    }
                    lambda = next;
                    if slope == 0.0 {
                        break;
                    }
                }
                for ((d, &z), &w) in d.iter_mut().zip(z).zip(w) {
                    let number = Mover::new(z, w, down, norm);
                    *d = number.sign * number.moved(lambda) as f32;
                }
            },
        );
    });
}
