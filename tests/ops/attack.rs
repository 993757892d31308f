//! PGD and the bisection for the decision boundary, each example with its own eps. tests/attacks.rs tests that PGD
//! stays inside ball and box to the last bit.

use maxmargin::config::{Direction, L2Order};
use maxmargin::rng::{Purpose, philox};
use maxmargin::tape::{AlongRule, DType, Norm, Op, PgdRule};

use super::support::ball::{self, length};
use super::support::{Array, OpCase, Random, Sum, exact, near, rounded};

/// Images of 1, 7, 16, 17, 784, 1,031 (a prime), 3,072 and 4,096 elements.
pub const SHAPES: [&[usize]; 8] =
    [&[5, 1, 1, 1], &[6, 7], &[5, 2, 2, 4], &[5, 17], &[5, 28, 28, 1], &[4, 1031], &[3, 32, 32, 3], &[2, 4096]];

/// Images with black and white pixels among others.
pub fn image(seed: u64, dims: &[usize]) -> Array {
    let mut random = Random(seed);
    let values: Vec<f64> = (0..dims.iter().product())
        .map(|_| match random.below(4) {
            0 => 0.0,
            1 => 1.0,
            2 => random.below(256) as f64 / 255.0,
            _ => random.unit(),
        })
        .collect();
    Array::f32(dims, values)
}

/// Radii of the examples; one is 0.
pub fn radii(n: usize) -> Array {
    Array::f32(&[n], [0.3, 0.0, 8.0 / 255.0, 1.5, 0.5, 2.0].into_iter().take(n))
}

/// Elements of row `i`.
pub fn row(a: &Array, i: usize) -> &[f64] {
    &a.values[i * a.row()..][..a.row()]
}

#[test]
pub fn uniform() {
    for (dims, signed) in [(&[3, 1][..], true), (&[2, 5], false), (&[4, 2, 2, 2], true), (&[3, 28, 28, 1], false)] {
        let (step, index) = (Array::u32([41]), Array::u32((0..dims[0] as u32).map(|i| 1_000_003 * i)));
        let (seed, purpose) = (0x1234_5678_9ABC, Purpose::TrainStart);
        let op = Op::Uniform { seed, purpose, signed };
        OpCase::new(op).whole(&step).rows(&index).gives_rows(dims, DType::F32).check(|n| {
            let row: usize = dims[1..].iter().product();
            let number = |i: usize, e: usize| {
                let word = philox(seed, purpose, 41, index.values[i] as u32, e as u32 / 4)[e % 4];
                let unit = f64::from(word >> 8) / f64::from(1 << 24);
                exact(if signed { 2.0 * unit - 1.0 } else { unit })
            };
            vec![(0..n).flat_map(|i| (0..row).map(move |e| number(i, e))).collect()]
        });
    }
}

#[test]
pub fn pgd_start() {
    for (dims, norm) in SHAPES.into_iter().flat_map(|dims| [(dims, Norm::Linf), (dims, Norm::L2)]) {
        let (x, eps) = (image(1, dims), radii(dims[0]));
        let noise = if norm == Norm::Linf { Random(2).signed(dims) } else { Random(2).image(dims) };
        let case = OpCase::new(Op::PgdStart(norm)).rows(&x).rows(&eps).rows(&noise);
        case.gives_rows(dims, DType::F32).check(|n| {
            let point = |i: usize| {
                let (x, u, eps) = (row(&x, i), row(&noise, i), eps.values[i]);
                ball::pgd_start(norm, x, u, eps)
            };
            let sizes = (0..n).flat_map(|i| row(&x, i).iter().zip(row(&noise, i))).map(|(x, u)| x + u.abs());
            vec![(0..n).flat_map(point).zip(sizes).map(|(value, size)| near(value, size)).collect()]
        });
    }
}

/// A state of PGD: adv, x, dx, eps, step. Some gradients are 0; those of one row are all 0, those of another tiny.
pub fn pgd_state(dims: &[usize]) -> [Array; 5] {
    let (x, eps, n) = (image(1, dims), radii(dims[0]), dims[0]);
    let step = Array::f32(&[n], [0.01, 0.1, 0.0, 0.7, 2.5, 0.3].into_iter().take(n));
    let mut random = Random(3);
    let adv = Array::f32(dims, x.values.iter().map(|x| (x + 0.2 * (random.unit() - 0.5)).clamp(0.0, 1.0)));
    let mut dx = Random(4).signed(dims);
    let row = dx.row();
    for (i, g) in dx.values.iter_mut().enumerate() {
        *g *= [1e-3, 1.0, 30.0, 0.0, 1e-9, 1.0][i / row] * f64::from(random.below(5) > 0);
        *g = f64::from(*g as f32);
    }
    [adv, x, dx, eps, step]
}

/// Step in linf: one rounded step, then the nearest number inside ball and box. The sign of 0 is 0.
pub fn linf_step(adv: f64, x: f64, g: f64, eps: f64, step: f64) -> Sum {
    let sign = if g > 0.0 {
        1.0
    } else if g < 0.0 {
        -1.0
    } else {
        0.0
    };
    let (low, high) = ((x - eps).max(0.0), (x + eps).min(1.0));
    let up = |v: f64| if f64::from(v as f32) < v { (v as f32).next_up() } else { v as f32 };
    let (low, high) = (f64::from(up(low)), f64::from(-up(-high)));
    exact(rounded(adv + step * sign).value.clamp(low, high))
}

