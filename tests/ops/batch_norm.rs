//! Batch norm in both modes, with ReLU and without, as defined by Ioffe and Szegedy (2015); running statistics as
//! PyTorch keeps them.

use maxmargin::tape::{BATCH_NORM_EPS, BATCH_NORM_MOMENTUM, DType, Op};

use super::support::half::{is_on, least, stored};
use super::support::{Array, OpCase, Random, Sum, TOLERANCE, exact, near};

/// One element; 1 channel, primes, and around 16, 64 and 256 channels; around 1,024 pixels; layers of the wide ResNet.
const SHAPES: [&[usize]; 14] = [
    &[1, 1],
    &[5, 1, 1, 7],
    &[3, 5, 3, 1],
    &[1023, 3],
    &[1025, 2],
    &[3, 18, 19, 5], // 1,026 pixels
    &[4, 3, 3, 15],
    &[2, 7, 9, 16],
    &[9, 5, 5, 17],
    &[2, 32, 32, 64],
    &[3, 9, 7, 67],
    &[2, 16, 16, 128],
    &[6, 8, 8, 256],
    &[3, 2, 2, 257],
];

/// Distribution of a channel's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Data {
    /// Uniform in [-1, 1).
    Plain,
    /// Means of both signs, a thousand times the standard deviation; in half precision, twenty times.
    FarFromZero,
}

/// Operands of batch norm on x.
struct Given {
    dims: Vec<usize>,
    x: Array,
    dy: Array,
    weight: Array,
    bias: Array,
    mean: Array,
    variance: Array,
}

impl Given {
    /// Channel 1 has weight 0 and a positive bias. Channel 2 has bias and mean 0 and some x of exactly 0, where the
    /// input of ReLU is 0. All other inputs of ReLU are so far from 0 that rounding does not change their sign.
    fn new(dims: &[usize], data: Data) -> Given {
        let c = *dims.last().unwrap();
        let mut random = Random(1);
        let centre: Vec<f64> = (0..c).map(|i| if data == Data::Plain { 0.0 } else { (i % 7) as f64 - 3.0 }).collect();
        let spread = match data {
            Data::Plain => 1.0,
            Data::FarFromZero => {
                if is_on() {
                    0.05
                } else {
                    1e-3
                }
            }
        };
        let mut x = random.signed(dims);
        x.values.iter_mut().enumerate().for_each(|(i, x)| *x = stored(centre[i % c] + spread * *x));
        let mut weight = random.signed(&[c]);
        let mut bias = random.signed(&[c]);
        let mut mean = Array::f32(&[c], centre.iter().map(|centre| centre + spread * 0.1));
        let mut variance = Array::f32(&[c], random.image(&[c]).values.iter().map(|v| (v + 0.1) * spread * spread));
        if c > 2 {
            (weight.values[1], bias.values[1]) = (0.0, 0.5);
            (weight.values[2], bias.values[2], mean.values[2]) = (0.0, 0.0, 0.0);
            weight.values[2] = 0.75;
            variance.values[2] = 0.0;
            for (i, x) in x.values.iter_mut().skip(2).step_by(c).enumerate() {
                *x = [0.0, -0.0, 0.25, -0.25][i % 4];
            }
        }
        let mut given = Given { dims: dims.to_vec(), dy: random.signed(dims), x, weight, bias, mean, variance };
        for i in 0..given.x.values.len() {
            let Sum { value, size } = given.normalized(i);
            if value.abs() < 1e-4 * size && size > 0.0 && i % c != 2 {
                // Two standard deviations away, on the side of the bias.
                let side = (given.bias.values[i % c] * given.weight.values[i % c]).signum();
                given.x.values[i] = stored(given.mean.values[i % c] + 2.0 * side * spread);
                let Sum { value, size } = given.normalized(i);
                assert!(value.abs() > 1e-5 * size, "element {i} of {dims:?}");
            }
        }
        given
    }

    /// Number of channels.
    fn channels(&self) -> usize {
        *self.dims.last().unwrap()
    }

    /// `1 / sqrt(variance + eps)`.
    fn inverse(&self, channel: usize) -> f64 {
        1.0 / (self.variance.values[channel] + f64::from(BATCH_NORM_EPS)).sqrt()
    }

    /// `weight / sqrt(variance + eps)`.
    fn scale(&self, channel: usize) -> f64 {
        self.weight.values[channel] * self.inverse(channel)
    }

