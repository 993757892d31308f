//! A network's first layer under attack: from images to its results, and from their gradient to a step of PGD.

use maxmargin::config::L2Order;
use maxmargin::tape::{ConvFusion, DType, FirstLayerFusion, GRADIENT_NORM, Norm, Op, PgdFusion, PgdRule, StepLayer};

use super::attack::{SHAPES, along_rules, image, l2_step, linf_step, pgd_state, point_along, row};
use super::conv::{ConvCase, conv_case};
use super::conv_fused::NormOperands;
use super::conv_pool::{layer_pair, layer_pairs, unpooled};
use super::image::{images, standardized};
use super::pool::halved;
use super::support::ball::length;
use super::support::half::in_half;
use super::support::{Array, OpCase, Random, Sum, near};

/// First layers: filters in one group and in several, of which the last is not full; vectors of four and eight; strides;
/// windows beyond the image; more pixels than threads; the wide ResNet's.
const FORWARD_LAYERS: [ConvCase; 7] = [
    conv_case([4, 4, 5, 1], [3, 3, 3], 1, 1),
    conv_case([4, 6, 6, 4], [8, 3, 3], 1, 2),
    conv_case([3, 7, 5, 2], [4, 1, 3], 2, 1),
    conv_case([3, 9, 8, 3], [17, 5, 5], 0, 1),
    conv_case([2, 6, 9, 5], [40, 2, 2], 0, 3),
    conv_case([1, 40, 33, 1], [16, 3, 3], 1, 1),
    conv_case([2, 32, 32, 3], [16, 3, 3], 1, 1),
];

/// Results and standardized images of the layer for `points`, of which each row is an image.
fn first_layer(layer: &ConvCase, points: &[Vec<Sum>], w: &Array) -> (Vec<Sum>, [Vec<Sum>; 2]) {
    let (mut values, mut sizes, mut deviations) = (Vec::new(), Vec::new(), Vec::new());
    for point in points {
        let (y, deviation, _) = standardized(&point.iter().map(|p| p.value).collect::<Vec<_>>());
        let mean_size = point.iter().map(|p| p.size).sum::<f64>() / point.len() as f64;
        sizes.extend(y.iter().zip(point).map(|(y, p)| (p.size + mean_size) / deviation + y.abs()));
        values.extend(y);
        deviations.push(near(deviation, deviation + mean_size));
    }
    let with = |values: &[f64]| Array { values: values.to_vec(), ..Array::f32(&layer.x(), vec![0.0; values.len()]) };
    let magnitudes = Array { values: w.values.iter().map(|w| w.abs()).collect(), ..w.clone() };
    let results = layer.forward(layer.n, &with(&values), w).into_iter();
    let results = results.zip(layer.forward(layer.n, &with(&sizes), &magnitudes));
    let results = results.map(|(result, size)| near(result.value, size.value)).collect();
    (results, [values.iter().zip(&sizes).map(|(y, size)| near(*y, *size)).collect(), deviations])
}