/// Step in l2 along the gradient over its norm. The size of an element is the sum of its terms' magnitudes.
pub fn l2_step(adv: &[f64], x: &[f64], g: &[f64], eps: f64, step: f64, rule: &PgdRule) -> Vec<Sum> {
    let norm = length(g).max(f64::from(rule.l2_grad_floor));
    let point = ball::pgd_step(rule, adv, x, g, eps, step);
    (0..x.len()).map(|i| near(point[i], adv[i] + x[i] + (step * g[i] / norm).abs())).collect()
}

#[test]
pub fn pgd_step() {
    let rule = |norm, l2_order, l2_grad_floor| PgdRule { norm, l2_order, l2_grad_floor };
    let rules = [
        rule(Norm::Linf, L2Order::BoxBall, 1e-6),
        rule(Norm::L2, L2Order::BoxBall, 1e-6),
        rule(Norm::L2, L2Order::BallBox, 1e-12),
    ];
    for (dims, rule) in SHAPES.into_iter().flat_map(|dims| rules.map(|rule| (dims, rule))) {
        let [adv, x, dx, eps, step] = pgd_state(dims);
        let case = OpCase::new(Op::PgdStep(rule)).rows(&x).rows(&dx).rows(&eps).rows(&step);
        case.updates_rows(&adv).check(|n| {
            let point = |i: usize| {
                let (adv, x, dx, eps, step) = (row(&adv, i), row(&x, i), row(&dx, i), eps.values[i], step.values[i]);
                match rule.norm {
                    Norm::Linf => (0..x.len()).map(|e| linf_step(adv[e], x[e], dx[e], eps, step)).collect(),
                    Norm::L2 => l2_step(adv, x, dx, eps, step, &rule),
                }
            };
            vec![(0..n).flat_map(point).collect()]
        });
    }
}

/// Every rule of a point along a direction.
pub fn along_rules() -> Vec<AlongRule> {
    let directions = [Direction::Eps, Direction::Unit].into_iter().flat_map(|d| [(d, false), (d, true)]);
    let norms = [Norm::Linf, Norm::L2];
    directions.flat_map(|(direction, clamp)| norms.map(|norm| AlongRule { norm, direction, clamp })).collect()
}

/// The point at `t` along the direction from x to adv.
pub fn point_along(rule: &AlongRule, x: &[f64], adv: &[f64], ball: f64, t: f64) -> Vec<Sum> {
    let delta: Vec<f64> = adv.iter().zip(x).map(|(a, x)| a - x).collect();
    let long = match (rule.direction, rule.norm) {
        (Direction::Eps, _) => ball,
        (Direction::Unit, Norm::Linf) => delta.iter().fold(0.0, |m, d| d.abs().max(m)),
        (Direction::Unit, Norm::L2) => length(&delta),
    };
    let part = |d: f64| if d == 0.0 { 0.0 } else { t * d / long };
    let value = |v: f64| if rule.clamp { v.clamp(0.0, 1.0) } else { v };
    delta.iter().zip(x).map(|(&d, x)| near(value(x + part(d)), x + part(d).abs())).collect()
}

/// If adv equals the image, there is no direction: the result is the image.
#[test]
pub fn along_direction() {
    for dims in SHAPES {
        let (x, mut adv, ball, n) = (image(1, dims), image(2, dims), radii(dims[0]), dims[0]);
        let row_len = x.row();
        adv.values[row_len..2 * row_len].copy_from_slice(row(&x, 1)); // the example with ball 0
        let t = Array::f32(&[n], [0.0, 0.4, 0.01, 1.5, 0.45, 3.0].into_iter().take(n));
        for rule in along_rules() {
            let case = OpCase::new(Op::AlongDirection(rule)).rows(&x).rows(&adv).rows(&ball).rows(&t);
            case.gives_rows(dims, DType::F32).check(|n| {
                let point = |i: usize| point_along(&rule, row(&x, i), row(&adv, i), ball.values[i], t.values[i]);
                vec![(0..n).flat_map(point).collect()]
            });
        }
    }
}

/// The lower end of the bracket rises where the loss is negative. Elsewhere, 0 and NaN included, the upper end falls.
#[test]
pub fn bisect() {
    let loss = Array::f32(&[7], [-1.0, 1.0, 0.0, -0.0, f64::NAN, -1e-45, -1.0]);
    let t = Array::f32(&[7], [0.3, 0.3, 0.2, 0.2, 0.1, 0.4725, 0.05]);
    let low = Array::f32(&[7], [0.0, 0.1, 0.1, 0.0, 0.0, 0.3, 0.1]);
    let high = Array::f32(&[7], [0.4725, 0.4725, 0.3, 0.4, 0.2, 0.4725, 0.9]);
    let max_eps = 0.4725f32;
    let case = OpCase::new(Op::Bisect { max_eps }).rows(&loss);
    case.updates_rows(&t).updates_rows(&low).updates_rows(&high).check(|n| {
        let mut results = vec![Vec::new(); 3];
        for i in 0..n {
            let (t, low, high) = (t.values[i], low.values[i], high.values[i]);
            let (low, high) =
                if loss.values[i] < 0.0 { (low.max(t), high.min(f64::from(max_eps))) } else { (low, high.min(t)) };
            results[0].push(exact(rounded(low + high).value / 2.0));
            results[1].push(exact(low));
            results[2].push(exact(high));
        }
        results
    });
}
