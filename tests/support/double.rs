//! Ops of a tape in double precision, computed from their descriptions (`tape::Op`): the values of a computation, and
//! its gradient with given decisions of each ReLU.

use std::collections::HashMap;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use maxmargin::tape::{BATCH_NORM_EPS, ConvWindow, Loss, LossRule, Node, Op, Tape, TargetedLoss, Value};
use rayon::prelude::*;

/// Contents of values.
pub type DoubleValues = HashMap<Value, Vec<f64>>;

/// Computes `nodes` of `tape`, which is not fused, for a batch with `rows` active rows. Sums over the batch are sums
/// over the active rows; other rows have no meaning. `passes` has, for some results of ReLU, true at each element that
/// passes the gradient on; for all other results, positive elements pass it on.
pub fn run(tape: &Tape, nodes: &[Node], known: &mut DoubleValues, rows: usize, passes: &HashMap<Value, Vec<bool>>) {
    for node in nodes {
        let results = compute(tape, node, known, rows, passes);
        known.extend(node.outputs.iter().copied().zip(results));
    }
}

/// All values of a tape without gradients, given the contents of its leaves.
pub fn evaluate(tape: &Tape, leaves: &DoubleValues, rows: usize) -> DoubleValues {
    let mut known = leaves.clone();
    run(tape, tape.nodes(), &mut known, rows, &HashMap::new());
    known
}

