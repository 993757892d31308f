//! Every op on every device against a reference in double precision: plain loops, written from the op's description
//! (`tape::Op`) and the paper, not from a device's code. One file a family of ops, of the same name as on the tape, on
//! the CPU, in the lowering and in the kernels.
//!
//! [`support::OpCase`] checks more than the numbers. Outputs start as NaN; rows beyond the active ones and the memory
//! around keep their bits; two runs, and runs on one and on two threads, give the same bits. [`support::TOLERANCE`] is
//! the one rule of tolerance; a `Sum` of size 0 allows no difference.

#[path = "../support/mod.rs"]
mod support;

mod attack;
mod batch_norm;
mod conv;
mod conv_fused;
mod conv_pool;
mod elementwise;
mod first_layer;
mod formula;
mod half;
mod head;
mod hyperplane;
mod image;
mod linear;
mod loss;
mod modes;
mod optimizer;
mod pool;
mod row_wise;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use maxmargin::device::cuda::KERNELS;
use maxmargin::tape::Op;

/// Test of each op. A new op does not compile until it has a test.
fn test_of(op: &Op) -> fn() {
    match op {
        Op::GatherRows => rows::gather_rows,
        Op::ScatterRows => rows::scatter_rows,
        Op::BytesToUnit => elementwise::bytes_to_unit,
        Op::Copy => elementwise::copy,
        Op::Fill { .. } => elementwise::fill,
        Op::Add => elementwise::add,
        Op::Scale { .. } => elementwise::scale,
        Op::ClampMin { .. } => elementwise::clamp_min,
        Op::DrawAugmentation { .. } => image::draw_augmentation,
        Op::GatherAugmented { .. } => image::gather_augmented,
        Op::Map(_) => formula::map,
        Op::Reduce(..) => formula::reduce,
        Op::Conv2d(_) => conv::conv2d,
        Op::Conv2dBackwardInput(_) => conv::conv2d_backward_input,
        Op::Conv2dBackwardWeight(_) => conv::conv2d_backward_weight,
        Op::AddBias => elementwise::add_bias,
        Op::AddBiasBackwardBias => elementwise::add_bias_backward_bias,
        Op::Relu => elementwise::relu,
        Op::ReluBackward => elementwise::relu_backward,
        Op::MaxPool2d => pool::max_pool2d,
        Op::MaxPool2dBackward => pool::max_pool2d_backward,
        Op::ConvPool(_) => conv_pool::conv_pool,
        Op::TwoConvPools { .. } => conv_pool::two_conv_pools,
        Op::ConvPoolBackwardInput(_) => conv_pool::conv_pool_backward_input,
        Op::ConvPoolBackwardWeight(_) => conv_pool::conv_pool_backward_weight,
        Op::ConvPoolBackwardBias => conv_pool::conv_pool_backward_bias,
        Op::Linear => linear::linear,
        Op::LinearBias { relu: false } => linear::linear_bias,
        Op::LinearBias { relu: true } => linear::linear_bias_relu,
        Op::LinearBackwardInput => linear::linear_backward_input,
        Op::LinearBackwardWeight => linear::linear_backward_weight,
        Op::Standardize => image::standardize,
        Op::StandardizeBackward => image::standardize_backward,
        Op::BatchNorm { relu: false } => batch_norm::batch_norm,
        Op::BatchNorm { relu: true } => batch_norm::batch_norm_relu,
        Op::BatchNormBackwardInput { relu: false } => batch_norm::batch_norm_backward_input,
        Op::BatchNormBackwardInput { relu: true } => batch_norm::batch_norm_relu_backward_input,
        Op::BatchNormTraining { relu: false } => batch_norm::batch_norm_training,
        Op::BatchNormTraining { relu: true } => batch_norm::batch_norm_relu_training,
        Op::BatchNormTrainingBackwardInput { relu: false } => batch_norm::batch_norm_training_backward_input,
        Op::BatchNormTrainingBackwardInput { relu: true } => batch_norm::batch_norm_relu_training_backward_input,
        Op::BatchNormBackwardWeight { relu: false } => batch_norm::batch_norm_backward_weight,
        Op::BatchNormBackwardWeight { relu: true } => batch_norm::batch_norm_relu_backward_weight,
        Op::GlobalMean => image::global_mean,
        Op::GlobalMeanBackward => image::global_mean_backward,
        Op::Conv2dFused(_) => conv_fused::conv2d_fused,
        Op::Conv2dFusedBackwardInput(_) => conv_fused::conv2d_fused_backward_input,
        Op::HeadBackward(_) => head::head_backward,
        Op::Loss(_) => loss::loss,
        Op::LossBackward(_) => loss::loss_backward,
        Op::Kl => loss::kl,
        Op::KlBackwardP => loss::kl_backward_p,
        Op::KlBackwardQ => loss::kl_backward_q,
        Op::TargetedLoss(_) => loss::targeted_loss,
        Op::TargetedLossBackward(_) => loss::targeted_loss_backward,
        Op::RankClass { .. } => loss::rank_class,
        Op::MeanWeights => loss::mean_weights,
        Op::HingeWeights { .. } => loss::hinge_weights,
        Op::SelectNegative => rows::select_negative,
        Op::Uniform { .. } => attack::uniform,
        Op::PgdStart(_) => attack::pgd_start,
        Op::PgdStep(_) => attack::pgd_step,
        Op::PgdStepFused(_) => first_layer::pgd_step_fused,
        Op::StandardizeConv2d(_) => first_layer::standardize_conv2d,
        Op::AlongDirection(_) => attack::along_direction,
        Op::ProjectHyperplane(_) => hyperplane::project_hyperplane,
        Op::Bisect { .. } => attack::bisect,
        Op::PackFilters => half::pack_filters,
        Op::FindOverflow => optimizer::find_overflow,
        Op::Adam(_) => optimizer::adam,
        Op::Sgd(_) => optimizer::sgd,
        Op::Increment => optimizer::increment,
        Op::AccumulateMetrics => loss::accumulate_metrics,
        Op::RowWise(_) => row_wise::row_wise,
    }
}

