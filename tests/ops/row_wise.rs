//! Row-wise ops: several ops on the rows of a batch in one launch. Each step is checked against its own formula, on
//! what the steps before it give.

use maxmargin::config::Direction;
use maxmargin::rng::{Purpose, philox};
use maxmargin::tape::{AlongRule, DType, Loss, LossRule, Norm, Op, RowWiseStep};

use super::attack::{image, point_along, radii, row};
use super::loss::{gradient, value};
use super::support::{Array, OpCase, Random, Sum, ball, exact, near, rounded};

fn step(op: Op, inputs: &[usize], outputs: &[usize]) -> RowWiseStep {
    RowWiseStep { op, inputs: inputs.to_vec(), outputs: outputs.to_vec() }
}

#[test]
pub fn row_wise() {
    // Rows of 16, 4 and 1 bytes a unit; vectors of four, and single numbers.
    for dims in [&[9, 4, 4, 3][..], &[9, 2, 2, 7], &[9, 5, 3]] {
        gathering(dims);
    }
    for classes in [2, 10, 33] {
        losses(classes);
    }
    for (dims, norm) in [&[5, 2, 2, 4][..], &[5, 17], &[5, 28, 28, 1], &[3, 32, 32, 3]]
        .into_iter()
        .flat_map(|dims| [(dims, Norm::Linf), (dims, Norm::L2)])
    {
        start(dims, norm);
    }
    for dims in [&[5, 2, 2, 4][..], &[5, 17]] {
        halving(dims);
    }
    for (pixels, channels, classes) in [(1, 5, 2), (4, 64, 10), (64, 257, 16)] {
        head(pixels, channels, classes);
    }
}

/// A batch's images from bytes to [0, 1] and a copy of them, its labels, and from each margin the radius and step.
fn gathering(dims: &[usize]) {
    let mut random = Random(5);
    let bytes = Array::u8(dims, (0..dims.iter().product()).map(|_| random.word() as u8));
    let labels = Array::u32((0..9).map(|i| i * 7 + 1));
    let margins = Array::f32(&[9], [0.3, 0.0, 0.1, 0.25, 1.5, 0.05, 0.7, 0.2, 0.4]);
    let index = Array::u32([6, 0, 3, 3, 1]);
    // Inputs 0 to 3, outputs from 4 on.
    let (least, factor) = (0.125f32, 0.375f32);
    let steps = vec![
        step(Op::GatherRows, &[0, 3], &[4]),
        step(Op::BytesToUnit, &[4], &[5]),
        step(Op::GatherRows, &[1, 3], &[6]),
        step(Op::Copy, &[5], &[7]),
        step(Op::Scale { factor }, &[7], &[8]),
        step(Op::GatherRows, &[2, 3], &[9]),
        step(Op::ClampMin { least }, &[9], &[10]),
        step(Op::Scale { factor }, &[10], &[11]),
    ];
    let own = [&[5], &dims[1..]].concat();
    let case = OpCase::new(Op::RowWise(steps)).whole(&bytes).whole(&labels).whole(&margins).rows(&index);
    let case = case.gives_rows(&own, DType::U8).gives_rows(&own, DType::F32).gives_rows(&[5], DType::U32);
    let case = case.gives_rows(&own, DType::F32).gives_rows(&own, DType::F32).gives_rows(&[5], DType::F32);
    case.gives_rows(&[5], DType::F32).gives_rows(&[5], DType::F32).check(|n| {
        let index: Vec<usize> = index.values[..n].iter().map(|&i| i as usize).collect();
        let pixels: Vec<f64> = index.iter().flat_map(|&i| row(&bytes, i).to_vec()).collect();
        let unit: Vec<Sum> = pixels.iter().map(|byte| rounded(byte / 255.0)).collect();
        let scaled = |value: &Sum| rounded(f64::from(factor) * value.value);
        let margin: Vec<Sum> = index.iter().map(|&i| exact(margins.values[i])).collect();
        let radius: Vec<Sum> = margin.iter().map(|m| exact(m.value.max(f64::from(least)))).collect();
        vec![
            pixels.iter().copied().map(exact).collect(),
            unit.clone(),
            index.iter().map(|&i| exact(labels.values[i])).collect(),
            unit.clone(),
            unit.iter().map(scaled).collect(),
            margin,
            radius.clone(),
            radius.iter().map(scaled).collect(),
        ]
    });
}

