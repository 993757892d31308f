//! Ops on half-precision operands, and the copies of weights that they read.

use maxmargin::tape::{DType, Op, PACKED_FILTERS};

use super::support::fake::runs_long_tests;
use super::support::half::{in_half, rounded, turned};
use super::support::{Array, OpCase, Random, exact};
use super::{batch_norm, conv, conv_fused, conv_pool, elementwise, first_layer, head, image, linear, pool};

/// Weights of convolutions and linear layers, with numbers whose halves are subnormal, infinite, or ties.
#[test]
pub fn pack_filters() {
    in_half(pack);
}

fn pack() {
    let weight = |dims: &[usize]| {
        let mut w = Random(1).signed(dims);
        let corners = [0.0, -0.0, 1e-7, 1e-8, 65519.0, 65520.0, -1e30, 1.0 + 0.5f64.powi(11), f64::NAN];
        w.values.iter_mut().for_each(|v| *v = f64::from((*v * 1.0003) as f32));
        w.values.iter_mut().step_by(3).zip(corners).for_each(|(v, corner)| *v = f64::from(corner as f32));
        w
    };
    let dims = [
        &[1, 1, 1, 1][..],
        &[7, 3, 5, 2],
        &[16, 3, 3, 16],
        &[5, 1, 1, 33],
        &[3, 4],
        &[17, 40],
        &[1, 9],
        &[33, 2, 1, 40],
    ];
    let all = dims.map(weight);
    // One weight; all of them; as many as an op takes.
    let many: Vec<Array> = all.iter().cycle().take(PACKED_FILTERS).cloned().collect();
    for weights in [&all[2..3], &all, &many] {
        let mut case = weights.iter().fold(OpCase::new(Op::PackFilters), |case, w| case.whole(w));
        let copies = |w: &Array| {
            let plain = Array { dtype: DType::F16, ..w.clone() };
            let turned = turned(&plain);
            [plain, turned]
        };
        let copies: Vec<Array> = weights.iter().flat_map(copies).collect();
        for copy in &copies {
            case = case.gives_whole(&copy.dims, DType::F16);
        }
        case.check(|_| {
            let halves = |a: &Array| a.values.iter().map(|&v| exact(rounded(v).to_f64())).collect();
            copies.iter().map(halves).collect()
        });
    }
}

#[test]
fn convolutions() {
    in_half(conv::conv2d);
    in_half(conv::conv2d_backward_input);
}

#[test]
fn fused_convolutions() {
    in_half(conv_fused::conv2d_fused);
    in_half(conv_fused::conv2d_fused_backward_input);
}

/// Their kernels exist for halves alone.
#[test]
fn convolutions_that_load_their_pixels_once() {
    in_half(conv_fused::layers_with_a_halo);
}

#[test]
fn batch_norm_around_convolutions() {
    in_half(conv_fused::batch_norm_around_convolutions);
    in_half(conv_fused::gradients_of_batch_norm_before_convolutions);
    in_half(conv_fused::statistics_of_the_largest_numbers);
    in_half(conv_fused::statistics_of_nan);
}

#[test]
fn convolutions_in_large_layers() {
    in_half(conv_fused::conv2d_fused_in_large_layers);
    in_half(conv_fused::conv2d_fused_backward_input_in_large_layers);
    if runs_long_tests("a layer for the tall tile") {
        in_half(conv_fused::tall_layer);
    }
}

#[test]
fn layers_for_the_narrow_tile() {
    if runs_long_tests("layers for the narrow tile") {
        in_half(conv_fused::narrow_layer);
        in_half(conv_pool::narrow_layer);
        in_half(linear::narrow_layer);
    }
}

/// Few threads, for ThreadSanitizer.
#[test]
pub fn small_convolutions_of_each_kernel() {
    in_half(conv_fused::small_layers_of_each_kernel);
    in_half(conv_pool::small_pair);
    in_half(first_layer::small_pair);
}

#[test]
fn convolutions_with_pooling() {
    in_half(conv_pool::conv_pool);
    in_half(conv_pool::conv_pool_backward_input);
    in_half(pool::max_pool2d);
    in_half(pool::max_pool2d_backward);
}

#[test]
fn linear_layers() {
    in_half(linear::linear);
    in_half(linear::linear_bias);
    in_half(linear::linear_bias_relu);
    in_half(linear::linear_backward_input);
    in_half(linear::linear_backward_input_is_0_where_the_result_of_relu_is_not_positive);
}

#[test]
fn gradients_of_filters() {
    in_half(conv::conv2d_backward_weight);
}

#[test]
fn gradients_of_other_weights() {
    if !runs_long_tests("gradients of weights in half precision, but filters'") {
        return;
    }
    in_half(conv_pool::conv_pool_backward_weight);
    in_half(conv_pool::conv_pool_backward_bias);
    in_half(linear::linear_backward_weight);
    in_half(batch_norm::batch_norm_backward_weight);
    in_half(batch_norm::batch_norm_relu_backward_weight);
    in_half(elementwise::add_bias_backward_bias);
}

#[test]
fn first_layers() {
    in_half(first_layer::standardize_conv2d);
    in_half(first_layer::pgd_step_fused_with_the_first_layer);
    in_half(first_layer::pgd_step_fused_with_a_pooled_first_layer);
    in_half(first_layer::pgd_step_fused_with_two_pooled_layers);
}

#[test]
fn heads() {
    in_half(head::head_backward);
    in_half(head::head_backward_of_a_hidden_layer);
}

#[test]
fn batch_norm_in_both_modes() {
    in_half(batch_norm::batch_norm);
    in_half(batch_norm::batch_norm_relu);
    in_half(batch_norm::batch_norm_backward_input);
    in_half(batch_norm::batch_norm_relu_backward_input);
    in_half(batch_norm::batch_norm_training);
    in_half(batch_norm::batch_norm_relu_training);
    in_half(batch_norm::batch_norm_training_backward_input);
    in_half(batch_norm::batch_norm_relu_training_backward_input);
}

#[test]
fn elementwise_ops_and_means() {
    in_half(elementwise::add);
    in_half(elementwise::add_bias);
    in_half(elementwise::relu);
    in_half(elementwise::relu_backward);
    in_half(image::global_mean);
    in_half(image::global_mean_backward);
}
