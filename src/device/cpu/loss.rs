//! Losses by example, and what training makes of them.

use crate::tape::{Loss, LossRule, Metric, TargetedLoss};

/// What one row's losses are made of.
struct Margins {
    slm: f32,
    lm: f32,
    /// The first j != y with the largest logit.
    best: usize,
    /// `sum_{j != y} e^(z_j - z_best)`.
    sum: f32,
}

fn margins(z: &[f32], y: usize) -> Margins {
    let mut best = usize::from(y == 0);
    for j in 0..z.len() {
        if j != y && z[j] > z[best] {
            best = j;
        }
    }
    let sum: f32 = others(z, y).map(|j| (z[j] - z[best]).exp()).sum();
    let lm = z[best] - z[y];
    Margins { slm: sum.ln() + lm, lm, best, sum }
}

fn others(z: &[f32], y: usize) -> impl Iterator<Item = usize> {
    (0..z.len()).filter(move |&j| j != y)
}

/// The classes in the order of their logits, the largest first, of equal ones the first. What is no number has a place in
/// it, too: before or after all others, by its sign.
fn ranked(z: &[f32]) -> Vec<usize> {
    let mut classes: Vec<usize> = (0..z.len()).collect();
    // -0 + 0 is 0: the two are equal.
    classes.sort_by(|&a, &b| (z[b] + 0.0).total_cmp(&(z[a] + 0.0)));
    classes
}

/// What dlr is: a difference of two logits over how far others lie apart.
struct Ratio {
    raised: usize,
    lowered: usize,
    /// The class with the largest logit.
    first: usize,
    /// Those whose mean is subtracted from it.
    lower: [usize; 2],
    under: f32,
    value: f32,
}

impl Ratio {
    /// `(z_raised - z_lowered) / (z_(1) - (z_(3) + z_(last)) / 2 + 1e-12)`.
    fn new(z: &[f32], raised: usize, lowered: usize, last: usize) -> Ratio {
        let ranked = ranked(z);
        let (first, lower) = (ranked[0], [ranked[2], ranked[last - 1]]);
        let under = 0.5 * ((z[first] - z[lower[0]]) + (z[first] - z[lower[1]])) + 1e-12;
        Ratio { raised, lowered, first, lower, under, value: (z[raised] - z[lowered]) / under }
    }

    /// The derivative by logit `j`.
    fn derivative(&self, j: usize) -> f32 {
        let is = |class: usize| f32::from(j == class);
        let over = is(self.raised) - is(self.lowered);
        (over - self.value * (is(self.first) - 0.5 * (is(self.lower[0]) + is(self.lower[1])))) / self.under
    }
}

/// The loss of each row of logits `[n, classes]`, n from `out`.
pub(super) fn loss(out: &mut [f32], logits: &[f32], labels: &[u32], rule: LossRule) {
    if out.is_empty() {
        return;
    }
    let classes = logits.len() / labels.len();
    for ((out, z), &y) in out.iter_mut().zip(logits.chunks_exact(classes)).zip(labels) {
        let Margins { slm, lm, best, .. } = margins(z, y as usize);
        *out = match rule.loss {
            // log(1 + e^slm), without overflow and exact where it is tiny.
            Loss::Xent => slm.max(0.0) + (-slm.abs()).exp().ln_1p(),
            Loss::Slm => slm,
            Loss::Lm => lm,
            Loss::Cw if lm + rule.confidence < 0.0 => 0.0,
            Loss::Cw => lm + rule.confidence,
            Loss::Dlr => Ratio::new(z, best, y as usize, 3).value,
        };
    }
}

/// dlogits `[n, classes]` = dvalue times the gradient of each row's loss.
pub(super) fn loss_backward(dlogits: &mut [f32], logits: &[f32], labels: &[u32], dvalue: &[f32], rule: LossRule) {
    let classes = logits.len() / labels.len();
    let rows = dlogits.chunks_exact_mut(classes).zip(logits.chunks_exact(classes)).zip(labels).zip(dvalue);
    for (((dz, z), &y), &dvalue) in rows {
        let y = y as usize;
        let Margins { slm, lm, best, sum } = margins(z, y);
        dz.fill(0.0);
        // Xent is softplus(slm): its gradient is slm's times sigmoid(slm).
        let share = match rule.loss {
            Loss::Xent if slm > 0.0 => 1.0 / (1.0 + (-slm).exp()),
            Loss::Xent => slm.exp() / (1.0 + slm.exp()),
            Loss::Cw if lm + rule.confidence < 0.0 => 0.0,
            Loss::Slm | Loss::Lm | Loss::Cw | Loss::Dlr => 1.0,
        } * dvalue;
        dz[y] = -share;
        match rule.loss {
            Loss::Xent | Loss::Slm => {
                // Not e^(z_j - logsumexp): where logits are large, that exponent has lost its last digits.
                others(z, y).for_each(|j| dz[j] = share * ((z[j] - z[best]).exp() / sum));
            }
            Loss::Lm | Loss::Cw => dz[best] = share,
            Loss::Dlr => {
                let ratio = Ratio::new(z, best, y, 3);
                dz.iter_mut().enumerate().for_each(|(j, dz)| *dz = share * ratio.derivative(j));
            }
        }
    }
}