fn compute(
    tape: &Tape,
    node: &Node,
    known: &DoubleValues,
    rows: usize,
    passes: &HashMap<Value, Vec<bool>>,
) -> Vec<Vec<f64>> {
    let x = |i: usize| &known[&node.inputs[i]][..];
    let dims = |i: usize| tape.dims(node.inputs[i]);
    let out = tape.dims(node.outputs[0]);
    let active = |i: usize| &x(i)[..rows * dims(i)[1..].iter().product::<usize>()];
    let zip = |f: &dyn Fn(f64, f64) -> f64| x(0).iter().zip(x(1)).map(|(&a, &b)| f(a, b)).collect::<Vec<f64>>();
    let one = match &node.op {
        Op::Fill { value } => vec![f64::from(*value); out.iter().product()],
        Op::MeanWeights => vec![1.0 / rows as f64; out[0]],
        Op::Add => zip(&|a, b| a + b),
        Op::Scale { factor } => x(0).iter().map(|a| f64::from(*factor) * a).collect(),
        Op::Relu => x(0).iter().map(|a| a.max(0.0)).collect(),
        Op::ReluBackward => match passes.get(&node.inputs[1]) {
            Some(passes) => x(0).iter().zip(passes).map(|(&dy, &passes)| if passes { dy } else { 0.0 }).collect(),
            None => zip(&|dy, y| if y > 0.0 { dy } else { 0.0 }),
        },
        Op::AddBias => x(0).iter().enumerate().map(|(i, a)| a + x(1)[i % x(1).len()]).collect(),
        Op::AddBiasBackwardBias => sums(active(0), out[0], |dy, _| dy),
        Op::Conv2d(window) => Convolution::new(dims(0), dims(1), *window).forward(x(0), x(1)),
        Op::Conv2dBackwardInput(window) => Convolution::new(out, dims(1), *window).backward_input(x(0), x(1)),
        Op::Conv2dBackwardWeight(window) => {
            Convolution::new(dims(1), out, *window).backward_weight(active(0), active(1))
        }
        Op::MaxPool2d => max_pool2d(x(0), dims(0)),
        Op::Linear => linear(x(0), x(1), out),
        Op::LinearBackwardInput => {
            let (outputs, row) = (dims(1)[0], dims(1)[1]);
            let dot = |i: usize| (0..outputs).map(|o| x(0)[i / row * outputs + o] * x(1)[o * row + i % row]).sum();
            (0..dims(0)[0] * row).map(dot).collect()
        }
        Op::LinearBackwardWeight => {
            let (outputs, row) = (out[0], out[1]);
            let dot = |i: usize| (0..rows).map(|n| x(0)[n * outputs + i / row] * x(1)[n * row + i % row]).sum();
            (0..outputs * row).map(dot).collect()
        }
        Op::Standardize => {
            let images: Vec<(Vec<f64>, f64)> = x(0).chunks(x(0).len() / out[0]).map(standardize).collect();
            let deviations = images.iter().map(|&(_, deviation)| deviation).collect();
            return vec![images.into_iter().flat_map(|(y, _)| y).collect(), deviations];
        }
        Op::StandardizeBackward => {
            let row = x(0).len() / out[0];
            let images = x(0).chunks(row).zip(x(1).chunks(row)).zip(x(2));
            images.flat_map(|((dy, y), &deviation)| standardize_backward(dy, y, deviation)).collect()
        }
        Op::BatchNorm { relu: false } => {
            let y = |(i, x0): (usize, &f64)| {
                let c = i % x(1).len();
                (x0 - x(3)[c]) * inverse(x(4)[c]) * x(1)[c] + x(2)[c]
            };
            x(0).iter().enumerate().map(y).collect()
        }
        Op::BatchNormBackwardInput { relu: false } => {
            let dx = |(i, dy): (usize, &f64)| dy * x(1)[i % x(1).len()] * inverse(x(2)[i % x(1).len()]);
            x(0).iter().enumerate().map(dx).collect()
        }
        Op::BatchNormTraining { relu: false } => {
            let c = x(1).len();
            let count = (active(0).len() / c) as f64;
            let mean: Vec<f64> = sums(active(0), c, |x, _| x / count);
            let variance: Vec<f64> = sums(active(0), c, |x, i| (x - mean[i % c]).powi(2) / count);
            let y = |(i, x0): (usize, &f64)| (x0 - mean[i % c]) * inverse(variance[i % c]) * x(1)[i % c] + x(2)[i % c];
            return vec![x(0).iter().enumerate().map(y).collect(), mean, variance];
        }
        Op::BatchNormTrainingBackwardInput { relu: false } => {
            let c = x(2).len();
            let count = (active(0).len() / c) as f64;
            let dx = |(i, dy): (usize, &f64)| {
                let c = i % c;
                let unit = (x(1)[i] - x(4)[c]) * inverse(x(5)[c]);
                x(2)[c] * inverse(x(5)[c]) * (dy - x(7)[c] / count - unit * x(6)[c] / count)
            };
            x(0).iter().enumerate().map(dx).collect()
        }
        Op::BatchNormBackwardWeight { relu: false } => {
            let c = x(2).len();
            let unit = |i: usize| (x(1)[i] - x(4)[i % c]) * inverse(x(5)[i % c]);
            return vec![sums(active(0), c, |dy, i| dy * unit(i)), sums(active(0), c, |dy, _| dy)];
        }
        Op::GlobalMean => {
            let (c, pixels) = (out[1], dims(0)[1] * dims(0)[2]);
            x(0).chunks(pixels * c).flat_map(|image| sums(image, c, |x, _| x / pixels as f64)).collect()
        }
        Op::GlobalMeanBackward => {
            let (c, pixels) = (out[3], out[1] * out[2]);
            (0..out.iter().product()).map(|i| x(0)[i / (pixels * c) * c + i % c] / pixels as f64).collect()
        }
        Op::Loss(rule) => x(0).chunks(dims(0)[1]).zip(x(1)).map(|(z, &y)| loss(z, y as usize, *rule)).collect(),
        Op::Kl => x(0).chunks(dims(0)[1]).zip(x(1).chunks(dims(0)[1])).map(|(p, q)| kl(p, q)).collect(),
        Op::TargetedLoss(targeted) => {
            let rows = x(0).chunks(dims(0)[1]).zip(x(1)).zip(x(2));
            rows.map(|((z, &y), &t)| targeted_loss(z, y as usize, t as usize, *targeted)).collect()
        }
        Op::LossBackward(rule) => {
            let rows = x(0).chunks(dims(0)[1]).zip(x(1)).zip(x(2));
            rows.flat_map(|((z, &y), &dv)| loss_backward(z, y as usize, dv, *rule)).collect()
        }
        other => panic!("{} has no formula here", other.name()),
    };
    vec![one]
}

/// Sums of `f(element, index)` over all elements of each of `c` channels.
fn sums(values: &[f64], c: usize, f: impl Fn(f64, usize) -> f64) -> Vec<f64> {
    let mut sums = vec![0.0; c];
    values.iter().enumerate().for_each(|(i, &v)| sums[i % c] += f(v, i));
    sums
}

/// `1 / sqrt(variance + eps)`.
fn inverse(variance: f64) -> f64 {
    1.0 / (variance + f64::from(BATCH_NORM_EPS)).sqrt()
}

/// The standardized image, and its deviation.
fn standardize(x: &[f64]) -> (Vec<f64>, f64) {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let deviation = variance.sqrt().max(1.0 / n.sqrt());
    (x.iter().map(|x| (x - mean) / deviation).collect(), deviation)
}

