//! Launches of ops on half-precision operands and results, except for the products on tensor cores.

use bytemuck::Zeroable;

use super::{covers, f32s, launch, launches, sizes};
use crate::device::cuda::abi::PackedSizes;
use crate::device::cuda::launch::Arg;
use crate::tape::{ConvWindow, DType, Op};

fn halves(dims: &[usize]) -> (&[usize], DType) {
    (dims, DType::F16)
}

#[test]
fn an_elementwise_launch_on_halves_takes_eight_at_once_if_it_can() {
    for (n, row) in [1, 50, 257].into_iter().flat_map(|n| [1, 4, 8, 12, 256, 784, 1024].map(|row| (n, row))) {
        let (dims, bias) = ([n, row], [row]);
        let x = halves(&dims);
        for (op, inputs) in [
            (Op::Add, vec![x, x]),
            (Op::Relu, vec![x]),
            (Op::ReluBackward, vec![x, x]),
            (Op::AddBias, vec![x, f32s(&bias)]),
        ] {
            for off in [None, Some(0)] {
                let launch = launch(op.clone(), &inputs, &[x], off);
                let wide = off.is_none() && row % 8 == 0;
                assert_eq!(launch.kernel, format!("{}_half{}", op.name(), if wide { "_x8" } else { "" }));
                let vectors = row / if wide { 8 } else { 1 };
                covers(&launch, n * vectors);
                if op == Op::AddBias {
                    assert_eq!(sizes(&launch), [n, vectors, vectors]);
                } else {
                    assert_eq!(sizes(&launch), [n, vectors]);
                    assert_eq!(launch.cost.bytes as usize, 2 * n * row * (inputs.len() + 1));
                }
            }
        }
    }
}

#[test]
fn a_mean_of_halves_is_single_precision_and_its_gradient_half() {
    let (images, means) = ([5, 8, 8, 24], [5, 24]);
    let forward = launch(Op::GlobalMean, &[halves(&images)], &[f32s(&means)], None);
    assert_eq!(forward.kernel, "global_mean_from_half");
    covers(&forward, 5 * 24);
    for (off, kernel, vectors) in
        [(None, "global_mean_backward_to_half_x8", 3), (Some(1), "global_mean_backward_to_half", 24)]
    {
        let backward = launch(Op::GlobalMeanBackward, &[f32s(&means)], &[halves(&images)], off);
        assert_eq!((backward.kernel, sizes(&backward)), (kernel, [5, 64, vectors]));
        covers(&backward, 5 * 64 * vectors);
    }
}

#[test]
fn batch_norm_of_halves_costs_half_the_bytes() {
    let (dims, c) = ([3, 5, 7, 12], [12]);
    let (x, of) = (halves(&dims), f32s(&c));
    let numbers = 3 * 5 * 7 * 12;
    let names = |op, inputs: &[_], outputs: &[_], off| -> Vec<_> {
        launches(op, inputs, outputs, off).into_iter().map(|launch| (launch.kernel, launch.cost.bytes)).collect()
    };
    let evaluation = names(Op::BatchNorm { relu: true }, &[x, of, of, of, of], &[x], None);
    assert_eq!(evaluation, [("batch_norm_half_x4", 4 * numbers)]);
    let backward = names(Op::BatchNormBackwardInput { relu: true }, &[x, of, of, x], &[x], Some(0));
    assert_eq!(backward, [("batch_norm_backward_input_half", 6 * numbers)]);
    let training = names(Op::BatchNormTraining { relu: true }, &[x, of, of], &[x, of, of, of, of], None);
    let [statistics, apply] = training[..] else { panic!("{training:?}") };
    assert_eq!(statistics.0, "batch_norm_training_statistics_half_x4");
    assert!((2 * numbers..3 * numbers).contains(&statistics.1), "one image operand, and splits: {statistics:?}");
    assert_eq!(apply, ("batch_norm_half_x4", 4 * numbers));
}

#[test]
fn a_pooling_launch_on_halves_has_a_thread_an_output() {
    let (large, small) = ([3, 6, 4, 5], [3, 3, 2, 5]);
    let choice = (&small[..], DType::U8);
    let forward = launch(Op::MaxPool2d, &[halves(&large)], &[halves(&small), choice], None);
    let backward = launch(Op::MaxPool2dBackward, &[halves(&small), choice], &[halves(&large)], None);
    assert_eq!([forward.kernel, backward.kernel], ["max_pool2d_half", "max_pool2d_backward_half"]);
    [forward, backward].iter().for_each(|launch| covers(launch, 90));
}