#[test]
fn every_op_has_a_test() {
    let _: fn(&Op) -> fn() = test_of; // guaranteed by its exhaustive match
}

/// Function and family of every op, read from the arms of [`test_of`]. Ops that differ only by a ReLU share a function.
fn families() -> BTreeMap<String, String> {
    let arms = include_str!("main.rs").lines().filter_map(|line| line.trim().strip_prefix("Op::")?.split_once("=> "));
    let targets = arms.map(|(_, target)| target.trim_end_matches(',').split_once("::").expect("family::function"));
    targets.map(|(family, function)| (function.replace("_relu", ""), family.to_owned())).collect()
}

fn defines(source: &Path, function: &str) -> bool {
    let source = fs::read_to_string(source).unwrap_or_default();
    [format!("fn {function}("), format!("fn {function}<")].iter().any(|start| source.contains(start))
}

#[test]
fn a_family_of_ops_has_one_file_name_on_the_tape_on_both_devices_and_in_the_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let families = families();
    assert!(families.len() > 50, "{families:?}");
    for (function, family) in &families {
        for side in ["src/device/cpu", "src/device/cuda/lower", "tests/ops"] {
            let file = root.join(side).join(format!("{family}.rs"));
            assert!(defines(&file, function), "{} does not define {function}", file.display());
        }
        // Gradients and fused ops have no recording function of their own.
        for file in fs::read_dir(root.join("src/tape/ops")).unwrap().map(|entry| entry.unwrap().path()) {
            let own = file.file_stem().unwrap() == family.as_str();
            assert!(own || !defines(&file, function), "{} defines {function} of {family}", file.display());
        }
    }
}

#[test]
fn a_kernel_stands_in_the_file_of_its_op_s_family() {
    let families = families();
    let mut seen = BTreeSet::new();
    for kernel in KERNELS {
        // A kernel is named by its op and a case, such as `pgd_step` and `_linf_x4`.
        let of = |function: &&String| {
            kernel.name.strip_prefix(*function).is_some_and(|case| !case.starts_with(char::is_alphanumeric))
        };
        if let Some(function) = families.keys().filter(of).max_by_key(|function| function.len()) {
            assert_eq!(kernel.file(), format!("{}.cu", families[function]), "{}", kernel.name);
            seen.insert(&families[function]);
        }
    }
    // The kernels of convolutions run their fused ops, too.
    let without: Vec<_> = families.values().filter(|family| !seen.contains(family)).collect();
    assert!(without.iter().all(|family| *family == "conv_fused"), "families without a kernel: {without:?}");
}