fn standardize_backward(dy: &[f64], y: &[f64], deviation: f64) -> Vec<f64> {
    let n = dy.len() as f64;
    let mean = dy.iter().sum::<f64>() / n;
    let along = dy.iter().zip(y).map(|(dy, y)| dy * y).sum::<f64>() / (n - 1.0);
    let along = if deviation > 1.0 / n.sqrt() { along } else { 0.0 };
    dy.iter().zip(y).map(|(dy, y)| (dy - mean - y * along) / deviation).collect()
}

fn linear(x: &[f64], w: &[f64], out: &[usize]) -> Vec<f64> {
    let row = w.len() / out[1];
    let dot = |i: usize| (0..row).map(|e| x[i / out[1] * row + e] * w[i % out[1] * row + e]).sum();
    (0..out[0] * out[1]).map(dot).collect()
}

fn max_pool2d(x: &[f64], dims: &[usize]) -> Vec<f64> {
    let &[n, h, w, c] = dims else { unreachable!() };
    let at = |image: usize, y: usize, column: usize, e: usize| x[((image * h + y) * w + column) * c + e];
    let mut out = Vec::new();
    for (image, y) in (0..n).flat_map(|image| (0..h / 2).map(move |y| (image, 2 * y))) {
        for (column, e) in (0..w / 2).flat_map(|column| (0..c).map(move |e| (2 * column, e))) {
            let four = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(dy, dx)| at(image, y + dy, column + dx, e));
            out.push(four.into_iter().fold(f64::NEG_INFINITY, f64::max));
        }
    }
    out
}

pub fn loss(z: &[f64], y: usize, rule: LossRule) -> f64 {
    let others = || (0..z.len()).filter(|&j| j != y).map(|j| z[j]);
    let sum: f64 = others().map(f64::exp).sum();
    let lm = others().fold(f64::NEG_INFINITY, f64::max) - z[y];
    match rule.loss {
        Loss::Xent => (sum + z[y].exp()).ln() - z[y],
        Loss::Slm => sum.ln() - z[y],
        Loss::Lm => lm,
        Loss::Cw => (lm + f64::from(rule.confidence)).max(0.0),
        Loss::Dlr => {
            let z = descending(z);
            lm / (z[0] - z[2] + 1e-12)
        }
    }
}

/// `dv` times the derivative of a loss, other than dlr, with respect to each logit of a row. Of equal logits, lm and cw
/// choose the first.
fn loss_backward(z: &[f64], y: usize, dv: f64, rule: LossRule) -> Vec<f64> {
    let largest = (0..z.len()).rev().filter(|&j| j != y).max_by(|&a, &b| z[a].total_cmp(&z[b])).expect("another class");
    let sum: f64 = (0..z.len()).filter(|&j| rule.loss == Loss::Xent || j != y).map(|j| z[j].exp()).sum();
    let raised = |j: usize| match rule.loss {
        Loss::Slm if j == y => 0.0,
        Loss::Xent | Loss::Slm => z[j].exp() / sum,
        Loss::Cw if z[largest] - z[y] < -f64::from(rule.confidence) => f64::from(j == y),
        Loss::Lm | Loss::Cw => f64::from(j == largest),
        Loss::Dlr => panic!("the gradient of dlr has no formula here"),
    };
    (0..z.len()).map(|j| dv * (raised(j) - f64::from(j == y))).collect()
}

/// `sum_j P_j (log P_j - log Q_j)` of two rows of logits.
fn kl(p: &[f64], q: &[f64]) -> f64 {
    let log_sum = |z: &[f64]| z.iter().map(|z| z.exp()).sum::<f64>().ln();
    let [p_sum, q_sum] = [p, q].map(log_sum);
    p.iter().zip(q).map(|(p, q)| (p - p_sum).exp() * ((p - p_sum) - (q - q_sum))).sum()
}

pub fn targeted_loss(z: &[f64], y: usize, t: usize, targeted: TargetedLoss) -> f64 {
    match targeted {
        TargetedLoss::Minus(rule) => -loss(z, t, rule),
        TargetedLoss::Difference => z[t] - z[y],
        TargetedLoss::Dlr => {
            let sorted = descending(z);
            (z[t] - z[y]) / (sorted[0] - (sorted[2] + sorted[3]) / 2.0 + 1e-12)
        }
    }
}

fn descending(z: &[f64]) -> Vec<f64> {
    let mut z = z.to_vec();
    z.sort_by(|a, b| b.total_cmp(a));
    z
}

