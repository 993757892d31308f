//! Launches of heads, of targeted losses, of classes by rank and of FAB's projection.

use super::{f32s, launch, lowered, sizes};
use crate::device::cuda::launch::{Arg, Lowered};
use crate::tape::{DType, HeadFeatures, HeadFusion, Loss, LossRule, Norm, Op, TargetedLoss};

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

/// A head reads its features once and writes their gradient: half the bytes in half precision.
#[test]
fn a_head_takes_a_block_for_an_example() {
    for (kind, dims, pixels) in
        [(HeadFeatures::MeanOfBatchNorm, &[128, 8, 8, 256][..], 64), (HeadFeatures::Relu, &[128, 256], 1)]
    {
        let (w, classes, each, norms) = ([10, 256], [10], [128], [256]);
        for (dtype, name) in [(DType::F32, "head_backward"), (DType::F16, "head_backward_half")] {
            for normalized in [false, true] {
                let rule = LossRule { loss: Loss::Slm, confidence: 0.0 };
                let op = Op::HeadBackward(HeadFusion { features: kind, rule, normalized });
                let x = (dims, dtype);
                let mut inputs = vec![x, f32s(&w), f32s(&classes), (&each[..], DType::U32), f32s(&each)];
                inputs.extend((pixels > 1).then_some([f32s(&norms); 2]).into_iter().flatten());
                let outputs = [x, f32s(&each)];
                let lower = |off| launch(op.clone(), &inputs, &outputs[..1 + usize::from(normalized)], off);
                assert_eq!([lower(None).kernel, lower(Some(0)).kernel], [&format!("{name}_x4")[..], name]);
                let launch = lower(None);
                assert_eq!((launch.grid[0], sizes(&launch)), (128, [128, pixels, 256, 10]));
                assert_eq!(launch.has(&Arg::Output(1)), normalized);
                let features = 2 * 128 * pixels * 256 * dtype.size();
                assert!((features..features + 20_000).contains(&(launch.cost.bytes as usize)), "{launch:?}");
                assert!(launch.shared <= 48 << 10);
            }
        }
    }
}

/// The layer's results are never written, and its sums are single precision.
#[test]
fn a_head_on_a_hidden_layer_adds_the_splits_of_the_layer_s_product() {
    let (single, half) = (DType::F32, DType::F16);
    let rule = LossRule { loss: Loss::Slm, confidence: 0.0 };
    for (inner, types, kernels) in [
        (3136, [single, single, single], ["linear_square", "head_backward_hidden"]),
        (3136, [half, half, half], ["linear_half_small", "head_backward_hidden_half"]),
        (16, [single, single, single], ["linear_narrow", "head_backward_hidden"]),
        (16, [half, half, half], ["linear_half_small", "head_backward_hidden_half"]),
        (16, [single, single, half], ["linear_narrow", "head_backward_hidden_half"]),
        (16, [half, single, single], ["linear_scalar_from_half", "head_backward_hidden"]),
    ] {
        let (x, w, hidden) = ([50, inner], [1024, inner], [50, 1024]);
        let (bias, last, classes, each) = ([1024], [10, 1024], [10], [50]);
        for normalized in [false, true] {
            let fusion = HeadFusion { features: HeadFeatures::Hidden, rule, normalized };
            let own = [f32s(&last), f32s(&classes), (&each[..], DType::U32), f32s(&each)];
            let inputs = [&[(&x[..], types[0]), (&w[..], types[1]), f32s(&bias)][..], &own].concat();
            let outputs = &[(&hidden[..], types[2]), f32s(&each)][..1 + usize::from(normalized)];
            let Lowered { launches, scratch } = lowered(Op::HeadBackward(fusion), &inputs, outputs, None);
            assert_eq!(launches.iter().map(|launch| launch.kernel).collect::<Vec<_>>(), kernels);
            let [product, head] = &launches[..] else { unreachable!("two kernels") };
            let splits = product.grid[1] as usize;
            assert_eq!((splits > 1, scratch), (inner == 3136, 4 * splits * 50 * 1024));
            assert!(product.has(&Arg::Scratch(0)) && !product.has(&Arg::Output(0)) && !product.has(&Arg::Int(1)));
            assert_eq!((head.grid[0], sizes(head)), (50, [50, 1024, 10, splits]));
            assert_eq!((head.shared, head.has(&Arg::Output(1))), (4 * (1024 + 20), normalized));
            let all = inputs.iter().chain(outputs);
            let bytes: usize = all.map(|(dims, dtype)| dims.iter().product::<usize>() * dtype.size()).sum();
            assert_eq!((product.cost.bytes + head.cost.bytes) as usize, bytes + 2 * scratch);
        }
    }
}
