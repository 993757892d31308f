//! Lowering: from an op on shapes to launches, with kernel, tiles and grid. Pure functions, which call no driver.
//!
//! [`lower`] is one exhaustive `match` over [`Op`]. Each family has a file of the name of its kernels' file.

mod attack;
mod batch_norm;
mod bias;
mod conv;
mod conv_fused;
mod conv_pool;
mod desc;
mod element_types;
mod elementwise;
mod first_layer;
mod formula;
mod gemm;
mod gemm_half;
mod half;
mod head;
mod hyperplane;
mod image;
mod layer_pair;
mod linear;
mod loss;
#[cfg(test)]
mod ops_tests;
mod optimizer;
mod pool;
mod row_wise;
mod rows;

use super::launch::{Cost, Launch, Lowered};
use crate::device::Schedule;
use crate::tape::{Node, Op, Program};
use desc::Desc;
pub(super) use element_types::refusal;

/// Number of multiprocessors assumed for descriptions of launches without a GPU: an H100's.
pub const TYPICAL_MULTIPROCESSORS: usize = 132;

/// Lowers a node for a GPU of `multiprocessors` multiprocessors.
pub(super) fn lower(program: &Program, node: &Node, multiprocessors: usize) -> Lowered {
    let desc = Desc::new(program, node, multiprocessors);
    match &node.op {
        Op::GatherRows => rows::gather_rows(&desc).into(),
        Op::ScatterRows => rows::scatter_rows(&desc).into(),
        Op::SelectNegative => rows::select_negative(&desc).into(),

        Op::BytesToUnit => elementwise::bytes_to_unit(&desc).into(),
        Op::Copy => elementwise::copy(&desc).into(),
        Op::Fill { value } => elementwise::fill(&desc, *value).into(),
        Op::Add => elementwise::add(&desc).into(),
        Op::Scale { factor } => elementwise::scale(&desc, *factor).into(),
        Op::ClampMin { least } => elementwise::clamp_min(&desc, *least).into(),
        Op::AddBias => elementwise::add_bias(&desc).into(),
        Op::Relu => elementwise::relu(&desc).into(),
        Op::ReluBackward => elementwise::relu_backward(&desc).into(),

        Op::Map(formula) => formula::map(&desc, formula).into(),
        Op::Reduce(reduction, formula) => formula::reduce(&desc, *reduction, formula).into(),

        Op::Conv2d(window) => conv::conv2d(&desc, *window),
        Op::Conv2dBackwardInput(window) => conv::conv2d_backward_input(&desc, *window),
        Op::Conv2dBackwardWeight(window) => conv::conv2d_backward_weight(&desc, *window),
        Op::Conv2dFused(fusion) => conv_fused::conv2d_fused(&desc, fusion),
        Op::Conv2dFusedBackwardInput(fusion) => conv_fused::conv2d_fused_backward_input(&desc, fusion),
        Op::HeadBackward(fusion) => head::head_backward(&desc, fusion),
        Op::AddBiasBackwardBias => elementwise::add_bias_backward_bias(&desc),
        Op::MaxPool2d => pool::max_pool2d(&desc),
        Op::MaxPool2dBackward => pool::max_pool2d_backward(&desc),
        Op::ConvPool(window) => conv_pool::conv_pool(&desc, *window),
        Op::TwoConvPools { along, first, second } => conv_pool::two_conv_pools(&desc, *along, *first, *second).into(),
        Op::ConvPoolBackwardInput(window) => conv_pool::conv_pool_backward_input(&desc, *window),
        Op::ConvPoolBackwardWeight(window) => conv_pool::conv_pool_backward_weight(&desc, *window),
        Op::ConvPoolBackwardBias => conv_pool::conv_pool_backward_bias(&desc),
        Op::Linear => linear::linear(&desc),
        Op::LinearBias { relu } => linear::linear_bias(&desc, *relu),
        Op::LinearBackwardInput => linear::linear_backward_input(&desc),
        Op::LinearBackwardWeight => linear::linear_backward_weight(&desc),

        Op::BatchNorm { relu } => batch_norm::batch_norm(&desc, *relu).into(),
        Op::BatchNormBackwardInput { relu } => batch_norm::batch_norm_backward_input(&desc, *relu).into(),
        Op::BatchNormTraining { relu } => batch_norm::batch_norm_training(&desc, *relu),
        Op::BatchNormTrainingBackwardInput { relu } => {
            batch_norm::batch_norm_training_backward_input(&desc, *relu).into()
        }
        Op::BatchNormBackwardWeight { relu } => batch_norm::batch_norm_backward_weight(&desc, *relu),

        Op::Standardize => image::standardize(&desc).into(),
        Op::StandardizeBackward => image::standardize_backward(&desc).into(),
        Op::GlobalMean => image::global_mean(&desc).into(),
        Op::GlobalMeanBackward => image::global_mean_backward(&desc).into(),
        Op::DrawAugmentation { seed, reach } => image::draw_augmentation(&desc, *seed, *reach).into(),
        Op::GatherAugmented { reach } => image::gather_augmented(&desc, *reach).into(),

        Op::Loss(rule) => loss::loss(&desc, *rule).into(),
        Op::LossBackward(rule) => loss::loss_backward(&desc, *rule).into(),
        Op::Kl => loss::kl(&desc).into(),
        Op::KlBackwardP => loss::kl_backward_p(&desc).into(),
        Op::KlBackwardQ => loss::kl_backward_q(&desc).into(),
        Op::TargetedLoss(targeted) => loss::targeted_loss(&desc, *targeted).into(),
        Op::TargetedLossBackward(targeted) => loss::targeted_loss_backward(&desc, *targeted).into(),
        Op::RankClass { rank } => loss::rank_class(&desc, *rank).into(),
        Op::MeanWeights => loss::mean_weights(&desc).into(),
        Op::HingeWeights { hinge } => loss::hinge_weights(&desc, *hinge).into(),
        Op::AccumulateMetrics => loss::accumulate_metrics(&desc).into(),

        Op::Uniform { seed, purpose, signed } => attack::uniform(&desc, *seed, *purpose, *signed).into(),
        Op::PgdStart(norm) => attack::pgd_start(&desc, *norm).into(),
        Op::PgdStep(rule) => attack::pgd_step(&desc, *rule).into(),
        Op::PgdStepFused(fusion) => first_layer::pgd_step_fused(&desc, *fusion),
        Op::StandardizeConv2d(fusion) => first_layer::standardize_conv2d(&desc, fusion).into(),
        Op::AlongDirection(rule) => attack::along_direction(&desc, *rule).into(),
        Op::Bisect { max_eps } => attack::bisect(&desc, *max_eps).into(),
        Op::ProjectHyperplane(norm) => hyperplane::project_hyperplane(&desc, *norm).into(),

        Op::PackFilters => half::pack_filters(&desc).into(),
        Op::FindOverflow => optimizer::find_overflow(&desc).into(),
        Op::Adam(rule) => optimizer::adam(&desc, rule).into(),
        Op::Sgd(rule) => optimizer::sgd(&desc, rule).into(),
        Op::Increment => optimizer::increment(&desc).into(),

        Op::RowWise(steps) => {
            let alone: Vec<Lowered> = node.steps().iter().map(|step| lower(program, step, multiprocessors)).collect();
            row_wise::row_wise(&desc, steps, &alone).into()
        }
    }
}

