//! Element types of a node's operands: the one place that decides which combinations have kernels.

use crate::tape::{DType, HeadFeatures, Node, Op, PgdFusion, Program, StepLayer, Value};

/// Element types in memory of the operands and results that may be half ([`Op::reads_half`], [`Op::writes_half`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ElementTypes {
    /// All are single precision.
    Single,
    /// All are half. Kernels end in `_half`.
    Half,
    /// Operands and filters are single precision. Results are half, and so are operands of the epilogue that have the
    /// results' shape. Kernels end in `_to_half`.
    ToHalf,
    /// Operands are half. Filters and results are single precision. Kernels end in `_from_half`; those of gradients with
    /// respect to weights on tensor cores in `_half` and the tile.
    FromHalf,
    /// The first operand, a gradient, is half. Other operands and results are single precision, as in the first layer's
    /// gradient with respect to its weight. Kernels end in `_half_gradient`.
    HalfGradient,
    /// The second operand is half. The gradient and the results are single precision, as in the last layer's gradient
    /// with respect to its weight. Kernels end in `_half_activations`.
    HalfActivations,
}

/// True if an op has kernels on halves alone: values within it are rounded.
fn is_half_alone(op: &Op) -> bool {
    let two_and_linear = |layer| matches!(layer, Some(StepLayer::TwoConvPools { linear: true, .. }));
    matches!(op, Op::TwoConvPools { .. }) || matches!(op, Op::PgdStepFused(fusion) if two_and_linear(fusion.layer))
}

/// Combinations, besides single precision, that an op has kernels for.
fn combinations(op: &Op) -> &'static [ElementTypes] {
    use ElementTypes::{FromHalf, Half, HalfActivations, HalfGradient, ToHalf};
    match op {
        Op::Add
        | Op::AddBias
        | Op::Relu
        | Op::ReluBackward
        | Op::MaxPool2d
        | Op::MaxPool2dBackward
        | Op::BatchNorm { .. }
        | Op::BatchNormBackwardInput { .. }
        | Op::BatchNormTraining { .. }
        | Op::BatchNormTrainingBackwardInput { .. } => &[Half],
        Op::Conv2d(_) | Op::ConvPool(_) | Op::LinearBackwardInput => &[Half, ToHalf],
        Op::TwoConvPools { .. } => &[Half],
        Op::Conv2dBackwardInput(_) | Op::ConvPoolBackwardInput(_) | Op::Linear | Op::LinearBias { .. } => {
            &[Half, FromHalf]
        }
        Op::HeadBackward(fusion) if fusion.features == HeadFeatures::Hidden => &[Half, ToHalf, FromHalf],
        Op::Conv2dFused(fusion) if fusion.shortcut.is_none() && !fusion.keeps_operand => &[Half, ToHalf],
        Op::Conv2dFused(_) | Op::Conv2dFusedBackwardInput(_) | Op::HeadBackward(_) => &[Half],
        Op::Conv2dBackwardWeight(_) | Op::ConvPoolBackwardWeight(_) => &[FromHalf, HalfGradient],
        Op::LinearBackwardWeight => &[FromHalf, HalfActivations],
        Op::GlobalMean | Op::AddBiasBackwardBias | Op::ConvPoolBackwardBias | Op::BatchNormBackwardWeight { .. } => {
            &[FromHalf]
        }
        Op::PgdStepFused(PgdFusion { layer: Some(StepLayer::TwoConvPools { .. }), .. }) => &[Half],
        Op::PgdStepFused(fusion) if fusion.layer.is_some() => &[FromHalf],
        Op::StandardizeConv2d(_) => &[ToHalf],
        Op::GlobalMeanBackward | Op::PackFilters => &[ToHalf],
        _ => &[],
    }
}

impl ElementTypes {
    /// Types of a node's operands and results; `None` if its op has no kernel for them.
    pub fn of(program: &Program, node: &Node) -> Option<ElementTypes> {
        if let Op::RowWise(_) = node.op {
            // Each step has its own types.
            let known = node.steps().iter().all(|step| ElementTypes::of(program, step).is_some());
            return known.then_some(ElementTypes::Single);
        }
        let single = (!is_half_alone(&node.op)).then_some(ElementTypes::Single);
        let known = single.into_iter().chain(combinations(&node.op).iter().copied());
        let is_half = |value: &Value| program.values[value.0].dtype == DType::F16;
        known.into_iter().find(|types| {
            let mut inputs = node.inputs.iter().enumerate();
            let mut outputs = node.outputs.iter().enumerate();
            inputs.all(|(place, value)| is_half(value) == types.input_is_half(&node.op, place))
                && outputs.all(|(place, value)| is_half(value) == types.output_is_half(&node.op, place))
        })
    }

    fn input_is_half(self, op: &Op, place: usize) -> bool {
        /// Operands of an op before those of its epilogue.
        const FACTORS: usize = 2;
        let is_filter = op.filter_copy(place).is_some();
        op.reads_half(place)
            && match self {
                ElementTypes::Single => false,
                ElementTypes::Half => true,
                ElementTypes::ToHalf => place >= FACTORS,
                ElementTypes::FromHalf => !is_filter,
                ElementTypes::HalfGradient => place == 0,
                ElementTypes::HalfActivations => place == 1,
            }
    }

    fn output_is_half(self, op: &Op, place: usize) -> bool {
        let may_be = op.writes_half(place) || *op == Op::PackFilters;
        may_be && matches!(self, ElementTypes::Half | ElementTypes::ToHalf)
    }
}

/// Reason why a program cannot run: an op on a combination of element types without a kernel.
pub fn refusal(program: &Program) -> Option<String> {
    program.nodes.iter().find(|node| ElementTypes::of(program, node).is_none()).map(|node| no_kernel(program, node))
}

/// Message for a node whose op has no kernel for its element types.
pub(super) fn no_kernel(program: &Program, node: &Node) -> String {
    let types = |values: &[Value]| -> String {
        let names: Vec<_> = values.iter().map(|value| format!("{:?}", program.values[value.0].dtype)).collect();
        names.join(", ")
    };
    let (reads, writes) = (types(&node.inputs), types(&node.outputs));
    format!("program {}: there is no kernel of {} that reads {reads} and writes {writes}", program.name, node.op.name())
}
