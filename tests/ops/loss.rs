//! Losses of examples and their gradients, weights of examples, and the metrics of training.

use maxmargin::tape::{DType, Loss, LossRule, Metric, Op, TargetedLoss};

use super::support::{Array, OpCase, Random, Sum, exact, near, rounded};

/// Logits and their labels: random ones of several magnitudes, ties, and extremes.
fn batches() -> Vec<(Array, Array)> {
    let mut random = Random(1);
    let mut batch = |classes: usize| {
        let mut rows: Vec<Vec<f64>> = Vec::new();
        for size in [0.0, 1e-3, 1.0, 10.0, 100.0, 1e4] {
            rows.push(random.signed(&[classes]).values.iter().map(|v| size * v).collect());
            rows.push(random.coarse(&[classes]).values.iter().map(|v| size * v).collect());
        }
        rows.push(vec![-3.0; classes]); // all equal, all negative
        rows.push((0..classes).map(|j| -1.0 - j as f64).collect());
        rows.push((0..classes).map(|j| if j == 0 { 50.0 } else { 0.0 }).collect()); // label 0: lm = -50
        rows.push((0..classes).map(|j| if j == 1 { 1e4 } else { -1e4 }).collect());
        rows.push((0..classes).map(|j| if j == 1 { -1e4 } else { 1e4 }).collect());
        rows.push((0..classes).map(|j| if j == 1 { 30.0 } else { j as f64 * 0.1 }).collect());
        let n = 3 * rows.len();
        let labels = (0..n).map(|i| [0, 1, classes as u32 - 1][i / rows.len()]);
        (Array::f32(&[n, classes], rows.iter().cycle().take(n).flatten().copied()), Array::u32(labels))
    };
    [2, 3, 10, 17, 100].map(&mut batch).into()
}

/// Every loss that is defined for so many classes.
pub(super) fn rules(classes: usize) -> Vec<LossRule> {
    let rule = |loss, confidence| LossRule { loss, confidence };
    [
        rule(Loss::Xent, 0.0),
        rule(Loss::Slm, 0.0),
        rule(Loss::Lm, 0.0),
        rule(Loss::Cw, 0.0),
        rule(Loss::Cw, 50.0),
        rule(Loss::Cw, 1e4),
        rule(Loss::Dlr, 0.0),
    ]
    .into_iter()
    .filter(|rule| classes >= rule.loss.least_classes())
    .collect()
}

/// LogitMargins of a row of logits z with label y.
struct LogitMargins {
    /// `logsumexp_{j != y} z_j`.
    lse: f64,
    /// Soft logit margin.
    slm: f64,
    /// Logit margin.
    lm: f64,
    /// First class other than the label with the largest logit.
    best: usize,
    /// Error of `slm` in single precision, in units of one rounding.
    size: f64,
}

fn logit_margins(z: &[f64], y: usize) -> LogitMargins {
    let others = || (0..z.len()).filter(|&j| j != y);
    let most = others().map(|j| z[j]).fold(f64::NEG_INFINITY, f64::max);
    let best = others().find(|&j| z[j] == most).unwrap();
    let lse = most + others().map(|j| (z[j] - most).exp()).sum::<f64>().ln();
    let lm = most - z[y];
    LogitMargins { lse, slm: lse - z[y], lm, best, size: lm.abs() + (z.len() as f64).ln() }
}

fn sigmoid(v: f64) -> f64 {
    1.0 / (1.0 + (-v).exp())
}

/// `ln(1 + e^v)`.
fn softplus(v: f64) -> f64 {
    v.max(0.0) + (-v.abs()).exp().ln_1p()
}

