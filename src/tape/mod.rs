//! A computation recorded as data: ops on shapes, its gradient for what was asked, a memory plan.
//!
//! - [`op`]: the ops: formulas and shapes; [`loss`](Loss): the losses
//! - [`record`](Tape): one method an op, which checks shapes and returns the result's handle
//! - [`grad`](Tape::grad): the gradient, along the paths to what was asked and no others
//! - [`fuse`](Tape::fuse): ops that one pass over memory can do together
//! - [`formula`]: arithmetic on rows, written where it is recorded and held as data
//! - [`plan`](Tape::finish): a place for every value; the result is a [`Program`], which a device runs
//! - [`memory`](Memory): what lives from program to program
//!
//! A tape holds no numbers and knows no device.

mod explain;
pub mod formula;
mod fuse;
mod grad;
mod graph;
mod loss;
mod memory;
mod metric;
mod op;
mod ops;
mod params;
mod plan;

pub use formula::{Formula, Reduction};
pub use graph::{Node, Tape, Value, ValueInfo};
pub use loss::{Loss, LossRule, TargetedLoss};
pub use memory::{ALIGN_WORDS, Buffer, DType, Memory};
pub use metric::{Metric, MetricOperands};
pub use op::Op;
pub use ops::batch_norm::BatchNorm;
pub use params::{
    BATCH_NORM_EPS, BATCH_NORM_MOMENTUM, ConvFusion, ConvGradientFusion, ConvWindow, Direction, L2Order,
    MAX_LEARNING_RATES, NO_CHOICE, Norm, OptimizerRule, PgdRule,
};
pub use plan::{Place, Program, Region};
