//! Convolutions fused with the ops that follow them (a shortcut, a sum, batch norm in evaluation mode with ReLU), and
//! their input gradients.

use maxmargin::tape::{BATCH_NORM_EPS, ConvFusion, ConvGradientFusion, ConvWindow, DType, Op};

use super::batch_norm::statistics_of_training;
use super::conv::{ConvCase, HALO, LARGE, SHAPES, check_backward_weight, conv_case};
use super::support::fake::runs_long_tests;
use super::support::half::{least, stored};
use super::support::{Array, OpCase, Random, Sum, exact, near};

/// Layers of the wide ResNet 28-4 on small images: the first, then one of each other kind. The reference cases have
/// large images.
const NETWORK: [ConvCase; 4] = [
    conv_case([2, 8, 8, 3], [16, 3, 3], 1, 1),
    conv_case([1, 8, 8, 16], [64, 3, 3], 1, 1),
    conv_case([1, 8, 8, 64], [128, 3, 3], 1, 2),
    conv_case([2, 4, 4, 256], [256, 3, 3], 1, 1),
];

/// True if a case has so many products that few combinations are tried on it.
fn is_costly(s: &ConvCase) -> bool {
    NETWORK.iter().chain(&LARGE).any(|large| large.x() == s.x() && large.filters() == s.filters())
}

/// A third of all combinations; which third depends on the case, so that every combination meets several cases.
fn third<T>(number: usize, all: Vec<T>) -> Vec<T> {
    all.into_iter().skip(number % 3).step_by(3).collect()
}

/// A shortcut beside `s`: a 1x1 convolution of `stride` whose result has the shape of that of `s`, of an image with
/// other channels. With stride 2 a window may or may not begin at the image's last row and column.
fn shortcut(s: &ConvCase, stride: usize) -> ConvCase {
    let [n, h, w, k] = s.y();
    let size = |size: usize, spare: usize| if stride == 1 { size } else { 2 * size - spare };
    let channels = if s.c.is_multiple_of(8) { s.c + 8 } else { [s.c + 3, s.k.max(2) - 1][s.h % 2] };
    conv_case([n, size(h, h % 2), size(w, 1 - w % 2), channels], [k, 1, 1], 0, stride)
}

/// A shortcut whose input has the shape of that of `s`: a 1x1 convolution with another number of filters.
fn gradient_shortcut(s: &ConvCase, stride: usize) -> ConvCase {
    let filters = if s.k.is_multiple_of(8) { s.k + 8 } else { [s.k + 3, s.k.max(2) - 1][s.w % 2] };
    conv_case(s.x(), [filters, 1, 1], 0, stride)
}

/// Results of the first `n` images.
fn first(sums: &[Sum], n: usize, dims: [usize; 4]) -> Vec<Sum> {
    sums[..n * dims[1..].iter().product::<usize>()].to_vec()
}

/// Adds `others` to `sums`.
fn total(sums: &mut [Sum], others: impl IntoIterator<Item = Sum>) {
    sums.iter_mut().zip(others).for_each(|(s, o)| *s = near(s.value + o.value, s.size + o.size));
}

/// Elements of `a` as sums of one term.
fn addend(a: &Array) -> impl Iterator<Item = Sum> {
    a.values.iter().map(|&v| near(v, v.abs()))
}

/// Operands of batch norm. One of the channels has weight 0.
pub struct NormOperands {
    pub weight: Array,
    pub bias: Array,
    pub mean: Array,
    pub variance: Array,
}

impl NormOperands {
    pub fn new(c: usize) -> NormOperands {
        let mut weight = Random(11).signed(&[c]);
        weight.values[c / 2] = 0.0;
        let [bias, mean] = [12, 13].map(|seed| Random(seed).signed(&[c]));
        let variance = Array::f32(&[c], Random(14).image(&[c]).values.iter().map(|v| v * 4.0));
        NormOperands { weight, bias, mean, variance }
    }