/// `(z_raised - z_lowered) / (z_(1) - (z_(3) + z_(last)) / 2 + 1e-12)`, and its derivative with respect to each logit.
/// Classes of equal logits keep their order.
fn ratio(z: &[f64], raised: usize, lowered: usize, last: usize) -> (Sum, Vec<Sum>) {
    let mut sorted: Vec<usize> = (0..z.len()).collect();
    sorted.sort_by(|&a, &b| z[b].partial_cmp(&z[a]).unwrap());
    let (first, lower) = (sorted[0], [sorted[2], sorted[last - 1]]);
    let under = z[first] - (z[lower[0]] + z[lower[1]]) / 2.0 + 1e-12;
    let value = (z[raised] - z[lowered]) / under;
    let derivative = |j: usize| {
        let is = |class: usize| f64::from(j == class);
        let over = is(raised) - is(lowered);
        let part = value * (is(first) - (is(lower[0]) + is(lower[1])) / 2.0);
        near((over - part) / under, (over.abs() + part.abs()) / under)
    };
    (near(value, value.abs()), (0..z.len()).map(derivative).collect())
}

/// Loss of a row.
pub(super) fn value(z: &[f64], y: usize, rule: LossRule) -> Sum {
    let m = logit_margins(z, y);
    match rule.loss {
        Loss::Xent => near(softplus(m.slm), softplus(m.slm) + sigmoid(m.slm) * m.size),
        Loss::Slm => near(m.slm, m.size),
        Loss::Lm => rounded(m.lm),
        Loss::Cw => near((m.lm + f64::from(rule.confidence)).max(0.0), m.lm.abs() + f64::from(rule.confidence)),
        Loss::Dlr => ratio(z, m.best, y, 3).0,
    }
}

#[test]
pub fn loss() {
    for (logits, labels) in batches() {
        for rule in rules(logits.row()) {
            let row = |(z, &y): (&[f64], &f64)| value(z, y as usize, rule);
            OpCase::new(Op::Loss(rule))
                .rows(&logits)
                .rows(&labels)
                .gives_rows(&labels.dims, DType::F32)
                .check(|n| vec![logits.values.chunks(logits.row()).zip(&labels.values).take(n).map(row).collect()]);
        }
    }
}

/// `dv` times the derivative of the loss with respect to each logit of a row.
pub(super) fn gradient(z: &[f64], y: usize, dv: f64, rule: LossRule) -> Vec<Sum> {
    let m = logit_margins(z, y);
    let soft = |j: usize, factor: f64, size: f64| {
        let p = if j == y { -1.0 } else { (z[j] - m.lse).exp() };
        let exponent = if j == y { 0.0 } else { (z[j] - m.lse).abs() + (z.len() as f64).ln() };
        near(dv * factor * p, (dv * factor * p).abs() * (1.0 + exponent + size))
    };
    let hard = |j: usize| exact(dv * (f64::from(j == m.best) - f64::from(j == y)));
    let one = |j: usize| match rule.loss {
        Loss::Xent => soft(j, sigmoid(m.slm), m.size),
        Loss::Slm => soft(j, 1.0, 0.0),
        Loss::Cw if m.lm < -f64::from(rule.confidence) => exact(0.0),
        Loss::Lm | Loss::Cw => hard(j),
        Loss::Dlr => times(dv, ratio(z, m.best, y, 3).1[j]),
    };
    (0..z.len()).map(one).collect()
}

/// `factor` times `sum`.
fn times(factor: f64, sum: Sum) -> Sum {
    near(factor * sum.value, (factor * sum.size).abs())
}

/// lm and cw choose the first of equal logits. cw has a gradient where it is exactly 0, as with PyTorch's clamp.
#[test]
pub fn loss_backward() {
    for (logits, labels) in batches() {
        let dvalue = Random(9).signed(&labels.dims);
        for rule in rules(logits.row()) {
            let row = |i: usize| {
                let z = &logits.values[i * logits.row()..][..logits.row()];
                gradient(z, labels.values[i] as usize, dvalue.values[i], rule)
            };
            OpCase::new(Op::LossBackward(rule))
                .rows(&logits)
                .rows(&labels)
                .rows(&dvalue)
                .gives_rows(&logits.dims, DType::F32)
                .check(|n| vec![(0..n).flat_map(row).collect()]);
        }
    }
}