/// A network's head: the mean over an image's pixels, the last layer, and a loss.
fn head(pixels: usize, channels: usize, classes: usize) {
    let n = 5;
    let images = Random(1).signed(&[n, pixels, 1, channels]);
    let (w, bias) = (Random(2).signed(&[classes, channels]), Random(3).signed(&[classes]));
    let labels = Array::u32((0..n as u32).map(|i| i % classes as u32));
    let rule = LossRule { loss: Loss::Lm, confidence: 0.0 };
    let steps = vec![
        step(Op::GlobalMean, &[0], &[4]),
        step(Op::LinearBias { relu: false }, &[4, 1, 2], &[5]),
        step(Op::Loss(rule), &[5, 3], &[6]),
    ];
    let case = OpCase::new(Op::RowWise(steps)).rows(&images).whole(&w).whole(&bias).rows(&labels);
    let case = case.gives_rows(&[n, channels], DType::F32).gives_rows(&[n, classes], DType::F32);
    case.gives_rows(&[n], DType::F32).check(|n| {
        let mut means = vec![Sum::default(); n * channels];
        for (at, value) in images.values[..n * images.row()].iter().enumerate() {
            means[at / images.row() * channels + at % channels] += value / pixels as f64;
        }
        let logit = |at: usize| {
            let mut sum = near(bias.values[at % classes], bias.values[at % classes].abs());
            for (mean, w) in means[at / classes * channels..][..channels].iter().zip(row(&w, at % classes)) {
                sum.value += mean.value * w;
                sum.size += mean.size * w.abs();
            }
            sum
        };
        let logits: Vec<Sum> = (0..n * classes).map(logit).collect();
        let loss = |(i, z): (usize, &[Sum])| {
            let values: Vec<f64> = z.iter().map(|z| z.value).collect();
            let size = z.iter().map(|z| z.size).fold(0.0, f64::max);
            near(value(&values, labels.values[i] as usize, rule).value, 2.0 * size)
        };
        let losses = logits.chunks(classes).enumerate().map(loss).collect();
        vec![means.clone(), logits.clone(), losses]
    });
}

/// Two losses of a row, both kinds of weights, and a gradient that reads the weights.
fn losses(classes: usize) {
    let n = 7;
    let logits = Random(3).signed(&[n, classes]);
    let labels = Array::u32((0..n as u32).map(|i| i % classes as u32));
    let eps = Array::f32(&[n], [0.1, 0.5, 0.45, 0.2, 0.0, 0.9, 0.3]);
    let [xent, lm] = [Loss::Xent, Loss::Lm].map(|loss| LossRule { loss, confidence: 0.0 });
    let hinge = 0.45f32;
    let steps = vec![
        step(Op::Loss(xent), &[0, 1], &[3]),
        step(Op::Loss(lm), &[0, 1], &[4]),
        step(Op::MeanWeights, &[], &[5]),
        step(Op::HingeWeights { hinge }, &[2], &[6]),
        step(Op::LossBackward(xent), &[0, 1, 6], &[7]),
    ];
    let case = OpCase::new(Op::RowWise(steps)).rows(&logits).rows(&labels).rows(&eps);
    let case = (0..4).fold(case, |case, _| case.gives_rows(&[n], DType::F32));
    case.gives_rows(&[n, classes], DType::F32).check(|n| {
        let rows: Vec<(&[f64], usize)> = (0..n).map(|i| (row(&logits, i), labels.values[i] as usize)).collect();
        let loss = |rule: LossRule| rows.iter().map(|(z, y)| value(z, *y, rule)).collect::<Vec<Sum>>();
        let mean = f64::from((1.0 / n as f64) as f32);
        let weight = |i: usize| if eps.values[i] < f64::from(hinge) { mean } else { 0.0 };
        vec![
            loss(xent),
            loss(lm),
            vec![exact(mean); n],
            (0..n).map(|i| exact(weight(i))).collect(),
            rows.iter().enumerate().flat_map(|(i, (z, y))| gradient(z, *y, weight(i), xent)).collect(),
        ]
    });
}