/// The targeted loss of each row.
pub(super) fn targeted_loss(out: &mut [f32], logits: &[f32], labels: &[u32], targets: &[u32], targeted: TargetedLoss) {
    if let TargetedLoss::Minus(rule) = targeted {
        loss(out, logits, targets, rule);
        return out.iter_mut().for_each(|value| *value = -*value);
    }
    let rows = out.iter_mut().zip(logits.chunks_exact(logits.len() / labels.len())).zip(labels).zip(targets);
    for (((out, z), &y), &t) in rows {
        let (y, t) = (y as usize, t as usize);
        *out = if targeted == TargetedLoss::Dlr { Ratio::new(z, t, y, 4).value } else { z[t] - z[y] };
    }
}

/// dlogits `[n, classes]` = dvalue times the gradient of each row's targeted loss.
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
            let ratio = Ratio::new(z, t, y, 4);
            dz.iter_mut().enumerate().for_each(|(j, dz)| *dz = dvalue * ratio.derivative(j));
        } else {
            dz.iter_mut().enumerate().for_each(|(j, dz)| *dz = dvalue * (is(j, t) - is(j, y)));
        }
    }
}

/// The class with the largest logit but `rank` among those other than the label.
pub(super) fn rank_class(out: &mut [u32], logits: &[f32], labels: &[u32], rank: usize) {
    let classes = logits.len() / labels.len();
    for ((out, z), &y) in out.iter_mut().zip(logits.chunks_exact(classes)).zip(labels) {
        let others = ranked(z).into_iter().filter(|&class| class != y as usize);
        *out = others.take(rank + 1).last().expect("there are two classes") as u32;
    }
}

/// What a row's softmax is made of: its largest logit, and the sum of `e^(z_j - largest)`.
struct Softmax {
    largest: f32,
    sum: f32,
}

impl Softmax {
    fn new(z: &[f32]) -> Softmax {
        let largest = z.iter().copied().fold(z[0], f32::max);
        Softmax { largest, sum: z.iter().map(|z| (z - largest).exp()).sum() }
    }

    fn probability(&self, z: f32) -> f32 {
        (z - self.largest).exp() / self.sum
    }
}

/// Two rows of logits that are compared.
struct Divergence {
    p: Softmax,
    q: Softmax,
    /// The logarithm of q's sum less that of p's.
    sums: f32,
}

impl Divergence {
    fn new(p: &[f32], q: &[f32]) -> Divergence {
        let (p, q) = (Softmax::new(p), Softmax::new(q));
        Divergence { sums: q.sum.ln() - p.sum.ln(), p, q }
    }

    /// `log P_j - log Q_j`, from logits: no logarithm of a probability that is 0, and exactly 0 where both rows are equal.
    fn log_ratio(&self, p: f32, q: f32) -> f32 {
        (p - self.p.largest) - (q - self.q.largest) + self.sums
    }

    fn kl(&self, p: &[f32], q: &[f32]) -> f32 {
        p.iter().zip(q).map(|(&p, &q)| self.p.probability(p) * self.log_ratio(p, q)).sum()
    }
}

/// The divergence of each row of logits `q` from that of `p`, each `[n, classes]`, n from `out`.
pub(super) fn kl(out: &mut [f32], p: &[f32], q: &[f32], classes: usize) {
    for ((out, p), q) in out.iter_mut().zip(p.chunks_exact(classes)).zip(q.chunks_exact(classes)) {
        *out = Divergence::new(p, q).kl(p, q);
    }
}

/// dp `[n, classes]` = dvalue times the divergence's gradient by `p`.
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

/// dq `[n, classes]` = dvalue times the divergence's gradient by `q`.
pub(super) fn kl_backward_q(dq: &mut [f32], p: &[f32], q: &[f32], dvalue: &[f32], classes: usize) {
    let rows = dq.chunks_exact_mut(classes).zip(p.chunks_exact(classes)).zip(q.chunks_exact(classes)).zip(dvalue);
    for (((dq, p), q), &dvalue) in rows {
        let both = Divergence::new(p, q);
        for ((dq, &p), &q) in dq.iter_mut().zip(p).zip(q) {
            *dq = dvalue * (both.q.probability(q) - both.p.probability(p));
        }
    }
}

/// 1 / n where eps is below the hinge, else 0.
pub(super) fn hinge_weights(out: &mut [f32], eps: &[f32], hinge: f32) {
    let mean = 1.0 / out.len() as f32;
    out.iter_mut().zip(eps).for_each(|(o, &eps)| *o = if eps < hinge { mean } else { 0.0 });
}

/// A sum in double precision, rounded once: a batch of hundreds adds no error of its own.
fn sum(terms: impl Iterator<Item = f32>) -> f32 {
    terms.map(f64::from).sum::<f64>() as f32
}

/// Adds a step to the sums; `rows` are clean loss, clean lm, weights, margin loss, eps.
pub(super) fn accumulate_metrics(sums: &mut [f32], rows: &[&[f32]]) {
    let [clean, lm, weights, margin, eps] = rows else { unreachable!("five values a row") };
    let n = clean.len() as f32;
    let mut add = |metric: Metric, value: f32| sums[metric as usize] += value;
    add(Metric::Steps, 1.0);
    add(Metric::Examples, n);
    add(Metric::CleanLoss, sum(clean.iter().copied()) / n);
    // A row with weight 0 may hold anything: it is left out, not multiplied by 0.
    let trained = weights.iter().zip(*margin).filter(|(w, _)| **w > 0.0);
    add(Metric::MarginLoss, sum(trained.map(|(w, m)| w * m)));
    add(Metric::Correct, lm.iter().filter(|m| **m < 0.0).count() as f32);
    add(Metric::Eps, sum(eps.iter().copied()));
    add(Metric::Reached, weights.iter().filter(|w| **w == 0.0).count() as f32);
}
