//! PGD and the bisection for the decision boundary, each example with its own eps.

use rayon::prelude::*;

use super::elementwise::{larger, smaller};
use super::simd::vectorized;
use crate::rng::{self, Purpose};
use crate::tape::{AlongRule, Direction, L2Order, Norm, PgdRule};

/// Key of counter-based random numbers; example and element are the counter.
pub(super) struct NoiseKey {
    pub seed: u64,
    pub purpose: Purpose,
    pub step: u32,
    pub signed: bool,
}

/// Writes uniform noise `[n, row]`, in [-1, 1) if signed, else in [0, 1).
pub(super) fn uniform(out: &mut [f32], index: &[u32], n: usize, row: usize, noise: &NoiseKey) {
    let number = if noise.signed { rng::signed_unit } else { rng::unit };
    out.par_chunks_mut(row).zip(index).take(n).for_each(|(out, &example)| {
        for (block, out) in out.chunks_mut(4).enumerate() {
            let words = rng::philox(noise.seed, noise.purpose, noise.step, example, block as u32);
            out.iter_mut().zip(words).for_each(|(o, word)| *o = number(word));
        }
    });
}

/// `sum(f(a, b)^2)` in double precision and in a fixed order of sixteen running sums.
#[inline(always)]
fn sum_of_squares(a: &[f32], b: &[f32], f: impl Fn(f64, f64) -> f64) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0f64; LANES];
    let (a, b) = (a.chunks(LANES), b.chunks(LANES));
    for (a, b) in a.zip(b) {
        for ((s, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            let d = f(f64::from(a), f64::from(b));
            *s += d * d;
        }
    }
    sums.iter().sum()
}

/// The neighbour of `v` among floating-point numbers, towards 0 or away from it. `v` is finite and not 0. Apart from
/// the sign, numbers are ordered as their bits.
#[inline(always)]
fn neighbour(v: f32, towards_zero: bool) -> f32 {
    f32::from_bits(v.to_bits().wrapping_add_signed(if towards_zero { -1 } else { 1 }))
}

/// `x + e`, rounded towards x. It has no branches, so the compiler vectorizes it.
#[inline(always)]
fn add_towards(x: f32, e: f32) -> f32 {
    let sum = x + e;
    // The exact rounding error (Knuth's two-sum); 0 if the sum is 0.
    let part = sum - x;
    let error = (x - (sum - part)) + (e - part);
    let away = if e > 0.0 { error < 0.0 } else { error > 0.0 };
    let next = neighbour(sum, (sum > 0.0) == (e > 0.0));
    if away { next } else { sum }
}

/// The least and the largest number inside the ball and the box.
#[inline(always)]
fn bounds(x: f32, eps: f32) -> (f32, f32) {
    (larger(add_towards(x, -eps), 0.0), smaller(add_towards(x, eps), 1.0))
}

/// Clamps to [low, high]. NaN passes through. (`f32::clamp` may panic, so the compiler does not vectorize it.)
#[inline(always)]
fn clamp(v: f32, (low, high): (f32, f32)) -> f32 {
    let v = if v < low { low } else { v };
    if v > high { high } else { v }
}

/// Projects `adv` onto the l2 ball: scales `adv - x` down to length eps. The result is inside the ball, since the last
/// addition is rounded towards x, and the factor is less than eps / length by more than the other three roundings
/// (2^-24 each) may add.
#[inline(always)]
fn into_l2_ball(adv: &mut [f32], x: &[f32], eps: f32) {
    let length = sum_of_squares(adv, x, |a, x| a - x).sqrt();
    if length > f64::from(eps) {
        let factor = (f64::from(eps) / length * (1.0 - 1.0 / 4_194_304.0)) as f32;
        adv.iter_mut().zip(x).for_each(|(a, &x)| *a = add_towards(x, (*a - x) * factor));
    }
}

/// Clamps to the box [0, 1]. NaN passes through.
#[inline(always)]
fn into_box(adv: &mut [f32]) {
    adv.iter_mut().for_each(|a| *a = clamp(*a, (0.0, 1.0)));
}