    /// `x scale + shift` of element `i`.
    fn normalized(&self, i: usize) -> Sum {
        let channel = i % self.channels();
        let mut sum = Sum::default();
        sum += self.x.values[i] * self.scale(channel);
        sum += self.bias.values[channel];
        sum += -self.mean.values[channel] * self.scale(channel);
        sum
    }

    /// Gradient that ReLU passes for element `i`.
    fn through(&self, relu: bool, i: usize) -> f64 {
        if relu && self.normalized(i).value <= 0.0 { 0.0 } else { self.dy.values[i] }
    }

    /// `(x - mean) / sqrt(variance + eps)` of element `i`, with the magnitudes of both terms.
    fn unit(&self, i: usize) -> Sum {
        let channel = i % self.channels();
        let (x, mean, inverse) = (self.x.values[i], self.mean.values[channel], self.inverse(channel));
        near((x - mean) * inverse, (x.abs() + mean.abs()) * inverse)
    }
}

/// ReLU, if `relu`.
fn rectified(relu: bool, Sum { value, size }: Sum) -> Sum {
    near(if relu { value.max(0.0) } else { value }, size)
}

/// Calls `check` with operands of every shape and distribution.
fn everything(check: impl Fn(Given)) {
    for (dims, data) in SHAPES.into_iter().flat_map(|dims| [(dims, Data::Plain), (dims, Data::FarFromZero)]) {
        check(Given::new(dims, data));
    }
}

fn evaluation(relu: bool) {
    everything(|g| {
        let case = OpCase::new(Op::BatchNorm { relu }).rows(&g.x);
        let case = case.whole(&g.weight).whole(&g.bias).whole(&g.mean).whole(&g.variance);
        case.gives_rows(&g.dims, DType::F32)
            .check(|n| vec![(0..n * g.x.row()).map(|i| rectified(relu, g.normalized(i))).collect()]);
    });
}

#[test]
pub fn batch_norm() {
    evaluation(false);
}

#[test]
pub fn batch_norm_relu() {
    evaluation(true);
}

/// NaN passes through, with ReLU or without: so a network that has diverged is noticed.
#[test]
fn nan_passes_through_batch_norm() {
    let x = Array::f32(&[2, 3], [f64::NAN, 1.0, 2.0, 3.0, f64::NAN, -1.0]);
    let [ones, zeros] = [1.0, 0.0].map(|v| Array::f32(&[3], [v; 3]));
    let scale = 1.0 / (1.0 + f64::from(BATCH_NORM_EPS)).sqrt();
    for relu in [false, true] {
        let case = OpCase::new(Op::BatchNorm { relu }).rows(&x).whole(&ones).whole(&zeros).whole(&zeros).whole(&ones);
        case.gives_rows(&[2, 3], DType::F32).check(|n| {
            let one = |x: &f64| if x.is_nan() { exact(*x) } else { rectified(relu, near(x * scale, x.abs())) };
            vec![x.values[..3 * n].iter().map(one).collect()]
        });
    }
}

#[test]
pub fn batch_norm_backward_input() {
    everything(|g| {
        let case = OpCase::new(Op::BatchNormBackwardInput { relu: false }).rows(&g.dy).whole(&g.weight);
        case.whole(&g.variance).gives_rows(&g.dims, DType::F32).check(|n| {
            let one = |i: usize| g.dy.values[i] * g.scale(i % g.channels());
            vec![(0..n * g.x.row()).map(one).map(|dx| near(dx, dx.abs())).collect()]
        });
    });
}

/// The gradient is 0 where y is not positive, and where it is NaN.
#[test]
pub fn batch_norm_relu_backward_input() {
    everything(|g| {
        let corners = [0.0, -0.0, least(), f64::INFINITY, f64::NAN];
        let mut y = Random(3).signed(&g.dims);
        y.values.iter_mut().step_by(3).zip(corners.into_iter().cycle()).for_each(|(v, corner)| *v = corner);
        let case = OpCase::new(Op::BatchNormBackwardInput { relu: true }).rows(&g.dy).whole(&g.weight);
        case.whole(&g.variance).rows(&y).gives_rows(&g.dims, DType::F32).check(|n| {
            let one = |i: usize| {
                let dx = g.dy.values[i] * g.scale(i % g.channels());
                if y.values[i] > 0.0 { near(dx, dx.abs()) } else { exact(0.0) }
            };
            vec![(0..n * g.x.row()).map(one).collect()]
        });
    });
}

