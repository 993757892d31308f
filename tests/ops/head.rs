//! The head of a network under attack: the gradient of a loss with respect to the features that the last layer reads.

use maxmargin::tape::{BATCH_NORM_EPS, DType, GRADIENT_NORM, HeadFeatures, HeadFusion, LossRule, Op};

use super::loss::{gradient, rules};
use super::support::{Array, OpCase, Random, Sum, near};

/// Features and numbers of classes: rows around a vector of four and a block's threads, images whose pixels are
/// averaged in one part and in several, more classes than a thread has sums. (Features of a hidden layer are in
/// [`HIDDEN`].)
const CASES: [(HeadFeatures, &[usize], usize); 14] = [
    (HeadFeatures::Plain, &[3, 1], 2),
    (HeadFeatures::Plain, &[5, 7], 3),
    (HeadFeatures::Plain, &[3, 2, 2, 5], 10),
    (HeadFeatures::Relu, &[4, 260], 11),
    (HeadFeatures::Relu, &[3, 1024], 10),
    (HeadFeatures::Relu, &[2, 1030], 23),
    (HeadFeatures::Mean, &[2, 1, 1, 3], 4),
    (HeadFeatures::Mean, &[3, 2, 4, 33], 10),
    (HeadFeatures::Mean, &[2, 4, 4, 516], 10),
    (HeadFeatures::MeanOfBatchNorm, &[2, 1, 1, 3], 4),
    (HeadFeatures::MeanOfBatchNorm, &[3, 2, 2, 7], 10),
    (HeadFeatures::MeanOfBatchNorm, &[4, 8, 8, 64], 10),
    (HeadFeatures::MeanOfBatchNorm, &[2, 8, 8, 256], 10),
    (HeadFeatures::MeanOfBatchNorm, &[2, 2, 2, 300], 3),
];

/// Rows, inputs and features of a hidden layer, and classes: features around a block's threads and the features that a
/// thread has at once, sums that are split and sums that are not, in tiles of each alignment.
const HIDDEN: [([usize; 3], usize); 9] = [
    ([2, 1, 1], 2),
    ([3, 5, 7], 3),
    ([5, 40, 24], 10),
    ([3, 16, 255], 4),
    ([4, 24, 257], 10),
    ([3, 64, 1024], 10),
    ([2, 40, 1032], 11),
    ([3, 1500, 36], 10),
    ([3, 2048, 64], 23),
];

/// Features, multiples of 1/4, so that all logits are exact. Among those that are results of ReLU are zeros of both
/// signs and negative numbers, which ReLU never returns.
fn features(kind: HeadFeatures, dims: &[usize]) -> Array {
    let mut x = Random(1).coarse(dims);
    if matches!(kind, HeadFeatures::Relu | HeadFeatures::MeanOfBatchNorm) && x.values.len() > 30 {
        x.values.iter_mut().skip(1).step_by(7).for_each(|v| *v = 0.0);
        x.values.iter_mut().skip(2).step_by(11).for_each(|v| *v = -0.0);
    }
    x
}

/// A row's gradient brought to the norm, and its own norm.
fn to_norm(gradient: &mut [Sum]) -> Sum {
    let mut norm = Sum::default();
    gradient.iter().for_each(|g| norm = near(norm.value + g.value.abs(), norm.size + g.size.max(g.value.abs())));
    let factor = norm.value.max(f64::from(1e-30f32)) / f64::from(GRADIENT_NORM);
    let off = if norm.value > 1e-30 { norm.size / norm.value } else { 0.0 };
    gradient.iter_mut().for_each(|g| *g = near(g.value / factor, (g.size + g.value.abs() * off) / factor));
    norm
}

/// Operands of a case.
struct Operands {
    /// Features.
    x: Array,
    w: Array,
    bias: Array,
    labels: Array,
    dvalue: Array,
    batch_norm: [Array; 2],
}

/// dx of a row, and the norm of its gradient.
fn head_gradient(o: &Operands, row: usize, fusion: &HeadFusion) -> (Vec<Sum>, Sum) {
    let (inner, x) = (o.w.row(), &o.x.values[row * o.x.row()..][..o.x.row()]);
    let pixels = x.len() / inner;
    let mean = |k: usize| x.iter().skip(k).step_by(inner).sum::<f64>() / pixels as f64;
    let means: Vec<f64> = (0..inner).map(mean).collect();
    let dot = |w: &[f64]| w.iter().zip(&means).map(|(w, p)| w * p).sum::<f64>();
    let z: Vec<f64> = o.w.values.chunks(inner).zip(&o.bias.values).map(|(w, b)| dot(w) + b).collect();
    let mut dz = gradient(&z, o.labels.values[row] as usize, o.dvalue.values[row], fusion.rule);
    let averaged = matches!(fusion.features, HeadFeatures::Mean | HeadFeatures::MeanOfBatchNorm);
    let mut norm = Sum::default();
    if fusion.normalized && !averaged {
        norm = to_norm(&mut dz);
    }
    let back = |k: usize| {
        let terms = dz.iter().enumerate().map(|(j, dz)| (dz, o.w.values[j * inner + k]));
        terms.fold(Sum::default(), |sum, (dz, w)| {
            near(sum.value + dz.value * w, sum.size + (dz.size + dz.value.abs()) * w.abs())
        })
    };
    let mut dmeans: Vec<Sum> = (0..inner).map(back).collect();
    if fusion.normalized && averaged {
        norm = to_norm(&mut dmeans);
    }
    let of_feature = |(i, x): (usize, &f64)| {
        let c = i % inner;
        let [weight, variance] = [0, 1].map(|operand| o.batch_norm[operand].values.get(c).copied().unwrap_or(0.0));
        let factor = match fusion.features {
            HeadFeatures::Plain | HeadFeatures::Mean => 1.0,
            _ if *x <= 0.0 => 0.0,
            HeadFeatures::Relu | HeadFeatures::Hidden => 1.0,
            HeadFeatures::MeanOfBatchNorm => weight / (variance + f64::from(BATCH_NORM_EPS)).sqrt(),
        } / pixels as f64;
        near(factor * dmeans[c].value, (factor * dmeans[c].size).abs())
    };
    (x.iter().enumerate().map(of_feature).collect(), norm)
}