/// Writes the first point of PGD: in linf `x + eps noise`, in l2 the noise itself, projected onto the ball around x;
/// then clamped to the box.
pub(super) fn pgd_start(adv: &mut [f32], x: &[f32], eps: &[f32], noise: &[f32], n: usize, norm: Norm) {
    if n == 0 {
        return;
    }
    let row = x.len() / eps.len();
    let rows = adv.par_chunks_mut(row).zip(x.par_chunks(row)).zip(noise.par_chunks(row)).zip(eps);
    rows.take(n).for_each(|(((adv, x), noise), &eps)| {
        vectorized(
            #[inline(always)]
            || match norm {
                Norm::Linf => adv.iter_mut().zip(x).zip(noise).for_each(|((a, &x), &u)| {
                    *a = clamp(x + eps * u, bounds(x, eps));
                }),
                Norm::L2 => {
                    adv.copy_from_slice(noise);
                    into_l2_ball(adv, x, eps);
                    into_box(adv);
                }
            },
        );
    });
}

/// One iteration of PGD, in place: in linf along the sign of the gradient, in l2 along the gradient over its norm.
pub(super) fn pgd_step(adv: &mut [f32], x: &[f32], dx: &[f32], eps: &[f32], step: &[f32], n: usize, rule: &PgdRule) {
    let row = x.len() / eps.len();
    let rows = adv.par_chunks_mut(row).zip(x.par_chunks(row)).zip(dx.par_chunks(row)).zip(eps).zip(step);
    rows.take(n).for_each(|((((adv, x), dx), &eps), &step)| {
        vectorized(
            #[inline(always)]
            || match rule.norm {
                Norm::Linf => adv.iter_mut().zip(x).zip(dx).for_each(|((a, &x), &g)| {
                    let sign = f32::from(g > 0.0) - f32::from(g < 0.0);
                    *a = clamp(*a + step * sign, bounds(x, eps));
                }),
                Norm::L2 => {
                    let length = larger(sum_of_squares(dx, dx, |g, _| g).sqrt() as f32, rule.l2_grad_floor);
                    adv.iter_mut().zip(dx).for_each(|(a, &g)| *a += step / length * g);
                    match rule.l2_order {
                        L2Order::BoxBall => {
                            into_box(adv);
                            into_l2_ball(adv, x, eps);
                        }
                        L2Order::BallBox => into_l2_ball(adv, x, eps),
                    }
                    // Needed after the ball, too: rounding may leave the box by one ulp.
                    into_box(adv);
                }
            },
        );
    });
}

/// Point along a direction: its rule, and adv, ball and t.
pub(super) type PointAlong<'a> = (AlongRule, [&'a [f32]; 3]);

/// `out = x + t (adv - x) / length`, where the length is `ball` or the norm of `adv - x`.
pub(super) fn along_direction(
    out: &mut [f32],
    x: &[f32],
    adv: &[f32],
    ball: &[f32],
    t: &[f32],
    n: usize,
    along: &AlongRule,
) {
    let row = x.len() / ball.len();
    let rows = out.par_chunks_mut(row).zip(x.par_chunks(row)).zip(adv.par_chunks(row)).zip(ball).zip(t);
    rows.take(n).for_each(|((((out, x), adv), &ball), &t)| {
        vectorized(
            #[inline(always)]
            || {
                let length = match (along.direction, along.norm) {
                    (Direction::Eps, _) => ball,
                    (Direction::Unit, Norm::Linf) => x.iter().zip(adv).fold(0.0, |m, (x, a)| larger((a - x).abs(), m)),
                    (Direction::Unit, Norm::L2) => sum_of_squares(adv, x, |a, x| a - x).sqrt() as f32,
                };
                let scale = 1.0 / (length + 1e-12);
                for ((out, &x), &adv) in out.iter_mut().zip(x).zip(adv) {
                    *out = x + t * (scale * (adv - x));
                }
                if along.clamp {
                    into_box(out);
                }
            },
        );
    });
}

/// Halves the bracket `[low, high]` of each row by the sign of the loss at `t`, and moves `t` to its middle.
pub(super) fn bisect(t: &mut [f32], low: &mut [f32], high: &mut [f32], loss: &[f32], max_eps: f32) {
    for (((t, low), high), &loss) in t.iter_mut().zip(low).zip(high).zip(loss) {
        if loss < 0.0 {
            *low = larger(*t, *low);
            *high = smaller(*high, max_eps);
        } else {
            *high = smaller(*t, *high);
        }
        *t = (*low + *high) / 2.0;
    }
}