    fn scale(&self, channel: usize) -> f64 {
        self.weight.values[channel] / (self.variance.values[channel] + f64::from(BATCH_NORM_EPS)).sqrt()
    }

    /// Batch norm and ReLU of the `sum` of a channel.
    pub fn apply(&self, channel: usize, Sum { value, size }: Sum) -> Sum {
        let (scale, bias, mean) = (self.scale(channel), self.bias.values[channel], self.mean.values[channel]);
        let size = (size + mean.abs()) * scale.abs() + bias.abs();
        near(((value - mean) * scale + bias).max(0.0), size)
    }
}

/// Every fusion that the op can have, except a convolution alone.
fn fusions(window: ConvWindow) -> Vec<ConvFusion> {
    let mut all = Vec::new();
    for shortcut in [None, Some(1), Some(2)] {
        for addend in [false, true] {
            for (sum, norm) in [(true, false), (false, true), (true, true)] {
                if shortcut.is_some() || addend || norm {
                    all.push(ConvFusion { shortcut, addend, sum, norm, ..ConvFusion::alone(window) });
                }
            }
        }
    }
    all
}

fn check_fused(s: &ConvCase, fusions: &[ConvFusion]) {
    let (x, w) = (Random(1).signed(&s.x()), Random(2).signed(&s.filters()));
    let convolution = s.forward(s.n, &x, &w);
    let norm = NormOperands::new(s.k);
    let other = Random(5).signed(&s.y());
    for &fusion in fusions {
        let mut sum = convolution.clone();
        let mut case = OpCase::new(Op::Conv2dFused(fusion)).rows(&x).whole(&w);
        if let Some(stride) = fusion.shortcut {
            let short = shortcut(s, stride);
            assert_eq!(short.y(), s.y());
            let (x, w) = (Random(3).signed(&short.x()), Random(4).signed(&short.filters()));
            case = case.rows(&x).whole(&w);
            total(&mut sum, short.forward(s.n, &x, &w));
        }
        if fusion.addend {
            case = case.rows(&other);
            total(&mut sum, addend(&other));
        }
        if fusion.norm {
            case = case.whole(&norm.weight).whole(&norm.bias).whole(&norm.mean).whole(&norm.variance);
        }
        let outputs = usize::from(fusion.sum) + usize::from(fusion.norm);
        for _ in 0..outputs {
            case = case.gives_rows(&s.y(), DType::F32);
        }
        let normalized: Vec<Sum> = sum.iter().enumerate().map(|(i, &sum)| norm.apply(i % s.k, sum)).collect();
        case.check(|n| {
            let results = [fusion.sum.then_some(&sum), fusion.norm.then_some(&normalized)];
            results.into_iter().flatten().map(|sums| first(sums, n, s.y())).collect()
        });
    }
}

#[test]
pub fn conv2d_fused() {
    for (i, s) in SHAPES.iter().filter(|s| !is_costly(s)).enumerate() {
        check_fused(s, &third(i, fusions(s.window)));
    }
}

/// Layers of the wide ResNet, and cases with a GPU's larger tiles; fused as the first convolution of a block, and as
/// the second with either shortcut, the identity or a convolution.
#[test]
pub fn conv2d_fused_in_large_layers() {
    if !runs_long_tests("large layers") {
        return;
    }
    for (i, s) in NETWORK.iter().chain(&LARGE).enumerate() {
        let fusion =
            |shortcut, addend, sum| ConvFusion { shortcut, addend, sum, norm: true, ..ConvFusion::alone(s.window) };
        let all = vec![fusion(None, false, false), fusion(None, true, true), fusion(Some(2), false, true)];
        check_fused(s, &third(i, all));
    }
}

/// Every fusion that the gradient op can have, except an input gradient alone.
fn gradient_fusions(window: ConvWindow) -> Vec<ConvGradientFusion> {
    let mut all = Vec::new();
    for shortcut in [None, Some(1), Some(2)] {
        for (norm, addend) in [(false, false), (false, true), (true, false), (true, true)] {
            if shortcut.is_some() || norm || addend {
                all.push(ConvGradientFusion { shortcut, norm, addend, ..ConvGradientFusion::alone(window) });
            }
        }
    }
    all
}

