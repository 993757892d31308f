//! Losses, weights of examples, and the sums of metrics.

use crate::tape::Op;
use crate::tape::graph::{Tape, Value};
use crate::tape::loss::{LossRule, TargetedLoss};
use crate::tape::memory::{Buffer, DType};
use crate::tape::metric::MetricOperands;

impl Tape {
    /// [`Op::Loss`].
    pub fn loss(&mut self, rule: LossRule, logits: Value, labels: Value) -> Value {
        let n = self.examples(logits, &[labels], rule.loss.least_classes(), "loss");
        self.op(Op::Loss(rule), &[logits, labels], &[n])
    }

    /// [`Op::Kl`]: KL(P || Q) of logits `p` and `q`.
    pub fn kl(&mut self, p: Value, q: Value) -> Value {
        assert_eq!(self.dims(p), self.dims(q), "kl: p and q");
        let n = self.dims(p)[0];
        self.op(Op::Kl, &[p, q], &[n])
    }

    /// [`Op::TargetedLoss`].
    pub fn targeted_loss(&mut self, loss: TargetedLoss, logits: Value, labels: Value, targets: Value) -> Value {
        let n = self.examples(logits, &[labels, targets], loss.least_classes(), "targeted_loss");
        self.op(Op::TargetedLoss(loss), &[logits, labels, targets], &[n])
    }

    /// [`Op::RankClass`].
    pub fn rank_class(&mut self, rank: u32, logits: Value, labels: Value, run: Option<Value>) -> Value {
        let n = self.examples(logits, &[labels], 2, "rank_class");
        let class = self.value(&[n], DType::U32, None);
        let inputs: Vec<Value> = [logits, labels].into_iter().chain(run).collect();
        self.push(Op::RankClass { rank }, &inputs, &[class]);
        class
    }

    /// Number of rows of `logits`. Checks that each row has the labels, and at least `classes` classes.
    fn examples(&self, logits: Value, labels: &[Value], classes: usize, what: &str) -> usize {
        let &[n, found] = self.dims(logits) else { panic!("{what}: logits {:?}", self.dims(logits)) };
        assert!(found >= classes, "{what}: {classes} classes are needed, there are {found}");
        labels.iter().for_each(|labels| self.per_row(*labels, n, what));
        n
    }

    /// [`Op::MeanWeights`] of `n` rows.
    pub fn mean_weights(&mut self, n: usize) -> Value {
        self.op(Op::MeanWeights, &[], &[n])
    }

    /// [`Op::HingeWeights`].
    pub fn hinge_weights(&mut self, eps: Value, hinge: f32) -> Value {
        self.same(Op::HingeWeights { hinge }, &[eps])
    }

    /// [`Op::AccumulateMetrics`]: adds a step to `sums`, and 1 to `steps`.
    pub fn accumulate_metrics(&mut self, operands: MetricOperands, sums: &Buffer, steps: &Buffer) {
        let MetricOperands { loss, logit_margin, weights, weighted_loss, eps } = operands;
        let outputs = [sums, steps].map(|buffer| self.leaf(buffer));
        self.push(Op::AccumulateMetrics, &[loss, logit_margin, weights, weighted_loss, eps], &outputs);
    }
}
