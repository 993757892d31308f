//! Launches of a network's first layer, and of steps of PGD with the last ops of their gradients.

use super::{f32s, launch, lowered, pgd, sizes};
use crate::device::cuda::abi::PAIR_PIXELS;
use crate::device::cuda::launch::{Arg, Lowered};
use crate::tape::{
    AlongRule, ConvFusion, ConvWindow, DType, Direction, FirstLayerFusion, Norm, Op, PgdFusion, StepLayer,
};

#[test]
fn a_first_layer_takes_a_block_for_an_image() {
    let (image, w, each, filters) = ([128, 32, 32, 3], [16, 3, 3, 3], [128], [16]);
    let (image, w, each, filters) = (f32s(&image), f32s(&w), f32s(&each), f32s(&filters));
    let along = Some(AlongRule { norm: Norm::Linf, direction: Direction::Unit, clamp: true });
    let window = ConvWindow { padding: 1, stride: 1 };
    for (dtype, names) in [
        (DType::F32, ["standardize_conv2d", "standardize_conv2d_x4"]),
        (DType::F16, ["standardize_conv2d_to_half", "standardize_conv2d_to_half_x8"]),
    ] {
        let results = [128, 32, 32, 16];
        let results = (&results[..], dtype);
        for (along, sum, norm, keeps_images) in [
            (None, true, false, false),
            (along, true, false, false),
            (None, false, true, true),
            (along, true, true, true),
        ] {
            let layer = ConvFusion { sum, norm, ..ConvFusion::alone(window) };
            let op = Op::StandardizeConv2d(FirstLayerFusion { along, layer, keeps_images });
            let mut inputs = vec![image, w];
            inputs.extend(along.map(|_| [image, each, each]).into_iter().flatten());
            inputs.extend(norm.then_some([filters; 4]).into_iter().flatten());
            let mut outputs = vec![results; usize::from(sum) + usize::from(norm)];
            let last = outputs.len() - 1;
            outputs.extend(keeps_images.then_some([image, each]).into_iter().flatten());
            let lower = |off| launch(op.clone(), &inputs, &outputs, off);
            assert_eq!([lower(Some(inputs.len())).kernel, lower(None).kernel], names);
            let launch = lower(None);
            assert_eq!((launch.grid[0], launch.shared), (128, 4 * (3072 + 16 * (27 + 2))));
            let kept = [0, 1].map(|i| if keeps_images { Arg::Output(last + 1 + i) } else { Arg::Null });
            assert_eq!((&launch.args[0], &launch.args[1..3]), (&Arg::Output(last), &kept[..]));
            let point = [2, 3, 4].map(|i| if along.is_some() { Arg::Input(i) } else { Arg::Null });
            assert_eq!(launch.args[5..8], point);
            assert_eq!(launch.args[8..11], [along.is_some(), false, along.is_some()].map(|is| Arg::Int(is.into())));
        }
    }
}

#[test]
fn a_fused_step_takes_a_block_for_an_image() {
    for (row, off, kernel) in [
        (784, None, "pgd_step_fused_registers1"),
        (3072, None, "pgd_step_fused_registers3"),
        (3072, Some(1), "pgd_step_fused"),
        (3076, None, "pgd_step_fused"),
        (785, None, "pgd_step_fused"),
    ] {
        let (dims, each) = ([50, row], [50]);
        let (image, each) = (f32s(&dims), f32s(&each));
        for (from_norm, standardized) in [(true, false), (false, true), (true, true)] {
            let fusion = PgdFusion { layer: None, from_norm, standardized, rule: pgd(Norm::L2) };
            let mut inputs = vec![image, image, each, each];
            inputs.extend(from_norm.then_some(each));
            inputs.extend(standardized.then_some([image, each]).into_iter().flatten());
            let launch = launch(Op::PgdStepFused(fusion), &inputs, &[image], off);
            assert_eq!((launch.kernel, launch.grid[0]), (kernel, 50), "{row} numbers a row");
            let read: Vec<bool> = launch.args[5..8].iter().map(|arg| *arg != Arg::Null).collect();
            assert_eq!(read, [from_norm, standardized, standardized]);
            assert_eq!(sizes(&launch), [50, if kernel == "pgd_step_fused" { row } else { row / 4 }]);
        }
    }
}

#[test]
fn a_step_after_the_first_layer_takes_a_block_for_an_image_and_no_launch_for_the_layer() {
    let (image, w, each) = ([128, 32, 32, 3], [16, 3, 3, 3], [128]);
    let layer = Some(StepLayer::Conv(ConvWindow { padding: 1, stride: 1 }));
    let fusion = PgdFusion { layer, from_norm: true, standardized: true, rule: pgd(Norm::Linf) };
    for (dtype, name) in [(DType::F32, "pgd_step_fused_direct"), (DType::F16, "pgd_step_fused_direct_from_half")] {
        let (results, image, w, each) = ([128, 32, 32, 16], f32s(&image), f32s(&w), f32s(&each));
        let inputs = [image, (&results, dtype), each, each, w, each, image, each];
        let lower = |off| launch(Op::PgdStepFused(fusion), &inputs, &[image], off);
        assert_eq!([lower(None).kernel, lower(Some(1)).kernel], [&format!("{name}_x4")[..], name]);
        let launch = lower(None);
        assert_eq!((launch.grid[0], launch.shared), (128, 4 * (3072 + 9 * 16 * 4)));
        assert_eq!(launch.args[5..9], [4, 5, 6, 7].map(Arg::Input));
    }
}