/// Pairs of logits p and q: those of [`batches`] with others, with themselves, and with slightly different ones.
fn pairs() -> Vec<(Array, Array)> {
    let with = |(p, _): (Array, Array)| {
        let row = p.row();
        let others: Vec<f64> = p.values.iter().cycle().skip(5 * row).take(p.values.len()).copied().collect();
        let noise = Random(11).signed(&p.dims);
        let off: Vec<f64> = p.values.iter().zip(&noise.values).map(|(p, e)| p + 0.01 * e).collect();
        let same = p.values.clone();
        [others, off, same].map(|q| (p.clone(), Array::f32(&p.dims, q)))
    };
    // Batches of 3, 10 and 100 classes.
    let [_, few, ten, _, many] = <[_; 5]>::try_from(batches()).expect("five");
    [few, ten, many].into_iter().flat_map(with).collect()
}

/// Log-softmax of a row, and the distance of each logit from the largest, whose rounding is the error in single
/// precision.
fn log_softmax(z: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let most = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum = z.iter().map(|z| (z - most).exp()).sum::<f64>().ln();
    (z.iter().map(|z| z - most - sum).collect(), z.iter().map(|z| most - z).collect())
}

/// Terms of the divergence of a row, each with its tolerance: P, log P - log Q, and Q of each class.
fn divergence(p: &[f64], q: &[f64]) -> Vec<[Sum; 3]> {
    let ((log_p, p_below), (log_q, q_below)) = (log_softmax(p), log_softmax(q));
    let sums = 2.0 * (p.len() as f64).ln();
    let one = |j: usize| {
        let ratio = log_p[j] - log_q[j];
        // Equal logits give equal numbers, so the ratio is exact.
        let size = if p == q { 0.0 } else { p_below[j] + q_below[j] + sums };
        [
            near(log_p[j].exp(), log_p[j].exp() * (2.0 + p_below[j])),
            near(ratio, size),
            near(log_q[j].exp(), log_q[j].exp() * (2.0 + q_below[j])),
        ]
    };
    (0..p.len()).map(one).collect()
}

/// Product of two numbers with tolerances.
fn product(a: Sum, b: Sum) -> Sum {
    near(a.value * b.value, a.size * b.value.abs() + a.value.abs() * b.size)
}

/// The divergence, `sum_j P_j (log P_j - log Q_j)`.
fn divergence_of(row: &[[Sum; 3]]) -> Sum {
    let mut sum = Sum::default();
    for &[p, ratio, _] in row {
        let term = product(p, ratio);
        sum += term.value;
        sum.size += term.size;
    }
    sum
}

/// Checks an op on all pairs. `formula` gives the results of a row from the terms of its divergence and dvalue.
fn check_kl(op: &Op, formula: impl Fn(&[[Sum; 3]], f64) -> Vec<Sum>) {
    for (p, q) in pairs() {
        let n = p.dims[0];
        let dvalue = Random(9).signed(&[n]);
        let case = OpCase::new(op.clone()).rows(&p).rows(&q);
        let case = match op {
            Op::Kl => case.gives_rows(&[n], DType::F32),
            _ => case.rows(&dvalue).gives_rows(&p.dims, DType::F32),
        };
        case.check(|n| {
            let rows = p.values.chunks(p.row()).zip(q.values.chunks(q.row())).zip(&dvalue.values).take(n);
            vec![rows.flat_map(|((p, q), &dvalue)| formula(&divergence(p, q), dvalue)).collect()]
        });
    }
}

/// The divergence of equal logits is exactly 0. A class of probability 0 adds 0.
#[test]
pub fn kl() {
    check_kl(&Op::Kl, |row, _| vec![divergence_of(row)]);
}

/// The gradient is exactly 0 where the logits are equal.
#[test]
pub fn kl_backward_p() {
    check_kl(&Op::KlBackwardP, |row, dvalue| {
        let kl = divergence_of(row);
        let one = |&[p, ratio, _]: &[Sum; 3]| {
            let change = product(p, near(ratio.value - kl.value, ratio.size + kl.size + ratio.value.abs()));
            let zero = row.iter().all(|[_, ratio, _]| ratio.value == 0.0 && ratio.size == 0.0);
            if zero { exact(0.0) } else { near(dvalue * change.value, dvalue.abs() * change.size) }
        };
        row.iter().map(one).collect()
    });
}

