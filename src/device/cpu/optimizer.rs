//! Gradients become weights, all parameters at once. Formulas as PyTorch's `optim.Adam` and `optim.SGD` compute them.

use rayon::prelude::*;

use super::vectorized;
use crate::tape::OptimizerRule;

const BLOCK: usize = 1 << 14;
/// Adam's decay rates. In single precision 1 - 0.999 would be off by 5e-5, so constants are taken in double.
const BETAS: [f64; 2] = [0.9, 0.999];
const EPS: f32 = 1e-8;

/// The gradients of the elements from `start` on: `(1 - c) dmargin + c dclean`. Where there is no clean part, c is 0
/// and the margin part stands in for it.
#[inline(always)] // so that it is compiled for the caller's vector instructions
fn gradients<'a>(parts: &[&'a [f32]], start: usize, rule: &OptimizerRule) -> impl Iterator<Item = f32> + use<'a> {
    let (clean, share) = parts.get(1).map_or((parts[0], 0.0), |clean| (*clean, rule.clean_coeff));
    parts[0][start..].iter().zip(&clean[start..]).map(
        #[inline(always)]
        move |(m, c)| (1.0 - share) * m + share * c,
    )
}

/// One step of Adam; `step` counts from 0.
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

/// One step of SGD with momentum.
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