/// Mean and variance of a channel's numbers, by their definition. The size of the variance allows for a mean that is
/// off by its own tolerance.
fn statistics(values: &[f64]) -> [Sum; 2] {
    let count = values.len() as f64;
    let mut mean = Sum::default();
    values.iter().for_each(|x| mean += x / count);
    let variance = values.iter().map(|x| (x - mean.value).powi(2)).sum::<f64>() / count;
    [mean, near(variance, variance + TOLERANCE * mean.size * mean.size)]
}

/// Outputs of batch norm in training mode beside its results: mean and variance of the numbers of each of `c` channels,
/// and what becomes of the running ones. Without a number the former are not written, and the latter do not change.
pub fn statistics_of_training(numbers: &[f64], c: usize, running: &[Array; 2]) -> [Vec<Sum>; 4] {
    if numbers.is_empty() {
        let before = |r: &Array| r.values.iter().copied().map(exact).collect();
        return [vec![exact(f64::NAN); c], vec![exact(f64::NAN); c], before(&running[0]), before(&running[1])];
    }
    let count = (numbers.len() / c) as f64;
    let unbiased = if count > 1.0 { count / (count - 1.0) } else { 1.0 };
    let momentum = f64::from(BATCH_NORM_MOMENTUM);
    let moved = |from: f64, to: Sum, times: f64| {
        near(
            (1.0 - momentum) * from + momentum * times * to.value,
            (1.0 - momentum) * from.abs() + momentum * times * to.size,
        )
    };
    let mut results = [const { Vec::new() }; 4];
    for channel in 0..c {
        let values: Vec<f64> = numbers.iter().skip(channel).step_by(c).copied().collect();
        let [mean, variance] = statistics(&values);
        results[0].push(mean);
        results[1].push(variance);
        results[2].push(moved(running[0].values[channel], mean, 1.0));
        results[3].push(moved(running[1].values[channel], variance, unbiased));
    }
    results
}

/// Checks batch norm in training mode. Without an active row the running statistics do not change.
fn training(g: &Given, relu: bool) {
    let c = g.channels();
    let running = [Random(5).signed(&[c]), Random(6).image(&[c])];
    let case = OpCase::new(Op::BatchNormTraining { relu }).rows(&g.x).whole(&g.weight).whole(&g.bias);
    let case = case.gives_rows(&g.dims, DType::F32).gives_whole(&[c], DType::F32).gives_whole(&[c], DType::F32);
    case.updates_whole(&running[0]).updates_whole(&running[1]).check(|n| {
        let active = &g.x.values[..n * g.x.row()];
        let statistics = statistics_of_training(active, c, &running);
        let mut y = vec![exact(0.0); active.len()];
        for (i, x) in active.iter().enumerate() {
            let (channel, [mean, variance, ..]) = (i % c, &statistics);
            let (mean, variance) = (mean[channel], variance[channel]);
            let spread = variance.value + f64::from(BATCH_NORM_EPS);
            let scale = g.weight.values[channel] / spread.sqrt();
            let (bias, off_centre) = (g.bias.values[channel], (x - mean.value) * scale);
            let size = (x.abs() + mean.size) * scale.abs() + bias.abs();
            let size = size + off_centre.abs() * variance.size / spread;
            y[i] = rectified(relu, near(off_centre + bias, size));
        }
        [y].into_iter().chain(statistics).collect()
    });
}

#[test]
pub fn batch_norm_training() {
    everything(|g| training(&g, false));
}

#[test]
pub fn batch_norm_relu_training() {
    everything(|g| training(&g, true));
}

/// More pixels than one pass of a GPU's second stage of sums takes.
#[test]
fn batch_norm_sums_many_pixels() {
    let given = Given::new(&[33, 8, 8, 67], Data::FarFromZero);
    training(&given, true);
    backward_weight(&given, true);
}

