//! Convolution, bias, ReLU and max-pooling in one. Ties are the point: the first maximum in row-major order is chosen,
//! and none where ReLU gives 0.

use maxmargin::tape::{AlongRule, DType, Direction, NO_CHOICE, Norm, Op};

use super::attack::{point_along, row};
use super::conv::{ConvCase, LARGE, conv_case};
use super::pool::{first_maximum, halved, window};
use super::support::half::in_half;
use super::support::{Array, OpCase, Random, Sum, exact};

/// Filters of 1 to 10 kernel rows, which take every number of vectors; kernel rows and channels around the 8 and 16
/// elements of a vector.
fn shapes() -> Vec<ConvCase> {
    let mut all = vec![
        conv_case([2, 28, 28, 1], [32, 5, 5], 2, 1),  // first of LeNet5
        conv_case([2, 14, 14, 32], [64, 5, 5], 2, 1), // second of LeNet5
        conv_case([3, 28, 28, 1], [8, 3, 3], 1, 1),
        conv_case([9, 6, 4, 3], [5, 3, 3], 1, 1), // more than two groups of four images
        conv_case([1, 2, 2, 1], [1, 1, 1], 0, 1),
        conv_case([2, 2, 2, 1], [3, 1, 1], 1, 1), // windows outside the image
        conv_case([2, 4, 4, 7], [1, 3, 3], 2, 1),
    ];
    all.extend(LARGE);
    all.extend((1..=10).map(|kh| conv_case([2, kh + 3, 6, 2], [3, kh, 3], 0, 1)));
    all.extend([7, 8, 9, 15, 16, 17, 33].map(|c| conv_case([2, 5, 5, c], [4, 2, 2], 0, 1)));
    all.extend([7, 8, 9, 15, 16, 17].map(|k| conv_case([2, 4, 6, 4], [k, 3, 3], 1, 1)));
    all
}

/// With coarse numbers all sums are exact, so values and choices are exact too, ties and zeros included. With random
/// numbers the value is near, and any choice is allowed.
#[test]
pub fn conv_pool() {
    check_conv_pool(shapes());
}

fn check_conv_pool(cases: Vec<ConvCase>) {
    for s in cases {
        let (x, w, bias) = (Random(1).coarse(&s.x()), Random(2).coarse(&s.filters()), Random(3).coarse(&[s.k]));
        let real = (Random(4).signed(&s.x()), Random(5).signed(&s.filters()), Random(6).signed(&[s.k]));
        for (x, w, bias, coarse) in [(x, w, bias, true), (real.0, real.1, real.2, false)] {
            let out = halved(s.y());
            let case = OpCase::new(Op::ConvPool(s.window)).rows(&x).whole(&w).whole(&bias);
            case.gives_rows(&out, DType::F32).gives_rows(&out, DType::U8).check(|n| {
                let mut conv = s.forward(n, &x, &w);
                conv.iter_mut().enumerate().for_each(|(i, sum)| *sum += bias.values[i % s.k]);
                let pooled = (0..n * out[1..].iter().product::<usize>()).map(|at| {
                    let four = [0, 1, 2, 3].map(|place| conv[window(s.y(), at, place)]);
                    let (most, place) = first_maximum(four.map(|sum| sum.value));
                    let choice = if most > 0.0 { place } else { usize::from(NO_CHOICE) };
                    let (value, size) = (most.max(0.0), four.iter().fold(0.0, |size, sum| sum.size.max(size)));
                    if coarse {
                        (exact(value), exact(choice as f64))
                    } else {
                        (Sum { value, size }, Sum { value: 0.0, size: f64::INFINITY })
                    }
                });
                let (values, choices) = pooled.unzip();
                vec![values, choices]
            });
        }
    }
}

/// Pairs of layers, LeNet5's: on MNIST's images; on images of one part and of several, with rows of windows that do not
/// fill a part; on the widest images.
pub fn layer_pairs() -> impl Iterator<Item = [ConvCase; 2]> {
    [[2, 28, 28], [3, 8, 12], [1, 20, 4], [1, 4, 32]].into_iter().map(layer_pair)
}

/// A pair of layers on `n` images of `h` by `w` pixels.
pub fn layer_pair([n, h, w]: [usize; 3]) -> [ConvCase; 2] {
    let first = conv_case([n, h, w, 1], [32, 5, 5], 2, 1);
    [first, conv_case(halved(first.y()), [64, 5, 5], 2, 1)]
}

#[test]
pub fn two_conv_pools() {
    in_half(|| layer_pairs().for_each(|pair| two_layers(pair, None)));
}

#[test]
fn two_conv_pools_at_points_along_a_direction() {
    in_half(|| {
        for (direction, clamp) in [(Direction::Eps, false), (Direction::Unit, true)] {
            let along = AlongRule { norm: Norm::Linf, direction, clamp };
            two_layers(layer_pair([3, 20, 8]), Some(along));
        }
    });
}

pub fn small_pair() {
    let along = AlongRule { norm: Norm::L2, direction: Direction::Eps, clamp: true };
    two_layers(layer_pair([1, 4, 4]), Some(along));
}

