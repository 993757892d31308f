//! PGD and the bisection for the decision boundary, each example with its own eps. tests/attacks.rs tests that PGD
//! stays inside ball and box to the last bit.

use maxmargin::config::{Direction, L2Order};
use maxmargin::rng::{Purpose, philox};
use maxmargin::tape::{DType, GRADIENT_NORM, Norm, Op, PgdFusion, PgdRule};

use super::conv::{ConvCase, conv_case};
use super::support::ball::{self, length};
use super::support::{Array, OpCase, Random, Sum, exact, near, rounded};

/// Images of 1, 7, 16, 17, 784, 1,031 (a prime), 3,072 and 4,096 elements.
const SHAPES: [&[usize]; 8] =
    [&[5, 1, 1, 1], &[6, 7], &[5, 2, 2, 4], &[5, 17], &[5, 28, 28, 1], &[4, 1031], &[3, 32, 32, 3], &[2, 4096]];

/// Images with black and white pixels among others.
fn image(seed: u64, dims: &[usize]) -> Array {
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
fn radii(n: usize) -> Array {
    Array::f32(&[n], [0.3, 0.0, 8.0 / 255.0, 1.5, 0.5, 2.0].into_iter().take(n))
}

/// Elements of row `i`.
fn row(a: &Array, i: usize) -> &[f64] {
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
fn pgd_state(dims: &[usize]) -> [Array; 5] {
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
fn linf_step(adv: f64, x: f64, g: f64, eps: f64, step: f64) -> Sum {
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
fn l2_step(adv: &[f64], x: &[f64], g: &[f64], eps: f64, step: f64, rule: &PgdRule) -> Vec<Sum> {
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

/// A row's gradient before a step, with the sizes of its terms: dx brought back from the norm, then through the
/// standardization of an image y with its deviation.
fn finished(dx: &[f64], norm: Option<f64>, standardized: Option<(&[f64], f64)>) -> Vec<Sum> {
    let factor = norm.map_or(1.0, |norm| norm.max(f64::from(1e-30f32)) / f64::from(GRADIENT_NORM));
    let dy: Vec<f64> = dx.iter().map(|dx| dx * factor).collect();
    let Some((y, deviation)) = standardized else { return dy.into_iter().map(|dy| near(dy, dy.abs())).collect() };
    let count = dy.len() as f64;
    let passes = if deviation > f64::from(1.0 / (count as f32).sqrt()) { 1.0 / (count - 1.0) } else { 0.0 };
    let sums = |f: &dyn Fn(f64) -> f64| {
        let along = dy.iter().zip(y).map(|(dy, y)| f(dy * y)).sum::<f64>();
        [dy.iter().map(|dy| f(*dy)).sum::<f64>() / count, passes * along]
    };
    let ([mean, along], [mean_size, along_size]) = (sums(&|v| v), sums(&f64::abs));
    let one = |(dy, y): (&f64, &f64)| {
        near((dy - mean - y * along) / deviation, (dy.abs() + mean_size + y.abs() * along_size) / deviation)
    };
    dy.iter().zip(y).map(one).collect()
}

/// The point after a step from `adv` along a gradient with tolerances, in the ball of radius `eps` around `x`.
fn step_along(gradient: &[Sum], [adv, x]: [&[f64]; 2], [eps, step]: [f64; 2], rule: &PgdRule) -> Vec<Sum> {
    let g: Vec<f64> = gradient.iter().map(|g| g.value).collect();
    match rule.norm {
        Norm::Linf => (0..x.len()).map(|e| linf_step(adv[e], x[e], g[e], eps, step)).collect(),
        Norm::L2 => {
            let long = length(&g).max(f64::from(rule.l2_grad_floor));
            let sizes = gradient.iter().map(|g| step * g.size / long);
            let points = l2_step(adv, x, &g, eps, step, rule).into_iter().zip(sizes);
            points.map(|(to, size)| near(to.value, to.size + size)).collect()
        }
    }
}

#[test]
pub fn pgd_step_fused() {
    let kinds = [(true, false), (false, true), (true, true)];
    let shapes = SHAPES.into_iter().filter(|dims| dims[1..].iter().product::<usize>() > 1);
    for (dims, (from_norm, standardized)) in shapes.flat_map(|dims| kinds.map(|kind| (dims, kind))) {
        for norm in [Norm::Linf, Norm::L2] {
            let rule = PgdRule { norm, l2_order: L2Order::BoxBall, l2_grad_floor: 1e-6 };
            let [adv, x, _, eps, step] = pgd_state(dims);
            let (dx, y, n) = (Random(4).signed(dims), Random(5).signed(dims), dims[0]);
            let norms = Array::f32(&[n], [3.0, 1e-8, 700.0, 0.0, 1e12, 0.5].into_iter().take(n));
            // The second image has the least deviation.
            let least = f64::from(1.0 / (x.row() as f32).sqrt());
            let deviation = Array::f32(&[n], [0.7, least, 0.3, 0.9, 1.5, 0.6].into_iter().take(n));
            let op = Op::PgdStepFused(PgdFusion { conv: None, from_norm, standardized, rule });
            let mut case = OpCase::new(op).rows(&x).rows(&dx).rows(&eps).rows(&step);
            if from_norm {
                case = case.rows(&norms);
            }
            if standardized {
                case = case.rows(&y).rows(&deviation);
            }
            case.updates_rows(&adv).check(|n| {
                let point = |i: usize| {
                    let standardized = standardized.then(|| (row(&y, i), deviation.values[i]));
                    let gradient = finished(row(&dx, i), from_norm.then(|| norms.values[i]), standardized);
                    step_along(&gradient, [row(&adv, i), row(&x, i)], [eps.values[i], step.values[i]], &rule)
                };
                vec![(0..n).flat_map(point).collect()]
            });
        }
    }
}

/// First layers: more channels and filters than one, and vectors of four; windows beyond the image; the wide ResNet's.
const LAYERS: [ConvCase; 5] = [
    conv_case([3, 4, 5, 1], [3, 3, 3], 1, 1),
    conv_case([2, 6, 6, 4], [8, 3, 3], 1, 1),
    conv_case([2, 7, 5, 2], [5, 1, 3], 2, 1),
    conv_case([2, 9, 8, 3], [16, 5, 5], 0, 1),
    conv_case([2, 32, 32, 3], [16, 3, 3], 1, 1),
];

/// With coarse numbers the layer's input gradient is exact, so no sign is uncertain.
#[test]
pub fn pgd_step_fused_with_the_first_layer() {
    let kinds = [(false, false), (true, false), (false, true), (true, true)];
    for (layer, (from_norm, standardized)) in LAYERS.into_iter().flat_map(|layer| kinds.map(|kind| (layer, kind))) {
        for norm in [Norm::Linf, Norm::L2] {
            let (rule, dims) = (PgdRule { norm, l2_order: L2Order::BoxBall, l2_grad_floor: 1e-6 }, layer.x());
            let [adv, x, _, eps, step] = pgd_state(&dims);
            let (dy, w, y) =
                (Random(6).coarse(&layer.y()), Random(7).coarse(&layer.filters()), Random(5).signed(&dims));
            let n = dims[0];
            let dx: Vec<f64> = layer.backward_input(n, &dy, &w).iter().map(|sum| sum.value).collect();
            let norms = Array::f32(&[n], [3.0, 0.5, 700.0].into_iter().take(n));
            let deviation = Array::f32(&[n], [0.7, 0.3, 0.9].into_iter().take(n));
            let op = Op::PgdStepFused(PgdFusion { conv: Some(layer.window), from_norm, standardized, rule });
            let mut case = OpCase::new(op).rows(&x).rows(&dy).rows(&eps).rows(&step).whole(&w);
            if from_norm {
                case = case.rows(&norms);
            }
            if standardized {
                case = case.rows(&y).rows(&deviation);
            }
            case.updates_rows(&adv).check(|n| {
                let point = |i: usize| {
                    let standardized = standardized.then(|| (row(&y, i), deviation.values[i]));
                    let dx = &dx[i * x.row()..][..x.row()];
                    let gradient = finished(dx, from_norm.then(|| norms.values[i]), standardized);
                    step_along(&gradient, [row(&adv, i), row(&x, i)], [eps.values[i], step.values[i]], &rule)
                };
                vec![(0..n).flat_map(point).collect()]
            });
        }
    }
}

/// If adv equals the image, there is no direction: the result is the image.
#[test]
pub fn along_direction() {
    for dims in SHAPES {
        let (x, mut adv, ball, n) = (image(1, dims), image(2, dims), radii(dims[0]), dims[0]);
        let row_len = x.row();
        adv.values[row_len..2 * row_len].copy_from_slice(row(&x, 1)); // the example with ball 0
        let t = Array::f32(&[n], [0.0, 0.4, 0.01, 1.5, 0.45, 3.0].into_iter().take(n));
        for norm in [Norm::Linf, Norm::L2] {
            for (direction, clamp) in
                [Direction::Eps, Direction::Unit].into_iter().flat_map(|d| [(d, false), (d, true)])
            {
                let op = Op::AlongDirection { norm, direction, clamp };
                let case = OpCase::new(op).rows(&x).rows(&adv).rows(&ball).rows(&t);
                case.gives_rows(dims, DType::F32).check(|n| {
                    let point = |i: usize| {
                        let (x, adv, t) = (row(&x, i), row(&adv, i), t.values[i]);
                        let delta: Vec<f64> = adv.iter().zip(x).map(|(a, x)| a - x).collect();
                        let long = match (direction, norm) {
                            (Direction::Eps, _) => ball.values[i],
                            (Direction::Unit, Norm::Linf) => delta.iter().fold(0.0, |m, d| d.abs().max(m)),
                            (Direction::Unit, Norm::L2) => length(&delta),
                        };
                        let part = move |d: f64| if d == 0.0 { 0.0 } else { t * d / long };
                        let value = move |v: f64| if clamp { v.clamp(0.0, 1.0) } else { v };
                        let one = move |(d, x): (f64, f64)| near(value(x + part(d)), x + part(d).abs());
                        delta.into_iter().zip(x.to_vec()).map(one)
                    };
                    vec![(0..n).flat_map(point).collect()]
                });
            }
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
