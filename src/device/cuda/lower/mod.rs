//! From an op on shapes to launches: which kernel, with which tiles, on how many blocks. Pure: no driver is asked.
//!
//! One exhaustive `match` over [`Op`]; each family's file stands beside its kernels' file of the same name.

mod attack;
mod batch_norm;
mod bias;
mod conv;
mod conv_fused;
mod conv_pool;
mod elementwise;
mod formula;
mod gemm;
mod hyperplane;
mod image;
mod linear;
mod loss;
#[cfg(test)]
mod ops_tests;
mod optimizer;
mod pool;
mod rows;

use super::launch::{Arg, Cost, Lowered};
use crate::tape::{DType, Node, Op, Place, Program, Value};

/// A node with its shapes: what a lowering looks at.
pub(super) struct Desc<'a> {
    /// The op.
    pub op: &'a Op,
    /// Multiprocessors that work is spread over.
    pub multiprocessors: usize,
    program: &'a Program,
    node: &'a Node,
}

impl<'a> Desc<'a> {
    /// Dimensions of an input.
    pub fn input(&self, i: usize) -> &'a [usize] {
        &self.program.values[self.node.inputs[i].0].dims
    }

    /// Dimensions of an output.
    pub fn output(&self, i: usize) -> &'a [usize] {
        &self.program.values[self.node.outputs[i].0].dims
    }

    /// How many inputs there are.
    pub fn inputs(&self) -> usize {
        self.node.inputs.len()
    }

    /// How many outputs there are.
    pub fn outputs(&self) -> usize {
        self.node.outputs.len()
    }

    /// Element type of an input.
    pub fn input_dtype(&self, i: usize) -> DType {
        self.program.values[self.node.inputs[i].0].dtype
    }

    /// Element type of an output.
    pub fn output_dtype(&self, i: usize) -> DType {
        self.program.values[self.node.outputs[i].0].dtype
    }

    fn place(&self, value: Value) -> Place {
        self.program.places[value.0].expect("every operand has a place")
    }

    /// Whether an input's address is a multiple of 16 bytes, as a parameter's in the middle of a buffer may not be.
    pub fn input_aligned(&self, i: usize) -> bool {
        self.place(self.node.inputs[i]).offset.is_multiple_of(16)
    }

    /// Whether an output's address is a multiple of 16 bytes.
    pub fn output_aligned(&self, i: usize) -> bool {
        self.place(self.node.outputs[i]).offset.is_multiple_of(16)
    }

    /// Whether the address of every operand is a multiple of 16 bytes.
    pub fn aligned(&self) -> bool {
        self.aligned_to(16)
    }

    /// Whether the address of every operand is a multiple of `bytes`.
    pub fn aligned_to(&self, bytes: usize) -> bool {
        self.node.inputs.iter().chain(&self.node.outputs).all(|v| self.place(*v).offset.is_multiple_of(bytes))
    }

    /// Bytes of all operands, each once.
    pub fn bytes(&self) -> u64 {
        self.node.inputs.iter().chain(&self.node.outputs).map(|v| self.place(*v).bytes as u64).sum()
    }

    /// As [`Desc::cost`], where outputs are updated: they are read, too.
    pub fn cost_of_update(&self, flops: u64) -> Cost {
        let read: u64 = self.node.outputs.iter().map(|v| self.place(*v).bytes as u64).sum();
        Cost { bytes: self.bytes() + read, flops }
    }

    /// The cost of touching every operand once, with `flops` operations.
    pub fn cost(&self, flops: u64) -> Cost {
        Cost { bytes: self.bytes(), flops }
    }
}

/// Rows there is room for, and elements of each.
pub(super) fn rows_of(dims: &[usize]) -> (usize, usize) {
    (dims[0], dims[1..].iter().product())
}

/// The launches of a node on a GPU of so many multiprocessors.
pub(super) fn lower(program: &Program, node: &Node, multiprocessors: usize) -> Lowered {
    let desc = Desc { op: &node.op, multiprocessors, program, node };
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
        Op::AddBiasBackwardBias => elementwise::add_bias_backward_bias(&desc),
        Op::MaxPool2d => pool::max_pool2d(&desc),
        Op::MaxPool2dBackward => pool::max_pool2d_backward(&desc),
        Op::ConvPool(window) => conv_pool::conv_pool(&desc, *window),
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
        Op::AlongDirection { norm, direction, clamp } => {
            attack::along_direction(&desc, *norm, *direction, *clamp).into()
        }
        Op::Bisect { max_eps } => attack::bisect(&desc, *max_eps).into(),
        Op::ProjectHyperplane(norm) => hyperplane::project_hyperplane(&desc, *norm).into(),

        Op::Adam(rule) => optimizer::adam(&desc, rule).into(),
        Op::Sgd(rule) => optimizer::sgd(&desc, rule).into(),
        Op::Increment => optimizer::increment(&desc).into(),
    }
}