/// With coarse numbers, and points half as far as adv, all sums are exact, and the first layer's results are
/// half-precision numbers.
fn two_layers([first, second]: [ConvCase; 2], along: Option<AlongRule>) {
    let (mut x, mut adv) = (Random(1).coarse(&first.x()), Random(6).coarse(&first.x()));
    // The distance is 2 in every image.
    x.values.chunks_mut(first.h * first.w).for_each(|image| image[0] = 1.0);
    adv.values.chunks_mut(first.h * first.w).for_each(|image| image[0] = -1.0);
    let [ball, t] = [2.0, 1.0].map(|value| Array::f32(&[first.n], vec![value; first.n]));
    let [(w, bias), (second_w, second_bias)] = [(2, &first), (4, &second)]
        .map(|(seed, s)| (Random(seed).coarse(&s.filters()), Random(seed + 1).coarse(&[s.k])));
    let op = Op::TwoConvPools { along, first: first.window, second: second.window };
    let mut case = OpCase::new(op).rows(&x).whole(&w).whole(&bias).whole(&second_w).whole(&second_bias);
    if let Some(rule) = &along {
        case = case.rows(&adv).rows(&ball).rows(&t);
        let points = (0..first.n).flat_map(|i| point_along(rule, row(&x, i), row(&adv, i), 2.0, 1.0));
        x = Array::f32(&first.x(), points.map(|point| point.value).collect::<Vec<_>>());
    }
    let (between, out) = (second.x(), halved(second.y()));
    let case = case.gives_rows(&out, DType::F32).gives_rows(&out, DType::U8).gives_rows(&between, DType::U8);
    case.check(|n| {
        let exactly = |(values, choices): (Vec<f64>, Vec<usize>)| {
            let choices = choices.into_iter().map(|choice| exact(choice as f64)).collect::<Vec<_>>();
            (values.into_iter().map(exact).collect::<Vec<_>>(), choices)
        };
        let first_results = pooled(&first, n, &x, &w, &bias);
        let mut values = first_results.0.clone();
        values.resize(between.iter().product(), 0.0);
        let (results, choices) = exactly(pooled(&second, n, &Array::f32(&between, values), &second_w, &second_bias));
        vec![results, choices, exactly(first_results).1]
    });
}

/// Results of a layer on `n` images, and its choices.
fn pooled(s: &ConvCase, n: usize, x: &Array, w: &Array, bias: &Array) -> (Vec<f64>, Vec<usize>) {
    let conv: Vec<f64> =
        s.forward(n, x, w).into_iter().enumerate().map(|(i, sum)| sum.value + bias.values[i % s.k]).collect();
    let out = halved(s.y());
    let windows = (0..n * out[1..].iter().product::<usize>()).map(|at| {
        let (most, place) = first_maximum([0, 1, 2, 3].map(|place| conv[window(s.y(), at, place)]));
        (most.max(0.0), if most > 0.0 { place } else { usize::from(NO_CHOICE) })
    });
    windows.unzip()
}

/// dy with zeros, and choices, many of which are [`NO_CHOICE`].
fn gradient(s: &ConvCase) -> (Array, Array) {
    let out = halved(s.y());
    let (mut dy, mut random) = (Random(1).signed(&out), Random(2));
    dy.values.iter_mut().for_each(|v| *v *= f64::from(random.below(4) > 0));
    let choice = Array::u8(&out, (0..dy.values.len()).map(|_| random.below(5) as u8));
    (dy, choice)
}

/// Gradient with respect to the output of the convolution.
pub fn unpooled(s: &ConvCase, n: usize, dy: &Array, choice: &Array) -> Array {
    let mut full = Array::f32(&s.y(), vec![0.0; s.y().iter().product()]);
    for at in (0..n * dy.row()).filter(|&at| choice.values[at] as u8 != NO_CHOICE) {
        full.values[window(s.y(), at, choice.values[at] as usize)] = dy.values[at];
    }
    full
}

#[test]
pub fn conv_pool_backward_input() {
    check_conv_pool_backward_input(shapes());
}

fn check_conv_pool_backward_input(cases: Vec<ConvCase>) {
    for s in cases {
        let ((dy, choice), w) = (gradient(&s), Random(3).signed(&s.filters()));
        let case = OpCase::new(Op::ConvPoolBackwardInput(s.window)).rows(&dy).rows(&choice).whole(&w);
        case.gives_rows(&s.x(), DType::F32).check(|n| vec![s.backward_input(n, &unpooled(&s, n, &dy, &choice), &w)]);
    }
}

#[test]
pub fn conv_pool_backward_weight() {
    for s in shapes() {
        let ((dy, choice), x) = (gradient(&s), Random(3).signed(&s.x()));
        let case = OpCase::new(Op::ConvPoolBackwardWeight(s.window)).rows(&dy).rows(&choice).rows(&x);
        case.gives_whole(&s.filters(), DType::F32)
            .check(|n| vec![s.backward_weight(n, &unpooled(&s, n, &dy, &choice), &x)]);
    }
}

#[test]
pub fn conv_pool_backward_bias() {
    for s in shapes() {
        let (dy, choice) = gradient(&s);
        OpCase::new(Op::ConvPoolBackwardBias).rows(&dy).rows(&choice).gives_whole(&[s.k], DType::F32).check(|n| {
            let mut sums = vec![Sum::default(); s.k];
            let full = unpooled(&s, n, &dy, &choice);
            full.values.iter().enumerate().for_each(|(i, &dy)| sums[i % s.k] += dy);
            vec![sums]
        });
    }
}

/// A layer with so many pixels, and so few filters and channels, that a GPU takes the narrow tile of halves.
pub fn narrow_layer() {
    let s = || vec![conv_case([1, 132, 132, 8], [16, 1, 1], 0, 1)];
    check_conv_pool(s());
    check_conv_pool_backward_input(s());
}