#[test]
fn weights_are_packed_by_tiles_of_filters_channels_and_taps_weight_after_weight() {
    let weights = [
        (&[16, 3, 3, 3][..], &[3, 3, 3, 16][..], 9, [16, 9, 3]),
        (&[64, 3, 3, 33], &[33, 3, 3, 64], 9 * 2 * 2, [64, 9, 33]),
        (&[10, 256], &[256, 10], 8, [10, 1, 256]),
    ];
    let inputs = weights.map(|(w, ..)| f32s(w));
    let outputs: Vec<_> = weights.iter().flat_map(|(w, turned, ..)| [halves(w), halves(turned)]).collect();
    let launch = launch(Op::PackFilters, &inputs, &outputs, None);
    let blocks = weights.map(|(_, _, blocks, _)| blocks);
    assert_eq!((launch.kernel, launch.grid[0]), ("pack_filters", blocks.iter().sum()));
    let mut sizes = PackedSizes { count: 3, ..PackedSizes::zeroed() };
    (sizes.first[1], sizes.first[2]) = (blocks[0], blocks[0] + blocks[1]);
    for (at, (.., [k, taps, c])) in weights.into_iter().enumerate() {
        (sizes.k[at], sizes.taps[at], sizes.c[at]) = (k, taps, c);
    }
    assert_eq!(launch.args[1], Arg::of(sizes));
    let numbers: usize = weights.iter().map(|(w, ..)| w.iter().product::<usize>()).sum();
    assert_eq!(launch.cost.bytes as usize, 8 * numbers);
}

/// Names of an op's launches.
fn kernels(op: Op, inputs: &[(&[usize], DType)], outputs: &[(&[usize], DType)]) -> Vec<&'static str> {
    launches(op, inputs, outputs, None).iter().map(|launch| launch.kernel).collect()
}

#[test]
fn the_first_layer_reads_single_precision_and_writes_half() {
    let window = ConvWindow { padding: 1, stride: 1 };
    let (x, w, y, k) = ([128, 32, 32, 3], [16, 3, 3, 3], [128, 32, 32, 16], [16]);
    assert_eq!(kernels(Op::Conv2d(window), &[f32s(&x), f32s(&w)], &[halves(&y)]), ["conv2d_scalar_to_half"]);
    let backward = Op::Conv2dBackwardInput(window);
    let from_half = kernels(backward, &[halves(&y), f32s(&w)], &[f32s(&x)]);
    assert_eq!(from_half, ["conv2d_backward_input_scalar_from_half"]);
    let pooled = [128, 16, 16, 16];
    let choice = (&pooled[..], DType::U8);
    let inputs = [f32s(&x), f32s(&w), f32s(&k)];
    assert_eq!(kernels(Op::ConvPool(window), &inputs, &[halves(&pooled), choice]), ["conv_pool_scalar_to_half"]);
    let backward = Op::ConvPoolBackwardInput(window);
    let direct = kernels(backward, &[halves(&pooled), choice, f32s(&w)], &[f32s(&x)]);
    assert_eq!(direct, ["conv_pool_backward_input_direct_from_half"]);
}

/// The layers of LeNet5, on images of all sizes that have a kernel.
#[test]
fn a_pair_of_layers_with_pooling_is_one_launch() {
    let window = ConvWindow { padding: 2, stride: 1 };
    let (first, second, bias, second_bias) = ([32, 5, 5, 1], [64, 5, 5, 32], [32], [64]);
    let pair = |n: usize, h: usize, w: usize| {
        let (image, between, out) = ([n, h, w, 1], [n, h / 2, w / 2, 32], [n, h / 4, w / 4, 64]);
        let inputs = [f32s(&image), f32s(&first), f32s(&bias), halves(&second), f32s(&second_bias)];
        let outputs = [halves(&out), (&out[..], DType::U8), (&between[..], DType::U8)];
        launch(Op::TwoConvPools { along: None, first: window, second: window }, &inputs, &outputs, None)
    };
    let both = pair(50, 28, 28);
    assert_eq!((both.kernel, both.grid), ("two_conv_pools_half", [100, 1, 1]));
    assert_eq!(sizes(&both), [50, 28, 28, 2]);
    let operands: Vec<_> = (0..3).map(Arg::Output).chain((0..5).map(Arg::Input)).collect();
    assert_eq!(both.args[..8], operands);
    assert_eq!(both.args[8..11], [Arg::Null, Arg::Null, Arg::Null], "no point along a direction");
    for (h, w) in (4..=64usize).step_by(4).flat_map(|h| (4..=32).step_by(4).map(move |w| (h, w))) {
        let both = pair(3, h, w);
        let [_, _, _, parts] = sizes(&both);
        assert_eq!(parts, (h / 4).div_ceil(4), "a warp has a row of windows and half of the filters");
        assert!(both.shared <= 163 * 1024, "an A100 has no more: {both:?}");
    }
}