/// The gradient is exactly 0 where the logits are equal.
#[test]
pub fn kl_backward_q() {
    check_kl(&Op::KlBackwardQ, |row, dvalue| {
        let equal = row.iter().all(|[_, ratio, _]| ratio.value == 0.0 && ratio.size == 0.0);
        let one = |&[p, _, q]: &[Sum; 3]| {
            let size = if equal { 0.0 } else { p.size + q.size };
            near(dvalue * (q.value - p.value), dvalue.abs() * size)
        };
        row.iter().map(one).collect()
    });
}

#[test]
pub fn mean_weights() {
    for n in [1, 7, 50] {
        OpCase::new(Op::MeanWeights).gives_rows(&[n], DType::F32).check(|n| vec![vec![rounded(1.0 / n as f64); n]]);
    }
}

/// An example whose margin is exactly d_max is counted, but not trained on.
#[test]
pub fn hinge_weights() {
    let eps = Array::f32(&[6], [0.0, 0.3, 0.45, f64::from(0.45f32.next_down()), 0.4725, 0.1]);
    for hinge in [0.45, 0.3, 0.0] {
        OpCase::new(Op::HingeWeights { hinge }).rows(&eps).gives_rows(&[6], DType::F32).check(|n| {
            let weight = |eps: &f64| if *eps < f64::from(hinge) { rounded(1.0 / n as f64) } else { exact(0.0) };
            vec![eps.values[..n].iter().map(weight).collect()]
        });
    }
}

/// The margin of a row of weight 0 has reached d_max. Its weighted loss is ignored, even if it is NaN.
#[test]
pub fn accumulate_metrics() {
    for n in [5, 600] {
        accumulate(n);
    }
}

fn accumulate(n: usize) {
    let column = |five: [f64; 5]| Array::f32(&[n], five.into_iter().cycle().take(n));
    let clean = column([0.5, 2.0, 0.25, 1e-3, 7.0]);
    let lm = column([-3.0, 1.0, 0.0, -0.1, -0.0]);
    let weights = column([0.2, 0.0, 0.2, 0.2, 0.0]);
    let margin = column([1.5, f64::NAN, 0.75, 2.5, f64::INFINITY]);
    let eps = column([0.1, 0.47, 0.0, 0.3, 0.46]);
    let sums = Array::f32(&[Metric::COUNT], [10.0, 500.0, 3.0, 4.0, 400.0, 20.0, 100.0, 2.0]);
    let case = OpCase::new(Op::AccumulateMetrics).rows(&clean).rows(&lm).rows(&weights).rows(&margin).rows(&eps);
    let steps = Array::u32([41]);
    case.updates_whole(&sums).updates_whole(&steps).check(|n| {
        let mut all: Vec<Sum> = sums.values.iter().map(|&v| near(v, v)).collect();
        if n == 0 {
            // The mean over no rows is NaN; a batch is never empty.
            all[Metric::MeanLoss as usize] = exact(f64::NAN);
        }
        all[Metric::Steps as usize] += 1.0;
        for i in 0..n {
            all[Metric::Examples as usize] += 1.0;
            all[Metric::MeanLoss as usize] += clean.values[i] / n as f64;
            if weights.values[i] > 0.0 {
                all[Metric::WeightedLoss as usize] += weights.values[i] * margin.values[i];
            } else {
                all[Metric::ZeroWeights as usize] += 1.0;
            }
            all[Metric::Correct as usize] += f64::from(lm.values[i] < 0.0);
            all[Metric::Eps as usize] += eps.values[i];
        }
        vec![all, vec![exact(42.0)]]
    });
}

/// Every targeted loss that is defined for so many classes.
fn losses(classes: usize) -> Vec<TargetedLoss> {
    let minus = rules(classes).into_iter().map(TargetedLoss::Minus);
    let all = minus.chain([TargetedLoss::Dlr, TargetedLoss::Difference]);
    all.filter(|targeted| classes >= targeted.least_classes()).collect()
}

/// Logits, labels and target classes; some targets are the label.
fn targeted() -> Vec<[Array; 3]> {
    let with_targets = |(logits, labels): (Array, Array)| {
        let mut random = Random(5);
        let targets = Array::u32(labels.values.iter().map(|_| random.below(logits.row()) as u32));
        [logits, labels, targets]
    };
    batches().into_iter().map(with_targets).collect()
}

