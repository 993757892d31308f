//! Launches of kernels/optimizer.cu.

use super::desc::Desc;
use crate::device::cuda::abi::{MAX_LEARNING_RATES, RateSchedule};
use crate::device::cuda::launch::{Arg, Launch};
use crate::tape::OptimizerRule;

/// FLOPs a parameter.
const ADAM_FLOPS: u64 = 16;
const SGD_FLOPS: u64 = 8;

/// # Panics
/// The schedule has more than [`MAX_LEARNING_RATES`] entries: a configuration's check refuses that.
fn schedule(rule: &OptimizerRule) -> RateSchedule {
    let count = rule.schedule.len();
    assert!(
        count <= MAX_LEARNING_RATES,
        "a schedule of {count} learning rates; the GPU's kernels take {MAX_LEARNING_RATES}"
    );
    let mut schedule =
        RateSchedule { count: count as u32, from: [0; MAX_LEARNING_RATES], rate: [0.0; MAX_LEARNING_RATES] };
    for (at, &(from, rate)) in rule.schedule.iter().enumerate() {
        (schedule.from[at], schedule.rate[at]) = (from, rate);
    }
    schedule
}

/// A launch of an optimizer with `states` buffers beside the parameters. `numbers` follow weight decay in the
/// arguments.
fn update(
    desc: &Desc,
    kernels: [&'static str; 2],
    states: usize,
    rule: &OptimizerRule,
    numbers: &[Arg],
    flops: u64,
) -> Launch {
    let n: usize = desc.output(0).iter().product();
    // Without a clean gradient the margin's gradient takes its place, with a coefficient of 0.
    let step = desc.inputs() - 1 - usize::from(rule.loss_scale.is_some());
    let overflow = rule.loss_scale.map_or(Arg::Null, |_| Arg::Input(step + 1));
    let (clean, clean_coeff) = if step == 2 { (1, rule.clean_coeff) } else { (0, 0.0) };
    let mut args: Vec<Arg> = (0..=states).map(Arg::Output).collect();
    args.extend([Arg::Input(0), Arg::Input(clean), Arg::Input(step), overflow, Arg::of(schedule(rule))]);
    let unscale = 1.0 / rule.loss_scale.unwrap_or(1.0);
    args.extend([clean_coeff, unscale, rule.weight_decay].map(Arg::Float));
    args.extend_from_slice(numbers);
    args.push(Arg::size(n));
    let vectors = desc.aligned();
    let threads = if vectors { n.div_ceil(4) } else { n };
    Launch::each(kernels[usize::from(vectors)], threads, args, desc.cost_of_update(flops * n as u64))
}

pub(super) fn adam(desc: &Desc, rule: &OptimizerRule) -> Launch {
    update(desc, ["adam", "adam_x4"], 2, rule, &[], ADAM_FLOPS)
}

pub(super) fn sgd(desc: &Desc, rule: &OptimizerRule) -> Launch {
    update(desc, ["sgd", "sgd_x4"], 1, rule, &[Arg::Float(rule.momentum)], SGD_FLOPS)
}

pub(super) fn find_overflow(desc: &Desc) -> Launch {
    let n: usize = desc.input(0).iter().product();
    let step = desc.inputs() - 1;
    let both = [Arg::Input(0), Arg::Input(step - 1)];
    let to = [Arg::Output(0), Arg::Output(1)].into_iter();
    let args = to.chain(both).chain([Arg::Input(step), Arg::size(n)]).collect();
    let vectors = desc.input_aligned(0) && desc.input_aligned(step - 1);
    let kernel = if vectors { "find_overflow_x4" } else { "find_overflow" };
    Launch::each(kernel, if vectors { n.div_ceil(4) } else { n }, args, desc.cost(0))
}

pub(super) fn increment(desc: &Desc) -> Launch {
    Launch::new("increment", 1, vec![Arg::Output(0)], desc.cost_of_update(0))
}
