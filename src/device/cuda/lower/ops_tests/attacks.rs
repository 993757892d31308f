//! Launches of targeted losses, of classes by rank and of FAB's projection.

use super::{f32s, launch, sizes};
use crate::device::cuda::launch::Arg;
use crate::tape::{DType, Loss, LossRule, Norm, Op, TargetedLoss};

const U32: DType = DType::U32;

#[test]
fn a_targeted_loss_takes_a_warp_a_row_and_minus_a_loss_takes_that_loss_s_kernels() {
    let minus = TargetedLoss::Minus(LossRule { loss: Loss::Slm, confidence: 0.0 });
    for n in [1, 7, 8, 9, 50, 257] {
        let (logits, each) = ([n, 10], [n]);
        let (logits, labels, each) = (f32s(&logits), (&each[..], U32), f32s(&each));
        for (targeted, kernels) in [
            (minus, ["loss", "loss_backward"]),
            (TargetedLoss::Dlr, ["targeted_loss", "targeted_loss_backward"]),
            (TargetedLoss::Difference, ["targeted_loss", "targeted_loss_backward"]),
        ] {
            let forward = launch(Op::TargetedLoss(targeted), &[logits, labels, labels], &[each], None);
            let inputs = [logits, labels, labels, each];
            let backward = launch(Op::TargetedLossBackward(targeted), &inputs, &[logits], None);
            assert_eq!([forward.kernel, backward.kernel], kernels);
            for launch in [forward, backward] {
                assert_eq!(launch.grid[0] as usize, n.div_ceil(8));
                assert_eq!(sizes(&launch), [n, 10]);
                // A negated loss takes the targets as labels.
                assert_eq!(
                    (launch.has(&Arg::Input(1)), launch.has(&Arg::Float(-1.0))),
                    (targeted != minus, targeted == minus)
                );
                assert!(launch.has(&Arg::Input(2)));
            }
        }
    }
}

#[test]
fn classes_are_ranked_by_a_warp_a_row_with_or_without_a_run() {
    for n in [1, 8, 9, 50] {
        let (logits, each, one) = ([n, 10], [n], [1]);
        let (logits, labels) = (f32s(&logits), (&each[..], U32));
        let alone = launch(Op::RankClass { rank: 3 }, &[logits, labels], &[labels], None);
        let counted = launch(Op::RankClass { rank: 3 }, &[logits, labels, (&one, U32)], &[labels], None);
        assert_eq!([&alone.args[3], &counted.args[3]], [&Arg::Null, &Arg::Input(2)]);
        for launch in [alone, counted] {
            assert_eq!(launch.grid[0] as usize, n.div_ceil(8));
            assert_eq!((&launch.args[4], sizes(&launch)), (&Arg::Unsigned(3), [n, 10]));
        }
    }
}

#[test]
fn a_projection_takes_a_block_for_an_image() {
    for (n, dims) in [(1, [7, 1, 1]), (50, [28, 28, 1]), (3, [32, 32, 3])] {
        let (images, each) = ([&[n][..], &dims].concat(), [n]);
        let (images, each) = (f32s(&images), f32s(&each));
        for norm in [Norm::Linf, Norm::L2] {
            let launch = launch(Op::ProjectHyperplane(norm), &[images, images, images, each], &[images], None);
            assert_eq!(launch.grid[0] as usize, n);
            assert_eq!(sizes(&launch), [n, dims.iter().product()]);
            assert!(launch.has(&Arg::Int(i32::from(norm == Norm::L2))));
        }
    }
}
