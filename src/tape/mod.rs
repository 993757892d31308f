//! Computations recorded as data: ops on shapes, gradients, fused ops, a memory plan.
//!
//! - `graph`: [`Tape`], the recorder; its values and nodes
//! - `op`: [`Op`], all ops with their formulas and operands; `params`, `loss`: their parameters
//! - `ops`: recording functions, one method an op and one file a family, which check shapes
//! - [`formula`]: elementwise programs, arithmetic on rows as data
//! - `grad`: [`Tape::grad`], the gradient with respect to wanted values, along no other paths
//! - `fuse`: [`Tape::fuse`], ops that are computed in one pass over memory; `fuse_batch_norm`: batch norm in
//!   training mode and the convolutions around it; `fuse_conv_pools`: two layers with pooling; `fuse_first_layer`: those from images to the first layer, and from its gradient to a step of PGD;
//!   `fuse_head`: the last layer, its loss and their gradients; `fuse_row_wise`: small ops on the rows of a batch
//! - `precision`: the values that are stored in half precision; `half`: the setting, and copies of weights;
//!   [`gradient_norm`]: the norm to which gradients are brought
//! - `rounding`: programs whose layers read rounded operands, for studies of precision
//! - `plan`: [`Tape::finish`], the memory plan; the result is a [`Program`], which a device runs
//! - `memory`: [`Memory`], buffers that live longer than a program
//! - `explain`: programs as text
//!
//! A tape holds no numbers and knows no device. Wrong shapes are mistakes of the caller: recording functions panic.

mod explain;
pub mod formula;
mod fuse;
mod fuse_batch_norm;
mod fuse_conv_pools;
mod fuse_first_layer;
mod fuse_head;
mod fuse_row_wise;
mod grad;
pub mod gradient_norm;
mod graph;
mod half;
mod loss;
mod memory;
mod metric;
mod op;
mod ops;
mod params;
mod plan;
mod precision;
mod rounding;

pub use formula::{Formula, Reduction};
pub use fuse_row_wise::{ROW_WISE_OPERANDS, ROW_WISE_OUTPUTS, ROW_WISE_STEPS};
pub use gradient_norm::GRADIENT_NORM;
pub use graph::{Node, Tape, Value, ValueInfo};
pub use half::{FilterCopy, HalfFilter, HalfGradients, PACKED_FILTERS, Precision};
pub use loss::{Loss, LossRule, TargetedLoss};
pub use memory::{ALIGN_WORDS, Buffer, DType, Memory};
pub use metric::{Metric, MetricOperands};
pub use op::{Op, RowWiseStep};
pub use ops::batch_norm::BatchNorm;
pub use params::{
    AlongRule, BATCH_NORM_EPS, BATCH_NORM_MOMENTUM, ConvFusion, ConvGradientFusion, ConvWindow, Direction,
    FIRST_LAYER_FILTERS, FirstLayerFusion, HeadFeatures, HeadFusion, L2Order, MAX_LEARNING_RATES, MOST_STEP_CHANNELS,
    NO_CHOICE, Norm, OptimizerRule, PAIR_FILTERS, PAIR_SIDE, PAIR_WIDTH, PgdFusion, PgdRule, StepLayer, is_layer_pair,
};
pub use plan::{Place, Program, Region};