#[test]
pub fn standardize_conv2d() {
    let rules: Vec<_> = [None].into_iter().chain(along_rules().into_iter().map(Some)).collect();
    let outputs = [(true, false), (false, true), (true, true)];
    for (number, layer) in FORWARD_LAYERS.into_iter().enumerate() {
        let (dims, n) = (layer.x(), layer.n);
        let (x, w, norm) = (images(&dims), Random(7).signed(&layer.filters()), NormOperands::new(layer.k));
        let adv = image(2, &dims);
        // The search never leaves eps, and no example has a radius of 0.
        let ball = Array::f32(&[n], [0.3, 0.1, 1.5, 0.5].into_iter().take(n));
        let t = Array::f32(&[n], [0.1, 0.05, 1.5, 0.45].into_iter().take(n));
        for (i, along) in rules.iter().copied().enumerate() {
            let (sum, normalizes) = outputs[(i + number) % 3];
            let keeps_images = (i + number) % 2 == 0;
            let fused = ConvFusion { sum, norm: normalizes, ..ConvFusion::alone(layer.window) };
            let op = Op::StandardizeConv2d(FirstLayerFusion { along, layer: fused, keeps_images });
            let mut case = OpCase::new(op).rows(&x).whole(&w);
            if along.is_some() {
                case = case.rows(&adv).rows(&ball).rows(&t);
            }
            if normalizes {
                case = case.whole(&norm.weight).whole(&norm.bias).whole(&norm.mean).whole(&norm.variance);
            }
            for _ in 0..usize::from(sum) + usize::from(normalizes) {
                case = case.gives_rows(&layer.y(), DType::F32);
            }
            if keeps_images {
                case = case.gives_rows(&dims, DType::F32).gives_rows(&[n], DType::F32);
            }
            let point = |i: usize| match &along {
                Some(rule) => point_along(rule, row(&x, i), row(&adv, i), ball.values[i], t.values[i]),
                None => row(&x, i).iter().map(|x| near(*x, x.abs())).collect(),
            };
            let (sums, kept) = first_layer(&layer, &(0..n).map(point).collect::<Vec<_>>(), &w);
            let normalized: Vec<Sum> = sums.iter().enumerate().map(|(i, &s)| norm.apply(i % layer.k, s)).collect();
            case.check(|rows| {
                let part = |sums: &[Sum]| sums[..rows * (sums.len() / n)].to_vec();
                let results = [sum.then_some(&sums), normalizes.then_some(&normalized)].into_iter().flatten();
                let kept = kept.iter().filter(|_| keeps_images);
                results.chain(kept).map(|sums| part(sums)).collect()
            });
        }
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
            let op = Op::PgdStepFused(PgdFusion { layer: None, from_norm, standardized, rule });
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
            let op = Op::PgdStepFused(PgdFusion {
                layer: Some(StepLayer::Conv(layer.window)),
                from_norm,
                standardized,
                rule,
            });
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

/// First layers with pooling: LeNet5's; several channels, windows beyond the image, filters in several groups of lanes.
const POOLED_LAYERS: [ConvCase; 4] = [
    conv_case([3, 28, 28, 1], [32, 5, 5], 2, 1),
    conv_case([2, 6, 8, 1], [3, 3, 3], 1, 1),
    conv_case([2, 5, 7, 3], [40, 2, 2], 2, 1),
    conv_case([2, 7, 6, 2], [5, 2, 3], 0, 1),
];

/// With coarse numbers the layer's input gradient is exact, so no sign is uncertain.
#[test]
pub fn pgd_step_fused_with_a_pooled_first_layer() {
    for (layer, from_norm) in POOLED_LAYERS.into_iter().flat_map(|layer| [(layer, false), (layer, true)]) {
        let (dims, n) = (layer.x(), layer.n);
        let rule = PgdRule { norm: Norm::Linf, l2_order: L2Order::BoxBall, l2_grad_floor: 1e-6 };
        let [adv, x, _, eps, step] = pgd_state(&dims);
        let out = halved(layer.y());
        let (dy, w, mut random) = (Random(6).coarse(&out), Random(7).coarse(&layer.filters()), Random(8));
        let choice = Array::u8(&out, (0..dy.values.len()).map(|_| random.below(5) as u8));
        let norms = Array::f32(&[n], [3.0, 0.5, 700.0].into_iter().take(n));
        let op = Op::PgdStepFused(PgdFusion {
            layer: Some(StepLayer::ConvPool(layer.window)),
            from_norm,
            standardized: false,
            rule,
        });
        let mut case = OpCase::new(op).rows(&x).rows(&dy).rows(&eps).rows(&step).whole(&w).rows(&choice);
        if from_norm {
            case = case.rows(&norms);
        }
        let sums = layer.backward_input(n, &unpooled(&layer, n, &dy, &choice), &w);
        let dx: Vec<f64> = sums.iter().map(|sum| sum.value).collect();
        case.updates_rows(&adv).check(|n| {
            let point = |i: usize| {
                let gradient = finished(&dx[i * x.row()..][..x.row()], from_norm.then(|| norms.values[i]), None);
                step_along(&gradient, [row(&adv, i), row(&x, i)], [eps.values[i], step.values[i]], &rule)
            };
            vec![(0..n).flat_map(point).collect()]
        });
    }
}

/// Two layers with pooling: images, filters of the first and of the second; LeNet5's, whose sums a GPU splits, and some
/// with few channels.
const TWO_POOLED_LAYERS: [(ConvCase, [usize; 3], usize); 3] = [
    (conv_case([2, 28, 28, 1], [32, 5, 5], 2, 1), [64, 5, 5], 2),
    (conv_case([2, 8, 12, 1], [8, 3, 3], 1, 1), [16, 3, 3], 1),
    (conv_case([3, 8, 8, 2], [5, 3, 3], 1, 1), [3, 1, 1], 0),
];

#[test]
pub fn pgd_step_fused_with_two_pooled_layers() {
    for ((first, filters, padding), from_norm) in
        TWO_POOLED_LAYERS.into_iter().flat_map(|layers| [(layers, false), (layers, true)])
    {
        let second = conv_case(halved(first.y()), filters, padding, 1);
        step_through_two_layers([first, second], None, from_norm);
    }
}

/// The linear layer has numbers of outputs that are multiples of eight, and others.
#[test]
fn pgd_step_fused_with_a_pair_of_layers_and_a_linear_one() {
    in_half(|| {
        for (at, layers) in layer_pairs().enumerate() {
            step_through_two_layers(layers, Some([24, 40, 13, 8][at]), at % 2 == 0);
        }
    });
}

pub fn small_pair() {
    step_through_two_layers(layer_pair([1, 4, 4]), Some(8), true);
}

/// A step after two layers, and after a linear layer with so many outputs. With coarse numbers all input gradients are
/// exact, and the linear layer's are half-precision numbers, so no sign is uncertain.
fn step_through_two_layers([first, second]: [ConvCase; 2], outputs: Option<usize>, from_norm: bool) {
    let (dims, between, n) = (first.x(), second.x(), first.n);
    let rule = PgdRule { norm: Norm::Linf, l2_order: L2Order::BoxBall, l2_grad_floor: 1e-6 };
    let [adv, x, _, eps, step] = pgd_state(&dims);
    let (out, mut random) = (halved(second.y()), Random(8));
    let inner: usize = out[1..].iter().product();
    let linear = outputs.map(|outputs| (Random(6).coarse(&[n, outputs]), Random(10).coarse(&[outputs, inner])));
    let of_second = match &linear {
        None => Random(6).coarse(&out),
        Some((dy, w)) => {
            let term = |at: usize, j: usize| row(dy, at / inner)[j] * w.values[j * inner + at % inner];
            let sums = (0..n * inner).map(|at| (0..dy.row()).map(|j| term(at, j)).sum::<f64>());
            Array::f32(&out, sums)
        }
    };
    let [first_w, second_w] = [(7, &first), (9, &second)].map(|(seed, s)| Random(seed).coarse(&s.filters()));
    let [first_choice, second_choice] = [&between, &out].map(|dims| {
        let places = (0..dims.iter().product::<usize>()).map(|_| random.below(5) as u8);
        Array::u8(dims, places)
    });
    let norms = Array::f32(&[n], [3.0, 0.5, 700.0].into_iter().take(n));
    let layer = StepLayer::TwoConvPools { first: first.window, second: second.window, linear: linear.is_some() };
    let op = Op::PgdStepFused(PgdFusion { layer: Some(layer), from_norm, standardized: false, rule });
    let dy = linear.as_ref().map_or(&of_second, |(dy, _)| dy);
    let mut case = OpCase::new(op).rows(&x).rows(dy).rows(&eps).rows(&step);
    case = case.whole(&first_w).rows(&first_choice).whole(&second_w).rows(&second_choice);
    if let Some((_, w)) = &linear {
        case = case.whole(w);
    }
    if from_norm {
        case = case.rows(&norms);
    }
    let sums = second.backward_input(n, &unpooled(&second, n, &of_second, &second_choice), &second_w);
    let of_first = Array::f32(&between, sums.iter().map(|sum| sum.value));
    let sums = first.backward_input(n, &unpooled(&first, n, &of_first, &first_choice), &first_w);
    let dx: Vec<f64> = sums.iter().map(|sum| sum.value).collect();
    case.updates_rows(&adv).check(|n| {
        let point = |i: usize| {
            let gradient = finished(&dx[i * x.row()..][..x.row()], from_norm.then(|| norms.values[i]), None);
            step_along(&gradient, [row(&adv, i), row(&x, i)], [eps.values[i], step.values[i]], &rule)
        };
        vec![(0..n).flat_map(point).collect()]
    });
}
