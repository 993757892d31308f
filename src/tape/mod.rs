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
mod loss;
mod memory;
mod metric;
pub mod op;
mod plan;
mod record;

pub use formula::{Formula, Reduction};
pub use loss::{Loss, LossRule, TargetedLoss};
pub use memory::{ALIGN_WORDS, Buffer, DType, Memory};
pub use metric::Metric;
pub use op::{
    BATCH_NORM_EPS, BATCH_NORM_MOMENTUM, ConvFusion, ConvGradientFusion, ConvWindow, NO_CHOICE, Norm, Op,
    OptimizerRule, PgdRule,
};
pub use plan::{Place, Program, Region};
pub use record::BatchNorm;

/// A value on a tape: what a buffer holds, or what an op computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub(crate) usize);

/// What is known of a value.
#[derive(Clone, Debug)]
pub struct ValueInfo {
    /// Dimensions, the slowest first.
    pub dims: Vec<usize>,
    /// Element type.
    pub dtype: DType,
    /// The buffer that holds it; `None`: the plan gives it a place.
    pub home: Option<Buffer>,
}

/// One op with its operands.
#[derive(Clone, Debug)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// What is read.
    pub inputs: Vec<Value>,
    /// What is written; a buffer among them is updated.
    pub outputs: Vec<Value>,
    /// u32 `[1]`: how many rows are computed; `None`: all.
    pub rows: Option<Value>,
}

/// A computation, recorded op by op in the order in which it will run.
#[derive(Clone, Debug)]
pub struct Tape {
    pub(crate) name: String,
    pub(crate) values: Vec<ValueInfo>,
    pub(crate) nodes: Vec<Node>,
    rows: Option<Value>,
    fusing: bool,
}

impl Tape {
    /// An empty tape; `name` is what prints call it.
    pub fn new(name: &str) -> Tape {
        Tape { name: name.into(), values: Vec::new(), nodes: Vec::new(), rows: None, fusing: true }
    }

    /// From here on, ops compute only as many rows as `rows` (u32 `[1]`) holds when they run.
    pub fn set_rows(&mut self, rows: &Buffer) {
        let rows = self.leaf(rows);
        assert_eq!((self.dims(rows), self.dtype(rows)), (&[1][..], DType::U32), "a row count is u32 [1]");
        self.rows = Some(rows);
    }

    /// Leaves every op as it was recorded: what tests compare fused programs with.
    pub fn without_fusion(mut self) -> Tape {
        self.fusing = false;
        self
    }

    /// The content of a buffer.
    pub fn leaf(&mut self, buffer: &Buffer) -> Value {
        let known = self.values.iter().position(|v| v.home.as_ref() == Some(buffer));
        known.map_or_else(|| self.value(&buffer.dims, buffer.dtype, Some(buffer.clone())), Value)
    }

    /// Has the op that computes `value` write it to `buffer`.
    pub fn keep(&mut self, value: Value, buffer: &Buffer) {
        let info = &mut self.values[value.0];
        assert_eq!((&info.dims, info.dtype), (&buffer.dims, buffer.dtype), "{} keeps a value", buffer.name);
        assert!(info.home.is_none(), "{} keeps a value that has a buffer", buffer.name);
        info.home = Some(buffer.clone());
    }

    /// Dimensions of a value.
    pub fn dims(&self, value: Value) -> &[usize] {
        &self.values[value.0].dims
    }

    /// Element type of a value.
    pub fn dtype(&self, value: Value) -> DType {
        self.values[value.0].dtype
    }

    /// The recorded ops.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn value(&mut self, dims: &[usize], dtype: DType, home: Option<Buffer>) -> Value {
        self.values.push(ValueInfo { dims: dims.to_vec(), dtype, home });
        Value(self.values.len() - 1)
    }

    /// Records `op` with the current row count.
    pub(crate) fn push(&mut self, op: Op, inputs: &[Value], outputs: &[Value]) {
        self.nodes.push(Node { op, inputs: inputs.to_vec(), outputs: outputs.to_vec(), rows: self.rows });
    }
}