/// Without whole images in a block there are no sums over an image, and nothing for a step in l2 or a standardization.
#[test]
fn a_step_after_a_pooled_first_layer_is_one_launch_with_the_layer() {
    let (image, w, each) = ([50, 28, 28, 1], [32, 5, 5, 1], [50]);
    let layer = Some(StepLayer::ConvPool(ConvWindow { padding: 2, stride: 1 }));
    for (dtype, kernel) in [(DType::F32, "pgd_step_fused_pooled"), (DType::F16, "pgd_step_fused_pooled_from_half")] {
        for from_norm in [false, true] {
            let fusion = PgdFusion { layer, from_norm, standardized: false, rule: pgd(Norm::Linf) };
            let (pooled, image, w, each) = ([50, 14, 14, 32], f32s(&image), f32s(&w), f32s(&each));
            let mut inputs = vec![image, (&pooled, dtype), each, each, w, (&pooled, DType::U8)];
            inputs.extend(from_norm.then_some(each));
            let launch = launch(Op::PgdStepFused(fusion), &inputs, &[image], None);
            // 14 x 14 blocks of 2 x 2 pixels, of which each of a block's eight warps takes two.
            assert_eq!((launch.kernel, launch.grid[0]), (kernel, (50u32 * 14 * 14).div_ceil(16)));
            assert_eq!(launch.shared, 4 * 32 * 25);
            assert_eq!(launch.args[7], if from_norm { Arg::Input(6) } else { Arg::Null });
        }
    }
}

/// Step of PGD after two layers with pooling: images, and filters of the second layer; and after a linear layer with so
/// many outputs, if it is given. The gradients and the filters of all layers but the first are `dtype`.
fn step_after_two_layers(image: [usize; 4], second: usize, dtype: DType, linear: Option<usize>) -> Lowered {
    let window = ConvWindow { padding: 2, stride: 1 };
    let layer = Some(StepLayer::TwoConvPools { first: window, second: window, linear: linear.is_some() });
    let fusion = PgdFusion { layer, from_norm: true, standardized: false, rule: pgd(Norm::Linf) };
    let [n, h, wide, _] = image;
    let (w, between, out, each) = ([32, 5, 5, 1], [n, h / 2, wide / 2, 32], [n, h / 4, wide / 4, second], [n]);
    let second_w = if dtype == DType::F16 { [32, 5, 5, second] } else { [second, 5, 5, 32] };
    let (image, each, w) = (f32s(&image), f32s(&each), f32s(&w));
    let [choice, second_choice] = [(&between[..], DType::U8), (&out[..], DType::U8)];
    let linear = linear.map(|outputs| ([n, outputs], [out[1..].iter().product::<usize>(), outputs]));
    let dy = linear.as_ref().map_or(&out[..], |(dy, _)| dy);
    let mut inputs = vec![image, (dy, dtype), each, each, w, choice, (&second_w, dtype), second_choice];
    inputs.extend(linear.as_ref().map(|(_, w)| (&w[..], dtype)));
    inputs.push(each);
    lowered(Op::PgdStepFused(fusion), &inputs, &[image], None)
}

/// The splits of the second layer's sums are added by the step's kernel.
#[test]
fn a_step_after_two_pooled_layers_is_two_launches() {
    for (dtype, kernel) in [(DType::F32, "conv_pool_backward_input_"), (DType::F16, "conv_pool_backward_input_half_")] {
        let Lowered { launches, scratch } = step_after_two_layers([50, 28, 28, 1], 64, dtype, None);
        let [product, step] = &launches[..] else { panic!("two launches: {launches:?}") };
        assert!(product.kernel.starts_with(kernel), "{}", product.kernel);
        let operands = [Arg::Input(1), Arg::Input(7), Arg::Input(6)];
        assert!(product.args.windows(3).any(|args| args == operands), "{:?}", product.args);
        let [.., splits] = sizes::<2>(step);
        assert_eq!((step.kernel, product.grid[1] as usize), ("pgd_step_fused_pooled_splits", splits));
        assert_eq!(scratch, 4 * splits * 50 * 14 * 14 * 32);
        assert_eq!((&step.args[2], &step.args[7]), (&Arg::Scratch(0), &Arg::Input(8)));
    }
}

/// The splits of the linear layer's sums are added by the step's kernel, which has both layers with pooling.
#[test]
fn a_step_after_a_pair_of_pooled_layers_and_a_linear_one_is_two_launches() {
    let Lowered { launches, scratch } = step_after_two_layers([50, 28, 28, 1], 64, DType::F16, Some(1024));
    let [product, step] = &launches[..] else { panic!("two launches: {launches:?}") };
    let names = ("linear_backward_input_half_small", "pgd_step_fused_two_pooled_splits");
    assert_eq!((product.kernel, step.kernel, step.grid), (names.0, names.1, [100, 1, 1]));
    assert!(product.args.windows(2).any(|args| args == [Arg::Input(1), Arg::Input(8)]), "{:?}", product.args);
    let splits = product.grid[1] as usize;
    assert_eq!((sizes(step), scratch), ([50, 28, 28, 2, splits], 4 * splits * 50 * 3136));
    assert_eq!((&step.args[2], &step.args[9]), (&Arg::Scratch(0), &Arg::Input(9)));
    assert_eq!(step.args[3..9], [2, 3, 4, 5, 6, 7].map(Arg::Input));
    for size in (4..=32).step_by(4).flat_map(|h| (4..=32).step_by(4).map(move |wide| [3, h, wide, 1])) {
        let launches = step_after_two_layers(size, 64, DType::F16, Some(40)).launches;
        let [_, h, wide, parts, _] = sizes(&launches[1]);
        assert!((h / 2).div_ceil(parts) + 2 <= PAIR_PIXELS / (wide / 2), "{size:?}: {parts} parts");
        assert!(launches[1].shared <= 163 * 1024, "an A100 has no more: {:?}", launches[1]);
    }
}