fn check_fused_backward_input(s: &ConvCase, fusions: &[ConvGradientFusion]) {
    let (dy, w) = (Random(1).signed(&s.y()), Random(2).signed(&s.filters()));
    let convolution = s.backward_input(s.n, &dy, &w);
    let norm = NormOperands::new(s.c);
    let other = Random(5).signed(&s.x());
    // Possible results of ReLU, and negative numbers, which it never returns.
    let corners = [0.0, -0.0, least(), f64::INFINITY, f64::NAN];
    let mut y = Random(6).signed(&s.x());
    y.values.iter_mut().step_by(3).zip(corners.into_iter().cycle()).for_each(|(v, corner)| *v = corner);
    for &fusion in fusions {
        let mut dx = convolution.clone();
        let mut case = OpCase::new(Op::Conv2dFusedBackwardInput(fusion)).rows(&dy).whole(&w);
        if let Some(stride) = fusion.shortcut {
            let short = gradient_shortcut(s, stride);
            let (dy, w) = (Random(3).signed(&short.y()), Random(4).signed(&short.filters()));
            case = case.rows(&dy).whole(&w);
            total(&mut dx, short.backward_input(s.n, &dy, &w));
        }
        if fusion.norm {
            case = case.whole(&norm.weight).whole(&norm.variance).rows(&y);
            for (i, (dx, &y)) in dx.iter_mut().zip(&y.values).enumerate() {
                let scale = norm.scale(i % s.c);
                *dx = if y > 0.0 { near(dx.value * scale, dx.size * scale.abs()) } else { exact(0.0) };
            }
        }
        if fusion.addend {
            case = case.rows(&other);
            total(&mut dx, addend(&other));
        }
        case.gives_rows(&s.x(), DType::F32).check(|n| vec![first(&dx, n, s.x())]);
    }
}

#[test]
pub fn conv2d_fused_backward_input() {
    for (i, s) in SHAPES.iter().filter(|s| !is_costly(s)).enumerate() {
        check_fused_backward_input(s, &third(i, gradient_fusions(s.window)));
    }
}

/// Fused as the second convolution of a block, and as the first with either shortcut, the identity or a convolution.
#[test]
pub fn conv2d_fused_backward_input_in_large_layers() {
    if !runs_long_tests("large layers") {
        return;
    }
    for (i, s) in NETWORK.iter().chain(&LARGE).enumerate() {
        let fusion = |shortcut, addend| ConvGradientFusion {
            shortcut,
            norm: true,
            addend,
            ..ConvGradientFusion::alone(s.window)
        };
        let all = vec![fusion(None, false), fusion(None, true), fusion(Some(s.window.stride), false)];
        check_fused_backward_input(s, &third(i, all));
    }
}

/// [`HALO`]: alone, and with each term that a fusion adds.
pub fn layers_with_a_halo() {
    for s in &HALO {
        let alone = ConvFusion::alone(s.window);
        let fusion = |shortcut, addend, sum, norm| ConvFusion { shortcut, addend, sum, norm, ..alone };
        let forward = [
            fusion(None, false, true, false),
            fusion(None, true, true, true),
            fusion(Some(1), false, false, true),
            fusion(Some(2), false, true, true),
        ];
        check_fused(s, &forward);
        let fusion = |shortcut, norm, addend| ConvGradientFusion {
            shortcut,
            norm,
            addend,
            ..ConvGradientFusion::alone(s.window)
        };
        let backward = [fusion(None, false, false), fusion(None, true, true), fusion(Some(1), true, false)];
        check_fused_backward_input(s, &backward);
    }
}

/// Batch norm in training mode around a convolution: that of its operand, and the statistics of its sum.
struct AroundConv {
    s: ConvCase,
    fusion: ConvFusion,
    x: Array,
    w: Array,
}

