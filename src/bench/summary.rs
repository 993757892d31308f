//! Sums over the ops of a step: the time of each kernel, and the time of the step that no op accounts for.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ceilings::References;
use super::item::BenchItem;

/// Launches of the same kernels within a step.
#[derive(Clone, Debug, Serialize)]
pub struct KernelTime {
    /// Kernels of one run of an op, in the order in which they are launched.
    pub kernels: Vec<&'static str>,
    /// Launches a step.
    pub launches: u64,
    /// Seconds a step: the sum over ops of the op's median times its runs.
    pub time_s: f64,
    /// Predicted seconds a step; see [`BenchItem::predicted_s`].
    pub predicted_s: Option<f64>,
    /// [`KernelTime::time_s`] as a fraction of the step's time; `None` if the step was not timed.
    pub share_of_step: Option<f64>,
    /// Bytes moved a second, each operand once.
    pub bytes_per_s: f64,
    /// Floating-point operations a second.
    pub flops_per_s: f64,
    /// Bytes a second, as a fraction of the reference copy's.
    pub of_copy: f64,
    /// Operations a second, as a fraction of the reference product's.
    pub of_product: f64,
}

/// Time of a step, compared with the sum of its ops.
#[derive(Clone, Debug, Serialize)]
pub struct StepSummary {
    /// Median seconds of the step; `None` if it was not timed.
    pub median_s: Option<f64>,
    /// Predicted seconds; see [`BenchItem::predicted_s`].
    pub predicted_s: Option<f64>,
    /// Seconds that the timed ops take in a step, each timed alone and on operands that are in no cache.
    pub sum_of_ops_s: f64,
    /// `(median_s - sum_of_ops_s) / median_s`: the fraction of the step in which no kernel runs, if each kernel takes
    /// as long within the step as alone. It is negative if ops gain more from operands in a cache, which they have
    /// within the step. `None` unless the step and all of its ops were timed.
    pub idle_share: Option<f64>,
    /// Number of kernel launches in a step.
    pub launches: u64,
    /// Seconds that the step's launches would take if no kernel did anything: launches times
    /// [`References::graph_node_s`].
    pub launches_s: Option<f64>,
}

impl StepSummary {
    /// Sums over the ops among `items`. `all_ops`: none of the step's ops is missing.
    pub(super) fn new(items: &[BenchItem], launches: u64, all_ops: bool, references: &References) -> StepSummary {
        let (median_s, predicted_s) = (step_time(items), step(items).and_then(|item| item.predicted_s));
        let sum_of_ops_s = ops(items).map(BenchItem::seconds_a_step).sum();
        let idle = |median: f64| (median - sum_of_ops_s) / median;
        let idle_share = median_s.filter(|_| all_ops).map(idle);
        let launches_s = references.graph_node_s.map(|each| each * launches as f64);
        StepSummary { median_s, predicted_s, sum_of_ops_s, idle_share, launches, launches_s }
    }
}

/// Times of each list of kernels that ops are launched as, the longest first.
pub(super) fn by_kernel(items: &[BenchItem], references: &References) -> Vec<KernelTime> {
    let step = step_time(items);
    let mut ops_of: BTreeMap<&[&'static str], Vec<&BenchItem>> = BTreeMap::new();
    for item in ops(items) {
        ops_of.entry(&item.kernels).or_default().push(item);
    }
    let one = |(kernels, ops): (&[&'static str], Vec<&BenchItem>)| {
        let time_s: f64 = ops.iter().map(|op| op.seconds_a_step()).sum();
        let a_step = |of_run: fn(&BenchItem) -> u64| -> u64 {
            ops.iter().map(|op| of_run(op) * u64::from(op.times_a_step)).sum()
        };
        let (bytes_per_s, flops_per_s) = (a_step(|op| op.bytes) as f64 / time_s, a_step(|op| op.flops) as f64 / time_s);
        KernelTime {
            kernels: kernels.to_vec(),
            launches: a_step(|op| op.launches),
            time_s,
            predicted_s: ops.iter().map(|op| Some(op.predicted_s? * f64::from(op.times_a_step))).sum(),
            share_of_step: step.map(|step| time_s / step),
            bytes_per_s,
            flops_per_s,
            of_copy: bytes_per_s / references.copy.per_s,
            of_product: flops_per_s / references.product.per_s,
        }
    };
    let mut kernels: Vec<KernelTime> = ops_of.into_iter().map(one).collect();
    kernels.sort_by(|a, b| b.time_s.total_cmp(&a.time_s));
    kernels
}

fn ops(items: &[BenchItem]) -> impl Iterator<Item = &BenchItem> {
    items.iter().filter(|item| item.group == "op")
}

/// Median seconds of the step, if it was timed.
pub(super) fn step_time(items: &[BenchItem]) -> Option<f64> {
    step(items).map(|item| item.median_s)
}

fn step(items: &[BenchItem]) -> Option<&BenchItem> {
    items.iter().find(|item| item.group == "step")
}