/// PGD's first point from random numbers, and ones.
fn start(dims: &[usize], norm: Norm) {
    let (x, eps, counter) = (image(1, dims), radii(dims[0]), Array::u32([41]));
    let index = Array::u32((0..dims[0] as u32).map(|i| 1_000_003 * i));
    let (seed, purpose, signed) = (0x1234_5678_9ABC, Purpose::TrainStart, norm == Norm::Linf);
    let steps = vec![
        step(Op::Uniform { seed, purpose, signed }, &[0, 1], &[4]),
        step(Op::PgdStart(norm), &[2, 3, 4], &[5]),
        step(Op::Fill { value: 1.0 }, &[], &[6]),
        step(Op::Fill { value: -0.5 }, &[], &[7]),
    ];
    let case = OpCase::new(Op::RowWise(steps)).whole(&counter).rows(&index).rows(&x).rows(&eps);
    let case = case.gives_rows(dims, DType::F32).gives_rows(dims, DType::F32);
    case.gives_rows(&dims[..1], DType::F32).gives_rows(dims, DType::F32).check(|n| {
        let number = |i: usize, e: usize| {
            let unit = f64::from(philox(seed, purpose, 41, index.values[i] as u32, e as u32 / 4)[e % 4] >> 8);
            let unit = unit / f64::from(1 << 24);
            if signed { 2.0 * unit - 1.0 } else { unit }
        };
        let noise: Vec<Vec<f64>> = (0..n).map(|i| (0..x.row()).map(|e| number(i, e)).collect()).collect();
        let point = |i: usize| ball::pgd_start(norm, row(&x, i), &noise[i], eps.values[i]);
        let sizes = (0..n).flat_map(|i| row(&x, i).iter().zip(&noise[i])).map(|(x, u)| x + u.abs());
        vec![
            noise.iter().flatten().copied().map(exact).collect(),
            (0..n).flat_map(point).zip(sizes).map(|(value, size)| near(value, size)).collect(),
            vec![exact(1.0); n],
            vec![exact(-0.5); n * x.row()],
        ]
    });
}

/// A bracket from its start to its first halving, the point in its middle, and that point among others.
fn halving(dims: &[usize]) {
    let n = dims[0];
    let (x, mut adv, eps) = (image(1, dims), image(2, dims), radii(n));
    adv.values[x.row()..2 * x.row()].copy_from_slice(row(&x, 1)); // the example with radius 0
    let loss = Array::f32(&[n], [-1.0, 1.0, 0.0, f64::NAN, -1e-45]);
    let to = Array::u32([6, 0, 3, 5, 1]);
    let whole = [&[7], &dims[1..]].concat();
    let (images, margins) = (Random(8).image(&whole), Random(9).image(&[7]));
    let max_eps = 1.25f32;
    let rule = AlongRule { norm: Norm::Linf, direction: Direction::Eps, clamp: true };
    // Inputs 0 to 4; outputs: t, low, high, point, images, margins.
    let steps = vec![
        step(Op::Copy, &[2], &[5]),
        step(Op::Fill { value: 0.0 }, &[], &[6]),
        step(Op::Fill { value: max_eps }, &[], &[7]),
        step(Op::Bisect { max_eps }, &[3], &[5, 6, 7]),
        step(Op::AlongDirection(rule), &[0, 1, 2, 5], &[8]),
        step(Op::ScatterRows, &[8, 4], &[9]),
        step(Op::ScatterRows, &[5, 4], &[10]),
    ];
    let case = OpCase::new(Op::RowWise(steps)).rows(&x).rows(&adv).rows(&eps).rows(&loss).rows(&to);
    let case = (0..3).fold(case, |case, _| case.gives_rows(&[n], DType::F32));
    case.gives_rows(dims, DType::F32).updates_whole(&images).updates_whole(&margins).check(|n| {
        let bracket = |i: usize| match (loss.values[i] < 0.0, eps.values[i]) {
            (true, eps) => [eps, f64::from(max_eps)],
            (false, eps) => [0.0, eps.min(f64::from(max_eps))],
        };
        let middle = |i: usize| rounded(bracket(i).iter().sum::<f64>()).value / 2.0;
        let points: Vec<Vec<Sum>> =
            (0..n).map(|i| point_along(&rule, row(&x, i), row(&adv, i), eps.values[i], middle(i))).collect();
        let mut images: Vec<Sum> = images.values.iter().copied().map(exact).collect();
        let mut margins: Vec<Sum> = margins.values.iter().copied().map(exact).collect();
        for (i, point) in points.iter().enumerate() {
            let at = to.values[i] as usize;
            images[at * point.len()..][..point.len()].copy_from_slice(point);
            margins[at] = exact(middle(i));
        }
        vec![
            (0..n).map(|i| exact(middle(i))).collect(),
            (0..n).map(|i| exact(bracket(i)[0])).collect(),
            (0..n).map(|i| exact(bracket(i)[1])).collect(),
            points.concat(),
            images,
            margins,
        ]
    });
}
