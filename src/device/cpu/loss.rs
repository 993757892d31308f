//! Losses of examples and their gradients, weights of examples, and the metrics of training.

use super::elementwise::larger;
use crate::tape::{Loss, LossRule, Metric, TargetedLoss};

/// Margins of a row of logits z with label y.
struct LogitMargins {
    /// Soft logit margin: `logsumexp_{j != y} z_j - z_y`.
    slm: f32,
    /// Logit margin: `z_best - z_y`.
    lm: f32,
    /// The first class j != y with the largest logit.
    best: usize,
    /// `sum_{j != y} e^(z_j - z_best)`.
    sum: f32,
}

fn logit_margins(z: &[f32], y: usize) -> LogitMargins {
    let mut best = usize::from(y == 0);
    for j in 0..z.len() {
        if j != y && z[j] > z[best] {
            best = j;
        }
    }
    let sum: f32 = others(z, y).map(|j| (z[j] - z[best]).exp()).sum();
    let lm = z[best] - z[y];
    LogitMargins { slm: sum.ln() + lm, lm, best, sum }
}

/// Classes other than the label.
fn others(z: &[f32], y: usize) -> impl Iterator<Item = usize> {
    (0..z.len()).filter(move |&j| j != y)
}

/// Classes by their logits, the largest first; classes of equal logits keep their order. A NaN comes before or after
/// all numbers, by its sign.
fn ranked(z: &[f32]) -> Vec<usize> {
    let mut classes: Vec<usize> = (0..z.len()).collect();
    // -0 + 0 is 0, so the two zeros are equal.
    classes.sort_by(|&a, &b| (z[b] + 0.0).total_cmp(&(z[a] + 0.0)));
    classes
}

/// The ratio of the DLR losses, `(z_raised - z_lowered) / under`, with its terms.
struct LogitRatio {
    /// Class whose logit is added in the numerator.
    raised: usize,
    /// Class whose logit is subtracted in the numerator.
    lowered: usize,
    /// The class with the largest logit.
    first: usize,
    /// The two classes whose mean logit is subtracted from the largest in the denominator.
    lower: [usize; 2],
    /// Denominator.
    under: f32,
    /// The ratio.
    value: f32,
}

impl LogitRatio {
    /// `(z_raised - z_lowered) / (z_(1) - (z_(3) + z_(last)) / 2 + 1e-12)`, where `z_(k)` is the k-th largest logit.
    fn new(z: &[f32], raised: usize, lowered: usize, last: usize) -> LogitRatio {
        let ranked = ranked(z);
        let (first, lower) = (ranked[0], [ranked[2], ranked[last - 1]]);
        let under = 0.5 * ((z[first] - z[lower[0]]) + (z[first] - z[lower[1]])) + 1e-12;
        LogitRatio { raised, lowered, first, lower, under, value: (z[raised] - z[lowered]) / under }
    }

    /// Derivative with respect to logit `j`.
    fn derivative(&self, j: usize) -> f32 {
        let is = |class: usize| f32::from(j == class);
        let over = is(self.raised) - is(self.lowered);
        (over - self.value * (is(self.first) - 0.5 * (is(self.lower[0]) + is(self.lower[1])))) / self.under
    }
}

/// Writes the loss of each row of logits `[n, classes]`; `out` has n elements.
pub(super) fn loss(out: &mut [f32], logits: &[f32], labels: &[u32], rule: LossRule) {
    if out.is_empty() {
        return;
    }
    let classes = logits.len() / labels.len();
    for ((out, z), &y) in out.iter_mut().zip(logits.chunks_exact(classes)).zip(labels) {
        let LogitMargins { slm, lm, best, .. } = logit_margins(z, y as usize);
        *out = match rule.loss {
            // log(1 + e^slm), without overflow and exact where it is tiny.
            Loss::Xent => larger(slm, 0.0) + (-slm.abs()).exp().ln_1p(),
            Loss::Slm => slm,
            Loss::Lm => lm,
            Loss::Cw if lm + rule.confidence < 0.0 => 0.0,
            Loss::Cw => lm + rule.confidence,
            Loss::Dlr => LogitRatio::new(z, best, y as usize, 3).value,
        };
    }
}