/// Sums of splits are single precision: only the kernel that adds them writes halves.
#[test]
fn splits_of_a_layer_with_half_results_are_single_precision() {
    let window = ConvWindow { padding: 1, stride: 1 };
    let (x, w, y) = ([1, 4, 4, 64], [32, 3, 3, 64], [1, 4, 4, 32]);
    let split = launches(Op::Conv2d(window), &[f32s(&x), f32s(&w)], &[halves(&y)], None);
    assert_eq!(split.iter().map(|launch| launch.kernel).collect::<Vec<_>>(), ["conv2d_scalar", "sum_split_rows_half"]);
    assert_eq!([&split[0].args[0], &split[1].args[0]], [&Arg::Scratch(0), &Arg::Output(0)]);
    let back = kernels(Op::Conv2dBackwardInput(window), &[halves(&y), f32s(&w)], &[f32s(&x)]);
    assert_eq!(back, ["conv2d_backward_input_scalar_from_half", "sum_split_rows"]);
}

#[test]
fn the_last_layer_reads_half_and_writes_single_precision() {
    let (x, bias) = ([50, 256], [10]);
    let (w, y) = ([10, 256], [50, 10]);
    let inputs = [halves(&x), f32s(&w), f32s(&bias)];
    assert_eq!(kernels(Op::LinearBias { relu: false }, &inputs, &[f32s(&y)]), ["linear_warp_from_half"]);
    let backward = [f32s(&y), f32s(&w), halves(&x)];
    assert_eq!(kernels(Op::LinearBackwardInput, &backward, &[halves(&x)]), ["linear_backward_input_scalar_to_half"]);
    let (w, y) = ([100, 256], [50, 100]);
    let wide = kernels(Op::Linear, &[halves(&x), f32s(&w)], &[f32s(&y)]);
    assert_eq!(wide[0], "linear_scalar_from_half");
}

/// The message names the op and the types.
#[test]
#[should_panic(expected = "program one op: there is no kernel of relu_backward that reads F16, F32 and writes F16")]
fn a_combination_of_types_without_a_kernel_is_refused() {
    let dims = [5, 8];
    launch(Op::ReluBackward, &[halves(&dims), f32s(&dims)], &[halves(&dims)], None);
}

/// Gradients with respect to weights are single precision, from halves on tensor cores. The first layer's images and the
/// last layer's gradient are single precision.
#[test]
fn gradients_of_weights_are_products_of_halves() {
    let window = ConvWindow { padding: 1, stride: 1 };
    let (dims, first, filters, images) = ([2, 4, 4, 16], [24, 3, 3, 3], [24, 3, 3, 16], [2, 4, 4, 3]);
    let (dy_dims, odd) = ([2, 4, 4, 24], [24, 3, 3, 16]);
    let (dy, x, dw) = (halves(&dy_dims), halves(&dims), f32s(&filters));
    let kernel = |op, inputs: &[_], output, off| launches(op, inputs, &[output], off)[0].kernel;
    let conv = || Op::Conv2dBackwardWeight(window);
    assert_eq!(kernel(conv(), &[dy, x], dw, None), "conv2d_backward_weight_half_wide");
    assert_eq!(kernel(conv(), &[dy, x], f32s(&odd), Some(0)), "conv2d_backward_weight_half_scalar");
    let from_images = kernel(conv(), &[dy, f32s(&images)], f32s(&first), None);
    assert_eq!(from_images, "conv2d_backward_weight_scalar_half_gradient");

    let (rows, inner, out) = ([50, 40], [50, 1024], [40, 1024]);
    let linear = |dy, x| kernel(Op::LinearBackwardWeight, &[dy, x], f32s(&out), None);
    assert_eq!(linear(halves(&rows), halves(&inner)), "linear_backward_weight_half_wide");
    assert_eq!(linear(f32s(&rows), halves(&inner)), "linear_backward_weight_scalar_half_activations");
}