fn check(kind: HeadFeatures, dims: &[usize], classes: usize, rule: LossRule, normalized: bool) {
    let averaged = matches!(kind, HeadFeatures::Mean | HeadFeatures::MeanOfBatchNorm);
    let (n, inner) = (dims[0], if averaged { dims[3] } else { dims[1..].iter().product() });
    let o = Operands::new(features(kind, dims), inner, classes);
    let fusion = HeadFusion { features: kind, rule, normalized };
    let case = OpCase::new(Op::HeadBackward(fusion)).rows(&o.x);
    o.check(case, n, dims, &fusion);
}

/// A head on the features of a hidden layer, sums of exact products of a few inputs.
fn check_hidden([n, inputs, features]: [usize; 3], classes: usize, rule: LossRule, normalized: bool) {
    let (x, mut w) = (Random(8).coarse(&[n, inputs]), Random(9).coarse(&[features, inputs]));
    let bias = Random(10).coarse(&[features]);
    w.values.iter_mut().enumerate().filter(|(i, _)| i % 41 > 4).for_each(|(_, v)| *v = 0.0);
    let of_row = |x: &[f64]| -> Vec<f64> {
        let sums = w.values.chunks(inputs).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>());
        sums.zip(&bias.values).map(|(sum, bias)| (sum + bias).max(0.0)).collect()
    };
    let results = x.values.chunks(inputs).flat_map(of_row);
    let o = Operands::new(Array::f32(&[n, features], results), features, classes);
    let fusion = HeadFusion { features: HeadFeatures::Hidden, rule, normalized };
    let case = OpCase::new(Op::HeadBackward(fusion)).rows(&x).whole(&w).whole(&bias);
    o.check(case, n, &[n, features], &fusion);
}

impl Operands {
    /// Operands of a head on features `x`, of which the last layer reads `inner` numbers.
    fn new(x: Array, inner: usize, classes: usize) -> Operands {
        let (n, mut random) = (x.dims[0], Random(5));
        Operands {
            x,
            w: Random(2).coarse(&[classes, inner]),
            bias: Random(3).coarse(&[classes]),
            labels: Array::u32((0..n).map(|_| random.below(classes) as u32)),
            dvalue: Random(4).signed(&[n]),
            batch_norm: [Random(6).signed(&[inner]), Random(7).image(&[inner])],
        }
    }

    /// Checks `case`, whose operands so far give the features: dx has dimensions `dims`.
    fn check(&self, case: OpCase, n: usize, dims: &[usize], fusion: &HeadFusion) {
        let mut case = case.whole(&self.w).whole(&self.bias).rows(&self.labels).rows(&self.dvalue);
        if fusion.features == HeadFeatures::MeanOfBatchNorm {
            case = self.batch_norm.iter().fold(case, OpCase::whole);
        }
        case = case.gives_rows(dims, DType::F32);
        if fusion.normalized {
            case = case.gives_rows(&[n], DType::F32);
        }
        case.check(|n| {
            let (dx, norms): (Vec<Vec<Sum>>, Vec<Sum>) = (0..n).map(|row| head_gradient(self, row, fusion)).unzip();
            [vec![dx.concat()], vec![norms; usize::from(fusion.normalized)]].concat()
        });
    }
}

/// Small heads with every loss; large ones with two in turn.
#[test]
pub fn head_backward() {
    for (number, (kind, dims, classes)) in CASES.into_iter().enumerate() {
        let rules = rules(classes);
        let few = dims.iter().product::<usize>() > 200;
        let some = rules.iter().enumerate().filter(|(i, _)| !few || (i + number).is_multiple_of(4));
        for ((_, rule), normalized) in some.flat_map(|rule| [false, true].map(|normalized| (rule, normalized))) {
            check(kind, dims, classes, *rule, normalized);
        }
    }
}

/// As [`head_backward`], on the features of a hidden layer.
#[test]
pub fn head_backward_of_a_hidden_layer() {
    for (number, (sizes, classes)) in HIDDEN.into_iter().enumerate() {
        let rules = rules(classes);
        let few = sizes[1] * sizes[2] > 200;
        let some = rules.iter().enumerate().filter(|(i, _)| !few || (i + number).is_multiple_of(6));
        for ((_, rule), normalized) in some.flat_map(|rule| [false, true].map(|normalized| (rule, normalized))) {
            check_hidden(sizes, classes, *rule, normalized);
        }
    }
}
