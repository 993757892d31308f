//! Report of a bench: the items timed so far, and their summary.

use serde::Serialize;

use super::ceilings::{OwnRates, References};
use super::item::{BenchItem, UntimedItem};
use super::summary::{self, KernelTime, StepSummary};

/// Result of a bench, or of the part that was done.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// Description of the device.
    pub device: String,
    /// Description of the network and the batch.
    pub model: String,
    /// GPU for which times are predicted: the device; `None` if the model of the time of launches does not know it.
    pub predicted_for: Option<&'static str>,
    /// Number of measurements of each item.
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
    /// Time of the step, compared with the sum of its ops.
    pub step: StepSummary,
    /// Time of the step by kernel, the longest first.
    pub kernels: Vec<KernelTime>,
    /// Timed items, in the order of their timing.
    pub items: Vec<BenchItem>,
    /// Requested items that are not timed yet, in the order in which they would be.
    pub not_timed: Vec<UntimedItem>,
}

impl BenchReport {
    /// Recomputes fractions and sums after an item was added.
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
