//! Optimizers, over all parameters at once, by the formulas of PyTorch's `optim.Adam` and `optim.SGD`.

use rayon::prelude::*;

use super::simd::vectorized;
use crate::tape::OptimizerRule;

/// Elements of one task.
const BLOCK: usize = 1 << 14;
/// Decay rates of Adam. 1 - 0.999 is off by 5e-5 in single precision, so constants are computed in double.
const BETAS: [f64; 2] = [0.9, 0.999];
/// Added to the denominator of Adam's step.
const EPS: f32 = 1e-8;

/// Gradients of the parameters from `start` on: `(1 - c) dmargin + c dclean` over the loss scale; without dclean,
/// dmargin. `parts` is dmargin, and dclean if there is one.
#[inline(always)] // so that it is compiled for the caller's vector instructions
fn gradients<'a>(parts: &[&'a [f32]], start: usize, rule: &OptimizerRule) -> impl Iterator<Item = f32> + use<'a> {
    let (clean, c) = parts.get(1).map_or((parts[0], 0.0), |clean| (*clean, rule.clean_coeff));
    let unscale = 1.0 / rule.loss_scale.unwrap_or(1.0);
    parts[0][start..].iter().zip(&clean[start..]).map(
        #[inline(always)]
        move |(dmargin, dclean)| ((1.0 - c) * dmargin + c * dclean) * unscale,
    )
}

/// One step of Adam, in place. `step` counts from 0.
pub(super) fn adam(p: &mut [f32], m: &mut [f32], v: &mut [f32], parts: &[&[f32]], step: u32, rule: &OptimizerRule) {
    let t = f64::from(step) + 1.0;
    let rate = (f64::from(rule.rate(step)) / (1.0 - BETAS[0].powf(t))) as f32;
    let root = (1.0 - BETAS[1].powf(t)).sqrt() as f32;
    let keep = BETAS.map(|b| b as f32);
    let take = BETAS.map(|b| (1.0 - b) as f32);
    let blocks = p.par_chunks_mut(BLOCK).zip(m.par_chunks_mut(BLOCK)).zip(v.par_chunks_mut(BLOCK)).enumerate();
    blocks.for_each(|(block, ((p, m), v))| {
        let gradients = gradients(parts, block * BLOCK, rule);
        vectorized(
            #[inline(always)]
            || {
                for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(gradients) {
                    let g = g + rule.weight_decay * *p;
                    *m = keep[0] * *m + take[0] * g;
                    *v = keep[1] * *v + take[1] * g * g;
                    *p -= rate * (*m / (v.sqrt() / root + EPS));
                }
            },
        );
    });
}

/// One step of SGD with momentum, in place.
pub(super) fn sgd(p: &mut [f32], momentum: &mut [f32], parts: &[&[f32]], step: u32, rule: &OptimizerRule) {
    let rate = rule.rate(step);
    let blocks = p.par_chunks_mut(BLOCK).zip(momentum.par_chunks_mut(BLOCK)).enumerate();
    blocks.for_each(|(block, (p, momentum))| {
        let gradients = gradients(parts, block * BLOCK, rule);
        vectorized(
            #[inline(always)]
            || {
                for ((p, b), g) in p.iter_mut().zip(momentum).zip(gradients) {
                    *b = rule.momentum * *b + (g + rule.weight_decay * *p);
                    *p -= rate * *b;
                }
            },
        );
    });
}

/// Sets `overflow` to the number of the step, from 1, and adds it to `skipped`, if a number of `gradients` is infinite
/// or NaN.
pub(super) fn find_overflow(overflow: &mut u32, skipped: &mut f32, gradients: &[&[f32]], step: u32) {
    let overflows = |part: &[f32]| part.iter().any(|number| !number.is_finite());
    if gradients.iter().any(|part| part.par_chunks(BLOCK).any(overflows)) {
        *overflow = step + 1;
        *skipped += 1.0;
    }
}

/// Adds one to a counter.
pub(super) fn increment(counter: &mut u32) {
    *counter += 1;
}
