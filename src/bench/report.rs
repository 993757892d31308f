//! Report of a bench: what was timed so far, and what it comes to.

use serde::Serialize;

use super::ceilings::{OwnRates, References};
use super::item::{BenchItem, UntimedItem};
use super::summary::{self, KernelTime, StepSummary};

/// Result of a bench, or of as much of it as was done.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// The device, in words.
    pub device: String,
    /// The network and the batch.
    pub model: String,
    /// Measurements of each item.
    pub rounds: usize,
    /// Bytes of each tensor of the attacks' steps and of the copy, in millions.
    pub megabytes: usize,
    /// Bytes that are touched between two uses of an op's operand, in millions.
    pub rotated_megabytes: usize,
    /// True once the bench is done, if every item was timed.
    pub complete: bool,
    /// Seconds after which no further item was begun.
    pub budget_s: Option<f64>,
    /// Rates of our own copy and product.
    pub own: OwnRates,
    /// Rates that all items are compared with.
    pub compared_with: References,
    /// The step beside the sum of its ops.
    pub step: StepSummary,
    /// The step's time by kernel, the longest first.
    pub kernels: Vec<KernelTime>,
    /// Items that were timed, in the order in which they were.
    pub items: Vec<BenchItem>,
    /// Items that were asked for and are not timed, in the order in which they would be.
    pub not_timed: Vec<UntimedItem>,
}

impl BenchReport {
    /// Computes shares and sums anew, after an item was added.
    pub(super) fn settle(&mut self, launches: u64, all_ops: bool) {
        let step = summary::step_time(&self.items);
        if let Some(item) = self.items.last_mut() {
            item.of_copy = item.bytes as f64 / item.median_s / self.compared_with.copy.per_s;
            item.of_product = item.flops as f64 / item.median_s / self.compared_with.product.per_s;
            item.share_of_step = step.filter(|_| item.times_a_step > 0).map(|step| item.seconds_a_step() / step);
        }
        let all_ops = all_ops && !self.not_timed.iter().any(|item| item.group == "op");
        self.step = StepSummary::new(&self.items, launches, all_ops, &self.compared_with);
        self.kernels = summary::by_kernel(&self.items, &self.compared_with);
    }
}
