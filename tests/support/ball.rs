//! PGD's start and step on one example in double precision, and the projections that they consist of.

use maxmargin::config::L2Order;
use maxmargin::tape::{Norm, PgdRule};

/// Euclidean norm.
pub fn length(delta: &[f64]) -> f64 {
    delta.iter().map(|d| d * d).sum::<f64>().sqrt()
}

/// Projection of `point` onto the l2 ball of radius `eps` around `x`.
fn into_ball(point: &[f64], x: &[f64], eps: f64) -> Vec<f64> {
    let delta: Vec<f64> = point.iter().zip(x).map(|(p, x)| p - x).collect();
    let factor = (eps / length(&delta)).min(1.0);
    delta.iter().zip(x).map(|(d, x)| if factor < 1.0 { x + d * factor } else { x + d }).collect()
}

/// Projection of `point` onto the box [0, 1].
fn into_box(point: &[f64]) -> Vec<f64> {
    point.iter().map(|p| p.clamp(0.0, 1.0)).collect()
}

/// Start of PGD from random numbers `noise`: in [-1, 1) for linf, in [0, 1) for l2.
pub fn pgd_start(norm: Norm, x: &[f64], noise: &[f64], eps: f64) -> Vec<f64> {
    match norm {
        Norm::Linf => into_box(&x.iter().zip(noise).map(|(x, u)| x + eps * u).collect::<Vec<_>>()),
        Norm::L2 => into_box(&into_ball(noise, x, eps)),
    }
}

/// Step of PGD from `adv` along the gradient `g`, and the projections.
pub fn pgd_step(rule: &PgdRule, adv: &[f64], x: &[f64], g: &[f64], eps: f64, step: f64) -> Vec<f64> {
    match rule.norm {
        Norm::Linf => {
            let sign = |g: f64| if g == 0.0 { 0.0 } else { g.signum() };
            let moved = |(adv, x, g): (f64, f64, f64)| (adv + step * sign(g)).clamp(x - eps, x + eps).clamp(0.0, 1.0);
            (0..x.len()).map(|e| moved((adv[e], x[e], g[e]))).collect()
        }
        Norm::L2 => {
            let norm = length(g).max(f64::from(rule.l2_grad_floor));
            let moved: Vec<f64> = adv.iter().zip(g).map(|(a, g)| a + step * g / norm).collect();
            match rule.l2_order {
                L2Order::BoxBall => into_ball(&into_box(&moved), x, eps),
                L2Order::BallBox => into_box(&into_ball(&moved, x, eps)),
            }
        }
    }
}