impl AroundConv {
    /// All numbers are multiples of a half, and so few and small that no sum is rounded.
    fn new(s: ConvCase, fusion: ConvFusion) -> AroundConv {
        let [x, w] = [(1, &s.x()), (2, &s.filters())].map(|(seed, dims)| integers(seed, dims));
        AroundConv { s, fusion, x, w }
    }

    fn check(&self) {
        let AroundConv { s, fusion, x, w } = self;
        let (c, k) = (s.c, s.k);
        let norm = simple_norm(c);
        let mut case = OpCase::new(Op::Conv2dFused(*fusion)).rows(x).whole(w);
        let mut operand = x.clone();
        if fusion.normalized {
            let [weight, bias, mean, _] = &norm;
            for (i, x) in operand.values.iter_mut().enumerate() {
                let value = (*x - mean.values[i % c]) * weight.values[i % c] + bias.values[i % c];
                *x = if value <= 0.0 { 0.0 } else { value };
            }
        }
        let mut sum = s.forward(s.n, &operand, w);
        if let Some(stride) = fusion.shortcut {
            let short = shortcut(s, stride);
            let [x, w] = [(3, &short.x()), (4, &short.filters())].map(|(seed, dims)| integers(seed, dims));
            case = case.rows(&x).whole(&w);
            total(&mut sum, short.forward(s.n, &x, &w));
        }
        if fusion.addend {
            let other = integers(5, &s.y());
            case = case.rows(&other);
            total(&mut sum, addend(&other));
        }
        if fusion.normalized {
            case = norm.iter().fold(case, |case, operand| case.whole(operand));
        }
        case = case.gives_rows(&s.y(), DType::F32);
        if fusion.keeps_operand {
            case = case.gives_rows(&s.x(), DType::F32);
        }
        let running = [Random(5).signed(&[k]), Random(6).image(&[k])];
        if fusion.statistics {
            case = case.gives_whole(&[k], DType::F32).gives_whole(&[k], DType::F32);
            case = case.updates_whole(&running[0]).updates_whole(&running[1]);
        }
        case.check(|n| {
            let sums = first(&sum, n, s.y());
            let numbers: Vec<f64> = sums.iter().map(|sum| sum.value).collect();
            assert!(numbers.iter().all(|&v| v.is_nan() || v == stored(v)), "no result is rounded");
            let statistics = fusion.statistics.then(|| statistics_of_training(&numbers, k, &running));
            let kept = operand.values[..n * operand.row()].iter().copied().map(exact).collect();
            let kept = fusion.keeps_operand.then_some(kept);
            [sums].into_iter().chain(kept).chain(statistics.into_iter().flatten()).collect()
        });
    }
}

/// Weight, bias, mean and variance of batch norm of `c` channels. They are multiples of a half; the deviation is 1.
fn simple_norm(c: usize) -> [Array; 4] {
    let pick = |choices: [f64; 4]| Array::f32(&[c], choices.into_iter().cycle().take(c));
    // The number whose sum with the addend of variances is 1. It is no half, and no operand of halves.
    let variance = 1.0f32 - BATCH_NORM_EPS;
    assert_eq!((variance + BATCH_NORM_EPS).sqrt(), 1.0);
    let variance = Array { dims: vec![c], dtype: DType::F32, values: vec![f64::from(variance); c] };
    [pick([1.0, -1.0, 0.5, 0.0]), pick([0.5, 0.0, -0.5, 1.0]), pick([0.0, 1.0, -1.0, 1.0]), variance]
}

/// An array of -1, 0 and 1.
fn integers(seed: u64, dims: &[usize]) -> Array {
    Array::f32(dims, Random(seed).signed(dims).values.iter().map(|v| (v * 1.5).round()))
}