/// Writes dlogits `[n, classes]`: dvalue times the gradient of each row's loss.
pub(super) fn loss_backward(dlogits: &mut [f32], logits: &[f32], labels: &[u32], dvalue: &[f32], rule: LossRule) {
    let classes = logits.len() / labels.len();
    let rows = dlogits.chunks_exact_mut(classes).zip(logits.chunks_exact(classes)).zip(labels).zip(dvalue);
    for (((dz, z), &y), &dvalue) in rows {
        let y = y as usize;
        let LogitMargins { slm, lm, best, sum } = logit_margins(z, y);
        dz.fill(0.0);
        // Xent is softplus(slm), so its gradient is that of slm times sigmoid(slm).
        let factor = match rule.loss {
            Loss::Xent if slm > 0.0 => 1.0 / (1.0 + (-slm).exp()),
            Loss::Xent => slm.exp() / (1.0 + slm.exp()),
            Loss::Cw if lm + rule.confidence < 0.0 => 0.0,
            Loss::Slm | Loss::Lm | Loss::Cw | Loss::Dlr => 1.0,
        } * dvalue;
        dz[y] = -factor;
        match rule.loss {
            Loss::Xent | Loss::Slm => {
                // e^(z_j - logsumexp) is less accurate: for large logits the exponent has lost its last digits.
                others(z, y).for_each(|j| dz[j] = factor * ((z[j] - z[best]).exp() / sum));
            }
            Loss::Lm | Loss::Cw => dz[best] = factor,
            Loss::Dlr => {
                let ratio = LogitRatio::new(z, best, y, 3);
                dz.iter_mut().enumerate().for_each(|(j, dz)| *dz = factor * ratio.derivative(j));
            }
        }
    }
}

/// Writes the targeted loss of each row.
pub(super) fn targeted_loss(out: &mut [f32], logits: &[f32], labels: &[u32], targets: &[u32], targeted: TargetedLoss) {
    if let TargetedLoss::Minus(rule) = targeted {
        loss(out, logits, targets, rule);
        return out.iter_mut().for_each(|value| *value = -*value);
    }
    let rows = out.iter_mut().zip(logits.chunks_exact(logits.len() / labels.len())).zip(labels).zip(targets);
    for (((out, z), &y), &t) in rows {
        let (y, t) = (y as usize, t as usize);
        *out = if targeted == TargetedLoss::Dlr { LogitRatio::new(z, t, y, 4).value } else { z[t] - z[y] };
    }
}

/// Writes dlogits `[n, classes]`: dvalue times the gradient of each row's targeted loss.
pub(super) fn targeted_loss_backward(
    dlogits: &mut [f32],
    logits: &[f32],
    labels: &[u32],
    targets: &[u32],
    dvalue: &[f32],
    targeted: TargetedLoss,
) {
    if let TargetedLoss::Minus(rule) = targeted {
        loss_backward(dlogits, logits, targets, dvalue, rule);
        return dlogits.iter_mut().for_each(|dz| *dz = -*dz);
    }
    let classes = logits.len() / labels.len();
    let rows = dlogits.chunks_exact_mut(classes).zip(logits.chunks_exact(classes));
    for ((((dz, z), &y), &t), &dvalue) in rows.zip(labels).zip(targets).zip(dvalue) {
        let (y, t) = (y as usize, t as usize);
        let is = |j: usize, class: usize| f32::from(j == class);
        if targeted == TargetedLoss::Dlr {
            let ratio = LogitRatio::new(z, t, y, 4);
            dz.iter_mut().enumerate().for_each(|(j, dz)| *dz = dvalue * ratio.derivative(j));
        } else {
            dz.iter_mut().enumerate().for_each(|(j, dz)| *dz = dvalue * (is(j, t) - is(j, y)));
        }
    }
}

/// Writes the class at `rank` (from 0) among the classes other than the label, ordered by their logits, or the last
/// class.
pub(super) fn rank_class(out: &mut [u32], logits: &[f32], labels: &[u32], rank: usize) {
    let classes = logits.len() / labels.len();
    for ((out, z), &y) in out.iter_mut().zip(logits.chunks_exact(classes)).zip(labels) {
        let others = ranked(z).into_iter().filter(|&class| class != y as usize);
        *out = others.take(rank + 1).last().expect("there are two classes") as u32;
    }
}

/// Terms of a row's softmax.
struct Softmax {
    /// The largest logit.
    largest: f32,
    /// `sum_j e^(z_j - largest)`.
    sum: f32,
}

impl Softmax {
    fn new(z: &[f32]) -> Softmax {
        let largest = z.iter().copied().fold(z[0], |largest, z| larger(z, largest));
        Softmax { largest, sum: z.iter().map(|z| (z - largest).exp()).sum() }
    }

    /// Probability of a class with logit z.
    fn probability(&self, z: f32) -> f32 {
        (z - self.largest).exp() / self.sum
    }
}

/// Terms of the Kullback-Leibler divergence KL(P || Q) of two rows of logits p and q.
struct Divergence {
    p: Softmax,
    q: Softmax,
    /// `log q.sum - log p.sum`.
    log_sums: f32,
}