#[test]
pub fn targeted_loss() {
    for [logits, labels, targets] in targeted() {
        for targeted in losses(logits.row()) {
            let row = |i: usize| {
                let z = &logits.values[i * logits.row()..][..logits.row()];
                let (y, t) = (labels.values[i] as usize, targets.values[i] as usize);
                match targeted {
                    TargetedLoss::Minus(rule) => times(-1.0, value(z, t, rule)),
                    TargetedLoss::Dlr => ratio(z, t, y, 4).0,
                    TargetedLoss::Difference => rounded(z[t] - z[y]),
                }
            };
            OpCase::new(Op::TargetedLoss(targeted))
                .rows(&logits)
                .rows(&labels)
                .rows(&targets)
                .gives_rows(&labels.dims, DType::F32)
                .check(|n| vec![(0..n).map(row).collect()]);
        }
    }
}

#[test]
pub fn targeted_loss_backward() {
    for [logits, labels, targets] in targeted() {
        let dvalue = Random(9).signed(&labels.dims);
        for targeted in losses(logits.row()) {
            let row = |i: usize| {
                let z = &logits.values[i * logits.row()..][..logits.row()];
                let (y, t, dv) = (labels.values[i] as usize, targets.values[i] as usize, dvalue.values[i]);
                let plain = |j: usize| exact(dv * (f64::from(j == t) - f64::from(j == y)));
                match targeted {
                    TargetedLoss::Minus(rule) => gradient(z, t, -dv, rule),
                    TargetedLoss::Dlr => ratio(z, t, y, 4).1.into_iter().map(|d| times(dv, d)).collect::<Vec<Sum>>(),
                    TargetedLoss::Difference => (0..z.len()).map(plain).collect(),
                }
            };
            OpCase::new(Op::TargetedLossBackward(targeted))
                .rows(&logits)
                .rows(&labels)
                .rows(&targets)
                .rows(&dvalue)
                .gives_rows(&logits.dims, DType::F32)
                .check(|n| vec![(0..n).flat_map(row).collect()]);
        }
    }
}

/// Classes of equal logits, 0 and -0 included, keep their order. A rank beyond the last class gives the last.
#[test]
pub fn rank_class() {
    let zeros = (Array::f32(&[2, 4], [0.0, -0.0, 0.0, -0.0, -0.0, 0.0, 1.0, -0.0]), Array::u32([0, 2]));
    for (logits, labels) in batches().into_iter().chain([zeros]) {
        for (rank, run) in [(0, None), (1, None), (0, Some(0)), (0, Some(3)), (1, Some(8)), (200, None)] {
            let row = |i: usize| {
                let z = &logits.values[i * logits.row()..][..logits.row()];
                let mut others: Vec<usize> = (0..z.len()).filter(|&j| j != labels.values[i] as usize).collect();
                others.sort_by(|&a, &b| z[b].partial_cmp(&z[a]).unwrap());
                exact(others[(rank + run.unwrap_or(0)).min(others.len() - 1)] as f64)
            };
            let case = OpCase::new(Op::RankClass { rank: rank as u32 }).rows(&logits).rows(&labels);
            let case = if let Some(run) = run { case.whole(&Array::u32([run as u32])) } else { case };
            case.gives_rows(&labels.dims, DType::U32).check(|n| vec![(0..n).map(row).collect()]);
        }
    }
}

/// NaN has some place in the order of classes, so the result is always a class.
#[test]
fn the_ranked_class_is_a_class_even_if_logits_are_nan() {
    let logits = Array::f32(&[3, 4], [[f64::NAN; 4], [0.0, f64::NAN, 1.0, 2.0], [f64::INFINITY; 4]].concat());
    let labels = Array::u32([3, 0, 1]);
    for rank in 0..4 {
        let case = OpCase::new(Op::RankClass { rank }).rows(&logits).rows(&labels);
        // Any class of 0 to 3: within 1.5 of 1.5.
        case.gives_rows(&[3], DType::U32).check(|n| vec![vec![near(1.5, 1.5e6); n]]);
    }
}