/// A convolution as a matrix product. The windows of an image form a matrix `[windows, elements of a filter]`.
struct Convolution {
    image: [usize; 3],
    filters: [usize; 4],
    out: [usize; 2],
    window: ConvWindow,
}

impl Convolution {
    fn new(x: &[usize], w: &[usize], window: ConvWindow) -> Convolution {
        let (&[_, h, wide, c], &[k, kh, kw, _]) = (x, w) else { unreachable!() };
        let out = |size: usize, kernel: usize| (size + 2 * window.padding - kernel) / window.stride + 1;
        Convolution { image: [h, wide, c], filters: [k, kh, kw, c], out: [out(h, kh), out(wide, kw)], window }
    }

    /// Number of filters, of windows of an image, of elements of a filter, and of elements of an image.
    fn sizes(&self) -> [usize; 4] {
        let [k, kh, kw, c] = self.filters;
        [k, self.out[0] * self.out[1], kh * kw * c, self.image.iter().product()]
    }

    /// Calls `f` for each pixel of each window, with its first element's index in the matrix and in the image.
    fn pixels(&self, mut f: impl FnMut(usize, usize)) {
        let ([h, w, c], [_, kh, kw, _], ConvWindow { padding, stride }) = (self.image, self.filters, self.window);
        let inside =
            |out: usize, tap: usize, size: usize| (out * stride + tap).checked_sub(padding).filter(|&at| at < size);
        for (oy, ox) in (0..self.out[0]).flat_map(|oy| (0..self.out[1]).map(move |ox| (oy, ox))) {
            for (ky, kx) in (0..kh).flat_map(|ky| (0..kw).map(move |kx| (ky, kx))) {
                if let (Some(y), Some(x)) = (inside(oy, ky, h), inside(ox, kx, w)) {
                    f((((oy * self.out[1] + ox) * kh + ky) * kw + kx) * c, (y * w + x) * c);
                }
            }
        }
    }

    fn windows(&self, image: &[f64]) -> Vec<f64> {
        let ([_, windows, filter, _], c) = (self.sizes(), self.image[2]);
        let mut rows = vec![0.0; windows * filter];
        self.pixels(|row, at| rows[row..row + c].copy_from_slice(&image[at..at + c]));
        rows
    }

    fn forward(&self, x: &[f64], w: &[f64]) -> Vec<f64> {
        let [k, windows, filter, image] = self.sizes();
        let mut y = vec![0.0; x.len() / image * windows * k];
        y.par_chunks_mut(windows * k).zip(x.par_chunks(image)).for_each(|(y, x)| {
            let rows = self.windows(x);
            let (rows, w) = (matrix(&rows, windows, filter), matrix(w, k, filter));
            let y = MatMut::from_row_major_slice_mut(y, windows, k);
            matmul(y, Accum::Replace, rows, w.transpose(), 1.0, Par::Seq);
        });
        y
    }

    fn backward_input(&self, dy: &[f64], w: &[f64]) -> Vec<f64> {
        let ([k, windows, filter, image], c) = (self.sizes(), self.image[2]);
        let mut dx = vec![0.0; dy.len() / (windows * k) * image];
        dx.par_chunks_mut(image).zip(dy.par_chunks(windows * k)).for_each(|(dx, dy)| {
            let mut rows = vec![0.0; windows * filter];
            let out = MatMut::from_row_major_slice_mut(&mut rows, windows, filter);
            matmul(out, Accum::Replace, matrix(dy, windows, k), matrix(w, k, filter), 1.0, Par::Seq);
            self.pixels(|row, at| (0..c).for_each(|e| dx[at + e] += rows[row + e]));
        });
        dx
    }

    fn backward_weight(&self, dy: &[f64], x: &[f64]) -> Vec<f64> {
        let [k, windows, filter, image] = self.sizes();
        let part = |(dy, x): (&[f64], &[f64])| {
            let (rows, mut dw) = (self.windows(x), vec![0.0; k * filter]);
            let out = MatMut::from_row_major_slice_mut(&mut dw, k, filter);
            let (dy, rows) = (matrix(dy, windows, k), matrix(&rows, windows, filter));
            matmul(out, Accum::Replace, dy.transpose(), rows, 1.0, Par::Seq);
            dw
        };
        let parts: Vec<Vec<f64>> = dy.par_chunks(windows * k).zip(x.par_chunks(image)).map(part).collect();
        (0..k * filter).map(|i| parts.iter().map(|part| part[i]).sum()).collect()
    }
}

fn matrix(values: &[f64], rows: usize, columns: usize) -> MatRef<'_, f64> {
    MatRef::from_row_major_slice(values, rows, columns)
}
