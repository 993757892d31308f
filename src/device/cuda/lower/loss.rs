//! Launches of kernels/loss.cu.

use super::desc::Desc;
use crate::device::cuda::abi::LossKind;
use crate::device::cuda::launch::{Arg, Launch, THREADS, WARP};
use crate::tape::{Loss, LossRule, TargetedLoss};

/// FLOPs a logit, forward and backward: the maximum, an exponential and its sum; backward one more exponential and two
/// products.
pub(super) const FLOPS: [u64; 2] = [16, 32];
/// FLOPs of the comparison of two logits.
const RANK_FLOPS: u64 = 1;

/// FLOPs a pair of logits: forward, backward with respect to p and to q. Two softmaxes take 32, the sum of their
/// difference 14.
const KL_FLOPS: [u64; 3] = [46, 60, 50];

fn kind(loss: Loss) -> LossKind {
    match loss {
        Loss::Xent => LossKind::Xent,
        Loss::Slm => LossKind::Slm,
        Loss::Lm => LossKind::Lm,
        Loss::Cw => LossKind::Cw,
        Loss::Dlr => LossKind::Dlr,
    }
}

/// A launch of a warp a row of logits.
fn by_warps(desc: &Desc, kernel: &'static str, inputs: &[Arg], numbers: &[Arg], flops: u64) -> Launch {
    let &[n, classes] = desc.input(0) else { unreachable!("logits are rows of classes") };
    let args = [&[Arg::Output(0)], inputs, numbers, &[Arg::Rows, Arg::size(n), Arg::size(classes)]].concat();
    Launch::new(kernel, n.div_ceil(THREADS / WARP), args, desc.cost(flops * (n * classes) as u64))
}

fn inputs<const N: usize>(places: [usize; N]) -> [Arg; N] {
    places.map(Arg::Input)
}

/// Arguments of a loss: kind and confidence.
pub(super) fn rule_arguments(rule: LossRule) -> [Arg; 2] {
    [Arg::Unsigned(kind(rule.loss) as u32), Arg::Float(rule.confidence)]
}

/// Arguments of a loss: kind, confidence and factor.
fn rule_and_factor(rule: LossRule, factor: f32) -> [Arg; 3] {
    let [kind, confidence] = rule_arguments(rule);
    [kind, confidence, Arg::Float(factor)]
}

pub(super) fn loss(desc: &Desc, rule: LossRule) -> Launch {
    by_warps(desc, "loss", &inputs([0, 1]), &rule_and_factor(rule, 1.0), FLOPS[0])
}

pub(super) fn loss_backward(desc: &Desc, rule: LossRule) -> Launch {
    by_warps(desc, "loss_backward", &inputs([0, 1, 2]), &rule_and_factor(rule, 1.0), FLOPS[1])
}

/// Argument of a targeted loss with kernels of its own: 1 if it is divided, as DLR is.
fn divided(targeted: TargetedLoss) -> [Arg; 1] {
    [Arg::Int(i32::from(targeted == TargetedLoss::Dlr))]
}

pub(super) fn targeted_loss(desc: &Desc, targeted: TargetedLoss) -> Launch {
    match targeted {
        // The targets take the place of the labels.
        TargetedLoss::Minus(rule) => by_warps(desc, "loss", &inputs([0, 2]), &rule_and_factor(rule, -1.0), FLOPS[0]),
        _ => by_warps(desc, "targeted_loss", &inputs([0, 1, 2]), &divided(targeted), FLOPS[0]),
    }
}

pub(super) fn targeted_loss_backward(desc: &Desc, targeted: TargetedLoss) -> Launch {
    match targeted {
        TargetedLoss::Minus(rule) => {
            by_warps(desc, "loss_backward", &inputs([0, 2, 3]), &rule_and_factor(rule, -1.0), FLOPS[1])
        }
        _ => by_warps(desc, "targeted_loss_backward", &inputs([0, 1, 2, 3]), &divided(targeted), FLOPS[1]),
    }
}

pub(super) fn rank_class(desc: &Desc, rank: u32) -> Launch {
    let run = if desc.inputs() == 3 { Arg::Input(2) } else { Arg::Null };
    let inputs = [Arg::Input(0), Arg::Input(1), run];
    by_warps(desc, "rank_class", &inputs, &[Arg::Unsigned(rank)], RANK_FLOPS * desc.input(0)[1] as u64)
}

/// A launch of a warp for a row of each of two tensors of logits.
fn of_two(desc: &Desc, kernel: &'static str, flops: u64) -> Launch {
    let &[n, classes] = desc.input(0) else { unreachable!("logits are rows of classes") };
    let mut args = vec![Arg::Output(0)];
    args.extend((0..desc.inputs()).map(Arg::Input));
    args.extend([Arg::Rows, Arg::size(n), Arg::size(classes)]);
    Launch::new(kernel, n.div_ceil(THREADS / WARP), args, desc.cost(flops * (n * classes) as u64))
}

pub(super) fn kl(desc: &Desc) -> Launch {
    of_two(desc, "kl", KL_FLOPS[0])
}

pub(super) fn kl_backward_p(desc: &Desc) -> Launch {
    of_two(desc, "kl_backward_p", KL_FLOPS[1])
}

pub(super) fn kl_backward_q(desc: &Desc) -> Launch {
    of_two(desc, "kl_backward_q", KL_FLOPS[2])
}

pub(super) fn mean_weights(desc: &Desc) -> Launch {
    let n = desc.output(0)[0];
    Launch::each("mean_weights", n, vec![Arg::Output(0), Arg::Rows, Arg::size(n)], desc.cost(n as u64))
}

pub(super) fn hinge_weights(desc: &Desc, hinge: f32) -> Launch {
    let n = desc.output(0)[0];
    let args = vec![Arg::Output(0), Arg::Input(0), Arg::Float(hinge), Arg::Rows, Arg::size(n)];
    Launch::each("hinge_weights", n, args, desc.cost(n as u64))
}

pub(super) fn accumulate_metrics(desc: &Desc) -> Launch {
    let n = desc.input(0)[0];
    let mut args = vec![Arg::Output(0), Arg::Output(1)];
    args.extend((0..desc.inputs()).map(Arg::Input));
    args.extend([Arg::Rows, Arg::size(n)]);
    Launch::new("accumulate_metrics", 1, args, desc.cost_of_update(6 * n as u64))
}
