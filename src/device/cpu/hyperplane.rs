//! Projection of FAB onto a hyperplane inside the box; each example has its own hyperplane.

use rayon::prelude::*;

use super::elementwise::larger;
use super::simd::vectorized;
use crate::tape::Norm;

/// Maximum number of Newton steps of an example; five are usual.
const PASSES: u32 = 100;
/// Number of running sums.
const LANES: usize = 16;

/// Motion of one coordinate of a point towards the hyperplane: by lambda times its speed, until it reaches the box.
struct CoordinateMove {
    /// 1 in linf, |w| in l2.
    speed: f64,
    /// Distance to the bound of the box, 0 or 1, that the coordinate moves towards.
    room: f64,
    /// |w|: change of the function a unit of motion.
    gain: f64,
    /// Sign of the motion; 0 if w is 0.
    sign: f32,
}

impl CoordinateMove {
    /// Motion of a coordinate z with gradient w; `down`: the function shall decrease.
    #[inline(always)]
    fn new(z: f32, w: f32, down: bool, norm: Norm) -> CoordinateMove {
        let gain = f64::from(w).abs();
        let back = (w > 0.0) == down;
        CoordinateMove {
            speed: if norm == Norm::L2 { gain } else { 1.0 },
            room: larger(if back { f64::from(z) } else { 1.0 - f64::from(z) }, 0.0),
            gain,
            sign: match back {
                _ if w == 0.0 => 0.0,
                true => -1.0,
                false => 1.0,
            },
        }
    }

    /// `true`: the coordinate has not reached the box.
    #[inline(always)]
    fn free(&self, lambda: f64) -> bool {
        lambda * self.speed < self.room
    }

    /// Distance moved.
    #[inline(always)]
    fn moved(&self, lambda: f64) -> f64 {
        if self.free(lambda) { lambda * self.speed } else { self.room }
    }
}

/// `sum(f(a, b))`, in the fixed order of [`LANES`] running sums.
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

/// Writes the smallest move d of each point z inside the box after which `value + w . (z + d - anchor)` is 0.
///
/// In both norms each coordinate of the solution moves at its own speed for the same lambda. The change of the function
/// is a piecewise linear, concave function of lambda: its slope falls each time a coordinate reaches the box. So
/// Newton's method from lambda = 0 never passes the solution, and reaches it with the step from the solution's own
/// piece. No sorting is needed.
pub(super) fn project_hyperplane(d: &mut [f32], z: &[f32], anchor: &[f32], w: &[f32], value: &[f32], norm: Norm) {
    let row = z.len() / value.len();
    let rows = d.par_chunks_mut(row).zip(z.par_chunks(row)).zip(anchor.par_chunks(row)).zip(w.par_chunks(row));
    rows.zip(value).for_each(|((((d, z), anchor), w), &value)| {
        vectorized(
            #[inline(always)]
            || {
                // w . z - w . anchor would cancel the leading digits that both have in common.
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
                        let coordinate = CoordinateMove::new(z, w, down, norm);
                        let steep = if coordinate.free(lambda) { coordinate.gain * coordinate.speed } else { 0.0 };
                        [coordinate.gain * coordinate.moved(lambda), steep]
                    });
                    // Infinite if all coordinates have reached the box.
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
                    let coordinate = CoordinateMove::new(z, w, down, norm);
                    *d = coordinate.sign * coordinate.moved(lambda) as f32;
                }
            },
        );
    });
}