/// Batch norm around layers with a halo, which are one launch of halves; around layers whose launch adds the statistics
/// alone, of a vectorized tile and of single elements; and around one whose launches are separate.
#[test]
pub fn batch_norm_around_convolutions() {
    let others = [
        conv_case([3, 5, 7, 8], [40, 1, 1], 0, 1),
        conv_case([3, 5, 7, 3], [5, 1, 1], 0, 1),
        conv_case([2, 4, 6, 16], [24, 3, 3], 1, 2),
    ];
    for (i, &s) in HALO.iter().chain(&others).enumerate() {
        let alone = ConvFusion::alone(s.window);
        let fusions = vec![
            ConvFusion { normalized: true, keeps_operand: true, statistics: true, ..alone },
            ConvFusion { statistics: true, addend: true, ..alone },
            ConvFusion { normalized: true, statistics: true, shortcut: Some(1 + i % 2), ..alone },
        ];
        for fusion in third(i, fusions) {
            AroundConv::new(s, fusion).check();
        }
    }
    AroundConv::new(HALO[3], ConvFusion { normalized: true, ..ConvFusion::alone(HALO[3].window) }).check();
}

/// The input gradient of a convolution, and the gradients of the weight and bias of the batch norm before it. No sum is
/// rounded.
fn check_norm_weight(s: &ConvCase, fusion: ConvGradientFusion) {
    let (c, norm) = (s.c, simple_norm(s.c));
    let [dy, w, x] = [(1, s.y()), (2, s.filters()), (7, s.x())].map(|(seed, dims)| integers(seed, &dims));
    let mut dx = s.backward_input(s.n, &dy, &w);
    let mut case = OpCase::new(Op::Conv2dFusedBackwardInput(fusion)).rows(&dy).whole(&w);
    if let Some(stride) = fusion.shortcut {
        let short = gradient_shortcut(s, stride);
        let [dy, w] = [(3, &short.y()), (4, &short.filters())].map(|(seed, dims)| integers(seed, dims));
        case = case.rows(&dy).whole(&w);
        total(&mut dx, short.backward_input(s.n, &dy, &w));
    }
    if fusion.addend {
        let other = integers(5, &s.x());
        case = case.rows(&other);
        total(&mut dx, addend(&other));
    }
    case = norm.iter().fold(case.rows(&x), |case, operand| case.whole(operand));
    case = case.gives_rows(&s.x(), DType::F32).gives_whole(&[c], DType::F32).gives_whole(&[c], DType::F32);
    case.check(|n| {
        let gradients = first(&dx, n, s.x());
        let mut sums = vec![vec![Sum::default(); c]; 2];
        for (i, dx) in gradients.iter().enumerate() {
            assert!(dx.value == stored(dx.value), "no result is rounded");
            let [weight, bias, mean, _] = [0, 1, 2, 3].map(|operand| norm[operand].values[i % c]);
            let from_mean = x.values[i] - mean;
            if from_mean * weight + bias > 0.0 {
                sums[0][i % c] += dx.value * from_mean;
                sums[1][i % c] += dx.value;
            }
        }
        [gradients].into_iter().chain(sums).collect()
    });
}

/// Layers with a halo, whose gradients are one launch of halves, and another one, whose launches are separate.
#[test]
pub fn gradients_of_batch_norm_before_convolutions() {
    let other = conv_case([2, 4, 6, 16], [24, 3, 3], 1, 2);
    for (i, s) in HALO.iter().chain([&other]).enumerate() {
        let alone = ConvGradientFusion { norm_weight: true, ..ConvGradientFusion::alone(s.window) };
        let fusions = vec![
            ConvGradientFusion { addend: true, ..alone },
            ConvGradientFusion { shortcut: Some(1), ..alone },
            alone,
        ];
        third(i, fusions).into_iter().for_each(|fusion| check_norm_weight(s, fusion));
    }
}