/// Rounding errors accumulate in a long sum of terms of one sign, unless it is divided into short sums.
#[test]
fn batch_norm_training_sums_many_terms_of_one_sign() {
    let dims = [20, 32, 32, 3];
    let x = Random(1).image(&dims);
    let [ones, zeros] = [1.0, 0.0].map(|v| Array::f32(&[3], [v; 3]));
    let case = OpCase::new(Op::BatchNormTraining { relu: false }).rows(&x).whole(&ones).whole(&zeros);
    let case = case.gives_rows(&dims, DType::F32).gives_whole(&[3], DType::F32).gives_whole(&[3], DType::F32);
    case.updates_whole(&zeros).updates_whole(&ones).check(|n| {
        if n == 0 {
            let nothing = vec![exact(f64::NAN); 3];
            return vec![vec![], nothing.clone(), nothing, vec![exact(0.0); 3], vec![exact(1.0); 3]];
        }
        let active = &x.values[..n * 3072];
        let count = (n * 1024) as f64;
        let channel = |c: usize| active.iter().skip(c).step_by(3).copied().collect::<Vec<f64>>();
        let found = [0, 1, 2].map(|c| statistics(&channel(c)));
        let y = active.iter().enumerate().map(|(i, x)| {
            let [mean, variance] = found[i % 3];
            let scale = 1.0 / (variance.value + f64::from(BATCH_NORM_EPS)).sqrt();
            near((x - mean.value) * scale, 3.0 * (x.abs() + mean.size) * scale)
        });
        let momentum = f64::from(BATCH_NORM_MOMENTUM);
        let mean = |[mean, _]: &[Sum; 2]| near(momentum * mean.value, momentum * mean.size);
        let variance = |[_, variance]: &[Sum; 2]| {
            let moved = 1.0 - momentum + momentum * variance.value * count / (count - 1.0);
            near(moved, moved)
        };
        let [means, variances] = [0, 1].map(|i| found.iter().map(|f| f[i]).collect());
        vec![y.collect(), means, variances, found.iter().map(mean).collect(), found.iter().map(variance).collect()]
    });
}

fn training_backward_input(relu: bool) {
    everything(|g| {
        let c = g.channels();
        let [dweight, dbias] = [7, 8].map(|seed| {
            // Sums over pixels grow with their number.
            let pixels = g.x.values.len() as f64 / c as f64;
            Array::f32(&[c], Random(seed).signed(&[c]).values.iter().map(|v| v * pixels))
        });
        let case = OpCase::new(Op::BatchNormTrainingBackwardInput { relu }).rows(&g.dy).rows(&g.x);
        let case = case.whole(&g.weight).whole(&g.bias).whole(&g.mean).whole(&g.variance).whole(&dweight);
        // With an addend every other time.
        let addend = (c % 2 == 0).then(|| Random(9).signed(&g.dims));
        let case = addend.iter().fold(case.whole(&dbias), |case, addend| case.rows(addend));
        case.gives_rows(&g.dims, DType::F32).check(|n| {
            let count = (n * g.x.row() / c) as f64;
            let one = |i: usize| {
                let (scale, unit) = (g.scale(i % c), g.unit(i));
                let [by_weight, by_bias] = [&dweight, &dbias].map(|sum| sum.values[i % c] / count);
                let (dy, addend) = (g.through(relu, i), addend.as_ref().map_or(0.0, |addend| addend.values[i]));
                near(
                    scale * (dy - by_bias - unit.value * by_weight) + addend,
                    scale.abs() * (dy.abs() + by_bias.abs() + unit.size * by_weight.abs()) + addend.abs(),
                )
            };
            vec![(0..n * g.x.row()).map(one).collect()]
        });
    });
}

#[test]
pub fn batch_norm_training_backward_input() {
    training_backward_input(false);
}

#[test]
pub fn batch_norm_relu_training_backward_input() {
    training_backward_input(true);
}

fn backward_weight(g: &Given, relu: bool) {
    let c = g.channels();
    let case = OpCase::new(Op::BatchNormBackwardWeight { relu }).rows(&g.dy).rows(&g.x);
    let case = case.whole(&g.weight).whole(&g.bias).whole(&g.mean).whole(&g.variance);
    case.gives_whole(&[c], DType::F32).gives_whole(&[c], DType::F32).check(|n| {
        let mut sums = vec![vec![Sum::default(); c]; 2];
        for i in 0..n * g.x.row() {
            let (dy, unit) = (g.through(relu, i), g.unit(i));
            sums[0][i % c].value += dy * unit.value;
            sums[0][i % c].size += dy.abs() * unit.size;
            sums[1][i % c] += dy;
        }
        sums
    });
}

#[test]
pub fn batch_norm_backward_weight() {
    everything(|g| backward_weight(&g, false));
}

#[test]
pub fn batch_norm_relu_backward_weight() {
    everything(|g| backward_weight(&g, true));
}

/// Two groups of channels, each with sums of three blocks: small enough for ThreadSanitizer.
#[test]
pub fn sums_of_three_blocks() {
    let given = Given::new(&[1, 9, 15, 33], Data::Plain);
    training(&given, true);
    backward_weight(&given, true);
}
