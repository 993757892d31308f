//! Gradients become weights, all parameters at once. Formulas as PyTorch's `optim.Adam` and `optim.SGD` compute them.

use rayon::prelude::*;

use super::vectorized;
use crate::tape::OptimizerRule;

const BLOCK: usize = 1 << 14;
/// Adam's decay rates. In single precision 1 - 0.999 would be off by 5e-5, so constants are taken in double.
const BETAS: [f64; 2] = [0.9, 0.999];
const EPS: f32 = 1e-8;

/// `(1 - c) dmargin + c dclean + weight_decay * p` for elements from `start` on.
#[inline(always)]
fn gradient<'a>(parts: &'a [&[f32]], start: usize, rule: &'a OptimizerRule) -> impl Fn(usize, f32) -> f32 + 'a {
    let margin = &parts[0][start..];
    let clean = parts.get(1).map(|g| &g[start..]);
    #[inline(always)]
    move |i, p| {
        let g = clean.map_or(margin[i], |c| (1.0 - rule.clean_coeff) * margin[i] + rule.clean_coeff * c[i]);
        g + rule.weight_decay * p
    }
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
        let gradient = gradient(parts, block * BLOCK, rule);
        vectorized(
            #[inline(always)]
            || {
                for (i, ((p, m), v)) in p.iter_mut().zip(m).zip(v).enumerate() {
                    let g = gradient(i, *p);
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
        let gradient = gradient(parts, block * BLOCK, rule);
        vectorized(
            #[inline(always)]
            || {
                for (i, (p, b)) in p.iter_mut().zip(momentum).enumerate() {
                    *b = rule.momentum * *b + gradient(i, *p);
                    *p -= rate * *b;
                }
            },
        );
    });
}