impl Divergence {
    fn new(p: &[f32], q: &[f32]) -> Divergence {
        let (p, q) = (Softmax::new(p), Softmax::new(q));
        Divergence { log_sums: q.sum.ln() - p.sum.ln(), p, q }
    }

    /// `log P_j - log Q_j`, computed from logits: it is finite where a probability is 0, and exactly 0 if both rows are
    /// equal.
    fn log_ratio(&self, p: f32, q: f32) -> f32 {
        (p - self.p.largest) - (q - self.q.largest) + self.log_sums
    }

    /// The divergence.
    fn kl(&self, p: &[f32], q: &[f32]) -> f32 {
        p.iter().zip(q).map(|(&p, &q)| self.p.probability(p) * self.log_ratio(p, q)).sum()
    }
}

/// Writes KL(P || Q) of each pair of rows of p and q, each `[n, classes]`; `out` has n elements.
pub(super) fn kl(out: &mut [f32], p: &[f32], q: &[f32], classes: usize) {
    for ((out, p), q) in out.iter_mut().zip(p.chunks_exact(classes)).zip(q.chunks_exact(classes)) {
        *out = Divergence::new(p, q).kl(p, q);
    }
}

/// Writes dp `[n, classes]`: dvalue times the gradient of the divergence with respect to `p`.
pub(super) fn kl_backward_p(dp: &mut [f32], p: &[f32], q: &[f32], dvalue: &[f32], classes: usize) {
    let rows = dp.chunks_exact_mut(classes).zip(p.chunks_exact(classes)).zip(q.chunks_exact(classes)).zip(dvalue);
    for (((dp, p), q), &dvalue) in rows {
        let both = Divergence::new(p, q);
        let kl = both.kl(p, q);
        for ((dp, &p), &q) in dp.iter_mut().zip(p).zip(q) {
            *dp = dvalue * (both.p.probability(p) * (both.log_ratio(p, q) - kl));
        }
    }
}

/// Writes dq `[n, classes]`: dvalue times the gradient of the divergence with respect to `q`.
pub(super) fn kl_backward_q(dq: &mut [f32], p: &[f32], q: &[f32], dvalue: &[f32], classes: usize) {
    let rows = dq.chunks_exact_mut(classes).zip(p.chunks_exact(classes)).zip(q.chunks_exact(classes)).zip(dvalue);
    for (((dq, p), q), &dvalue) in rows {
        let both = Divergence::new(p, q);
        for ((dq, &p), &q) in dq.iter_mut().zip(p).zip(q) {
            *dq = dvalue * (both.q.probability(q) - both.p.probability(p));
        }
    }
}

/// Writes the weights of a mean over n rows: 1 / n.
pub(super) fn mean_weights(out: &mut [f32]) {
    let mean = 1.0 / out.len() as f32;
    out.fill(mean);
}

/// Writes 1 / n where eps is below the hinge, else 0.
pub(super) fn hinge_weights(out: &mut [f32], eps: &[f32], hinge: f32) {
    let mean = 1.0 / out.len() as f32;
    out.iter_mut().zip(eps).for_each(|(o, &eps)| *o = if eps < hinge { mean } else { 0.0 });
}

/// A sum in double precision, rounded once. So the length of a batch adds no error.
fn sum(terms: impl Iterator<Item = f32>) -> f32 {
    terms.map(f64::from).sum::<f64>() as f32
}

/// Adds a step to the sums; `operands` are those of [`crate::tape::MetricOperands`], in its order.
pub(super) fn accumulate_metrics(sums: &mut [f32], operands: &[&[f32]]) {
    let [loss, logit_margin, weights, weighted_loss, eps] = operands else { unreachable!("five operands") };
    let n = loss.len() as f32;
    let mut add = |metric: Metric, value: f32| sums[metric as usize] += value;
    add(Metric::Steps, 1.0);
    add(Metric::Examples, n);
    add(Metric::MeanLoss, sum(loss.iter().copied()) / n);
    // An example of weight 0 may have any loss, even NaN: it is left out, not multiplied by 0.
    let weighted = weights.iter().zip(*weighted_loss).filter(|(w, _)| **w > 0.0);
    add(Metric::WeightedLoss, sum(weighted.map(|(w, loss)| w * loss)));
    add(Metric::Correct, logit_margin.iter().filter(|m| **m < 0.0).count() as f32);
    add(Metric::Eps, sum(eps.iter().copied()));
    add(Metric::ZeroWeights, weights.iter().filter(|w| **w == 0.0).count() as f32);
}