/// A convolution that copies one channel of its operand.
fn copying(s: ConvCase, numbers: impl Fn(usize) -> f64) -> AroundConv {
    let fusion = ConvFusion { statistics: true, ..ConvFusion::alone(s.window) };
    let mut around = AroundConv::new(s, fusion);
    around.x.values.iter_mut().enumerate().for_each(|(i, x)| *x = numbers(i / s.c));
    let centre = (s.kh / 2 * s.kw + s.kw / 2) * s.c;
    let filter = s.kh * s.kw * s.c;
    around.w.values.iter_mut().enumerate().for_each(|(i, w)| *w = f64::from(i % filter == centre));
    around
}

/// The largest halves, of one sign, of both, and beside small numbers: no sum overflows or loses digits.
pub fn statistics_of_the_largest_numbers() {
    let largest = 65504.0;
    let s = conv_case([2, 16, 16, 64], [64, 3, 3], 1, 1);
    copying(s, |_| largest).check();
    copying(s, |pixel| if pixel % 2 == 0 { largest } else { -largest }).check();
    copying(s, |pixel| if pixel == 100 { largest } else { 0.5 }).check();
}

/// NaN passes through, so that a network that has diverged is noticed. The next launch begins with sums of 0: every case
/// runs several times on a device.
pub fn statistics_of_nan() {
    let s = conv_case([2, 8, 8, 64], [64, 3, 3], 1, 1);
    let fusion = ConvFusion { normalized: true, statistics: true, ..ConvFusion::alone(s.window) };
    let mut around = AroundConv::new(s, fusion);
    around.x.values[65] = f64::NAN;
    around.check();
    AroundConv::new(s, fusion).check();
}

/// A small layer for each tensor-core kernel of convolutions: with a halo, a vectorized tile, and single elements.
pub fn small_layers_of_each_kernel() {
    for s in [
        conv_case([1, 8, 8, 64], [64, 3, 3], 1, 1),
        conv_case([1, 4, 6, 16], [24, 3, 3], 1, 2),
        conv_case([1, 3, 5, 3], [5, 3, 3], 1, 1),
    ] {
        let (shortcut, window) = (Some(s.window.stride), s.window);
        check_fused(&s, &[ConvFusion { shortcut, norm: true, ..ConvFusion::alone(window) }]);
        check_fused_backward_input(
            &s,
            &[ConvGradientFusion { shortcut, norm: true, addend: true, ..ConvGradientFusion::alone(window) }],
        );
    }
    let s = conv_case([1, 8, 8, 64], [64, 3, 3], 1, 1);
    let fusion = ConvFusion { normalized: true, statistics: true, ..ConvFusion::alone(s.window) };
    AroundConv::new(s, fusion).check();
    check_norm_weight(&s, ConvGradientFusion { norm_weight: true, ..ConvGradientFusion::alone(s.window) });
    // Gradients with respect to filters: a vectorized tile, and single elements.
    [conv_case([1, 2, 2, 8], [8, 1, 1], 0, 1), conv_case([1, 2, 2, 3], [5, 1, 1], 0, 1)]
        .iter()
        .for_each(check_backward_weight);
}

/// A layer with so many pixels, and so few filters and channels, that a GPU takes the narrow tile of halves.
pub fn narrow_layer() {
    let s = conv_case([1, 130, 131, 8], [16, 3, 1], 1, 1);
    let window = s.window;
    check_fused(&s, &[ConvFusion { addend: true, norm: true, ..ConvFusion::alone(window) }]);
    check_fused_backward_input(
        &s,
        &[ConvGradientFusion { norm: true, addend: true, ..ConvGradientFusion::alone(window) }],
    );
}

/// A layer with so many results that a GPU takes the tall tile of halves, forward and backward.
pub fn tall_layer() {
    let s = conv_case([4, 91, 92, 8], [64, 3, 3], 1, 1);
    let window = s.window;
    check_fused(&s, &[ConvFusion { addend: true, norm: true, ..ConvFusion::alone(window) }]);
    let s = conv_case([4, 91, 92, 64], [8, 3, 3], 1, 1);
    check_fused_backward_input(
        &s,
        &[ConvGradientFusion { norm: true, addend: true, ..ConvGradientFusion::alone(window) }],
    );
}