/// Launches of a node on a GPU of `multiprocessors` multiprocessors. No GPU is needed.
#[must_use]
pub fn launches(program: &Program, node: &Node, multiprocessors: usize) -> Vec<Launch> {
    lower(program, node, multiprocessors).launches
}

/// Number and cost of several launches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TotalCost {
    /// Number of launches.
    pub launches: u64,
    /// Sum of their costs.
    pub cost: Cost,
}

impl TotalCost {
    /// Total of a program's launches on a GPU of `multiprocessors` multiprocessors.
    pub fn of(program: &Program, multiprocessors: usize) -> TotalCost {
        let launches = program.nodes.iter().flat_map(|node| launches(program, node, multiprocessors));
        launches.fold(TotalCost::default(), |total, launch| total.and(TotalCost { launches: 1, cost: launch.cost }, 1))
    }

    /// Total of a schedule, each program counted as often as it runs.
    pub fn of_schedule(schedule: &Schedule, multiprocessors: usize) -> TotalCost {
        let stages = schedule.stages.iter();
        stages.fold(TotalCost::default(), |total, (program, times)| {
            total.and(TotalCost::of(program, multiprocessors), u64::from(*times))
        })
    }

    fn and(self, other: TotalCost, times: u64) -> TotalCost {
        let cost = Cost {
            bytes: self.cost.bytes + times * other.cost.bytes,
            flops: self.cost.flops + times * other.cost.flops,
        };
        TotalCost { launches: self.launches + times * other.launches, cost }
    }
}
